"""Files that are whole or not there: atomic writes, JSON, arrays as safetensors, tables as CSV."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from transferscope import file_cache
from transferscope.addresses import HOST as _HOST
from transferscope.addresses import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, Address, Place, is_address
from transferscope.errors import StoreError, StudyError
from transferscope.filesystems import PACKAGES, WHOLE
from transferscope.fingerprints import fingerprint, json_ready

FORMAT_VERSION = 1
METADATA_KEY = "transferscope"
_REMEDY = "delete the file and it will be made again"

AnyPath: TypeAlias = str | os.PathLike[str] | Address


def place(path: AnyPath) -> Place:
    """What a path names: an `Address` such as s3://bucket/study, or a local `Path`.

    Raises StudyError for an address that cannot be used, or that went through a `Path` and lost a slash.
    """
    if isinstance(path, Address):
        return path
    text = os.fspath(path)
    if is_address(text):
        return Address(text)
    if (lost := re.match(r"([a-z][a-z0-9]+):/", text)) and lost[1] in PACKAGES:
        raise StudyError(f"{text!r} was an address, and is one no longer as a Path: give it as a string")
    return Path(text)


def inside(folder: Place, name: str) -> Place:
    """A name as a study.yaml in `folder` has it: an address, an absolute path, or relative to the folder.

    Raises StudyError where a relative one leads out of a folder at an address.
    """
    if isinstance(folder, Path) and not is_address(name):
        return folder / name
    return place(name) if is_address(name) or Path(name).is_absolute() else folder / name


def fitting(folder: Place, pattern: str) -> list[Place]:
    """The files below a folder that fit a pattern such as ``*/*/adapter_config.json``, sorted, not read."""
    return [*sorted(folder.glob(pattern))] if isinstance(folder, Path) else [*folder.glob(pattern)]


def local(path: Place) -> Path:
    """The file itself, or the copy of it in the cache on this machine. Raises FileNotFoundError."""
    return file_cache.local_file(path) if isinstance(path, Address) else path


def local_folder(path: Place) -> Path:
    """The folder itself, or the copy of it, with all files, in the cache. Raises FileNotFoundError."""
    return file_cache.local_folder(path) if isinstance(path, Address) else path


def write_bytes(path: AnyPath, data: bytes) -> None:
    """Write a whole file or nothing: whoever reads `path`, at any moment, finds the old or the new content.

    The folder is made if it is missing. A kill leaves at most a temporary file (see `remove_leftovers`).
    """
    target = place(path)
    if isinstance(target, Address):
        target.write_bytes(data)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{TEMPORARY_PREFIX}{_HOST}-{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    temporary = target.parent / mark
    try:
        # Not tempfile: its files are private to the user, and that mode would survive the rename.
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def move(path: Place, target: Place) -> None:
    """Give a file another name, over whatever has it. At an address both are there for a moment."""
    if isinstance(path, Address):
        write_bytes(target, path.read_bytes())
        path.unlink()
    else:
        os.replace(path, str(target))


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: AnyPath) -> list[Place]:
    """Remove the temporary files under `folder` whose writers are gone; return them."""
    where = place(folder)
    removed = [path for path in _temporary(where) if _is_abandoned(path)]
    for path in removed:
        path.unlink(missing_ok=True)
    return removed


def _temporary(folder: Place) -> list[Place]:
    if isinstance(folder, Path):
        return [*sorted(folder.rglob(f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"))]
    if folder.scheme in WHOLE:  # there are none, and a listing of everything is not free
        return []
    found = [folder / name for name in folder.files()]
    return [
        path
        for path in found
        if path.name.startswith(TEMPORARY_PREFIX) and path.name.endswith(TEMPORARY_SUFFIX)
    ]


def _is_abandoned(path: Place) -> bool:
    host, _, rest = path.name.removeprefix(TEMPORARY_PREFIX).partition("-")
    process = rest.partition("-")[0]
    if host == _HOST and process.isdecimal() and os.name != "nt":
        try:
            os.kill(int(process), 0)  # signal 0 only asks whether the process is there
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):
            return False
        return False
    try:  # another machine's: nothing takes a day to write
        return time.time() - path.stat().st_mtime > 86_400
    except FileNotFoundError:
        return False


def read_bytes(path: AnyPath) -> bytes:
    """Read a file. Raises StudyError if it is not there or is a folder."""
    try:
        return place(path).read_bytes()
    except FileNotFoundError:
        raise StudyError(f"{path} not found") from None
    except IsADirectoryError:
        raise StudyError(f"{path} is a folder, not a file") from None


def write_text(path: AnyPath, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: AnyPath, value: Any, *, versioned: bool = False) -> None:
    """Write `json_ready(value)` atomically; `versioned` adds the format version to an object."""
    ready = json_ready(value)
    if versioned:
        ready = {"format_version": FORMAT_VERSION, **ready}
    write_text(path, json.dumps(ready, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: AnyPath) -> Any:
    """Read a JSON file.

    Raises StudyError if it is not there; StoreError if it is damaged or of another format version.
    """
    try:
        value = json.loads(read_bytes(path).decode("utf-8"))
    except StudyError:  # a ValueError too
        raise
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not valid JSON ({error}); {_REMEDY}") from error
    if isinstance(value, dict) and "format_version" in value:
        _check_version(path, value["format_version"])
    return value


def _check_version(path: AnyPath, version: Any) -> None:
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {version!r}; this version of transferscope reads {FORMAT_VERSION}"
        )


def save_arrays(
    path: AnyPath, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write arrays (bool, integers, floats; any shape) and what is known of them as one safetensors file.

    `metadata` is anything `json_ready` takes. The same input gives the same bytes.
    Raises TypeError for other dtypes.
    """
    tensors = {name: _plain(name, array) for name, array in arrays.items()}
    known = json_ready(metadata or {})
    record = {"format_version": FORMAT_VERSION, "content": fingerprint(tensors, known), "metadata": known}
    header = {METADATA_KEY: json.dumps(record, sort_keys=True, allow_nan=False)}
    write_bytes(path, safetensors_bytes(tensors, header))


def _plain(name: str, array: np.ndarray) -> np.ndarray:
    value = np.asarray(array, order="C")
    if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
        raise TypeError(
            f"array {name!r} has dtype {value.dtype}; stored are bool, integers, floats to 64 bit"
        )
    return value.astype(value.dtype.newbyteorder("="), copy=False)


def load_arrays(path: AnyPath) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and metadata of a safetensors file; the metadata of a file that others wrote is {}.

    Raises StudyError if the file is not there; StoreError if it is truncated, if its content does not fit its
    checksum, or if it is of another format version.
    """
    found = place(path)
    if not found.is_file():
        raise StudyError(f"{path} not found")
    try:
        with safe_open(local(found), framework="numpy") as file:
            header = (file.metadata() or {}).get(METADATA_KEY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{path} is not a whole safetensors file of numpy's types ({error})") from error
    if header is None:
        return arrays, {}
    try:
        record = json.loads(header)
        version, content, metadata = record["format_version"], record["content"], record["metadata"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: its metadata is damaged ({error!r}); {_REMEDY}") from error
    _check_version(path, version)
    if content != fingerprint(arrays, metadata) or not isinstance(metadata, dict):
        raise StoreError(f"{path}: its content does not fit its checksum; {_REMEDY}")
    return arrays, metadata


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A table as UTF-8 CSV: floats in full, NaN as `nan`, None as an empty cell.

    Raises ValueError for a row whose length is not the header's.
    """
    return "".join(_csv_line(header, row) for row in (header, *rows)).encode("utf-8")


def _csv_line(header: Sequence[str], row: Sequence[Any]) -> str:
    if len(row) != len(header):
        raise ValueError(f"a row of {len(row)} cells under {len(header)} columns: {row!r:.80}")
    line = io.StringIO()
    # With "\n" as the terminator a bare "\r" in a cell would not be quoted.
    csv.writer(line, lineterminator="\r\n").writerow(
        c.item() if isinstance(c, np.generic) else c for c in row
    )
    return line.getvalue().removesuffix("\r\n") + "\n"


def read_csv(path: AnyPath, header: Sequence[str], *, numbers: Collection[str] = ()) -> list[dict[str, Any]]:
    """The columns named in `header`, in any order, others left out; those in `numbers` as float, empty = NaN.

    Raises StudyError that names file and line: it is not there or no table, lacks a column, has a ragged row,
    or a cell that is no number.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")  # spreadsheets like to write a byte order mark
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        found = [name.strip() for name in next(lines, [])]
        table = [(lines.line_num, row) for row in lines if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise StudyError(f"{path} is not a CSV table ({error})") from error
    missing = [name for name in header if name not in found]
    if missing:
        raise StudyError(
            f"{path}: column {', '.join(missing)} missing; found: {', '.join(found) or 'nothing'}"
        )
    for line, row in table:
        if len(row) != len(found):
            raise StudyError(f"{path}, line {line}: {len(row)} cells under {len(found)} columns")
    columns = [(name, found.index(name), name in numbers) for name in header]
    return [
        {name: _number(path, line, name, row[at]) if numeric else row[at] for name, at, numeric in columns}
        for line, row in table
    ]


def _number(path: AnyPath, line: int, column: str, cell: str) -> float:
    try:
        return float(cell) if cell.strip() else float("nan")
    except ValueError:
        raise StudyError(f"{path}, line {line}: {column} is {cell!r}, which is not a number") from None
