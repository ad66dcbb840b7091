"""Where the nodes of a graph stand: a force-directed layout, spread until no two labels touch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import networkx as nx
import numpy as np

from transferscope.graph import TaskGraph

_STEPS = 2000
_HOLD = 0.02
_AREA = 2.6  # of the sheet, in areas of all labels with the space around them


def places(graph: TaskGraph, widths: Sequence[float], height: float, seed: int) -> np.ndarray:
    """Positions [n, 2] in inches, of nodes whose labels are `widths` x `height` inches.

    Fruchterman and Reingold 1991 (networkx, seeded) on the shown values, then labels that touch are pushed
    apart along the shorter way.
    """
    plain = nx.Graph()
    plain.add_nodes_from(range(len(graph.tasks)))
    both = graph.symmetric()
    known = both[np.isfinite(both)]
    low, span = (float(known.min()), float(np.ptp(known))) if len(known) else (0.0, 0.0)
    for s, t in np.argwhere(np.triu(np.isfinite(both), 1)):
        # Only differences attract: from 0.1 for the smallest value to 1 for the largest.
        share = (float(both[s, t]) - low) / span if span > 0 else 1.0
        plain.add_edge(int(s), int(t), weight=0.1 + 0.9 * share)
    # Parts without an edge between them would drift apart without end.
    plain.add_edges_from(nx.complement(plain).edges, weight=_HOLD)
    found = nx.spring_layout(plain, seed=seed, weight="weight", iterations=200)
    at = np.array([found[i] for i in range(len(graph.tasks))], np.float64).reshape(-1, 2)
    wide = np.asarray(widths, np.float64)
    side = math.sqrt(_AREA * float(wide.sum() + 0.3 * len(wide)) * height * 2.2)
    at = (at - at.mean(axis=0)) / max(float(np.ptp(at, axis=0).max(initial=0.0)), 1e-9) * max(side, 2.5)
    return apart(at, wide, height)


def apart(at: np.ndarray, widths: np.ndarray, height: float) -> np.ndarray:
    """The positions moved until the boxes `widths` x `height` around them do not overlap."""
    at = at.copy()
    for _ in range(_STEPS):
        off = at[:, None] - at[None]  # [n, n, 2]
        need = np.stack([(widths[:, None] + widths[None]) / 2, np.full(off.shape[:2], height)], axis=-1)
        lack = need - np.abs(off)
        touching = (lack > 1e-6).all(axis=-1)
        np.fill_diagonal(touching, False)
        if not touching.any():
            break
        along = lack.argmin(axis=-1)  # the shorter way
        for axis in (0, 1):
            # Of two at the very same place the earlier one goes first.
            tie = np.triu(np.ones(off.shape[:2]), 1) - np.tril(np.ones(off.shape[:2]), -1)
            way = np.where(off[..., axis] == 0, tie, np.sign(off[..., axis]))
            push = np.where(touching & (along == axis), way * lack[..., axis], 0.0)
            at[:, axis] += push.sum(axis=1) / 2 * 0.6
    return at
