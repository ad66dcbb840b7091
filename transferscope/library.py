"""A library of signatures: thousands of tasks of one model in a folder, compared without loading them all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from transferscope import block_pairs, segments, sketches, store
from transferscope.block_pairs import AllPairs, Progress
from transferscope.errors import SignatureError, StudyError
from transferscope.files import Address, AnyPath
from transferscope.nearest import Array, Match, Nearest, nearest
from transferscope.segments import DTYPES, KIND, Entry, Index
from transferscope.sketches import Sketch, check_fits
from transferscope.skill_sets import RATE
from transferscope.store import Study
from transferscope.stored import Stored

if TYPE_CHECKING:
    from transferscope.signatures import Signature

__all__ = ["Added", "AllPairs", "Contents", "Library", "Match", "Nearest", "study_of"]


@dataclass(frozen=True)
class Added:
    """Names of the tasks that were added, were there already, and took the place of others."""

    added: tuple[str, ...]
    present: tuple[str, ...]
    replaced: tuple[str, ...]


@dataclass(frozen=True)
class Contents:
    """What is in a library: what all its signatures share (``width`` E of the prompts), and each task."""

    model: str
    layers: int
    neurons: int
    width: int | None
    entries: tuple[Entry, ...]


class Library:
    """A folder of signatures of one model, as it was when it was opened, or last added to.

    Values are those of `comparison.compare`: means over pairs of trials, of different trials for a task with
    itself; skill neurons are those at a rate of 0.2 of each layer. Writers take turns; readers need not wait.
    """

    def __init__(self, folder: AnyPath) -> None:
        """Raises StoreError where the library is damaged. A folder with no library yet is an empty one."""
        self.study = Study(folder)
        self._load(Stored.read(self.study))

    @classmethod
    def open(cls, folder: AnyPath) -> Library:
        """The library in a folder. Raises StudyError if there is none, StoreError if it is damaged."""
        found = cls(folder)
        _ = found.index
        return found

    def _load(self, stored: Stored) -> None:
        if stored.index is not None and stored.index.rate != RATE:
            raise StudyError(
                f"the library in {self.study.folder} keeps skill neurons at a rate of {stored.index.rate:g}: "
                f"this version reads {RATE:g}"
            )
        self._stored = stored

    @property
    def index(self) -> Index:
        """What all its signatures share. Raises StudyError where there is no library yet."""
        return self._stored.known

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What is known of each task, in the order in which they are stored."""
        return self._stored.entries

    @property
    def tasks(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(entry.task for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def contents(self) -> Contents:
        """What is in it, as a record of its own."""
        index = self.index
        return Contents(index.model, index.layers, index.neurons, index.width, self.entries)

    def damaged(self) -> list[str]:
        """The files whose content does not fit their checksum. Reads everything."""
        return segments.damaged(self.study, self.index)

    def add(
        self,
        sources: Iterable[Signature | AnyPath],
        *,
        prefix: str = "",
        replace: bool = False,
        progress: Progress | None = None,
    ) -> Added:
        """Add signatures, or all signatures of study folders, under the names of their tasks after `prefix`.

        What is there already is left out. Segments are written as they fill: a kill loses at most the one in
        hand, and the same call goes on from there. Raises SignatureError (another model, other sizes, a name
        that is taken by another signature, unless `replace`), StudyError (a study without signatures).
        """
        batch: dict[str, Sketch] = {}
        names: dict[str, list[str]] = {"added": [], "present": [], "replaced": []}
        size = 0
        for signature, source in _signatures(sources, progress):
            sketch = sketches.of_signature(signature, name=prefix + signature.task, source=source)
            kind = self._judge(sketch, replace, batch)
            names[kind].append(sketch.entry.task)
            if kind != "present":
                batch[sketch.entry.task] = sketch
                size += sketch.bytes
            if size >= segments.FULL:
                self._commit([*batch.values()], replace)
                batch, size = {}, 0
        if batch:
            self._commit([*batch.values()], replace)
        return Added(*(tuple(names[kind]) for kind in ("added", "present", "replaced")))

    def _judge(self, sketch: Sketch, replace: bool, waiting: Mapping[str, Sketch]) -> str:
        """Whether a sketch is "added", "present" or "replaced". Raises SignatureError: it does not fit.

        `waiting` are those that come before it and are not written yet.
        """
        if self._stored.index is not None:
            check_fits(sketch, self.index)
        name = sketch.entry.task
        place = self._stored.by_name.get(name)
        other = waiting[name].entry if name in waiting else None if place is None else self.entries[place]
        if other is None:
            return "added"
        if other.fingerprint == sketch.entry.fingerprint:
            return "present"
        if replace and name not in waiting:
            return "replaced"
        raise SignatureError(
            f"the library holds another {name!r}, of {other.source or 'a signature'}: give these signatures "
            "a prefix, or replace those that are there"
        )

    def _commit(self, batch: Sequence[Sketch], replace: bool) -> None:
        """Write a segment, then the index; what others have added since is looked at first."""
        with segments.locked(self.study):
            self._load(Stored.read(self.study))
            new = [sketch for sketch in batch if self._judge(sketch, replace, {}) != "present"]
            if not new:
                return
            index = _widened(self._stored.index or _index_of(new), new)
            for sketch in new:
                check_fits(sketch, index)
            segments.remove_unknown(self.study, index)
            written = segments.write_segment(self.study, [one.entry for one in new], _columns(new, index))
            index = self._without({one.entry.task for one in new}, index)
            index = index.model_copy(update={"segments": (*index.segments, written)})
            index = segments.merged(self.study, index)
            segments.write_index(self.study, index)
            segments.remove_unknown(self.study, index)
            self._load(Stored.read(self.study))

    def _without(self, names: set[str], index: Index) -> Index:
        """The index in which the tasks of these names are no longer in use."""
        gone: dict[int, set[int]] = {}
        for entry, (number, place) in zip(self.entries, self._stored.places, strict=True):
            if entry.task in names:
                gone.setdefault(number, set()).add(place)
        changed = tuple(
            one.model_copy(update={"dropped": one.dropped | gone.get(number, set())})
            for number, one in enumerate(index.segments)
        )
        return index.model_copy(update={"segments": changed})

    def query(
        self, query: Signature | str | Array, k: int = 10, indicator: str = "on", *, itself: bool = False
    ) -> Nearest:
        """The k stored tasks nearest to a signature, to a stored task (by name), or to an array.

        An array is bool [L, N] or [R, L, N] (active neurons, or skill neurons for an indicator of these), or
        prompts [P, E] or [R, P, E]. The stored copy of what is asked for is left out unless `itself`. Of
        equal values the first by name comes first. Raises InputError (k < 1), IndicatorInputError (an
        indicator that a library cannot compute, or without what it reads), SignatureError (another model,
        other shapes, a task that is not there).
        """
        return nearest(self._stored, query, k, indicator, itself=itself)

    def all_pairs(
        self,
        indicator: str = "on",
        *,
        out: str | os.PathLike[str] | None = None,
        kernel: str | None = None,
        progress: Progress | None = None,
    ) -> AllPairs:
        """All pairs of the stored tasks that have what an indicator reads, float32 [n, n].

        `out` writes them to a .npy file, which appears when it is whole, and maps it; else they are held in
        memory. `kernel` is "gemm" or "faiss", by default the one that is faster here: the numbers are the
        same. Raises IndicatorInputError, InputError (no such kernel, not a .npy file).
        """
        path = None if out is None else Path(out)
        return block_pairs.all_pairs(self._stored, indicator, out=path, kernel=kernel, progress=progress)


def _signatures(
    sources: Iterable[Signature | AnyPath], progress: Progress | None
) -> Iterator[tuple[Signature, str]]:
    """Each signature, one in memory at a time, with the file it came from. Raises StudyError."""
    for source in sources:
        if not isinstance(source, str | os.PathLike | Address):
            yield source, ""
            continue
        from transferscope.signatures import load_signature

        study = study_of(source)
        tasks = study.signatures()
        if not tasks:
            raise StudyError(
                f"{study.folder} has no signatures: `transferscope extract --study {source}` first"
            )
        for done, task in enumerate(tasks, start=1):
            path = study.signature_file(task)
            yield load_signature(path), str(path)
            if progress is not None:
                progress(f"add {study.folder.name}", done, len(tasks), task)


def study_of(source: AnyPath) -> Study:
    """A study given as its folder, or as the study.yaml in it. Raises StudyError: not there."""
    path = store.place(source)
    if not path.exists():
        raise StudyError(f"no study {str(path)!r}")
    return Study(path.parent if path.is_file() else path)


def _index_of(batch: Sequence[Sketch]) -> Index:
    """The index of a new library, of the first signature's model."""
    layers, neurons = batch[0].shape
    return Index(kind=KIND, model=batch[0].model, layers=layers, neurons=neurons, rate=RATE)


def _widened(index: Index, batch: Sequence[Sketch]) -> Index:
    """The width of prompts is known from the first one on."""
    return index.model_copy(update={"width": index.width or next((b.width for b in batch if b.width), None)})


def _columns(batch: Sequence[Sketch], index: Index) -> dict[str, np.ndarray]:
    """The rows of several sketches, one below the other."""
    found = {}
    for column, dtype in DTYPES.items():
        rows = [one.columns[column] for one in batch if len(one.columns[column])]
        found[column] = np.concatenate([np.zeros((0, index.row(column)), dtype), *rows])
    return found
