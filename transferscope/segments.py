"""The files of a signature library: an index, and segments that are written once and never changed.

    library.json                 model, sizes, and the segments there are, with a sha256 of each file
    segments/<name>/             entries.json, active.npy, skills.npy, skill_sizes.npy, directions.npy

A segment is whole before the index names it: a kill leaves at most a folder that no index names, and the next
addition removes it.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from transferscope import files, store
from transferscope.errors import StoreError, StudyError
from transferscope.packed import width
from transferscope.store import Study

INDEX, FOLDER, ENTRIES, LOCK = "library.json", "segments", "entries.json", ".lock"
KIND: Literal["signature library"] = "signature library"

# column -> dtype of its rows; all lie in C order, [rows, width of the column]
DTYPES: Mapping[str, Any] = {
    "active": np.dtype(np.uint8),
    "skills": np.dtype(np.uint8),
    "skill_sizes": np.dtype("<i4"),
    "directions": np.dtype("<f4"),
}

FULL = 64 << 20  # bytes from which on a segment is left as it is
MOST_SMALL = 32  # smaller ones, before they are put together: each costs open files

Name = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Count = Annotated[int, Field(ge=1)]


class Checked(BaseModel):
    """A record of a file that somebody else may have written."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(Checked):
    """One task of a library. ``source`` is the file it was made from, ``fingerprint`` that of its content."""

    task: Annotated[str, Field(min_length=1)]
    type: str | None = None
    seeds: tuple[int, ...] = ()
    source: str = ""
    fingerprint: str
    trials: Count
    skills: bool = False
    prompts: bool = False

    def rows(self, column: str) -> int:
        """How many rows of a column are its own: one a trial, but skill neurons are of all trials."""
        return {"active": self.trials, "directions": self.trials * self.prompts}.get(column, int(self.skills))


class Segment(Checked):
    """A segment as the index has it: sha256 by file, and the places of entries that were replaced since."""

    name: Name
    sums: dict[str, str]
    dropped: frozenset[int] = frozenset()


class Index(Checked):
    """What all signatures of a library share, and its segments; ``width`` E of prompts, None without any."""

    kind: Literal["signature library"]
    model: str
    layers: Count
    neurons: Count
    rate: float
    width: Count | None = None
    segments: tuple[Segment, ...] = ()

    def row(self, column: str) -> int:
        """Numbers in one row of a column."""
        sizes = {"skill_sizes": self.layers, "directions": self.width or 0}
        return sizes.get(column, width(self.layers * self.neurons))


@dataclass(frozen=True)
class Opened:
    """A segment's entries and its columns, memory-mapped, [rows, width] each."""

    entries: tuple[Entry, ...]
    columns: Mapping[str, np.ndarray]

    def starts(self, column: str) -> np.ndarray:
        """The first row of each entry in a column, int64 [entries]."""
        counts = [entry.rows(column) for entry in self.entries]
        return np.cumsum([0, *counts])[: len(counts)]


def local_path(study: Study, *parts: str) -> Path:
    """A path in a library, which is mapped into memory and locked. Raises StudyError: at an address."""
    path = study.path(*parts)
    if not isinstance(path, Path):
        raise StudyError(f"a signature library lies in a local folder, not at {study.folder}")
    return path


def read_index(study: Study) -> Index | None:
    """The index, None where there is none. Raises StoreError: damaged, or not of a library."""
    path = local_path(study, INDEX)
    if not path.is_file():
        return None
    value = store.read_json(path)
    if isinstance(value, dict):
        value.pop("format_version", None)
    try:
        return Index.model_validate(value)
    except ValidationError as error:
        raise StoreError(f"{path} is not the index of a signature library: {_line(error)}") from None


def write_index(study: Study, index: Index) -> None:
    """Put the index in the place of the one before, whole or not at all."""
    store.write_json(local_path(study, INDEX), index.model_dump(), versioned=True)


def open_segment(study: Study, index: Index, segment: Segment) -> Opened:
    """A segment, its columns memory-mapped; nothing of them is read.

    Raises StoreError: a file is missing, damaged, or not as large as its entries say.
    """
    path = local_path(study, FOLDER, segment.name, ENTRIES)
    data = _read(path)
    if hashlib.sha256(data).hexdigest() != segment.sums.get(ENTRIES):
        raise StoreError(f"{path}: its content does not fit its checksum; make the library again")
    try:
        entries = TypeAdapter(tuple[Entry, ...]).validate_json(data)
    except ValidationError as error:
        raise StoreError(f"{path} is not a list of signatures: {_line(error)}") from None
    columns = {}
    for column in DTYPES:
        rows = sum(entry.rows(column) for entry in entries)
        columns[column] = _open_column(study, index, segment, column, rows)
    return Opened(entries, columns)


def _open_column(study: Study, index: Index, segment: Segment, column: str, rows: int) -> np.ndarray:
    path = local_path(study, FOLDER, segment.name, f"{column}.npy")
    if not rows:  # written before the first prompt came, say: its width means nothing
        return np.zeros((0, index.row(column)), DTYPES[column])
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise StoreError(f"{path} is not a whole array ({_line(error)}); make the library again") from None
    wanted = (rows, index.row(column))
    if array.shape != wanted or array.dtype != DTYPES[column] or not array.flags.c_contiguous:
        raise StoreError(
            f"{path} holds {array.dtype} {list(array.shape)}, and {DTYPES[column]} {list(wanted)} is needed; "
            "make the library again"
        )
    return array


def write_segment(study: Study, entries: Sequence[Entry], columns: Mapping[str, np.ndarray]) -> Segment:
    """Write a new segment, which the index does not know yet: what the index is to say of it."""
    name, sums = secrets.token_hex(8), {}
    content = {f"{column}.npy": _npy(columns[column], dtype) for column, dtype in DTYPES.items()}
    content[ENTRIES] = TypeAdapter(tuple[Entry, ...]).dump_json(tuple(entries))
    for file, data in content.items():
        store.write_bytes(local_path(study, FOLDER, name, file), data)
        sums[file] = hashlib.sha256(data).hexdigest()
    return Segment(name=name, sums=sums)


def _npy(array: np.ndarray, dtype: np.dtype[Any]) -> bytes:
    page = io.BytesIO()
    np.save(page, np.ascontiguousarray(array, dtype), allow_pickle=False)
    return page.getvalue()


def merged(study: Study, index: Index) -> Index:
    """The index with its small segments put together in new ones, if they are many; replaced entries go."""
    small = [segment for segment in index.segments if _bytes(study, segment) < FULL]
    if len(small) <= MOST_SMALL:
        return index
    made: list[Segment] = []
    group: list[Segment] = []
    for segment in small:
        group.append(segment)
        if segment is small[-1] or sum(_bytes(study, one) for one in group) >= FULL:
            made.append(_together(study, index, group))
            group = []
    kept = [segment for segment in index.segments if segment not in small]
    return index.model_copy(update={"segments": (*kept, *made)})


def _together(study: Study, index: Index, group: Sequence[Segment]) -> Segment:
    """One segment with what is still in use of several."""
    opened = [(segment, open_segment(study, index, segment)) for segment in group]
    entries: list[Entry] = []
    pieces: dict[str, list[np.ndarray]] = {column: [] for column in DTYPES}
    for segment, one in opened:
        kept = [place for place in range(len(one.entries)) if place not in segment.dropped]
        entries += [one.entries[place] for place in kept]
        for column, rows in one.columns.items():
            starts = one.starts(column)
            pieces[column] += [
                rows[starts[p] : starts[p] + one.entries[p].rows(column)] for p in kept
            ]  # fmt: skip
    empty = {column: np.zeros((0, index.row(column)), dtype) for column, dtype in DTYPES.items()}
    return write_segment(
        study, entries, {column: np.concatenate([empty[column], *pieces[column]]) for column in DTYPES}
    )


def _bytes(study: Study, segment: Segment) -> int:
    return sum(local_path(study, FOLDER, segment.name, f"{column}.npy").stat().st_size for column in DTYPES)


def remove_unknown(study: Study, index: Index) -> list[str]:
    """Remove the segments that the index does not name: of killed additions, or merged. Returns names."""
    known, folder = {segment.name for segment in index.segments}, local_path(study, FOLDER)
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    unknown = [name for name in found if name not in known]
    for name in unknown:
        shutil.rmtree(local_path(study, FOLDER, name), ignore_errors=True)
    return unknown


def damaged(study: Study, index: Index) -> list[str]:
    """The files whose content does not fit their checksum, or that are not there: everything is read."""
    bad = []
    for segment in index.segments:
        for file in (ENTRIES, *(f"{column}.npy" for column in DTYPES)):
            path = local_path(study, FOLDER, segment.name, file)
            if not path.is_file() or _sha256(path) != segment.sums.get(file):
                bad.append("/".join((FOLDER, segment.name, file)))
    return bad


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(study: Study) -> Iterator[None]:
    """One writer at a time; the others wait. The lock goes with its process, so a kill leaves none."""
    lock = local_path(study, LOCK)
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(handle)
        yield
    finally:
        os.close(handle)


def _take(handle: int) -> None:
    if os.name == "nt":  # no flock there: two writers at once are the user's to avoid
        return
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX)


def _read(path: Path) -> bytes:
    try:
        return files.read_bytes(path)
    except StudyError as error:
        raise StoreError(f"{error}: the library is not whole; make it again") from None


def _line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
    return " ".join(str(error).split())
