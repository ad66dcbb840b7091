"""In which order tasks stand beside a matrix: by task type, else by how alike they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from transferscope.comparison import IndicatorMatrix
from transferscope.errors import InputError
from transferscope.graph import build
from transferscope.graph_analysis import clusters


@dataclass(frozen=True)
class Order:
    """Places of the tasks, the first on top; `groups`: (type, how many) in this order, () without types."""

    places: tuple[int, ...]
    groups: tuple[tuple[str, int], ...]
    said: str


def arrange(
    names: Sequence[str], values: np.ndarray | None = None, types: Mapping[str, str] | None = None
) -> Order:
    """Tasks by type where all types are known, else the leaves of average linkage of the values [n, n].

    Where a pair has no value (`graph_analysis.clusters`), as they were given.
    """
    if types is not None and all(name in types for name in names):
        kinds = list(dict.fromkeys(types[name] for name in names))
        places = sorted(range(len(names)), key=lambda i: kinds.index(types[names[i]]))
        counts = tuple((kind, sum(types[name] == kind for name in names)) for kind in kinds)
        return Order(tuple(places), counts, "tasks by type")
    if values is not None and len(names) > 2:
        try:
            found = clusters(build([IndicatorMatrix("values", tuple(names), values)]))
        except InputError:
            return Order(tuple(range(len(names))), (), "tasks as given")
        return Order(
            tuple(names.index(name) for name in found.order), (), "tasks ordered by average-linkage clusters"
        )
    return Order(tuple(range(len(names))), (), "tasks as given")
