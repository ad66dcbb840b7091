"""Where on the prompt a task shows: predictivity by probed row, and how many rows and trials settle a set.

Source: Wang et al., EMNLP 2022, predictivity is the best row's, averaged over trials. The curves of overlap
and split halves are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from indicators.predictivity import skill_mask
from transferscope import attachment, store
from transferscope.encoding import TOKEN_BUDGET, encode
from transferscope.errors import SignatureError, StoreError
from transferscope.measurement import measure_several
from transferscope.models import Backbone
from transferscope.prompts import SoftPrompt
from transferscope.skill_sets import RATE, Bools, Floats, check_rate, mean_defined, overlap
from transferscope.tasks import Task

DRAWS = 20  # orders of the rows
SUBSETS = 50  # of the trials, at most
SPLIT = "split trials"
SETTLED = 0.9  # a set has settled from where on it has so much in common with the last one
POINTS = 16  # numbers of rows at which the set is looked at


@dataclass(frozen=True)
class RowAccuracy:
    """Acc [R, C, L, P, N] float64 of R trials' prompts, before max(Acc, 1 - Acc); NaN where undefined.

    Undefined are cells that do not vary over train, and rows that a layer does not have (a layer that is
    probed at the readout row has row 0 alone). C subtasks as in a signature.
    """

    task: str
    seeds: tuple[int, ...]
    accuracy: Floats
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def by_row(self) -> Floats:
        """max(Acc, 1 - Acc), [R, C, L, P, N]; NaN where undefined."""
        return np.maximum(self.accuracy, 1 - self.accuracy)


def measure_rows(
    backbone: Backbone,
    task: Task,
    prompts: Sequence[SoftPrompt],
    *,
    max_length: int | None = None,
    compat: bool = False,
    balanced: bool | None = None,
    token_budget: int = TOKEN_BUDGET,
    progress: Callable[[int, int, str], None] | None = None,
) -> RowAccuracy:
    """Measure a task's prompts as `signatures.extract` does, and keep the accuracy of every row.

    One pass over train and one over dev for each prompt; 8 bytes for each of the R C L P N cells. Raises
    SignatureError without prompts or where they differ in shape, TaskError for a task without classes.
    """
    shapes = {(prompt.rows.shape, prompt.template) for prompt in prompts}
    if len(shapes) != 1:
        raise SignatureError(
            f"rows of {task.name!r} are measured under one or more prompts of one shape and template; found "
            f"{', '.join(f'{shape} {template}' for shape, template in sorted(shapes)) or 'none'}"
        )
    several = [attachment.attach(backbone, prompt) for prompt in prompts]
    train, dev = (
        encode(
            backbone,
            split,
            prompt_rows=several[0].rows,
            max_length=max_length,
            max_new_tokens=task.max_new_tokens,
        )
        for split in (task.train, task.dev)
    )
    how: dict[str, Any] = {"compat": compat, "balanced": balanced, "token_budget": token_budget}
    found = []
    for number, one in enumerate(measure_several(several, train, dev, subtasks=task.subtasks, **how)):
        found.append(np.where(one.defined, one.subtask_accuracy, np.nan))
        if progress is not None:
            progress(number + 1, len(several), f"{task.name} seed {prompts[number].seed}")
    return RowAccuracy(task.name, tuple(prompt.seed for prompt in prompts), np.stack(found))


def save_rows(rows: RowAccuracy, path: store.AnyPath) -> None:
    """Write as one safetensors file, atomically; what it was made from goes into its metadata."""
    meta = {"task": rows.task, "seeds": list(rows.seeds), "provenance": dict(rows.provenance)}
    store.save_arrays(path, {"accuracy": rows.accuracy}, {"kind": "rows", **meta})


def load_rows(path: store.AnyPath) -> RowAccuracy:
    """Read them. Raises StudyError where there are none, StoreError where the file is damaged or another."""
    arrays, meta = store.load_arrays(path)
    try:
        accuracy = arrays["accuracy"]
        known = accuracy[np.isfinite(accuracy)]
        sound = accuracy.ndim == 5 and accuracy.dtype == np.float64 and ((known >= 0) & (known <= 1)).all()
        if meta["kind"] != "rows" or not sound or len(accuracy) != len(meta["seeds"]):
            raise KeyError("kind")
        seeds = tuple(int(seed) for seed in meta["seeds"])
        return RowAccuracy(str(meta["task"]), seeds, accuracy, meta["provenance"])
    except (KeyError, TypeError) as error:
        raise StoreError(f"{path} has no accuracies by row: {error}") from None


@dataclass(frozen=True)
class RowResult:
    """One probed row: ``mean`` predictivity of all neurons at this row, ``best`` of its own skill neurons.

    ``share`` of the skill neurons found by this row alone with those found by all rows, beside ``chance``;
    ``first_for``: for which share of the latter this row is the most predictive one (mean over trials).
    """

    row: int
    mean: float
    best: float
    share: float
    chance: float
    first_for: float


@dataclass(frozen=True)
class Settling:
    """Overlap of the skill neurons from part of the rows or trials with those from all of them.

    ``kind``: "first rows", "random rows", "trials" (subsets against all, which holds them) or "split trials"
    (two disjoint subsets of this size). ``low`` and ``high`` hold 95 % of the ``sets`` compared.
    """

    kind: str
    size: int
    share: float
    low: float | None
    high: float | None
    chance: float
    sets: int


@dataclass(frozen=True)
class RowsReport:
    """Where on the prompt, of one task; ``layers`` are those that are probed at the prompt's P rows.

    ``best_by_layer`` [layers, P]: mean predictivity at a row of the skill neurons that this row alone finds
    in a layer, NaN where there are none. ``settled``: for each kind the least size from which on the mean
    overlap stays at or above the limit; None where it does not, or where all rows or trials are needed.
    """

    task: str
    seeds: tuple[int, ...]
    rate: float
    by: str
    layers: tuple[int, ...]
    rows: tuple[RowResult, ...]
    best_by_layer: Floats
    settling: tuple[Settling, ...]
    limit: float
    settled: Mapping[str, int | None]
    notes: tuple[str, ...] = ()


def where_on_prompt(
    measured: RowAccuracy,
    *,
    rate: float = RATE,
    by: str = "layer",
    draws: int = DRAWS,
    limit: float = SETTLED,
    seed: int = 0,
) -> RowsReport:
    """What each row finds, and how the set settles with rows and with trials. Raises InputError for the rate.

    Rows are compared in the layers that are probed at all of them; trials in all layers.
    """
    check_rate(rate, measured.accuracy.shape[-1])
    folded = measured.by_row
    several = np.isfinite(folded).any(axis=(0, 1, 4)).sum(axis=1) > 1  # [L]
    layers = np.flatnonzero(several) if several.any() else np.arange(len(several))
    there = folded[:, :, layers] if several.any() else folded[:, :, :, :1]
    rows, best = _rows(there, rate, by)
    settling = [*_with_rows(there, rate, by, draws, seed), *_with_trials(folded, rate, by, seed)]
    kinds = dict.fromkeys(one.kind for one in settling)
    settled = {kind: _settled([one for one in settling if one.kind == kind], limit) for kind in kinds}
    return RowsReport(
        measured.task,
        measured.seeds,
        rate,
        by,
        tuple(map(int, layers)),
        rows,
        best,
        tuple(settling),
        limit,
        settled,
        _notes(several, len(measured.seeds)),
    )


def _set(folded: Floats, rate: float, by: str) -> Bools:
    """Skill neurons [L, N] from max(Acc, 1 - Acc) [R, C, L, P, N]: best row, mean over trials."""
    return skill_mask(mean_defined(_best(folded)), rate, by=by)


def _best(folded: Floats) -> Floats:
    """[R, C, L, N]: the best row; NaN where none is defined."""
    best = np.where(np.isfinite(folded), folded, -np.inf).max(axis=3)
    return np.where(np.isfinite(best), best, np.nan)


def _rows(folded: Floats, rate: float, by: str) -> tuple[tuple[RowResult, ...], Floats]:
    everything = _set(folded, rate, by)
    means = mean_defined(folded)  # [C, L, P, N]
    masks = [skill_mask(means[:, :, row], rate, by=by) for row in range(means.shape[2])]
    sets = overlap(masks, [everything], by)
    level = np.where(np.isfinite(means), means, -np.inf).max(axis=0)  # [L, P, N]: of its best subtask
    first = np.bincount(level.argmax(axis=1)[everything], minlength=len(masks)) / max(everything.sum(), 1)
    found, by_layer = [], np.full((level.shape[0], len(masks)), np.nan)
    for row, mask in enumerate(masks):
        values, known = level[:, row], np.isfinite(level[:, row])
        for layer in np.flatnonzero((mask & known).any(axis=1)):
            by_layer[layer, row] = values[layer][mask[layer]].mean()
        mean, best = (float(values[one].mean()) if one.any() else np.nan for one in (known, mask))
        share, chance = float(sets.share[row, 0]), float(sets.share_chance[row, 0])
        found.append(RowResult(row, mean, best, share, chance, float(first[row])))
    return tuple(found), by_layer


def _with_rows(folded: Floats, rate: float, by: str, draws: int, seed: int) -> list[Settling]:
    """The first r rows, and r rows drawn: one order of the rows gives nested sets of every size."""
    rows, rng = folded.shape[3], np.random.default_rng(seed)
    sizes = np.unique(np.linspace(1, rows, min(rows, POINTS)).round().astype(int))
    everything = _set(folded, rate, by)
    orders = [np.arange(rows), *(rng.permutation(rows) for _ in range(draws if rows > 1 else 0))]
    grown = [_grown(folded, order, set(sizes.tolist()), rate, by) for order in orders]
    found = []
    for kind, several in (("first rows", grown[:1]), ("random rows", grown[1:])):
        for place, size in enumerate(sizes.tolist()):
            if several:
                sets = overlap([masks[place] for masks in several], [everything], by)
                found.append(_settling(kind, size, sets.share[:, 0], sets.share_chance[:, 0]))
    return found


def _grown(folded: Floats, order: np.ndarray, sizes: set[int], rate: float, by: str) -> list[Bools]:
    """The sets from the first rows of an order, at these sizes."""
    best = np.full(folded[:, :, :, 0].shape, -np.inf)
    masks = []
    for number, row in enumerate(order, start=1):
        np.fmax(best, folded[:, :, :, row], out=best)  # of a number and NaN the number
        if number in sizes:
            masks.append(skill_mask(mean_defined(np.where(np.isfinite(best), best, np.nan)), rate, by=by))
    return masks


def _with_trials(folded: Floats, rate: float, by: str, seed: int) -> list[Settling]:
    best, rng = _best(folded), np.random.default_rng(seed)
    trials = len(best)

    def chosen(some: tuple[int, ...]) -> Bools:
        return skill_mask(mean_defined(best[list(some)]), rate, by=by)

    everything, found = chosen(tuple(range(trials))), []
    for size in range(1, trials + 1):
        sets = overlap([chosen(some) for some in _subsets(trials, size, rng)], [everything], by)
        found.append(_settling("trials", size, sets.share[:, 0], sets.share_chance[:, 0]))
    for size in range(1, trials // 2 + 1):
        pairs = [overlap([chosen(a)], [chosen(b)], by) for a, b in _disjoint(trials, size, rng)]
        values = [
            np.array([getattr(pair, name)[0, 0] for pair in pairs]) for name in ("share", "share_chance")
        ]
        found.append(_settling(SPLIT, size, *values))
    return found


def _subsets(trials: int, size: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """All subsets of the trials, or SUBSETS of them, drawn, where there are more."""
    if comb(trials, size) <= SUBSETS:
        return list(combinations(range(trials), size))
    return [tuple(sorted(rng.permutation(trials)[:size].tolist())) for _ in range(SUBSETS)]


def _disjoint(
    trials: int, size: int, rng: np.random.Generator
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All pairs of disjoint subsets of one size, or SUBSETS of them, drawn, where there are more."""
    if comb(trials, size) * comb(trials - size, size) // 2 <= SUBSETS:
        several = list(combinations(range(trials), size))
        return [(a, b) for a, b in combinations(several, 2) if not set(a) & set(b)]
    orders = [rng.permutation(trials).tolist() for _ in range(SUBSETS)]
    return [(tuple(one[:size]), tuple(one[size : 2 * size])) for one in orders]


def _settling(kind: str, size: int, shares: Floats, chances: Floats) -> Settling:
    low, high = np.quantile(shares, (0.025, 0.975)).tolist() if len(shares) > 1 else (None, None)
    return Settling(kind, size, float(shares.mean()), low, high, float(chances.mean()), len(shares))


def _settled(curve: Sequence[Settling], limit: float) -> int | None:
    """The least size from which on the share stays at or above the limit; None where only all together do."""
    size = None
    for point in reversed(curve):
        if point.share < limit:
            break
        size = point.size
    whole = curve[-1].size if curve[0].kind != SPLIT else None
    return None if size == whole else size


def _notes(several: np.ndarray, trials: int) -> tuple[str, ...]:
    notes = []
    if not several.any():
        notes.append("one row alone is probed (the readout row): there is nothing to compare between rows")
    elif not several.all():
        left = ", ".join(map(str, np.flatnonzero(~several)))
        notes.append(f"rows are compared without the layers probed at the readout row alone: {left}")
    notes.append(
        "part against all: the part is in the whole, so the last overlap is 1 by construction; "
        "chance: random sets of the same sizes"
    )
    if trials > 1:
        notes.append("split trials: two disjoint sets of trials, which share nothing but the task's texts")
    else:
        notes.append("one trial alone: how many are needed cannot be told")
    return tuple(notes)
