"""Measured transfer: source prompts on target tasks -> cells -> TransferMatrix.

A protocol is one row of PROTOCOLS: how a frozen source prompt is scored on a target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from transferscope import attachment, text_cache
from transferscope.errors import InputError, suggest
from transferscope.evaluation import Evaluation
from transferscope.models import Backbone
from transferscope.probing import LinearProbe
from transferscope.prompts import SoftPrompt
from transferscope.settings import RESERVED
from transferscope.tasks import Task
from transferscope.templates import DEFAULTS
from transferscope.zero_shot import ZeroShot

COLUMNS = ("protocol", "source", "target", "seed", "metric", "value")
ZERO_SHOT, LINEAR_PROBE, INIT = "zero-shot", "linear-probe", "init"
# What stands among the sources of a table without being one: no prompt, random prompts (their seed is the
# number of the draw), and, for transfer by initialisation, the study's own initialisation.
CONTROLS = NONE, RANDOM, SCRATCH = RESERVED
DRAWS = 3
TOGETHER = 16  # prompts that share the reading of a batch: what a killed run measures again, at most
Progress = Callable[[int, int, str], None]


class Scorer(Protocol):
    """Scores any prompt on one target, whose texts are tokenised once and put in batches once."""

    def score(self, prompt: SoftPrompt) -> Evaluation:
        """The prompt's score on the target's dev split."""
        ...

    def score_several(self, prompts: Sequence[SoftPrompt]) -> list[Evaluation]:
        """The scores of prompts with equally many rows, whose texts are read once for all of them."""
        ...


PROTOCOLS: dict[str, Callable[..., Scorer]] = {ZERO_SHOT: ZeroShot, LINEAR_PROBE: LinearProbe}


@dataclass(frozen=True)
class Cell:
    """One measured value: a source's prompt of one seed (or a control) on one target.

    ``prompt`` is the prompt's fingerprint, ``loss`` the mean loss (nats), ``examples`` how many were scored.
    """

    source: str
    seed: int
    metric: str
    value: float
    loss: float | None = None
    examples: int | None = None
    prompt: str = ""


@dataclass(frozen=True)
class TransferMatrix:
    """Performance of source prompts on target tasks.

    ``values`` [S, T] float64 is the mean over the R seeds of the source's prompts in ``per_seed`` [R, S, T]
    (NaN where not measured); a column's metric is ``metrics[target]``. Performance of a target's own prompt
    is on the diagonal. ``controls``: "none" and "random" (and "scratch"), each [draws, T].
    """

    protocol: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    values: NDArray[np.float64]
    per_seed: NDArray[np.float64]
    seeds: tuple[int, ...] = ()
    metrics: Mapping[str, str] | None = None
    controls: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def value(self, source: str, target: str) -> float:
        """One cell."""
        return float(self.values[self.sources.index(source), self.targets.index(target)])

    @property
    def own(self) -> NDArray[np.float64]:
        """What each target's own prompt reaches, [T]; NaN where it was not measured."""
        return np.array([self.value(t, t) if t in self.sources else np.nan for t in self.targets])

    @property
    def relative(self) -> NDArray[np.float64]:
        """Values divided by the target's own, [S, T]; NaN where that is missing or not positive."""
        return np.where(self.own > 0, self.values / np.where(self.own > 0, self.own, 1.0), np.nan)

    @property
    def standard_errors(self) -> NDArray[np.float64]:
        """Standard error of each value over seeds, sd / sqrt(R), [S, T]; NaN where there is one seed."""
        known = np.isfinite(self.per_seed)
        count = known.sum(axis=0)
        off = np.where(known, self.per_seed - self.values, 0.0)
        return np.sqrt(
            np.divide(
                (off**2).sum(axis=0),
                count * (count - 1),
                out=np.full(count.shape, np.nan),
                where=count > 1,
            )
        )


def random_prompts(
    backbone: Backbone, rows: int, *, template: str | None = None, draws: int = DRAWS
) -> list[SoftPrompt]:
    """Prompts of P' rows that no task had a part in: normal, with the embedding table's mean and deviation.

    Su et al. draw theirs from U(0, 1), far from any embedding.
    """
    chosen = template or DEFAULTS[backbone.architecture.kind]
    found = (attachment.initial_rows(backbone, rows, init="random", seed=draw) for draw in range(draws))
    return [SoftPrompt(one.cpu().numpy(), RANDOM, draw, chosen) for draw, one in enumerate(found)]


def controls(
    backbone: Backbone, prompts: Mapping[str, Sequence[SoftPrompt]], *, draws: int = DRAWS
) -> dict[str, list[SoftPrompt]]:
    """No prompt, and random ones, in the shape and template that most of the source prompts have."""
    rows, template = usual_shape(prompts)
    nothing = SoftPrompt(np.zeros((0, backbone.embedding_size), np.float32), NONE, 0, template)
    return {NONE: [nothing], RANDOM: random_prompts(backbone, rows, template=template, draws=draws)}


def control_recipes(
    prompts: Mapping[str, Sequence[SoftPrompt]], draws: int = DRAWS
) -> dict[tuple[str, int], str]:
    """What `controls` makes, by (name, seed), in words that with the model say all: no model is needed."""
    rows, template = usual_shape(prompts)
    made = {(NONE, 0): f"none, {template}"}
    return made | {(RANDOM, draw): f"random, {rows} rows, {template}" for draw in range(draws)}


def usual_shape(prompts: Mapping[str, Sequence[SoftPrompt]]) -> tuple[int, str]:
    """Rows P' and template that most of these prompts have. Raises InputError where there are none."""
    shapes = [(len(prompt.rows), prompt.template) for several in prompts.values() for prompt in several]
    if not shapes:
        raise InputError("nothing to measure: no source prompts, or no target tasks")
    return max(dict.fromkeys(shapes), key=shapes.count)


def column(
    backbone: Backbone,
    prompts: Mapping[str, Sequence[SoftPrompt]],
    target: Task,
    *,
    protocol: str = ZERO_SHOT,
    max_length: int | None = None,
    token_budget: int = 8192,
    known: Callable[[str, SoftPrompt], Cell | None] | None = None,
    keep: Callable[[Cell], None] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[Cell]:
    """Every source prompt on one target.

    The target is tokenised once and put in batches once (for each number of prompt rows); only the head at
    the readout row is computed. Under ``suffix`` its texts go through the model once for TOGETHER prompts at
    a time; memory: the keys and values of one batch. ``known`` may supply a cell that was measured before,
    ``keep`` gets each new one as soon as it is there. Raises InputError: an unknown protocol, a source with
    two prompts of one seed.
    """
    cells = [(source, prompt) for source, several in prompts.items() for prompt in several]
    _refuse_duplicates((source, prompt.seed) for source, prompt in cells)
    if protocol not in PROTOCOLS:
        raise InputError(f"unknown protocol {protocol!r}. {suggest(protocol, PROTOCOLS)}")
    measured = [known(source, prompt) if known is not None else None for source, prompt in cells]
    missing = [prompt for (_, prompt), cell in zip(cells, measured, strict=True) if cell is None]
    scores: Iterator[Evaluation] = iter(())
    if missing:
        scorer = PROTOCOLS[protocol](
            backbone, target, max_length=max_length, token_budget=token_budget, **options
        )
        scores = _scores(scorer, missing, partial(_shares, backbone, target))
    found: list[Cell] = []
    for (source, prompt), cell in zip(cells, measured, strict=True):
        if cell is None:
            cell = _cell(source, prompt, next(scores))
            if keep is not None:
                keep(cell)
        found.append(cell)
        if progress is not None:
            progress(len(found), len(cells), f"{source} -> {target.name}")
    return found


def _shares(backbone: Backbone, target: Task, prompt: SoftPrompt) -> bool:
    # What is written is decoded prompt by prompt.
    return target.kind == "classification" and text_cache.shares(backbone, prompt.template, len(prompt.rows))


def _scores(
    scorer: Scorer, prompts: Sequence[SoftPrompt], shares: Callable[[SoftPrompt], bool]
) -> Iterator[Evaluation]:
    """The scores in order: one by one, or at once those of neighbours that share the reading of texts."""
    for (shared, _), group in groupby(prompts, lambda one: (shares(one), len(one.rows))):
        if not shared:
            yield from map(scorer.score, group)
            continue
        while block := list(islice(group, TOGETHER)):
            yield from scorer.score_several(block)


def _cell(source: str, prompt: SoftPrompt, score: Evaluation) -> Cell:
    loss = score.loss if np.isfinite(score.loss) else None
    return Cell(source, prompt.seed, score.metric, score.value, loss, score.examples, prompt.fingerprint)


def cell_rows(protocol: str, target: str, cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """Cells of one target as long rows with the keys COLUMNS."""
    return [
        dict(zip(COLUMNS, (protocol, c.source, target, c.seed, c.metric, c.value), strict=True))
        for c in cells
    ]


def measure(
    backbone: Backbone,
    prompts: Mapping[str, Sequence[SoftPrompt]],
    targets: Mapping[str, Task],
    *,
    protocol: str = ZERO_SHOT,
    draws: int = DRAWS,
    **options: Any,
) -> TransferMatrix:
    """Every source prompt, unchanged, on every target, and the controls (``draws`` 0: none of them).

    Source: Su et al., NAACL 2022, section 3 (zero-shot). Departure: several random prompts, and none at all.
    """
    every = {**prompts, **(controls(backbone, prompts, draws=draws) if draws and prompts else {})}
    rows = [
        row
        for task in targets.values()
        for row in cell_rows(protocol, task.name, column(backbone, every, task, protocol=protocol, **options))
    ]
    if not rows:
        raise InputError("nothing to measure: no source prompts, or no target tasks")
    return from_rows(rows)[0]


def to_rows(matrix: TransferMatrix) -> Iterator[tuple[str, str, str, int, str, float]]:
    """Long rows in the order of COLUMNS, controls last; cells that were not measured are left out."""
    for t, target in enumerate(matrix.targets):
        metric = (matrix.metrics or {}).get(target, "accuracy")
        for s, source in enumerate(matrix.sources):
            for r, seed in enumerate(matrix.seeds):
                value = float(matrix.per_seed[r, s, t])
                if np.isfinite(value):
                    yield matrix.protocol, source, target, seed, metric, value
        for control, values in matrix.controls.items():
            for draw, value in enumerate(values[:, t]):
                if np.isfinite(value):
                    yield matrix.protocol, control, target, draw, metric, float(value)


def from_rows(rows: Iterable[Mapping[str, Any]]) -> list[TransferMatrix]:
    """Matrices, one a protocol, from long rows with the keys COLUMNS.

    Raises InputError for a cell given twice.
    """
    by_protocol: dict[str, dict[tuple[int, str, str], float]] = {}
    metrics: dict[str, str] = {}
    for row in rows:
        cells = by_protocol.setdefault(str(row["protocol"]), {})
        key = (int(row["seed"]), str(row["source"]), str(row["target"]))
        if key in cells:
            raise InputError(f"transfer {key[1]} -> {key[2]} with seed {key[0]} is given twice")
        cells[key] = float(row["value"])
        metrics[key[2]] = str(row.get("metric") or "accuracy")
    return [_matrix(protocol, cells, metrics) for protocol, cells in by_protocol.items()]


def _refuse_duplicates(cells: Iterable[tuple[str, int]]) -> None:
    seen: set[tuple[str, int]] = set()
    for source, seed in cells:
        if (source, seed) in seen:
            raise InputError(f"two prompts of source {source!r} have seed {seed}; each needs its own")
        seen.add((source, seed))


def _matrix(
    protocol: str, cells: Mapping[tuple[int, str, str], float], metrics: Mapping[str, str]
) -> TransferMatrix:
    seeds = tuple(sorted({seed for seed, source, _ in cells if source not in CONTROLS}))
    sources = tuple(dict.fromkeys(source for _, source, _ in cells if source not in CONTROLS))
    targets = tuple(dict.fromkeys(target for _, _, target in cells))
    per_seed = np.array(
        [[[cells.get((r, s, t), np.nan) for t in targets] for s in sources] for r in seeds], dtype=np.float64
    ).reshape(len(seeds), len(sources), len(targets))
    known = np.isfinite(per_seed)
    total = np.where(known, per_seed, 0.0).sum(axis=0)
    values = np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)
    beside = {}
    for control in dict.fromkeys(source for _, source, _ in cells if source in CONTROLS):
        draws = sorted({seed for seed, source, _ in cells if source == control})
        beside[control] = np.array([[cells.get((r, control, t), np.nan) for t in targets] for r in draws])
    named = {target: metrics[target] for target in targets}
    return TransferMatrix(protocol, sources, targets, values, per_seed, seeds, named, beside)


@dataclass(frozen=True)
class TypeMeans:
    """Mean transfer between different tasks, of the same and of different types, and how many cells of each.

    ``relative`` means divide each cell by the target's own prompt's performance.
    """

    same: float
    different: float
    same_relative: float
    different_relative: float
    same_cells: int
    different_cells: int


def by_type(matrix: TransferMatrix, types: Mapping[str, str]) -> TypeMeans:
    """Means within and across task types; a task with itself is left out (Su et al., NAACL 2022)."""
    groups: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    relative = matrix.relative
    for s, source in enumerate(matrix.sources):
        for t, target in enumerate(matrix.targets):
            value = matrix.values[s, t]
            if source != target and source in types and target in types and np.isfinite(value):
                groups[types[source] == types[target]].append((value, relative[s, t]))
    means = {key: np.mean(cells, axis=0) if cells else (np.nan, np.nan) for key, cells in groups.items()}
    return TypeMeans(
        float(means[True][0]),
        float(means[False][0]),
        float(means[True][1]),
        float(means[False][1]),
        len(groups[True]),
        len(groups[False]),
    )
