"""What a task graph says: communities against task types, hubs and needy targets, asymmetry, clusters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from scipy.stats import spearmanr

from transferscope.errors import InputError
from transferscope.graph import MEASURED, TaskGraph

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

PERMUTATIONS = 999


@dataclass(frozen=True)
class Agreement:
    """How a grouping of tasks agrees with their types: adjusted Rand index, normalised mutual information.

    `p_rand`, `p_information`: the share of random permutations of the types that agree at least as well,
    (1 + hits) / (1 + permutations). `tasks` are those whose type is known.
    """

    rand: float
    p_rand: float
    information: float
    p_information: float
    tasks: int
    permutations: int


@dataclass(frozen=True)
class Communities:
    """Louvain communities: task -> number (0 is the largest), their modularity, agreement with the types."""

    of: Mapping[str, int]
    modularity: float
    agreement: Agreement | None
    seed: int
    note: str = ""

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The tasks of each community."""
        count = len(set(self.of.values()))
        return tuple(tuple(task for task, c in self.of.items() if c == number) for number in range(count))


def communities(
    graph: TaskGraph, *, resolution: float = 1.0, seed: int = 0, permutations: int = PERMUTATIONS
) -> Communities:
    """Louvain communities (Blondel et al. 2008, networkx) of the edges that are kept.

    Directions are averaged (an edge without its return counts alone). Modularity knows no negative weights:
    where there are any, the smallest is subtracted from all, and `note` says so. A grouping with no
    edges has each task alone, modularity 0. Raises InputError: resolution not above 0.
    """
    if not resolution > 0:
        raise InputError(f"a resolution of {resolution}: it must be above 0")
    both = graph.symmetric()
    lowest = float(np.nanmin(both)) if np.isfinite(both).any() else 0.0
    shift = min(lowest, 0.0)
    plain = nx.Graph()
    plain.add_nodes_from(range(len(graph.tasks)))
    for s, t in np.argwhere(np.triu(np.isfinite(both), 1)):
        plain.add_edge(int(s), int(t), weight=float(both[s, t]) - shift)
    total = plain.size(weight="weight")
    if total > 0:
        found = nx.community.louvain_communities(plain, weight="weight", resolution=resolution, seed=seed)
        modularity = float(nx.community.modularity(plain, found, weight="weight", resolution=resolution))
    else:
        found, modularity = [{i} for i in plain], 0.0
    ordered = sorted(found, key=lambda group: (-len(group), min(group)))
    number = {i: c for c, group in enumerate(ordered) for i in group}
    of = {task: number[i] for i, task in enumerate(graph.tasks)}
    note = f"{-shift:.4g} was added to every weight, since some are below 0" if shift < 0 else ""
    return Communities(of, modularity, agreement(of, graph.types, seed, permutations), seed, note)


def with_communities(graph: TaskGraph, found: Communities) -> TaskGraph:
    """The same graph whose nodes carry their community."""
    return replace(
        graph, nodes={name: replace(node, community=found.of[name]) for name, node in graph.nodes.items()}
    )


def agreement(
    of: Mapping[str, int], types: Mapping[str, str], seed: int = 0, permutations: int = PERMUTATIONS
) -> Agreement | None:
    """How well groups agree with task types; None where fewer than two types are known.

    Hubert and Arabie 1985 (adjusted Rand, 0 by chance), Strehl and Ghosh 2002 with the arithmetic mean of the
    entropies (information, above 0 even by chance: read it with its p).
    """
    known = [task for task in of if task in types]
    if len({types[task] for task in known}) < 2:
        return None
    groups = np.array([of[task] for task in known])
    kinds = np.unique([types[task] for task in known], return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    mixed = np.stack([kinds, *(rng.permutation(kinds) for _ in range(permutations))])
    scores = _agreements(np.unique(groups, return_inverse=True)[1], mixed)
    # A permutation that gives the same grouping must count as one, whatever the last digit says.
    hits = (scores[:, 1:] >= scores[:, :1] - 1e-12).sum(axis=1)
    p_rand, p_information = (1 + hits) / (1 + permutations)
    rand, information = (float(score) for score in scores[:, 0])
    return Agreement(rand, float(p_rand), information, float(p_information), len(known), permutations)


def _agreements(groups: Ints, kinds: Ints) -> Floats:
    """Adjusted Rand and normalised information of one grouping [n] with B others [B, n] -> [2, B]."""
    n = len(groups)
    counts = np.einsum("ng,bnt->bgt", np.eye(groups.max() + 1)[groups], np.eye(kinds.max() + 1)[kinds])
    rows, columns = counts.sum(axis=2), counts.sum(axis=1)
    both, left, right = (_pairs(c).reshape(len(c), -1).sum(axis=1) for c in (counts, rows, columns))
    expected, most = left * right / _pairs(np.array(n)), (left + right) / 2
    # Only two groupings of which each has every task alone leave nothing above chance: they are equal.
    rand = np.divide(both - expected, most - expected, out=np.ones(len(both)), where=most > expected)
    by_row, by_column = (_entropy(c / n) for c in (rows, columns))
    shared = by_row + by_column - _entropy((counts / n).reshape(len(counts), -1))
    return np.stack([rand, np.maximum(shared, 0.0) / ((by_row + by_column) / 2)])


def _pairs(counts: Floats) -> Floats:
    return np.asarray(counts * (counts - 1) / 2)


def _entropy(shares: Floats) -> Floats:
    """In nats, along the last axis."""
    return np.asarray(-(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=-1))


@dataclass(frozen=True)
class Role:
    """A task as a source and as a target, by the shown measure over the edges that are kept; None: no edge.

    `gives`: mean over targets of its value minus the target's mean over its sources (what is easy for all is
    no merit); `first_for`: of how many targets it is the best source (ties count for each). `gets`: the best
    value it has as a target, from `best`; `usual`: its mean as a target. `needs`, of measured values: what
    its own prompt reaches, minus `gets`.
    """

    task: str
    gives: float | None
    first_for: int
    gets: float | None
    usual: float | None
    best: str | None
    needs: float | None


def roles(graph: TaskGraph) -> tuple[Role, ...]:
    """Every task's role, hub sources first (largest `gives`)."""
    values = graph.values
    merit = values - np.array([_mean(column) for column in values.T])
    tops = np.array([np.max(c[np.isfinite(c)], initial=-np.inf) for c in values.T])
    raw = graph.kinds[graph.shown] == MEASURED and not graph.shown.endswith(" relative")
    found = []
    for i, task in enumerate(graph.tasks):
        column, own = values[:, i], graph.nodes[task].own if raw else None
        some = bool(np.isfinite(column).any())
        gets = float(tops[i]) if some else None
        found.append(
            Role(
                task,
                _known(_mean(merit[i])),
                int((values[i] == tops).sum()),
                gets,
                _known(_mean(column)),
                graph.tasks[int(np.nanargmax(column))] if some else None,
                None if own is None or gets is None else own - gets,
            )
        )
    return tuple(sorted(found, key=lambda role: (role.gives is None, -(role.gives or 0.0))))


def needy(found: Sequence[Role]) -> tuple[Role, ...]:
    """Roles with those first whom others serve worst: the largest `needs`, or the smallest `gets`."""
    measured = any(role.needs is not None for role in found)

    def worst(role: Role) -> float:
        value = role.needs if measured else None if role.gets is None else -role.gets
        return math.inf if value is None else -value

    return tuple(sorted(found, key=worst))


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Asymmetry:
    """How much the direction matters, over the pairs of which both directions are kept.

    `share` in [0, 1]: of the values' variation around their mean, the part that is antisymmetric, the sum of
    ((v_st - v_ts) / 2)^2 over that of (v - mean)^2 (0: symmetric; None: no variation). `spearman`: of v_st
    with v_ts over both directions of all pairs. `largest`: (source, target, v_st, v_ts) of the widest pairs.
    """

    pairs: int
    share: float | None
    spearman: float | None
    mean_difference: float | None
    largest: tuple[tuple[str, str, float, float], ...]


def asymmetry(graph: TaskGraph, largest: int = 5) -> Asymmetry:
    """How much the direction matters; all None where no pair has both directions."""
    values = graph.values
    both = np.isfinite(values) & np.isfinite(values.T)
    forth, back = values[both], values.T[both]
    if not len(forth):
        return Asymmetry(0, None, None, None, ())
    spread = float(((forth - forth.mean()) ** 2).sum())
    varies = bool(np.ptp(forth) > 0)
    pairs = [(int(s), int(t)) for s, t in np.argwhere(both) if values[s, t] > values[t, s]]
    widest = sorted(pairs, key=lambda p: values[p[1], p[0]] - values[p])[:largest]
    return Asymmetry(
        len(forth) // 2,
        float((((forth - back) / 2) ** 2).sum()) / spread if varies else None,
        float(spearmanr(forth, back).statistic) if varies else None,
        float(np.abs(forth - back).mean()),
        tuple((graph.tasks[s], graph.tasks[t], float(values[s, t]), float(values[t, s])) for s, t in widest),
    )


@dataclass(frozen=True)
class Clusters:
    """Average linkage: `linkage` [n - 1, 4] as scipy has it, `order` of the leaves (n tasks).

    `cophenetic`: correlation of the tree's distances with the given ones (None: they are all equal).
    """

    tasks: tuple[str, ...]
    linkage: Floats
    order: tuple[str, ...]
    cophenetic: float | None

    def groups(self, count: int) -> dict[str, int]:
        """Task -> group, where the tree is cut into so many. InputError: fewer than 1 or more than tasks."""
        if not 1 <= count <= len(self.tasks):
            raise InputError(f"{count} groups of {len(self.tasks)} tasks: from 1 to {len(self.tasks)}")
        # Cut by merges, not by height: ties would merge more at once.
        cut = hierarchy.cut_tree(self.linkage, n_clusters=count)[:, 0]
        return dict(zip(self.tasks, map(int, cut), strict=True))


def clusters(graph: TaskGraph) -> Clusters:
    """Clusters by average linkage (Sokal and Michener 1958) of the distance "largest value minus value".

    Directions are averaged. Raises InputError: fewer than two tasks, or a pair with no edge either way.
    """
    n = len(graph.tasks)
    if n < 2:
        raise InputError(f"clusters need at least two tasks, and there are {n}")
    both = graph.symmetric()
    np.fill_diagonal(both, np.nanmax(both, initial=-np.inf))
    if not np.isfinite(both).all():
        s, t = np.argwhere(~np.isfinite(both) & ~np.eye(n, dtype=bool))[0]
        raise InputError(
            f"clusters need a value of every pair, and there is none of {graph.tasks[s]} and {graph.tasks[t]}"
        )
    distances = squareform(both.max() - both, checks=False)
    linkage = np.asarray(hierarchy.average(distances), dtype=np.float64)
    tree = hierarchy.cophenet(linkage)
    flat = np.ptp(distances) == 0 or np.ptp(tree) == 0
    order = tuple(graph.tasks[i] for i in hierarchy.leaves_list(linkage))
    return Clusters(graph.tasks, linkage, order, None if flat else float(np.corrcoef(distances, tree)[0, 1]))
