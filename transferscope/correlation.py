"""How well indicators predict measured transfer: IndicatorMatrix x TransferMatrix -> CorrelationReport.

Definitions, with S the sources of one target t (its own prompt left out unless asked for):

- spearman: rank correlation over S between an indicator's values and the measured transfer to t, then the
  mean over targets. A target whose indicator values (or whose measured values) are all equal has no rank
  correlation: it is skipped and counted. A baseline that is constant for a target (no source of its type) is
  a random order there: 0.
- regret@1: the best measured value in S minus the measured value of the source that the indicator puts first,
  then the mean over targets. Sources tied for the first place are averaged, which is the expectation over tie
  orders.
- intervals: 95 %, percentile bootstrap over targets.

Baselines stand in the same table: random (its exact expectation, not one draw), same_type (1 for a source of
the target's type, else 0), own_performance (a source's measured value on its own task) and mean_transfer (a
source's mean over the other targets, its own task left out, of the value relative to the target's own prompt,
because targets differ in what can be reached on them; of the plain value where an own value is missing or not
positive).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from transferscope.errors import InputError, suggest

if TYPE_CHECKING:
    from transferscope.comparison import IndicatorMatrix
    from transferscope.transfer import TransferMatrix

Floats = NDArray[np.float64]
OwnPrompt = Literal["excluded", "included"]

RESAMPLES = 2000


@dataclass(frozen=True)
class Score:
    """One number of the report: one indicator or baseline, one metric, over the targets that have it."""

    name: str
    kind: Literal["indicator", "baseline"]
    scope: Literal["all", "same-type", "different-type"]
    aggregate: Literal["per-target", "pooled"]
    metric: str
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    n_targets: int
    n_skipped: int


@dataclass(frozen=True)
class CorrelationReport:
    """Scores of indicators and baselines against one measured protocol."""

    protocol: str
    own_prompt: OwnPrompt
    targets: tuple[str, ...]
    scores: tuple[Score, ...]

    def get(self, name: str, metric: str = "spearman") -> Score:
        """The score of one indicator or baseline; InputError with the nearest name if it is not there."""
        for score in self.scores:
            if score.name == name and score.metric == metric:
                return score
        known = [f"{s.name} {s.metric}" for s in self.scores]
        raise InputError(f"the report has no score {name!r} {metric!r}. {suggest(f'{name} {metric}', known)}")


def correlate(
    matrices: Sequence[IndicatorMatrix],
    transfer: TransferMatrix,
    *,
    types: Mapping[str, str] | None = None,
    own_prompt: OwnPrompt = "excluded",
    baselines: Sequence[str] | None = None,
    seed: int = 0,
) -> CorrelationReport:
    """How well each indicator, and each baseline beside it, orders the sources of a target.

    Sources and targets are those that the transfer matrix and every indicator matrix have in common. `types`
    maps a task to its type (same_type needs it). `baselines` None takes all that can be computed.

    Raises InputError: nothing in common, an unknown baseline, or a baseline without what it needs.
    """
    if own_prompt not in ("excluded", "included"):
        raise InputError(f"own_prompt is {own_prompt!r}. {suggest(own_prompt, ['excluded', 'included'])}")
    measured = _common(matrices, transfer)
    rows: list[tuple[str, Literal["indicator", "baseline"], Floats | None]] = [
        (matrix.indicator, "indicator", _aligned(matrix, measured)) for matrix in matrices
    ]
    rows += [
        (name, "baseline", values) for name, values in _baseline_values(measured, types, baselines).items()
    ]
    scores: list[Score] = []
    for name, kind, values in rows:
        pairs = [_column(values, measured, target, own_prompt) for target in measured.targets]
        if kind == "baseline":
            pairs = [(None if x is None or len(x) == 0 or np.ptp(x) == 0 else x, y) for x, y in pairs]
        for metric, function in METRICS.items():
            scores.append(_score(name, kind, metric, [function(x, y) for x, y in pairs], seed))
    return CorrelationReport(measured.protocol, own_prompt, measured.targets, tuple(scores))


@dataclass(frozen=True)
class _Measured:
    """The part of a transfer matrix that is analysed: values [sources, targets]; own [sources]."""

    protocol: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    values: Floats


def _common(matrices: Sequence[IndicatorMatrix], transfer: TransferMatrix) -> _Measured:
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
    rows = [transfer.sources.index(s) for s in sources]
    columns = [transfer.targets.index(t) for t in targets]
    values = np.asarray(transfer.values, dtype=np.float64)[np.ix_(rows, columns)]
    return _Measured(transfer.protocol, sources, targets, values)


def _aligned(matrix: IndicatorMatrix, measured: _Measured) -> Floats:
    """The indicator's values in the order of the measured ones: [sources, targets]."""
    where = {task: i for i, task in enumerate(matrix.tasks)}
    index = np.ix_([where[s] for s in measured.sources], [where[t] for t in measured.targets])
    return np.asarray(matrix.values, dtype=np.float64)[index]


def _column(
    values: Floats | None, measured: _Measured, target: str, own_prompt: OwnPrompt
) -> tuple[Floats | None, Floats]:
    """One target's indicator values and measured values, each [S]; undefined cells are left out."""
    t = measured.targets.index(target)
    y = measured.values[:, t]
    keep = np.isfinite(y)
    if own_prompt == "excluded":
        keep &= np.array([s != target for s in measured.sources])
    if values is None:
        return None, y[keep]
    x = values[:, t]
    keep &= np.isfinite(x)
    return x[keep], y[keep]


def spearman(x: Floats | None, y: Floats) -> float:
    """Rank correlation of x [S] and y [S], ties at average ranks; NaN where one of them is constant.

    x None stands for a random order, whose expectation is exactly 0.
    """
    if len(y) < 2 or np.ptp(y) == 0 or (x is not None and np.ptp(x) == 0):
        return float("nan")
    if x is None:
        return 0.0
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def regret_at_1(x: Floats | None, y: Floats) -> float:
    """Best of y [S] minus the mean of y where x [S] is largest; x None: a random order. NaN if S = 0."""
    if len(y) == 0:
        return float("nan")
    picked = y if x is None else y[x == x.max()]
    return float(y.max() - picked.mean())


METRICS: dict[str, Callable[[Floats | None, Floats], float]] = {"spearman": spearman, "regret@1": regret_at_1}


def _score(
    name: str, kind: Literal["indicator", "baseline"], metric: str, per_target: list[float], seed: int
) -> Score:
    values = np.array(per_target)
    defined = values[np.isfinite(values)]
    mean, low, high = bootstrap_mean(defined, seed)
    skipped = len(values) - len(defined)
    return Score(name, kind, "all", "per-target", metric, mean, low, high, None, len(defined), skipped)


def bootstrap_mean(values: Floats, seed: int) -> tuple[float | None, float | None, float | None]:
    """Mean of values [T] and its 95 % percentile bootstrap interval; None where there are too few."""
    if len(values) == 0:
        return None, None, None
    mean = float(values.mean())
    if len(values) == 1:
        return mean, None, None
    # The same seed draws the same targets for every indicator, so that intervals can be compared.
    picks = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    return mean, float(low), float(high)


def _baseline_values(
    measured: _Measured, types: Mapping[str, str] | None, names: Sequence[str] | None
) -> dict[str, Floats | None]:
    """Each baseline as a matrix [sources, targets]; None for the random order."""
    chosen = list(BASELINES) if names is None else list(names)
    found: dict[str, Floats | None] = {}
    for name in chosen:
        if name not in BASELINES:
            raise InputError(f"unknown baseline {name!r}. {suggest(name, BASELINES)}")
        values = BASELINES[name](measured, types)
        if values is not None or name == "random":
            found[name] = values
        elif names is not None:
            raise InputError(f"the baseline {name!r} cannot be computed here: {_BASELINE_NEEDS[name]}")
    return found


def _random(measured: _Measured, types: Mapping[str, str] | None) -> Floats | None:
    return None


def _same_type(measured: _Measured, types: Mapping[str, str] | None) -> Floats | None:
    if not types or not all(types.get(task) for task in (*measured.sources, *measured.targets)):
        return None
    return np.array([[float(types[s] == types[t]) for t in measured.targets] for s in measured.sources])


def _own_performance(measured: _Measured, types: Mapping[str, str] | None) -> Floats | None:
    if not set(measured.sources) <= set(measured.targets):
        return None
    columns = [measured.targets.index(s) for s in measured.sources]
    own = measured.values[np.arange(len(columns)), columns]
    return np.repeat(own[:, None], len(measured.targets), axis=1)


def _mean_transfer(measured: _Measured, types: Mapping[str, str] | None) -> Floats | None:
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


def _relative(measured: _Measured) -> Floats:
    """Values [sources, targets] divided by the target's own; unchanged if not possible for all."""
    where = {source: i for i, source in enumerate(measured.sources)}
    own = np.array(
        [measured.values[where[t], j] if t in where else np.nan for j, t in enumerate(measured.targets)]
    )
    return measured.values / own if np.all(own > 0) else measured.values


BASELINES: dict[str, Callable[[_Measured, Mapping[str, str] | None], Floats | None]] = {
    "random": _random,
    "same_type": _same_type,
    "own_performance": _own_performance,
    "mean_transfer": _mean_transfer,
}

_BASELINE_NEEDS = {
    "same_type": "it needs the type of every task",
    "own_performance": "it needs every source measured on its own task",
    "mean_transfer": "it needs at least two measured targets",
}
