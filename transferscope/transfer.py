"""Measured transfer: source prompts on target tasks -> TransferMatrix.

Here: zero-shot, with the target's label words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transferscope import attachment
from transferscope.encoding import Encoded, encode
from transferscope.errors import InputError
from transferscope.evaluation import evaluate
from transferscope.models import Backbone
from transferscope.prompts import SoftPrompt
from transferscope.tasks import Task
from transferscope.templates import label_word_ids

COLUMNS = ("protocol", "source", "target", "seed", "metric", "value")
ZERO_SHOT = "zero-shot"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class TransferMatrix:
    """Performance of source prompts on target tasks.

    ``values`` [S, T] float64 is the mean over the R seeds of the source's prompts in ``per_seed`` [R, S, T]
    (NaN where not measured); a column's metric is ``metrics[target]``. Performance of a target's own prompt
    is on the diagonal.
    """

    protocol: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    values: NDArray[np.float64]
    per_seed: NDArray[np.float64]
    seeds: tuple[int, ...] = ()
    metrics: Mapping[str, str] | None = None

    def value(self, source: str, target: str) -> float:
        """One cell."""
        return float(self.values[self.sources.index(source), self.targets.index(target)])


def zero_shot_column(
    backbone: Backbone,
    prompts: Mapping[str, Sequence[SoftPrompt]],
    target: Task,
    *,
    max_length: int | None = None,
    token_budget: int = 8192,
    progress: Progress | None = None,
) -> dict[tuple[str, int], float]:
    """Every source prompt on one target: {(source, seed): value}.

    The dev split is tokenised once for each number of rows.
    """
    if target.words is None:
        raise InputError(
            f"task {target.name!r} has no label words: zero-shot transfer needs a verbalizer head"
        )
    readout = attachment.verbalizer(
        backbone, label_word_ids(backbone.tokenizer, target.words, target.labels, target.name)
    )
    encoded: dict[int, Encoded] = {}
    cells = [(source, prompt) for source, several in prompts.items() for prompt in several]
    _refuse_duplicates((source, prompt.seed) for source, prompt in cells)
    found: dict[tuple[str, int], float] = {}
    for source, prompt in cells:
        attached = attachment.attach(backbone, prompt)
        if attached.rows not in encoded:
            encoded[attached.rows] = encode(
                backbone, target.dev, prompt_rows=attached.rows, max_length=max_length
            )
        score = evaluate(
            attached, readout, encoded[attached.rows], metric=target.metric, token_budget=token_budget
        )
        found[source, prompt.seed] = score.value
        if progress is not None:
            progress(len(found), len(cells), f"{source} -> {target.name}")
    return found


def column_rows(target: Task, column: Mapping[tuple[str, int], float]) -> list[dict[str, Any]]:
    """One measured column as long rows with the keys COLUMNS."""
    return [
        dict(zip(COLUMNS, (ZERO_SHOT, source, target.name, seed, target.metric, value), strict=True))
        for (source, seed), value in column.items()
    ]


def zero_shot(
    backbone: Backbone,
    prompts: Mapping[str, Sequence[SoftPrompt]],
    targets: Mapping[str, Task],
    **options: Any,
) -> TransferMatrix:
    """Every source prompt, unchanged, on every target with the target's label words (Su et al., NAACL
    2022).
    """
    columns = [(task, zero_shot_column(backbone, prompts, task, **options)) for task in targets.values()]
    rows = [row for task, column in columns for row in column_rows(task, column)]
    if not rows:
        raise InputError("nothing to measure: no source prompts, or no target tasks")
    return from_rows(rows)[0]


def to_rows(matrix: TransferMatrix) -> Iterator[tuple[str, str, str, int, str, float]]:
    """Long rows in the order of COLUMNS; cells that were not measured are left out."""
    for t, target in enumerate(matrix.targets):
        for s, source in enumerate(matrix.sources):
            for r, seed in enumerate(matrix.seeds):
                value = float(matrix.per_seed[r, s, t])
                if np.isfinite(value):
                    metric = (matrix.metrics or {}).get(target, "accuracy")
                    yield matrix.protocol, source, target, seed, metric, value


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
    seeds = tuple(sorted({seed for seed, _, _ in cells}))
    sources = tuple(dict.fromkeys(source for _, source, _ in cells))
    targets = tuple(dict.fromkeys(target for _, _, target in cells))
    per_seed = np.array([[[cells.get((r, s, t), np.nan) for t in targets] for s in sources] for r in seeds])
    known = np.isfinite(per_seed)
    total = np.where(known, per_seed, 0.0).sum(axis=0)
    values = np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)
    return TransferMatrix(protocol, sources, targets, values, per_seed, seeds, dict(metrics))


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
    for source in matrix.sources:
        for target in matrix.targets:
            value = matrix.value(source, target)
            if source != target and source in types and target in types and np.isfinite(value):
                own = matrix.value(target, target) if target in matrix.sources else np.nan
                groups[types[source] == types[target]].append((value, value / own if own > 0 else np.nan))
    means = {key: np.mean(cells, axis=0) if cells else (np.nan, np.nan) for key, cells in groups.items()}
    return TypeMeans(
        float(means[True][0]),
        float(means[False][0]),
        float(means[True][1]),
        float(means[False][1]),
        len(groups[True]),
        len(groups[False]),
    )
