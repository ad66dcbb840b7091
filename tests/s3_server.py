"""An S3 API server (moto's) in a process of its own on loopback, and what was asked of it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BUCKET = "studies"
_LINE = re.compile(r'"(?P<verb>GET|HEAD|PUT|POST|DELETE) /(?P<path>\S*) HTTP')


class Server:
    """Where it listens, and its log: a line for each request."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self.log = url, log

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @contextmanager
    def asked(self) -> Iterator[list[tuple[str, str]]]:
        """The requests (verb, path with query) made while the block runs, filled in at its end."""
        start, found = self.log.stat().st_size, []  # type: ignore[var-annotated]
        yield found
        with self.log.open("rb") as file:
            file.seek(start)
            text = file.read().decode()
        found += [(m["verb"], m["path"]) for m in _LINE.finditer(text)]


def reads(requests: list[tuple[str, str]]) -> list[str]:
    """The objects whose content was read."""
    return [path for verb, path in requests if verb == "GET" and "?" not in path]


@contextmanager
def s3_server(folder: Path) -> Iterator[Server]:
    """A server with one empty bucket, its environment set here; skips where moto or s3fs is not installed."""
    pytest.importorskip("moto", reason="the S3 server of these tests is moto: pip install 'moto[server]'")
    s3fs = pytest.importorskip("s3fs", reason="s3:// needs s3fs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "requests.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=out, stderr=out)
    server = Server(f"http://127.0.0.1:{port}", log)
    patch = pytest.MonkeyPatch()
    try:
        _wait(process, port, log)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir(BUCKET)
        yield server
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        patch.undo()
        process.send_signal(signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"the S3 server did not start: {log.read_text()[-2000:]}")
