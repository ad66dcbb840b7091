"""What a signature library holds, as it was when it was read: entries, and rows that stay on disk."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transferscope import needs, segments
from transferscope.errors import IndicatorInputError, SignatureError, StoreError, StudyError, suggest
from transferscope.segments import Entry, Index
from transferscope.stacked import Column, Stack
from transferscope.store import Study

Array = NDArray[Any]
SHOWN = 20  # names that an error lists


class Stored:
    """One reading of a library's folder: nothing of the columns is in memory before a row is taken."""

    def __init__(self, study: Study) -> None:
        """Raises StoreError where the library is damaged; a folder with no library yet holds nothing."""
        self.study = study
        self.index = segments.read_index(study)
        every = self.index.segments if self.index is not None else ()
        self._opened = [segments.open_segment(study, self.known, one) for one in every]
        self._columns: dict[str, Column] = {}
        # Segment and place in it of each entry that was not replaced since.
        self.places = tuple(
            (number, place)
            for number, (segment, opened) in enumerate(zip(every, self._opened, strict=True))
            for place in range(len(opened.entries))
            if place not in segment.dropped
        )
        self.entries: tuple[Entry, ...] = tuple(self._opened[n].entries[place] for n, place in self.places)

    @classmethod
    def read(cls, study: Study) -> Stored:
        """A reading of the folder, a second one where a writer put segments together during the first."""
        try:
            return cls(study)
        except StoreError:
            return cls(study)

    @property
    def known(self) -> Index:
        """The index. Raises StudyError where there is no library yet."""
        if self.index is None:
            raise StudyError(
                f"no signature library in {str(self.study.folder)!r} (no {segments.INDEX}): "
                "`transferscope library add STUDY --library DIR` makes one"
            )
        return self.index

    @cached_property
    def by_name(self) -> dict[str, int]:
        """The place of each task."""
        return {entry.task: place for place, entry in enumerate(self.entries)}

    def place(self, task: str) -> int:
        """Where a task stands in `entries`. Raises SignatureError with the nearest names."""
        if task not in self.by_name:
            raise SignatureError(f"the library has no task {task!r}. {_nearest_names(task, self.by_name)}")
        return self.by_name[task]

    def column(self, name: str) -> Column:
        """The rows that are stored under a name (`segments.DTYPES`), task by task."""
        if name not in self._columns:
            self._columns[name] = self._column(name)
        return self._columns[name]

    def _column(self, name: str) -> Column:
        starts = [opened.starts(name) for opened in self._opened]
        parts = [opened.columns[name] for opened in self._opened]
        above = np.cumsum([0, *map(len, parts)])
        first = [above[number] + starts[number][place] for number, place in self.places]
        count = [entry.rows(name) for entry in self.entries]
        groups = {
            "skills": lambda: Stack([opened.columns["skill_sizes"] for opened in self._opened]),
            "directions": lambda: Stack([np.zeros((len(part), 1), np.int32) for part in parts]),
        }
        return Column(
            Stack(parts),
            np.array(first, np.int64),
            np.array(count, np.int64),
            groups[name]() if name in groups else None,
        )

    def column_for(self, indicator: str, name: str, need: str) -> Column:
        """The column that an indicator reads. Raises IndicatorInputError where no task has rows in it."""
        column = self.column(name)
        if not len(column.known):
            raise IndicatorInputError(
                f"the indicator {indicator!r} needs {need}, and no task of the library has it: "
                f"{needs.SUPPLIERS[need]}, then `transferscope library add`"
            )
        return column

    def not_finite(self) -> StoreError:
        """The error for values that no whole library gives."""
        return StoreError(
            f"{self.study.folder} gives values that are not finite, so it is damaged: `transferscope library "
            "check` says where"
        )


def _nearest_names(task: str, names: Iterable[str]) -> str:
    """`suggest`, which lists all names, would fill the screen."""
    every = sorted(names)
    if len(every) <= SHOWN:
        return suggest(task, every)
    near = difflib.get_close_matches(task, every, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    return f"{hint}`transferscope library list` shows all {len(every)}."
