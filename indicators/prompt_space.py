"""Indicators on the prompts themselves: cosines and distances of virtual tokens [P, D], in float64.

Four of the cosines are inner products <f(X), f(Y)> of a vector made of each prompt alone, so all pairs are
one matrix product. x_i is row i of the source prompt X, y_j of the target prompt Y; u(x) = x / |x|, u(0) = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from indicators.inputs import ArrayLike, Float, InvalidInput, prompts, same_shape, same_width
from indicators.kernels import unit
from indicators.registry import indicator

SU = "Su et al., NAACL 2022, transferability indicators"
PUBLIC_CODE = "as in the authors' published code"
ROWS_AT_ONCE = 512


def _concat_pairs(sources: Sequence[ArrayLike], targets: Sequence[ArrayLike]) -> Float:
    return _inner(sources, targets, lambda prompt: unit(prompt.ravel()), equal_rows=True)


@indicator(
    "prompt_cosine_concat",
    needs="prompt",
    symmetric=True,
    bounds=(-1.0, 1.0),
    chance="0 (independent prompts, nearly orthogonal)",
    self_value=1.0,
    zero_value=0.0,
    degenerate="0 where a prompt is all zero",
    formula="cos(vec X, vec Y)",
    source=f"{SU}: C_concat; {PUBLIC_CODE}, for any P and D",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_concat_pairs,
)
def prompt_cosine_concat(source: ArrayLike, target: ArrayLike) -> float:
    """Cosine of the concatenated virtual tokens of two prompts [P, D]; depends on the order of the tokens.

    >>> round(prompt_cosine_concat([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]), 6)
    0.5
    """
    return float(_concat_pairs([source], [target])[0, 0])


def _average_pairs(sources: Sequence[ArrayLike], targets: Sequence[ArrayLike]) -> Float:
    return _inner(sources, targets, lambda prompt: unit(prompt).mean(axis=0))


@indicator(
    "prompt_cosine_average",
    needs="prompt",
    symmetric=True,
    bounds=(-1.0, 1.0),
    chance="0 (independent prompts)",
    self_value=None,
    zero_value=0.0,
    degenerate="a zero token counts as a cosine of 0 with every token",
    formula="mean over all i, j of cos(x_i, y_j) = <mean_i u(x_i), mean_j u(y_j)>",
    source=f"{SU}: C_average; {PUBLIC_CODE}, but in O(P D) by linearity and in float64",
    requires_equal_rows=False,
    rows="free",
    scale="each",
    pairwise=_average_pairs,
)
def prompt_cosine_average(source: ArrayLike, target: ArrayLike) -> float:
    """Mean cosine over all pairs of virtual tokens, [P1, D] and [P2, D]; a prompt with itself is not 1.

    >>> prompt_cosine_average([[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [1.0, 0.0]])
    0.5
    """
    return float(_average_pairs([source], [target])[0, 0])


def _mean_token_pairs(sources: Sequence[ArrayLike], targets: Sequence[ArrayLike]) -> Float:
    return _inner(sources, targets, lambda prompt: unit(prompt.mean(axis=0)))


@indicator(
    "prompt_cosine_mean_token",
    needs="prompt",
    symmetric=True,
    bounds=(-1.0, 1.0),
    chance="0 where the mean tokens share no direction of the embedding space",
    self_value=1.0,
    zero_value=0.0,
    degenerate="0 where the mean token of a prompt is zero",
    formula="cos(mean_i x_i, mean_j y_j)",
    source="Vu et al., ACL 2022 (SPoT), task embeddings: E_avg, the mean of the prompt's tokens",
    requires_equal_rows=False,
    rows="free",
    scale="each",
    pairwise=_mean_token_pairs,
)
def prompt_cosine_mean_token(source: ArrayLike, target: ArrayLike) -> float:
    """Cosine of the mean virtual tokens, [P1, D] and [P2, D]: the prompts may differ in length.

    >>> prompt_cosine_mean_token([[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0]])
    0.7071067811865475
    """
    return float(_mean_token_pairs([source], [target])[0, 0])


def _position_pairs(sources: Sequence[ArrayLike], targets: Sequence[ArrayLike]) -> Float:
    return _inner(
        sources, targets, lambda prompt: unit(prompt).ravel() / np.sqrt(len(prompt)), equal_rows=True
    )


@indicator(
    "prompt_cosine_position",
    needs="prompt",
    symmetric=True,
    bounds=(-1.0, 1.0),
    chance="0 (independent prompts)",
    self_value=1.0,
    zero_value=0.0,
    degenerate="a zero token counts as a cosine of 0",
    formula="mean_i cos(x_i, y_i)",
    source="own: Su et al.'s average cosine, kept to tokens at the same position",
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_position_pairs,
)
def prompt_cosine_position(source: ArrayLike, target: ArrayLike) -> float:
    """Mean cosine of the tokens at the same position of two prompts [P, D].

    >>> round(prompt_cosine_position([[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [1.0, 0.0]]), 12)
    0.5
    """
    return float(_position_pairs([source], [target])[0, 0])


def _maxsim_pairs(sources: Sequence[ArrayLike], targets: Sequence[ArrayLike]) -> Float:
    left, right = ([unit(prompt) for prompt in side] for side in _checked(sources, targets))
    lengths = np.array([len(y) for y in right])
    starts, tokens = np.cumsum(lengths) - lengths, np.concatenate(right)  # tokens: [all P2, D]
    best = np.stack([(x @ tokens.T).max(axis=0) for x in left])  # [S, all P2]
    return np.clip(np.add.reduceat(best, starts, axis=1) / lengths, -1.0, 1.0)


@indicator(
    "prompt_cosine_maxsim",
    needs="prompt",
    symmetric=False,
    bounds=(-1.0, 1.0),
    chance="the expected largest of P cosines: above 0, growing with P",
    self_value=1.0,
    zero_value=0.0,
    degenerate="a zero token counts as a cosine of 0 with every token",
    formula="mean_j max_i cos(x_i, y_j), over the tokens j of the target",
    source="Khattab & Zaharia, SIGIR 2020 (ColBERT), divided by P; the target is the query",
    requires_equal_rows=False,
    rows="free",
    scale="each",
    pairwise=_maxsim_pairs,
)
def prompt_cosine_maxsim(source: ArrayLike, target: ArrayLike) -> float:
    """How well the source's tokens cover the target's: the mean of the best cosines, [P1, D] and [P2, D].

    >>> prompt_cosine_maxsim([[1.0, 0.0]], [[0.0, 1.0], [2.0, 0.0]])
    0.5
    >>> prompt_cosine_maxsim([[0.0, 1.0], [2.0, 0.0]], [[1.0, 0.0]])
    1.0
    """
    return float(_maxsim_pairs([source], [target])[0, 0])


def _whitened_pairs(
    sources: Sequence[ArrayLike],
    targets: Sequence[ArrayLike],
    *,
    pool: Sequence[ArrayLike] | None = None,
    ridge: float = 0.3,
) -> Float:
    left, right = _checked(sources, targets)
    if not ridge > 0:
        raise InvalidInput(f"ridge={ridge!r}: a number above 0 is needed")
    if pool is None:
        return _each_whitened(left, right, ridge, same=sources is targets)
    everyone = prompts(pool, "pool")
    if not everyone:
        raise InvalidInput("pool is empty: at least one prompt is needed, or None for the pair itself")
    same_width(everyone, left + right, "prompt")
    return _whitened(left, right, everyone, ridge)


@indicator(
    "prompt_cosine_whitened",
    needs="prompt",
    symmetric=True,
    bounds=(-1.0, 1.0),
    chance="0 where the mean tokens share no direction of the embedding space",
    self_value=1.0,
    zero_value=0.0,
    degenerate="0 where a mean token is zero; the plain mean-token cosine where tokens never vary",
    formula=(
        "m P n' / sqrt(m P m' n P n') with mean tokens m, n and P = (S / s + ridge I)^-1, S the covariance "
        "of the pool's tokens, each around the mean of its own prompt, s = trace(S) / D"
    ),
    source="own; on published transfer matrices no proven gain in selection over the mean-token cosine",
    requires_equal_rows=False,
    rows="free",
    scale="both",
    pairwise=_whitened_pairs,
)
def prompt_cosine_whitened(
    source: ArrayLike, target: ArrayLike, *, pool: Sequence[ArrayLike] | None = None, ridge: float = 0.3
) -> float:
    """Cosine of mean tokens, [P1, D] and [P2, D], after whitening by how tokens vary inside the prompts.

    `pool` holds the prompts whose tokens give the covariance (default: the pair). The means stay.

    >>> round(prompt_cosine_whitened([[2.0, 1.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 0.0]]), 6)
    0.339683
    """
    return float(_whitened_pairs([source], [target], pool=pool, ridge=ridge)[0, 0])


def _euclidean_concat_pairs(sources: Sequence[ArrayLike], targets: Sequence[ArrayLike]) -> Float:
    from scipy.spatial.distance import cdist

    left, right = _checked(sources, targets, equal_rows=True)
    return 1.0 / (1.0 + cdist(_flat(left), _flat(right)))


@indicator(
    "prompt_euclidean_concat",
    needs="prompt",
    symmetric=True,
    bounds=(0.0, 1.0),
    chance="none: it depends on the norms of the prompts, and goes to 0 as they grow",
    self_value=1.0,
    zero_value=1.0,
    degenerate="none: 1 for two zero prompts",
    formula="1 / (1 + |X - Y|_F)",
    source=f"{SU}: E_concat; {PUBLIC_CODE}",
    requires_equal_rows=True,
    rows="aligned",
    scale="distance",
    pairwise=_euclidean_concat_pairs,
)
def prompt_euclidean_concat(source: ArrayLike, target: ArrayLike) -> float:
    """Euclidean similarity of the concatenated virtual tokens of two prompts [P, D].

    >>> round(prompt_euclidean_concat([[0.0, 3.0]], [[4.0, 0.0]]), 6)
    0.166667
    """
    return float(_euclidean_concat_pairs([source], [target])[0, 0])


@indicator(
    "prompt_euclidean_average",
    needs="prompt",
    symmetric=True,
    bounds=(0.0, 1.0),
    chance="none: it depends on the norms of the tokens, and goes to 0 as they grow",
    self_value=None,
    zero_value=1.0,
    degenerate="none: 1 for two zero prompts",
    formula="1 / (1 + mean over all i, j of |x_i - y_j|)",
    source=f"{SU}: E_average; {PUBLIC_CODE}, by differences and in float64",
    requires_equal_rows=False,
    rows="free",
    scale="distance",
)
def prompt_euclidean_average(source: ArrayLike, target: ArrayLike) -> float:
    """Euclidean similarity by the mean distance of all pairs of tokens, [P1, D] and [P2, D].

    >>> prompt_euclidean_average([[0.0, 0.0]], [[3.0, 4.0], [0.0, 1.0]])
    0.25
    """
    from scipy.spatial.distance import cdist

    (left,), (right,) = _checked([source], [target])
    # Not |x|^2 - 2 <x, y> + |y|^2: that loses the small distances of near prompts.
    total = sum(cdist(left[i : i + ROWS_AT_ONCE], right).sum() for i in range(0, len(left), ROWS_AT_ONCE))
    return float(1.0 / (1.0 + total / (len(left) * len(right))))


def _inner(
    sources: Sequence[ArrayLike],
    targets: Sequence[ArrayLike],
    vector: Callable[[Float], Float],
    equal_rows: bool = False,
) -> Float:
    """<vector(X), vector(Y)> of all pairs; rounding never leaves [-1, 1]."""
    left, right = _checked(sources, targets, equal_rows)
    inner = np.stack([vector(prompt) for prompt in left]) @ np.stack([vector(prompt) for prompt in right]).T
    return np.clip(inner, -1.0, 1.0)


def _checked(
    sources: Sequence[ArrayLike], targets: Sequence[ArrayLike], equal_rows: bool = False
) -> tuple[list[Float], list[Float]]:
    left, right = prompts(sources, "source"), prompts(targets, "target")
    (same_shape if equal_rows else same_width)(left, right, "prompt")
    return left, right


def _flat(items: list[Float]) -> Float:
    return np.stack([item.ravel() for item in items])


def _each_whitened(left: list[Float], right: list[Float], ridge: float, same: bool) -> Float:
    """The whitened cosine of each pair, with the pair as its pool; half if both sides are the same."""
    values = np.empty((len(left), len(right)))
    for i, x in enumerate(left):
        for j, y in enumerate(right):
            values[i, j] = values[j, i] if same and j < i else _whitened([x], [y], [x, y], ridge)[0, 0]
    return values


def _whitened(left: list[Float], right: list[Float], pool: list[Float], ridge: float) -> Float:
    """The whitened cosines of all pairs, for one pool."""
    means = unit(np.stack([prompt.mean(axis=0) for prompt in left + right]))  # [S + T, D]
    precise = _precise(means, pool, ridge)
    norms = np.sqrt((precise * means).sum(axis=1))
    m, n = slice(len(left)), slice(len(left), None)
    scale = norms[m, None] * norms[None, n]
    return np.clip(precise[m] @ means[n].T / np.where(scale > 0, scale, 1.0), -1.0, 1.0)


def _precise(means: Float, pool: list[Float], ridge: float) -> Float:
    """means @ (S / s + ridge I)^-1, with means [K, D]."""
    peak = max(np.abs(prompt).max() for prompt in pool)
    # A common factor cancels; by the largest entry the squares neither overflow nor vanish.
    tokens = [prompt / peak for prompt in pool] if peak > 0 else pool
    spread = np.concatenate([prompt - prompt.mean(axis=0) for prompt in tokens])  # [rows, D]
    rows, width = spread.shape
    total, size = (spread * spread).sum(), sum((prompt * prompt).sum() for prompt in tokens)
    if total <= 1e-24 * size:  # rounding alone: nothing varies, and S / s would be noise
        return means
    spread = spread * np.sqrt(width / total)  # now spread' spread = S / s
    if rows >= width:
        return np.asarray(np.linalg.solve(spread.T @ spread + ridge * np.eye(width), means.T).T)
    # Fewer tokens than dimensions: Woodbury, one small system.
    inner = np.linalg.solve(spread @ spread.T + ridge * np.eye(rows), spread @ means.T)  # [rows, K]
    return np.asarray((means - inner.T @ spread) / ridge)
