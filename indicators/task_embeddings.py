"""Indicators on embeddings of whole tasks: mean texts, diagonal Fisher information, vocabularies.

A diagonal Fisher is the mean over examples of the squared gradient of each parameter: never negative.
"""

from __future__ import annotations

import numpy as np

from indicators.inputs import Array, ArrayLike, Float, InvalidInput, integers, numbers, same_width, tables
from indicators.kernels import unit
from indicators.registry import indicator

ACHILLE = "Achille et al., ICCV 2019 (Task2Vec)"
ALPHA = 0.15


@indicator(
    "text_embedding",
    needs="inputs",
    symmetric=True,
    bounds=(-1.0, 1.0),
    chance="near 1 for any two tasks of one language, since texts share a direction: use `centre`",
    self_value=1.0,
    zero_value=0.0,
    degenerate="0 where the mean of a side is zero, or equal to the centre",
    formula="cos(mean_i x_i - c, mean_j y_j - c), c = 0 or the centre",
    source="Vu et al., EMNLP 2020: TextEmb; the centre is an option of ours",
    requires_equal_rows=False,
    rows="free",
    scale="each",
)
def text_embedding(source: ArrayLike, target: ArrayLike, *, centre: ArrayLike | None = None) -> float:
    """Cosine of the mean embedded texts of two tasks, inputs [S1, D] and [S2, D].

    `centre` [D] is subtracted from both means: the mean of a corpus, or of the tasks' means.

    >>> text_embedding([[1.0, 0.0], [1.0, 2.0]], [[0.0, 3.0]], centre=[0.0, 1.0])
    0.0
    """
    left, right = tables([source], "source", "inputs", "S, D"), tables([target], "target", "inputs", "S, D")
    same_width(left, right, "inputs")
    origin: Float = np.zeros(left[0].shape[1])
    if centre is not None:
        origin = np.asarray(numbers(centre, "centre", "D", (1,)), float)
        if len(origin) != left[0].shape[1]:
            raise InvalidInput(
                f"centre is {list(origin.shape)} and source inputs is {list(left[0].shape)}: the last axis "
                "must agree"
            )
    # By the mean of what is left: the centre is taken off before anything is lost to rounding.
    return _cosine((left[0] - origin).mean(axis=0), (right[0] - origin).mean(axis=0))


@indicator(
    "prompt_fisher",
    needs="prompt_fisher",
    symmetric=True,
    bounds=(0.0, 1.0),
    chance="above 0, since no entry is negative: .5 for independent entries with an exponential distribution",
    self_value=1.0,
    zero_value=0.0,
    degenerate="0 where a Fisher is all zero",
    formula="cos(vec F1, vec F2), F = mean over examples of (d loss / d prompt)^2, entry by entry",
    source=f"own: the diagonal Fisher of {ACHILLE} of the soft prompt alone",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
)
def prompt_fisher(source: ArrayLike, target: ArrayLike) -> float:
    """Cosine of two diagonal Fishers [P, E] of the entries of a soft prompt, of at least 0.

    >>> round(prompt_fisher([[1.0, 0.0]], [[3.0, 4.0]]), 6)
    0.6
    """
    x, y = _fishers(source, target, "prompt_fisher", "P, E", (2,))
    return _cosine(x, y)


@indicator(
    "task2vec",
    needs="ffn_fisher",
    symmetric=True,
    bounds=(0.0, 1.0),
    chance=".5 for independent entries with the same exponential distribution",
    self_value=1.0,
    zero_value=0.0,
    degenerate="parameters with no information in either task are left out; 0 where a Fisher is all zero",
    formula="1 - d_sym(F1, F2) = cos(F1 / (F1 + F2), F2 / (F1 + F2)), entry by entry",
    source=f"{ACHILLE}, symmetric distance; without the 1e-8 that their code adds to small Fishers",
    requires_equal_rows=True,
    rows="aligned",
    scale="both",
)
def task2vec(source: ArrayLike, target: ArrayLike) -> float:
    """Task2Vec similarity of two diagonal Fishers [L, N] or [M] of the FFN weights, of at least 0.

    >>> round(task2vec([[1.0, 3.0]], [[3.0, 1.0]]), 6)
    0.6
    """
    x, y = _fishers(source, target, "ffn_fisher", "L, N] or [M", (1, 2))
    return _similarity(x, y)


@indicator(
    "task2vec_asymmetric",
    needs="ffn_fisher",
    symmetric=False,
    bounds=(0.0, 1.0 + ALPHA),
    chance="as `task2vec`, and alpha times how far the source is from a trivial task",
    self_value=None,
    zero_value=ALPHA,
    degenerate="as `task2vec`: a Fisher that is all zero is at distance 1 from every other",
    formula="1 - d_asym = 1 - d_sym(F1, F2) + alpha d_sym(F1, F0), alpha = .15, F0 of a trivial task",
    source=(
        f"{ACHILLE}, asymmetric distance: among sources as near, the more complex one is better; that F0 is "
        "uniform where none is given is ours"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="both",
)
def task2vec_asymmetric(
    source: ArrayLike, target: ArrayLike, *, trivial: ArrayLike | None = None, alpha: float = ALPHA
) -> float:
    """Task2Vec similarity of two diagonal Fishers [L, N] or [M], in favour of a complex source.

    `trivial` is F0, of the same shape: the Fisher of a task that asks for nothing. By default it has the
    source's mean everywhere. Raises InvalidInput for an alpha below 0 (above .15 the range is wider).

    >>> round(task2vec_asymmetric([[1.0, 3.0]], [[3.0, 1.0]], trivial=[[1.0, 0.0]]), 6)
    0.682918
    """
    x, y = _fishers(source, target, "ffn_fisher", "L, N] or [M", (1, 2))
    if not 0 <= alpha < np.inf:
        raise InvalidInput(f"alpha={alpha!r}: a finite number of at least 0 is needed")
    if trivial is None:
        peak = x.max() or 1.0
        nothing = np.full_like(x, peak * (x / peak).mean())
    else:
        nothing, _ = _fishers(trivial, target, "ffn_fisher", "L, N] or [M", (1, 2), "trivial")
    return _similarity(x, y) + alpha * (1 - _similarity(x, nothing))


@indicator(
    "vocabulary_overlap",
    needs="vocabulary",
    symmetric=True,
    bounds=(0.0, 1.0),
    chance="above 0 for any two texts of a language, and larger for larger corpora",
    self_value=1.0,
    zero_value=1.0,
    degenerate="an empty vocabulary is refused; repeated ids count once",
    formula="|A and B| / |A or B| of the sets of token ids",
    source="Poth et al., EMNLP 2021, and later studies of source selection: vocabulary overlap",
    requires_equal_rows=False,
    rows="free",
    scale="none",
)
def vocabulary_overlap(source: ArrayLike, target: ArrayLike) -> float:
    """Jaccard index of two vocabularies: token ids [M1] and [M2], whole numbers of at least 0, in any order.

    >>> vocabulary_overlap([5, 7, 7, 9], [7, 9, 11])
    0.5
    """
    left, right = _vocabulary(source, "source"), _vocabulary(target, "target")
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared)


def _fishers(
    one: ArrayLike, target: ArrayLike, what: str, axes: str, dims: tuple[int, ...], side: str = "source"
) -> tuple[Float, Float]:
    """Both Fishers as vectors; InvalidInput for other shapes or what is negative. `side` is of the first."""
    (left,) = tables([one], side, what, axes, low=0.0, dims=dims)
    (right,) = tables([target], "target", what, axes, low=0.0, dims=dims)
    if left.shape != right.shape:
        raise InvalidInput(
            f"{side} {what} is {list(left.shape)} and target {what} is {list(right.shape)}: the shapes must "
            "agree"
        )
    return left.ravel(), right.ravel()


def _cosine(x: Float, y: Float) -> float:
    return float(np.clip(unit(x.ravel()) @ unit(y.ravel()), -1.0, 1.0))


def _similarity(x: Float, y: Float) -> float:
    """cos(x / (x + y), y / (x + y)); what is zero in both is left out."""
    peak = np.maximum(x, y)
    safe = np.where(peak > 0, peak, 1.0)
    # By the larger of the two first: their sum does not overflow then.
    a, b = x / safe, y / safe
    total = np.where(peak > 0, a + b, 1.0)
    return _cosine(a / total, b / total)


def _vocabulary(item: ArrayLike, side: str) -> Array:
    array = np.unique(integers(item, f"{side} vocabulary", "M"))
    if array[0] < 0:
        raise InvalidInput(f"{side} vocabulary holds {array[0]}: token ids of at least 0 are needed")
    return array
