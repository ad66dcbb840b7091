"""Tasks as a graph: what is known of every pair on directed edges, one measure shown, and views of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from transferscope.comparison import IndicatorMatrix
from transferscope.errors import InputError, suggest
from transferscope.transfer import TransferMatrix

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

INDICATOR, MEASURED = "indicator", "measured"
RELATIVE = "relative"  # a measured value divided by what the target's own prompt reaches
# Attributes that edges have beside their measures, and names that file formats keep for themselves.
RESERVED = ("weight", "shown", "significance", "source", "target", "key", "id", "name", "label", "type")


@dataclass(frozen=True)
class Node:
    """What is known of a task; None: not known. `own` is what its own prompt reaches, `size` its examples."""

    type: str | None = None
    own: float | None = None
    size: int | None = None
    model: str | None = None
    community: int | None = None


@dataclass(frozen=True)
class TaskGraph:
    """A directed graph of n tasks.

    `measures`: name -> values [n, n] float64, rows are sources, larger means "transfers better", NaN where
    not known and on the diagonal (a task's own performance is on its node). `kinds`: name -> "indicator" or
    "measured". Edges are the pairs in `kept` [n, n] bool, always known in the measure that is `shown`.
    `significance` [n, n] is set by `backbone`; `said` holds what the views did, in words.
    """

    tasks: tuple[str, ...]
    nodes: Mapping[str, Node]
    measures: Mapping[str, Floats]
    kinds: Mapping[str, str]
    shown: str
    kept: Mask
    significance: Floats | None = None
    said: tuple[str, ...] = field(default_factory=tuple)

    @property
    def values(self) -> Floats:
        """The shown measure where there is an edge, else NaN, [n, n]."""
        return np.where(self.kept, self.measures[self.shown], np.nan)

    @property
    def types(self) -> dict[str, str]:
        """The types that are known."""
        return {name: node.type for name, node in self.nodes.items() if node.type is not None}

    @property
    def edges(self) -> list[tuple[str, str, float]]:
        """(source, target, shown value), the largest first; ties as tasks stand."""
        found = [(self.tasks[s], self.tasks[t], float(self.values[s, t])) for s, t in np.argwhere(self.kept)]
        return sorted(found, key=lambda edge: -edge[2])

    def network(self) -> nx.MultiDiGraph:
        """As networkx has it: an edge's key is the measure shown, its attributes are all that is known.

        `weight` is the shown value and `shown` its name; every measure that is known of the pair is an
        attribute of its own name. Unknown values are not there at all.
        """
        network = nx.MultiDiGraph()
        for name in self.tasks:
            known = vars(self.nodes[name]).items()
            network.add_node(name, **{key: value for key, value in known if value is not None})
        for s, t in np.argwhere(self.kept):
            network.add_edge(self.tasks[s], self.tasks[t], key=self.shown, **self._attributes(int(s), int(t)))
        return network

    def _attributes(self, s: int, t: int) -> dict[str, Any]:
        known = {name: float(v[s, t]) for name, v in self.measures.items() if np.isfinite(v[s, t])}
        found: dict[str, Any] = {"weight": known[self.shown], "shown": self.shown, **known}
        if self.significance is not None:
            found["significance"] = float(self.significance[s, t])
        return found

    def show(self, measure: str) -> TaskGraph:
        """The whole graph of another measure. InputError: it is not known of any pair."""
        if measure not in self.measures:
            raise InputError(f"the graph has no measure {measure!r}. {suggest(measure, self.measures)}")
        kept = np.isfinite(self.measures[measure])
        return replace(self, shown=measure, kept=kept, significance=None, said=())

    def _keeping(self, kept: Mask, said: str, significance: Floats | None = None) -> TaskGraph:
        old = self.significance if significance is None else significance
        return replace(self, kept=kept & self.kept, significance=old, said=(*self.said, said))

    def threshold(self, least: float) -> TaskGraph:
        """Edges whose shown value is at least this."""
        with np.errstate(invalid="ignore"):
            kept = self.values >= least
        return self._keeping(kept, f"edges of {self.shown} at least {least:g}")

    def nearest(self, k: int, *, mutual: bool = False) -> TaskGraph:
        """For each target the k best sources (ties: as the tasks stand).

        `mutual`: only where each of the two is among the other's k best sources. InputError: k < 1.
        """
        if k < 1:
            raise InputError(f"the {k} nearest sources: at least one is needed")
        filled = np.where(self.kept, self.values, -np.inf)
        rank = np.argsort(np.argsort(-filled, axis=0, kind="stable"), axis=0, kind="stable")
        kept = (rank < k) & self.kept
        said = f"for each target its {k} best sources by {self.shown}"
        if mutual:
            return self._keeping(kept & kept.T, f"{said}, where that is mutual")
        return self._keeping(kept, said)

    def arborescence(self) -> TaskGraph:
        """The maximum spanning arborescence: every task but the root gets one source, and the sum is largest.

        Edmonds' algorithm (networkx). InputError where no task reaches all others.
        """
        lowest = np.nanmin(self.values) if self.kept.any() else 0.0
        plain = nx.DiGraph()
        plain.add_nodes_from(range(len(self.tasks)))
        # All spanning arborescences have n - 1 edges: a constant on every weight changes no comparison, and
        # makes the weights positive, which a branching (an arborescence with gaps) is then never better than.
        for s, t in np.argwhere(self.kept):
            plain.add_edge(int(s), int(t), weight=float(self.values[s, t] - lowest) + 1.0)
        if not len(self.tasks):
            raise InputError("a graph without tasks has no spanning arborescence")
        try:
            tree = nx.maximum_spanning_arborescence(plain)
        except nx.NetworkXException:
            raise InputError(
                f"no spanning arborescence: by the {int(self.kept.sum())} edges of {self.shown} no task "
                "reaches all others; keep more edges, or take the undirected tree"
            ) from None
        root = self.tasks[next(node for node in tree if tree.in_degree(node) == 0)]
        return self._keeping(
            self._mask(tree.edges), f"the maximum spanning arborescence of {self.shown}, root {root}"
        )

    def tree(self) -> TaskGraph:
        """The maximum spanning tree of the pairs, whose weight is the mean of the directions that are known.

        Both directions of a pair of the tree are kept, where known. A graph in parts gives a tree for each.
        """
        both = self.symmetric()
        plain = nx.Graph()
        plain.add_nodes_from(range(len(self.tasks)))
        for s, t in np.argwhere(np.triu(np.isfinite(both), 1)):
            plain.add_edge(int(s), int(t), weight=float(both[s, t]))
        kept = self._mask(nx.maximum_spanning_tree(plain).edges)
        parts = nx.number_connected_components(plain) if len(self.tasks) else 0
        what = "tree" if parts <= 1 else f"forest of {parts} parts"
        return self._keeping(kept | kept.T, f"the maximum spanning {what} of {self.shown}, both directions")

    def backbone(self, alpha: float) -> TaskGraph:
        """Edges whose weight is more than chance would give a source or a target: the disparity filter.

        Serrano, Boguna and Vespignani 2009, eq. 2: if the strength of a task were split at random among its
        k edges, an edge would have at least its share p with probability (1 - p)^(k - 1). An edge is kept
        where that is below `alpha` at its source or at its target; `significance` is the smaller of the two.
        A task with one edge says nothing of it (1). Edges of weight 0 do not count.

        Raises InputError: alpha not in (0, 1), or negative weights, which have no shares.
        """
        if not 0 < alpha < 1:
            raise InputError(f"a significance level of {alpha}: it must be above 0 and below 1")
        weights = np.where(self.kept, self.values, 0.0)
        if (weights < 0).any():
            raise InputError(
                f"the backbone needs weights that are not negative, and {self.shown} goes down to "
                f"{weights.min():.4g}: take another measure, or keep the nearest sources instead"
            )
        level = np.minimum(_disparity(weights, 1), _disparity(weights, 0))
        kept = (level < alpha) & (weights > 0)
        return self._keeping(kept, f"the disparity backbone of {self.shown} at level {alpha:g}", level)

    def symmetric(self) -> Floats:
        """The mean of the two directions of each pair, or the one that has an edge, [n, n]; NaN: neither."""
        values, back = self.values, self.values.T
        one = np.where(np.isfinite(values), values, back)
        return np.where(np.isfinite(values) & np.isfinite(back), (values + back) / 2, one)

    def _mask(self, pairs: Any) -> Mask:
        kept = np.zeros(self.kept.shape, bool)
        for s, t in pairs:
            kept[s, t] = True
        return kept


def _disparity(weights: Floats, axis: int) -> Floats:
    """(1 - share)^(degree - 1) along the rows (axis 1: of the source) or columns (0: of the target)."""
    strength = weights.sum(axis=axis, keepdims=True)
    degree = (weights > 0).sum(axis=axis, keepdims=True)
    share = np.divide(weights, strength, out=np.zeros_like(weights), where=strength > 0)
    level: Floats = np.clip(1.0 - share, 0.0, 1.0) ** np.maximum(degree - 1, 0)
    return np.where(weights > 0, level, 1.0)


def build(
    matrices: Sequence[IndicatorMatrix] = (),
    transfers: Sequence[TransferMatrix] = (),
    *,
    shown: str | None = None,
    types: Mapping[str, str] | None = None,
    own: Mapping[str, float] | None = None,
    sizes: Mapping[str, int] | None = None,
    model: str | None = None,
) -> TaskGraph:
    """A graph of all tasks of these matrices.

    A measured matrix gives two measures: its protocol, and "PROTOCOL relative" (divided by the target's own)
    where that is known. `shown` None: the first measured one, else the first indicator. A task's own
    performance is `own`, else what a measured matrix has on its diagonal.

    Raises InputError: nothing given, a name given twice or reserved, an unknown `shown`.
    """
    parts = [(m.indicator, INDICATOR, m.tasks, m.tasks, m.values) for m in matrices]
    for one in transfers:
        parts.append((one.protocol, MEASURED, one.sources, one.targets, one.values))
        if np.isfinite(one.relative).any():
            name = f"{one.protocol} {RELATIVE}"
            parts.append((name, MEASURED, one.sources, one.targets, one.relative))
    if not parts:
        raise InputError("no graph without an indicator or measured transfer: give at least one")
    _check_names([part[0] for part in parts])
    tasks = tuple(dict.fromkeys(name for part in parts for side in part[2:4] for name in side))
    measures = {name: _spread(values, rows, columns, tasks) for name, _, rows, columns, values in parts}
    reached = _own(transfers) | dict(own or {})
    nodes = {
        name: Node((types or {}).get(name), reached.get(name), (sizes or {}).get(name), model)
        for name in tasks
    }
    kinds = {part[0]: part[1] for part in parts}
    first = next((name for name, kind in kinds.items() if kind == MEASURED), parts[0][0])
    empty = np.zeros((len(tasks), len(tasks)), bool)
    return TaskGraph(tasks, nodes, measures, kinds, first, empty).show(shown or first)


def _check_names(names: Sequence[str]) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(f"two matrices have the same name: {', '.join(sorted(twice))}")
    if taken := sorted(set(names) & set(RESERVED)):
        raise InputError(f"edges have an attribute {taken[0]!r} of their own: rename this indicator")


def _own(transfers: Sequence[TransferMatrix]) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in transfers:
        for name, value in zip(one.targets, one.own, strict=True):
            if np.isfinite(value):
                found.setdefault(name, float(value))
    return found


def _spread(values: Floats, rows: Sequence[str], columns: Sequence[str], tasks: Sequence[str]) -> Floats:
    """A matrix [rows, columns] at its places among all tasks [n, n], with nothing on the diagonal."""
    place = {name: i for i, name in enumerate(tasks)}
    spread = np.full((len(tasks), len(tasks)), np.nan)
    spread[np.ix_([place[name] for name in rows], [place[name] for name in columns])] = values
    spread[~np.isfinite(spread)] = np.nan
    np.fill_diagonal(spread, np.nan)
    return spread


def of_study(study: Any, names: Sequence[str] | None = None, measured: str | None = None) -> TaskGraph:
    """The graph of a study (`pipeline.open_study`): these indicators (None: those of the study), and what is
    known of measured transfer by a protocol (None: the study's), which is shown where there is any.

    `measured` may be "PROTOCOL relative", too. Raises InputError where nothing is known of it.
    """
    protocol = None if measured is None else measured.removesuffix(f" {RELATIVE}")
    known = study.known_transfer(protocol)
    if known is None and protocol is not None:
        raise InputError(f"the study has no measured transfer by the protocol {protocol!r}")
    sizes = {name: len(study.task(name).train) for name in study.with_data}
    return build(
        study.compare(list(names) if names else None),
        [known] if known else [],
        shown=measured,
        types=study.types,
        sizes=sizes,
        model=study.settings.model.name,
    )
