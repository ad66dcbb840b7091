"""An address such as s3://bucket/study: a path on a store that fsspec opens, with the methods of a `Path`."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from fnmatch import translate
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeAlias

from transferscope.errors import StudyError
from transferscope.filesystems import SCHEME, WHOLE, open_filesystem, renames, telling

HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".transferscope-", ".tmp"
# By which an object is known to be another one; where there is none, by its time.
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "blob_id", "xet_hash")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")


class Stat(NamedTuple):
    """What is known of a file without reading it; the time is 0.0 where the store keeps none."""

    st_size: int
    st_mtime: float
    version: str


@dataclass(frozen=True, order=True, init=False)
class Address:
    """A file or folder at an address, used as a `pathlib.Path` is; a folder is there where it has a file.

    Not a `Path` and not path-like: what can only read local files fails at once, and takes
    `transferscope.files.local`. Every method that asks the store raises StudyError where it cannot be asked.
    """

    url: str

    def __init__(self, url: str) -> None:
        """Raises StudyError: no address, a user's password in it, or parts that could lead elsewhere."""
        match = SCHEME.match(url)
        if match is None:
            raise StudyError(f"{url!r} is no address such as s3://bucket/study")
        scheme, rest = match[1].lower(), url[match.end() :]
        scheme = {"s3a": "s3"}.get(scheme, scheme)
        first = rest.split("/", 1)[0]
        if ":" in first and "@" in first:
            raise StudyError(
                f"an address of {scheme}:// with a user and a password in it is not used, since it would be "
                "written into messages; give them to fsspec, in the environment or its configuration"
            )
        parts = tuple(part for part in rest.split("/") if part not in ("", "."))
        if (not first and scheme in WHOLE - {"memory"}) or (not parts and scheme != "file"):
            raise StudyError(f"{url!r} names no bucket or folder: an address is such as s3://bucket/study")
        _check(url, parts)
        lead = "/" if rest.startswith("/") and scheme != "memory" else ""
        object.__setattr__(self, "url", f"{scheme}://{lead}{'/'.join(parts)}")

    def __str__(self) -> str:
        return self.url

    @property
    def scheme(self) -> str:
        """What stands before ``://``."""
        return self.url.partition("://")[0]

    @property
    def parts(self) -> tuple[str, ...]:
        """The bucket or host, and what follows it."""
        return tuple(part for part in self.url.partition("://")[2].split("/") if part)

    @property
    def name(self) -> str:
        """The last part."""
        return self.parts[-1] if self.parts else ""

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The ending of the last part, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Address:
        """The folder; a bucket's is the bucket."""
        return Address(self.url.rpartition("/")[0]) if len(self.parts) > 1 else self

    def with_suffix(self, suffix: str) -> Address:
        """The same place with another ending of the last part."""
        return self.parent / f"{self.stem}{suffix}"

    def __truediv__(self, part: str) -> Address:
        return self.joinpath(part)

    def joinpath(self, *parts: str) -> Address:
        """A path below this one. Raises StudyError where the parts would lead out of it."""
        pieces = tuple(piece for part in parts for piece in part.split("/") if piece not in ("", "."))
        if any(part.startswith(("/", "~")) for part in parts):
            raise StudyError(f"{'/'.join(parts)!r} does not lie below {self}")
        _check("/".join(parts), pieces)
        return Address("/".join((self.url.rstrip("/"), *pieces)))

    def resolve(self) -> Address:
        """Itself: there are no links."""
        return self

    def is_relative_to(self, other: Any) -> bool:
        """Whether it is the other address, or lies below it."""
        known = isinstance(other, Address) and other.scheme == self.scheme
        return known and self.parts[: len(other.parts)] == other.parts

    @property
    def _filesystem(self) -> Any:
        return open_filesystem(self.scheme, "" if self.scheme in ("file", "memory", "hf") else self.parts[0])

    @property
    def _key(self) -> str:
        """The path as the file system takes it."""
        return str(self._filesystem._strip_protocol(self.url))

    @property
    def _fresh(self) -> dict[str, Any]:
        return {"refresh": True} if self.scheme == "hf" else {}

    def _info(self) -> dict[str, Any] | None:
        """What the store says of it, None where nothing is. Not fsspec's `isfile`: for that, no permission or
        no connection is no file, and work that is there would be done again."""
        filesystem = self._filesystem
        try:
            with telling(self.url, "read"):
                return dict(filesystem.info(self._key, **self._fresh))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_file(self) -> bool:
        """Whether a file is there."""
        return (self._info() or {}).get("type") == "file"

    def is_dir(self) -> bool:
        """Whether something lies below it."""
        return (self._info() or {}).get("type") == "directory"

    def exists(self) -> bool:
        """Whether it is a file or a folder."""
        return self._info() is not None

    def stat(self) -> Stat:
        """Size in bytes, time and version of a file. Raises FileNotFoundError."""
        info = self._info()
        if info is None or info.get("type") != "file":
            raise FileNotFoundError(self.url)
        return _stat(info)

    def iterdir(self) -> Iterator[Address]:
        """What lies directly in a folder, sorted by name."""
        filesystem = self._filesystem
        with telling(self.url, "list"):
            names = [str(name) for name in filesystem.ls(self._key, detail=False, **self._fresh)]
        found = {
            name.rstrip("/").rpartition("/")[2] for name in names if name.strip("/") != self._key.strip("/")
        }
        return iter([self / name for name in sorted(found) if _harmless(name)])

    def files(self) -> dict[str, Stat]:
        """All files below a folder by their path in it, from one listing (of many pages) and without reading.

        Keys that could be no path in a folder are left out.
        """
        filesystem, key = self._filesystem, self._key.rstrip("/") + "/"
        try:
            with telling(self.url, "list"):
                listed = filesystem.find(self._key, withdirs=False, detail=True, **self._fresh)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        found = {
            str(name)[len(key) :]: _stat(info) for name, info in listed.items() if str(name).startswith(key)
        }
        return {name: found[name] for name in sorted(found) if all(map(_harmless, name.split("/")))}

    def glob(self, pattern: str) -> Iterator[Address]:
        """The files (no folders) that fit a pattern such as ``*/*/adapter_config.json``, sorted."""
        if not any(letter in pattern for letter in "*?["):
            file = self / pattern
            return iter([file] if file.is_file() else [])
        wanted = [re.compile(translate(part)) for part in pattern.split("/")]
        split = [name.split("/") for name in self.files()]
        fitting = [
            s
            for s in split
            if len(s) == len(wanted) and all(w.match(p) for w, p in zip(wanted, s, strict=True))
        ]
        return iter([self.joinpath(*parts) for parts in fitting])

    def read_bytes(self) -> bytes:
        """The content. Raises FileNotFoundError, IsADirectoryError."""
        filesystem = self._filesystem
        with telling(self.url, "read"):
            return bytes(filesystem.cat_file(self._key))

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content as text, with line ends as they are written on one line."""
        return self.read_bytes().decode(encoding).replace("\r\n", "\n").replace("\r", "\n")

    def download(self, target: Path) -> None:
        """Copy the content into a local file. Raises FileNotFoundError."""
        filesystem = self._filesystem
        with telling(self.url, "read"):
            if self.scheme == "memory":  # an open file there has one position for all who read it
                target.write_bytes(filesystem.cat_file(self._key))
            else:
                filesystem.get_file(self._key, os.fspath(target))

    def write_bytes(self, data: bytes) -> None:
        """Write the whole content or nothing: one request where the store takes an object as a whole, else a
        file beside it that is renamed. Raises StudyError where the store has neither."""
        filesystem = self._filesystem
        if self.scheme in WHOLE:
            with _writing(self.url):
                filesystem.pipe_file(self._key, data)
            return
        if not renames(filesystem):
            raise StudyError(
                f"cannot write {self.url}: a file of {self.scheme}:// is seen while it is written; "
                f"studies are written at {', '.join(sorted(WHOLE))}, or where files can be renamed"
            )
        mark = f"{TEMPORARY_PREFIX}{HOST}-{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
        temporary = self.parent / mark
        with _writing(self.url):
            filesystem.makedirs(self.parent._key, exist_ok=True)
            try:
                filesystem.pipe_file(temporary._key, data)
                filesystem.mv(temporary._key, self._key)
            except BaseException:
                if filesystem.exists(temporary._key):
                    filesystem.rm_file(temporary._key)
                raise

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove a file. Raises FileNotFoundError."""
        filesystem = self._filesystem
        if not self.is_file():
            if missing_ok:
                return
            raise FileNotFoundError(self.url)
        with _writing(self.url):
            filesystem.rm_file(self._key)


@contextmanager
def _writing(url: str) -> Iterator[None]:
    """`telling`, and a bucket that is not there is an error of the user's."""
    try:
        with telling(url, "write"):
            yield
    except FileNotFoundError:
        raise StudyError(f"cannot write {url}: there is no such bucket or folder") from None


Place: TypeAlias = Path | Address


def is_address(value: object) -> bool:
    """Whether a value names an address, and no local path."""
    return isinstance(value, Address) or (isinstance(value, str) and SCHEME.match(value) is not None)


def _harmless(part: str) -> bool:
    odd = any(letter in "?#\\" or ord(letter) < 32 for letter in part)
    return part not in ("", ".", "..") and "::" not in part and not odd  # fsspec chains file systems by ::


def _check(url: str, parts: tuple[str, ...]) -> None:
    wrong = [part for part in parts if not _harmless(part)]
    if wrong:
        holds = "holds '?', '#', '::', a backslash or a control character"
        why = "could lead elsewhere" if wrong[0] == ".." else holds
        raise StudyError(f"{url!r} is not used as an address: its part {wrong[0]!r} {why}")


def _stat(info: dict[str, Any]) -> Stat:
    size = int(info.get("size") or 0)
    when = next((info[name] for name in _TIMES if info.get(name) is not None), 0.0)
    seconds = _seconds(when)
    known = next((f"{name}={info[name]}" for name in _VERSIONS if info.get(name)), f"time={seconds!r}")
    return Stat(size, seconds, f"{known};size={size};ino={info.get('ino', '')}")


def _seconds(when: Any) -> float:
    if isinstance(when, str):
        try:
            when = datetime.fromisoformat(when)
        except ValueError:
            return 0.0
    return float(when.timestamp()) if isinstance(when, datetime) else float(when)
