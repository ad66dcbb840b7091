"""What all tests share: no network, few threads, fixed seeds, and `shared(...)`: data kept elsewhere."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

NETWORK = os.environ.get("TRANSFERSCOPE_NETWORK") == "1"

# Read when torch, transformers and their friends are first imported, so set before any test module is.
if not NETWORK:
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ[variable] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a tokenizer's threads and a forked child do not mix
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models here are too small for more

# A loaded machine is not a failed test; in CI the examples are the same in every run.
hypothesis.settings.register_profile(
    "transferscope",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("transferscope")

REPOSITORY = Path(__file__).resolve().parents[1]
LOCAL = {"localhost", "127.0.0.1", "::1", "", None}


@pytest.fixture(scope="session")
def shared() -> Callable[..., Path]:
    """`shared("golden", "skill_neuron")`: a path in the shared data, or the test is skipped.

    The folder is $TRANSFERSCOPE_SHARED, else `shared` beside the repository.
    """
    folder = Path(os.environ.get("TRANSFERSCOPE_SHARED") or REPOSITORY.parent / "shared")

    def find(*parts: str) -> Path:
        path = folder.joinpath(*parts)
        if not path.exists():
            pytest.skip(f"{path} not found: set TRANSFERSCOPE_SHARED to the folder of the shared data")
        return path

    return find


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("network") and not NETWORK:
        pytest.skip("needs the internet: set TRANSFERSCOPE_NETWORK=1")
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


def _host(address: Any) -> Any:
    host = address[0] if isinstance(address, tuple) else None  # a Unix socket's address is not a tuple
    return host.decode() if isinstance(host, bytes) else host


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Connections and name look-ups that would leave this machine fail the test.

    They raise pytest's Failed, a BaseException, so that code with a fallback for OSError cannot hide them.
    """
    patch = pytest.MonkeyPatch()
    guarded = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}
    look_up = socket.getaddrinfo

    def refuse(host: Any) -> None:
        if not NETWORK and host not in LOCAL:
            pytest.fail(f"a test tried to reach {host!r}: mark it `network` or keep it offline")

    for name, original in guarded.items():

        def connect(self: socket.socket, address: Any, original: Callable[..., Any] = original) -> Any:
            refuse(_host(address))
            return original(self, address)

        patch.setattr(socket.socket, name, connect)

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        refuse(_host((host,)))
        return look_up(host, *args, **options)

    patch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """The global generators start alike in every test (the library itself takes its seeds as arguments)."""
    random.seed(0)
    for name, seed in (("numpy", lambda m: m.random.seed(0)), ("torch", lambda m: m.manual_seed(0))):
        if name in sys.modules:  # a test that needs neither shall not pay for the import
            seed(sys.modules[name])
