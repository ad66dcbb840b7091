"""Copies on this machine of what lies at an address: by address and version, whole or not there, few of them.

<cache>/files/<digest of address and version>/<name>     one file, or a folder with its files

Several processes may use it at once: an entry appears by a rename, and of two that fetch the same one stays.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from transferscope.addresses import Address, Stat
from transferscope.errors import StoreError, StudyError

FOLDER, LIMIT = "TRANSFERSCOPE_CACHE", "TRANSFERSCOPE_CACHE_GB"
DEFAULT_GB = 10.0
RECENT = 3600.0  # seconds since its last use in which an entry is kept, since somebody may be reading it
TRIES = 8  # to read what is being written meanwhile, with longer and longer pauses
PAUSE = 60.0  # seconds between two looks at the size of it all, which cost a walk
_PARTIAL, _GONE = ".partial-", ".gone-"


def cache_folder() -> Path:
    """$TRANSFERSCOPE_CACHE, else `transferscope` in the user's cache folder."""
    if named := os.environ.get(FOLDER):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "transferscope"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "transferscope"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "transferscope"


def limit() -> int:
    """How many bytes it may hold: $TRANSFERSCOPE_CACHE_GB (of 10^9 bytes), else 10. Raises StudyError."""
    text = os.environ.get(LIMIT) or str(DEFAULT_GB)
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not 0 <= size < float("inf"):
        raise StudyError(f"{LIMIT} should be a number of gigabytes, 0 or more, found {text!r}")
    return int(size * 1e9)


def local_file(address: Address) -> Path:
    """A local copy of a file as it is now; fetched where this version of it is not here yet.

    Raises FileNotFoundError; StudyError where the store cannot be asked.
    """
    for attempt in range(TRIES):
        time.sleep(0.02 * (2**attempt - 1))
        known = address.stat()
        entry = _entry(address, {address.name: known})
        if not _used(entry):
            partial = _begin()
            try:
                _fetch(address, partial / address.name, known)
                if address.stat().version != known.version:
                    continue  # somebody wrote it meanwhile, and what was read may be of either
                _publish(partial, entry)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return entry / address.name
    raise StoreError(f"{address} is being written again and again: no whole version of it could be read")


def local_folder(address: Address) -> Path:
    """A local copy of a folder with all files below it, as they are now.

    Raises FileNotFoundError where there are none; StudyError where the store cannot be asked.
    """
    for attempt in range(TRIES):
        time.sleep(0.02 * (2**attempt - 1))
        known = address.files()
        if not known:
            raise FileNotFoundError(str(address))
        entry = _entry(address, known)
        if not _used(entry):
            partial = _begin()
            try:
                for name, stat in known.items():
                    target = partial / address.name / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _fetch(address / name, target, stat)
                if _versions(address.files()) != _versions(known):
                    continue
                _publish(partial, entry)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return entry / address.name
    raise StoreError(f"{address} is being written again and again: no whole version of it could be read")


def _versions(files: Mapping[str, Stat]) -> dict[str, str]:
    return {name: stat.version for name, stat in files.items()}


def _root() -> Path:
    return cache_folder() / "files"


def _entry(address: Address, files: Mapping[str, Stat]) -> Path:
    text = repr((str(address), sorted(_versions(files).items())))
    return _root() / hashlib.sha256(text.encode()).hexdigest()[:40]


def _used(entry: Path) -> bool:
    """Whether it is there; and then it was used now."""
    try:
        os.utime(entry)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _begin() -> Path:
    partial = _root() / f"{_PARTIAL}{os.getpid()}-{secrets.token_hex(8)}"
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise StudyError(
            f"cannot write in the cache folder {cache_folder()} ({error.strerror}); "
            f"set {FOLDER} to one that can be written in"
        ) from None
    return partial


def _fetch(address: Address, target: Path, known: Stat) -> None:
    address.download(target)
    if target.stat().st_size != known.st_size:
        raise StoreError(
            f"{address}: {target.stat().st_size} bytes came of {known.st_size}; it was written "
            "meanwhile, or the connection broke: try again"
        )
    if known.st_mtime:  # what is told by a file's time stays the same on every machine
        os.utime(target, (known.st_mtime, known.st_mtime))


def _publish(partial: Path, entry: Path) -> None:
    try:
        os.rename(partial, entry)
    except OSError:  # another process was faster
        if not entry.is_dir():
            raise
    stamp = _root() / "checked"
    try:
        if time.time() - stamp.stat().st_mtime < PAUSE:
            return
    except FileNotFoundError:
        pass
    stamp.touch()
    evict(keep=entry)


def evict(keep: Path | None = None) -> list[Path]:
    """Remove the entries that were not used for longest until the rest fit `limit`; return them.

    What was used in the last hour stays, whatever its size, and what killed processes left goes after a day.
    """
    most, now, found = limit(), time.time(), []
    for entry in _root().iterdir() if _root().is_dir() else ():
        try:
            age = now - entry.stat().st_mtime
        except FileNotFoundError:
            continue
        if entry.name.startswith("."):
            if age > 86_400:
                shutil.rmtree(entry, ignore_errors=True)
        elif entry.is_dir():
            found.append((age, entry, _size(entry)))
    total, removed = sum(size for _, _, size in found), []
    for age, entry, size in sorted(found, reverse=True):
        if total <= most or age < RECENT:
            break
        if entry != keep and _remove(entry):
            removed.append(entry)
            total -= size
    return removed


def _size(entry: Path) -> int:
    total = 0
    for folder, _, names in os.walk(entry):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _remove(entry: Path) -> bool:
    """Out of sight at once, then file by file: nobody finds half a folder."""
    gone = entry.with_name(f"{_GONE}{secrets.token_hex(8)}")
    try:
        if time.time() - entry.stat().st_mtime < RECENT:
            return False  # used since we looked
        os.rename(entry, gone)
    except OSError:
        return False
    shutil.rmtree(gone, ignore_errors=True)
    return True
