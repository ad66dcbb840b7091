"""Indicators on predictivities: which neurons tell a task's labels apart.

Arrays are [L, N], or [C, L, N] for C binary subtasks. NaN marks an undefined cell (a neuron that does
not vary): it is in no mask, and a rank correlation leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from indicators.inputs import (
    ArrayLike,
    Bool,
    Float,
    InvalidInput,
    choice,
    predictivities,
    predictivity,
    same_shape,
    stimulations,
)
from indicators.kernels import average_ranks, both, common, counts, flat, jaccard, ochiai, unit
from indicators.registry import indicator

WANG = "Wang et al., EMNLP 2022"
RATE = 0.2
BY = ("layer", "network")


def skill_mask(values: ArrayLike, rate: float, by: str = "layer") -> Bool:
    """The skill neurons at `rate`: bool [L, N], from predictivities [L, N] or [C, L, N].

    by="layer": the int(rate N) highest of each layer; by="network": the int(rate L N) highest of all. Equal
    values are taken in order of their index, as by a stable sort. Of each subtask the same number is taken,
    and these are united. NaN is never taken, so there may be fewer. Raises InvalidInput for a rate outside
    [0, 1]. Source: Wang et al., EMNLP 2022, skill neurons; by layer and truncated as in their published code.

    >>> skill_mask([[0.6, 0.9, 0.9, 0.9]], rate=0.5).tolist()
    [[False, True, True, False]]
    """
    choice(by, "by", BY)
    if not 0 <= rate <= 1:
        raise InvalidInput(f"rate={rate!r}: a share of the neurons, from 0 to 1, is needed")
    array = predictivity(values)
    shape = array.shape[1:]
    rows = array if by == "layer" else array.reshape(len(array), 1, -1)  # [C, groups, cells]
    chosen = _highest(np.where(np.isnan(rows), -np.inf, rows), int(rate * rows.shape[-1]))
    return np.asarray((chosen & ~np.isnan(rows)).any(axis=0).reshape(shape))


def _highest(rows: Float, count: int) -> Bool:
    """The `count` highest of each last axis, the first of equal ones: a partition, which costs less than a
    sort.
    """
    if count == 0:
        return np.zeros(rows.shape, bool)
    place = rows.shape[-1] - count
    last = np.partition(rows, place, axis=-1)[..., place, None]
    above, equal = rows > last, rows == last
    left = count - above.sum(axis=-1, keepdims=True)
    return np.asarray(above | (equal & (np.cumsum(equal, axis=-1) <= left)))


def _skill_jaccard_pairs(
    sources: Sequence[ArrayLike], targets: Sequence[ArrayLike], *, rate: float = RATE, by: str = "layer"
) -> Float:
    return jaccard(*counts(*_masks(sources, targets, rate, by)))


@indicator(
    "skill_jaccard",
    family="neurons",
    needs="predictivity",
    symmetric=True,
    bounds=(0.0, 1.0),
    chance="r / (2 - r) for random sets at rate r: .111 at .2",
    self_value=1.0,
    zero_value=1.0,
    degenerate="0 where no neuron is chosen; ties choose the first neurons: 1 for constant predictivities",
    formula="|A and B| / |A or B| of the two sets of skill neurons at a rate",
    source=f"own, on the skill neurons of {WANG}",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_skill_jaccard_pairs,
)
def skill_jaccard(source: ArrayLike, target: ArrayLike, *, rate: float = RATE, by: str = "layer") -> float:
    """Jaccard index of the skill neurons (`skill_mask`) of two predictivities [L, N] or [C, L, N].

    >>> round(skill_jaccard([[0.9, 0.8, 0.5, 0.5]], [[0.9, 0.5, 0.8, 0.5]], rate=0.5), 6)
    0.333333
    """
    return float(_skill_jaccard_pairs([source], [target], rate=rate, by=by)[0, 0])


def _skill_overlap_pairs(
    sources: Sequence[ArrayLike], targets: Sequence[ArrayLike], *, rate: float = RATE, by: str = "layer"
) -> Float:
    left, right = _masks(sources, targets, rate, by)
    shared, a, b = counts(left, right)
    expected = _expected(left, right, by)
    most = (a + b) / 2.0
    # Both sizes are whole, so what is not zero here is at least about 1 / cells: no rounding decides.
    free = most - expected > 1e-9
    return np.asarray(np.where(free, (shared - expected) / np.where(free, most - expected, 1.0), 0.0))


@indicator(
    "skill_overlap",
    family="neurons",
    needs="predictivity",
    symmetric=True,
    bounds=(-1.0, 1.0),
    chance="0 for random sets of the same sizes (in the same layers)",
    self_value=1.0,
    zero_value=1.0,
    degenerate="0 where no neuron is chosen or all are (chance explains all); constant predictivities give 1",
    formula=(
        "(|A and B| - E) / ((|A| + |B|) / 2 - E), E = sum over layers of |A_l| |B_l| / N, "
        "or |A| |B| / (L N) with by='network'"
    ),
    source=f"Cohen's kappa (1960) of the two sets of skill neurons of {WANG}",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_skill_overlap_pairs,
)
def skill_overlap(source: ArrayLike, target: ArrayLike, *, rate: float = RATE, by: str = "layer") -> float:
    """Chance-corrected overlap of the skill neurons of two predictivities [L, N] or [C, L, N].

    >>> skill_overlap([[0.9, 0.8, 0.5, 0.5]], [[0.9, 0.5, 0.8, 0.5]], rate=0.5)
    0.0
    """
    return float(_skill_overlap_pairs([source], [target], rate=rate, by=by)[0, 0])


def _skill_on_pairs(
    sources: Sequence[tuple[ArrayLike, ArrayLike]],
    targets: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    mask: str = "target",
    rate: float = RATE,
    by: str = "layer",
) -> Float:
    choice(mask, "mask", ("target", "union"))
    left = stimulations([task[0] for task in sources], "source")
    right = stimulations([task[0] for task in targets], "target")
    same_shape(left, right, "stimulation")
    skills_s, skills_t = _masks([task[1] for task in sources], [task[1] for task in targets], rate, by)
    same_shape(left, skills_s + skills_t, "stimulation or predictivity")
    if mask == "target":
        skills_s = [np.zeros_like(skills) for skills in skills_s]
    return _restricted(
        flat([item > 0 for item in left]), flat([item > 0 for item in right]), flat(skills_s), flat(skills_t)
    )


@indicator(
    "skill_on",
    family="neurons",
    needs=("stimulation", "predictivity"),
    symmetric=False,
    bounds=(0.0, 1.0),
    chance="sqrt(p q) for independent neurons active at rates p and q among those chosen",
    self_value=1.0,
    zero_value=0.0,
    degenerate="0 where a prompt activates none of the chosen neurons",
    formula="`on` over M alone: |A and B and M| / sqrt(|A and M| |B and M|), M the target's skill neurons",
    source=f"{WANG}, skill neurons as transferability indicator (top 20 %); the union is an option of ours",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_skill_on_pairs,
)
def skill_on(
    source_stimulation: ArrayLike,
    target_stimulation: ArrayLike,
    source_predictivity: ArrayLike,
    target_predictivity: ArrayLike,
    *,
    mask: str = "target",
    rate: float = RATE,
    by: str = "layer",
) -> float:
    """Overlap of activated neurons [L, N] among the target's skill neurons, or both tasks' (mask="union").

    The source's predictivity is not read with mask="target", beyond its shape. mask="union" is symmetric.

    >>> skill_on([[1.0, 1.0, 1.0]], [[1.0, 1.0, -1.0]], [[0.5, 0.6, 0.7]], [[0.7, 0.9, 0.5]], rate=0.7)
    1.0
    """
    pair = (source_stimulation, source_predictivity), (target_stimulation, target_predictivity)
    return float(_skill_on_pairs([pair[0]], [pair[1]], mask=mask, rate=rate, by=by)[0, 0])


def _network_spearman_pairs(sources: Sequence[ArrayLike], targets: Sequence[ArrayLike]) -> Float:
    left, right = _means(sources, targets)
    return _spearman([item.reshape(1, -1) for item in left], [item.reshape(1, -1) for item in right])[:, :, 0]


@indicator(
    "predictivity_spearman",
    family="neurons",
    needs="predictivity",
    symmetric=True,
    bounds=(-1.0, 1.0),
    chance="0 within a layer, but above 0 where layers differ in level in both tasks",
    self_value=1.0,
    zero_value=float("nan"),
    degenerate="NaN where fewer than 3 neurons are defined in both tasks, or a task's are all equal",
    formula="Pearson correlation of the average ranks (ties to 12 digits) of all L N mean predictivities",
    source=f"{WANG}, skill neurons are task-specific: Spearman over the whole network",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_network_spearman_pairs,
)
def predictivity_spearman(source: ArrayLike, target: ArrayLike) -> float:
    """Spearman correlation of two predictivities [L, N] or [C, L, N] over all neurons of the network.

    With subtasks it is that of their mean predictivities.

    >>> round(predictivity_spearman([[0.5, 0.6], [0.7, 0.8]], [[0.5, 0.7], [0.6, 0.9]]), 6)
    0.8
    """
    return float(_network_spearman_pairs([source], [target])[0, 0])


def _layer_spearman_pairs(sources: Sequence[ArrayLike], targets: Sequence[ArrayLike]) -> Float:
    by_layer = _spearman(*_means(sources, targets))  # [S, T, L]
    defined = ~np.isnan(by_layer)
    total, number = np.where(defined, by_layer, 0.0).sum(axis=-1), defined.sum(axis=-1)
    return np.asarray(np.where(number > 0, total / np.maximum(number, 1), np.nan))


@indicator(
    "predictivity_spearman_layers",
    family="neurons",
    needs="predictivity",
    symmetric=True,
    bounds=(-1.0, 1.0),
    chance="0",
    self_value=1.0,
    zero_value=float("nan"),
    degenerate="layers with fewer than 3 neurons defined in both, or constant, are left out; NaN if all are",
    formula="mean over layers of the Spearman correlation of a layer's N mean predictivities",
    source=f"{WANG}, skill neurons are task-specific: Spearman by layer, averaged",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_layer_spearman_pairs,
)
def predictivity_spearman_layers(source: ArrayLike, target: ArrayLike) -> float:
    """Mean over layers of the Spearman correlation of two predictivities [L, N] or [C, L, N].

    >>> predictivity_spearman_layers([[0.5, 0.6, 0.7], [0.5, 0.6, 0.7]], [[0.5, 0.7, 0.9], [0.9, 0.8, 0.7]])
    0.0
    """
    return float(_layer_spearman_pairs([source], [target])[0, 0])


def _masks(
    sources: Sequence[ArrayLike], targets: Sequence[ArrayLike], rate: float, by: str
) -> tuple[list[Bool], list[Bool]]:
    left, right = both(predictivities, sources, targets)
    same_shape(left, right, "predictivity")
    return both(lambda items, _: [skill_mask(item, rate, by) for item in items], left, right)


def _means(sources: Sequence[ArrayLike], targets: Sequence[ArrayLike]) -> tuple[list[Float], list[Float]]:
    """Predictivities [L, N], averaged over the subtasks, for ranking; undefined where one of them is."""
    left, right = both(predictivities, sources, targets)
    same_shape(left, right, "predictivity")
    return both(lambda items, _: [_mean(item) for item in items], left, right)


def _mean(subtasks: Float) -> Float:
    """Mean over subtasks as a share of its peak, to 12 digits: what rounding alone parts is a tie."""
    mean = subtasks.mean(axis=0)
    peak = np.abs(mean).max(initial=0.0, where=~np.isnan(mean))
    return np.asarray(np.round(mean / peak, 12) if peak > 0 else mean)


def _expected(left: list[Bool], right: list[Bool], by: str) -> Float:
    """How many neurons random sets of the same sizes have in common, [S, T]."""
    if by == "network":
        left, right = [item.reshape(1, -1) for item in left], [item.reshape(1, -1) for item in right]
    a = np.stack([item.sum(axis=-1) for item in left]).astype(float)  # [S, L]
    b = np.stack([item.sum(axis=-1) for item in right]).astype(float)  # [T, L]
    return np.asarray(a @ b.T / left[0].shape[-1])


def _restricted(a: Float, b: Float, skills_a: Float, skills_b: Float) -> Float:
    """ochiai of A and M with B and M, M = skills_a or skills_b, by inclusion and exclusion of 0/1 rows."""
    a_own, b_own = a * skills_a, b * skills_b
    shared = common(a_own, b) + common(a, b_own) - common(a_own, b_own)
    in_a = common(a_own, np.ones_like(skills_b)) + common(a, skills_b) - common(a_own, skills_b)
    in_b = common(np.ones_like(skills_a), b_own) + common(skills_a, b) - common(skills_a, b_own)
    return ochiai(shared, in_a, in_b)


def _spearman(sources: list[Float], targets: list[Float]) -> Float:
    """Spearman correlations [S, T, groups] of the rows of [groups, cells] arrays: products of ranks."""
    ranks, other = both(lambda items, _: [_standard_ranks(item) for item in items], sources, targets)
    left = np.stack(ranks, axis=1)
    right = left if other is ranks else np.stack(other, axis=1)
    result = np.moveaxis(left @ right.transpose(0, 2, 1), 0, -1)  # [groups, S, cells] @ [groups, cells, T]
    result[_undefined(sources)[:, None] | _undefined(targets)[None, :]] = np.nan
    holes_s, holes_t = (
        np.stack([np.isnan(item).any(axis=-1) for item in side]) for side in (sources, targets)
    )
    for i, j, group in np.argwhere(holes_s[:, None] | holes_t[None, :]):
        result[i, j, group] = _spearman_of_defined(sources[i][group], targets[j][group])
    return np.clip(result, -1.0, 1.0)


def _spearman_of_defined(x: Float, y: Float) -> float:
    """Spearman over the cells defined in both vectors; NaN where they are fewer than 3 or constant."""
    both = ~(np.isnan(x) | np.isnan(y))
    x, y = x[both], y[both]
    if _too_few(x) or _too_few(y):
        return float("nan")
    return float(_standard_ranks(x[None])[0] @ _standard_ranks(y[None])[0])


def _standard_ranks(rows: Float) -> Float:
    """The average ranks of each row, centred, of norm 1; zero for a row with NaN (done pair by pair)."""
    ranks = np.stack([np.zeros_like(row) if np.isnan(row).any() else average_ranks(row) for row in rows])
    return unit(ranks - ranks.mean(axis=-1, keepdims=True))


def _undefined(items: list[Float]) -> Bool:
    """Where a row is too short or constant, [items, groups]."""
    return np.array([[_too_few(row) for row in item] for item in items])


def _too_few(row: Float) -> bool:
    return len(row) < 3 or bool((row == row[0]).all())
