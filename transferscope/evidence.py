"""What is judged: measured transfer, and beside it every ordering of the sources, indicators and baselines.

Baselines: random (its exact expectation, not one draw), same_type (1 for a source of the target's type, else
0), own_performance (a source's measured value on its own task), mean_transfer (a source's mean over the other
targets, its own task left out, of the value relative to the target's own prompt, because targets differ in
what can be reached on them; of the plain value where an own value is missing or not positive). Where they
are given: data_size (training examples of the source), text_embedding (similarity of the tasks' texts) and
zero_shot (the source's zero-shot value on the target, where another protocol is judged).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from transferscope import resampling
from transferscope.errors import InputError, suggest

if TYPE_CHECKING:
    from transferscope.comparison import IndicatorMatrix
    from transferscope.transfer import TransferMatrix

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Kind = Literal["indicator", "baseline"]
OwnPrompt = Literal["excluded", "included"]
Scope = Literal["all", "same-type", "different-type"]
TEXTS = "text_embedding"
SCOPES: tuple[Scope, ...] = ("all", "same-type", "different-type")


@dataclass(frozen=True)
class Known:
    """What baselines may read beside measured transfer: types and sizes of tasks, and two matrices."""

    types: Mapping[str, str] | None = None
    sizes: Mapping[str, int] | None = None
    text_embedding: IndicatorMatrix | None = None
    zero_shot: TransferMatrix | None = None


@dataclass(frozen=True)
class Evidence:
    """What is known on one backbone: indicators, measured transfer, and what baselines read."""

    backbone: str
    matrices: Sequence[IndicatorMatrix]
    transfer: TransferMatrix
    known: Known = field(default_factory=Known)

    @property
    def beside(self) -> dict[str, Any]:
        """What baselines read, as the keywords of `correlate`, `budget_curves` and `sensitivity`."""
        return {one.name: getattr(self.known, one.name) for one in fields(self.known)}


@dataclass(frozen=True)
class Measured:
    """The part of a transfer matrix that is judged: values [S, T] and per_seed [R, S, T], NaN if unknown."""

    protocol: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    values: Floats
    per_seed: Floats

    def versions(self, seed: int, *, redrawn: bool) -> Floats:
        """The values as measured and, if wanted, with the tuning seeds drawn anew Q times: [1 + Q, S, T]."""
        measured = self.values[None]
        if not redrawn:
            return measured
        return np.concatenate([measured, resampling.redrawn(self.per_seed, seed)])

    def cells(self, own_prompt: OwnPrompt, scope: Scope, types: Mapping[str, str] | None) -> Booleans:
        """Which measured cells are judged, [S, T]. InputError: a scope by type where a type is not known."""
        keep = np.isfinite(self.values)
        if own_prompt == "excluded":
            keep &= np.array([[s != t for t in self.targets] for s in self.sources])
        if scope == "all":
            return keep
        same = same_type(self, Known(types))
        if same is None:
            missing = [n for n in dict.fromkeys((*self.sources, *self.targets)) if n not in (types or {})]
            raise InputError(
                f"the scope {scope!r} needs the type of every task; not known of: {', '.join(missing)}"
            )
        return np.asarray(keep & ((same == 1) == (scope == "same-type")))


@dataclass(frozen=True)
class Ordering:
    """An indicator or a baseline: its values [S, T], larger first; None is the random order."""

    name: str
    kind: Kind
    values: Floats | None


def evidence_of(
    backbone: str, matrices: Sequence[IndicatorMatrix], transfer: TransferMatrix, known: Known
) -> Evidence:
    """Evidence in which similarity of texts stands among the baselines: it needs no prompt."""
    texts = [matrix for matrix in matrices if matrix.indicator == TEXTS]
    others = [matrix for matrix in matrices if matrix.indicator != TEXTS]
    return Evidence(backbone, others, transfer, replace(known, text_embedding=texts[0]) if texts else known)


def gather(
    matrices: Sequence[IndicatorMatrix],
    transfer: TransferMatrix,
    known: Known,
    baselines: Sequence[str] | None = None,
) -> tuple[Measured, list[Ordering]]:
    """Measured values, and the orderings in their shape: indicators, then baselines (None: all that can be).

    Sources and targets are those that the transfer matrix and every indicator matrix have in common. Raises
    InputError: too little in common, an unknown baseline, or one without what it needs.
    """
    measured = common(matrices, transfer)
    found = [Ordering(m.indicator, "indicator", aligned(m, measured)) for m in matrices]
    return measured, found + baseline_orderings(measured, known, baselines)


def common(matrices: Sequence[IndicatorMatrix], transfer: TransferMatrix) -> Measured:
    """The tasks that all have. InputError: fewer than two sources, or no target."""
    shared = set(transfer.sources) | set(transfer.targets)
    for matrix in matrices:
        shared &= set(matrix.tasks)
    sources = tuple(s for s in transfer.sources if s in shared)
    targets = tuple(t for t in transfer.targets if t in shared)
    if len(sources) < 2 or not targets:
        found = sorted({task for matrix in matrices for task in matrix.tasks})
        raise InputError(
            "indicators and transfer have too few tasks in common: "
            f"indicators have {', '.join(found) or 'none'}; transfer has sources "
            f"{', '.join(transfer.sources)} and targets {', '.join(transfer.targets)}; "
            "at least two sources and one target are needed"
        )
    index = np.ix_([transfer.sources.index(s) for s in sources], [transfer.targets.index(t) for t in targets])
    values = np.asarray(transfer.values, dtype=np.float64)[index]
    seeds = np.asarray(transfer.per_seed, dtype=np.float64)
    return Measured(transfer.protocol, sources, targets, values, np.array([one[index] for one in seeds]))


def aligned(matrix: IndicatorMatrix, measured: Measured) -> Floats:
    """The matrix's values in the order of the measured ones, [S, T]; NaN for a task that it lacks."""
    where = {task: i for i, task in enumerate(matrix.tasks)}
    return _placed(measured, where, where, np.asarray(matrix.values, dtype=np.float64))


def _placed(
    measured: Measured, rows: Mapping[str, int], columns: Mapping[str, int], values: Floats
) -> Floats:
    found = np.full((len(measured.sources), len(measured.targets)), np.nan)
    for i, source in enumerate(measured.sources):
        for j, target in enumerate(measured.targets):
            if source in rows and target in columns:
                found[i, j] = values[rows[source], columns[target]]
    return found


def baseline_orderings(
    measured: Measured, known: Known, names: Sequence[str] | None = None
) -> list[Ordering]:
    """The baselines by these names, or all that can be computed. Raises InputError as `gather`."""
    found = []
    for name in BASELINES if names is None else names:
        if name not in BASELINES:
            raise InputError(f"unknown baseline {name!r}. {suggest(name, BASELINES)}")
        function, needs = BASELINES[name]
        values = function(measured, known)
        if values is not None or name == "random":
            found.append(Ordering(name, "baseline", values))
        elif names is not None:
            raise InputError(f"the baseline {name!r} cannot be computed here: {needs}")
    return found


def same_type(measured: Measured, known: Known) -> Floats | None:
    """1 where source and target are of one type, else 0; None unless all types are known."""
    types = known.types
    if not types or not all(types.get(task) for task in (*measured.sources, *measured.targets)):
        return None
    return np.array([[float(types[s] == types[t]) for t in measured.targets] for s in measured.sources])


def _own_performance(measured: Measured, known: Known) -> Floats | None:
    if not set(measured.sources) <= set(measured.targets):
        return None
    columns = [measured.targets.index(s) for s in measured.sources]
    return _of_sources(measured, measured.values[np.arange(len(columns)), columns])


def _of_sources(measured: Measured, values: Floats) -> Floats:
    return np.repeat(np.asarray(values, dtype=np.float64)[:, None], len(measured.targets), axis=1)


def _mean_transfer(measured: Measured, known: Known) -> Floats | None:
    if len(measured.targets) < 2:
        return None
    relative = _relative(measured)
    values = np.full(measured.values.shape, np.nan)
    for i, source in enumerate(measured.sources):
        for j in range(len(measured.targets)):
            others = [k for k, t in enumerate(measured.targets) if k != j and t != source]
            row = relative[i, others]
            if np.isfinite(row).any():
                values[i, j] = np.nanmean(row)
    return values


def _relative(measured: Measured) -> Floats:
    """Values [S, T] divided by the target's own; unchanged if not possible for all."""
    where = {source: i for i, source in enumerate(measured.sources)}
    own = np.array(
        [measured.values[where[t], j] if t in where else np.nan for j, t in enumerate(measured.targets)]
    )
    return measured.values / own if np.all(own > 0) else measured.values


def _data_size(measured: Measured, known: Known) -> Floats | None:
    sizes = known.sizes
    if not sizes or not all(source in sizes for source in measured.sources):
        return None
    return _of_sources(measured, np.array([sizes[source] for source in measured.sources]))


def _text_embedding(measured: Measured, known: Known) -> Floats | None:
    return None if known.text_embedding is None else aligned(known.text_embedding, measured)


def _zero_shot(measured: Measured, known: Known) -> Floats | None:
    matrix = known.zero_shot
    # Zero-shot transfer would order itself without a mistake.
    if matrix is None or matrix.protocol == measured.protocol:
        return None
    rows, columns = ({name: i for i, name in enumerate(names)} for names in (matrix.sources, matrix.targets))
    return _placed(measured, rows, columns, matrix.values)


# name: (its values, None where it cannot be computed; what it needs)
BASELINES: dict[str, tuple[Callable[[Measured, Known], Floats | None], str]] = {
    "random": (lambda measured, known: None, ""),
    "same_type": (same_type, "it needs the type of every task"),
    "own_performance": (_own_performance, "it needs every source measured on its own task"),
    "mean_transfer": (_mean_transfer, "it needs at least two measured targets"),
    "data_size": (_data_size, "it needs the number of training examples of every source"),
    "text_embedding": (_text_embedding, "it needs the similarities of the tasks' texts"),
    "zero_shot": (_zero_shot, "it needs measured zero-shot transfer, and another protocol to judge"),
}
