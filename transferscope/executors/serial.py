"""The serial executor: one unit after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from transferscope.executors.registry import R, Report, U, executor


@executor("serial")
class Serial:
    """One unit after the other, in this process and in their order."""

    workers = 1
    here = True

    def map(
        self, function: Callable[[U], R], units: Sequence[U], *, report: Report | None = None
    ) -> Iterator[tuple[U, R]]:
        """Each unit with what the function returned for it."""
        for unit in units:
            yield unit, function(unit)

    def close(self) -> None:
        """Nothing to let go."""
