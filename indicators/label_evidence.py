"""LogME: how probable are a target's labels under a Bayesian linear model of the features?"""

from __future__ import annotations

import math

import numpy as np

from indicators.inputs import ArrayLike, Float, InvalidInput, numbers
from indicators.label_inputs import class_ids, matrix, one_hot, sized
from indicators.registry import indicator

# The ratio of noise to weights, alpha / beta, is searched between these shares of the largest squared
# singular value, on a grid first: the evidence can have several local maxima.
LEAST, MOST, GRID = 1e-14, 1e8, 256
EXACT = 1e-12  # a residual below this share of the labels' squares is rounding
STEPS = 60  # of the golden section: the bracket shrinks to 1e-12 of itself
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@indicator(
    "logme",
    family="label_scores",
    needs=("features", "labels"),
    convention="score",
    symmetric=False,
    bounds=(-math.inf, math.inf),
    chance="the value of features that are all 0: -1.07 for two balanced classes; it differs between targets",
    self_value=None,
    zero_value=(math.log(2.0) - 1.0 - math.log(2.0 * math.pi)) / 2.0,
    degenerate=(
        "features that are all 0: the evidence of noise alone; labels that fewer features than examples fit "
        "without error: large and finite, since the search ends at alpha / beta = 1e-14 of the largest "
        "squared singular value; InvalidInput for one class or for targets that are all 0"
    ),
    formula=(
        "max over alpha, beta of log p(y | X) / S, y = X w + noise, w ~ N(0, I / alpha), noise ~ "
        "N(0, I / beta): S/2 ln beta + D/2 ln alpha - ln|A|/2 - beta |y - X m|^2 / 2 - alpha m'm / 2 - "
        "S/2 ln 2 pi, A = alpha I + beta X'X [D, D], m = beta A^-1 X'y; mean over classes (one against the "
        "rest) or over the columns of regression targets"
    ),
    source=(
        "You et al., ICML 2021, eqs. (2) and (4), and JMLR 2022; here ln|A| has all D eigenvalues, where "
        "most public fixed-point versions leave out the D - r that equal alpha, and the maximum is exact, "
        "so that the scale of the features does not matter"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
)
def logme(features: ArrayLike, labels: ArrayLike, *, regression: bool | None = None) -> float:
    """Log maximum evidence of labels [S] (class ids, or targets [S] or [S, T]) given features [S, D].

    `regression` None takes labels of two axes, or with numbers that are not whole, as regression targets.

    >>> features = [[1.0, 0.1], [0.9, 0.0], [0.0, 1.0], [0.2, 0.9]]
    >>> logme(features, [7, 7, 3, 3]) > logme(features, [7, 3, 7, 3])
    True
    """
    array = sized(matrix(features, "features"))[0]
    targets = _targets(labels, len(array), regression)
    left, values, _ = np.linalg.svd(array, full_matrices=False)
    peak = values[0] if values[0] > 0 else 1.0
    squares = (values / peak) ** 2
    inside = (left.T @ targets) ** 2
    inside[squares == 0] = 0.0
    total = (targets**2).sum(axis=0)
    evidences = [_best(squares, inside[:, k], float(total[k]), len(array)) for k in range(targets.shape[1])]
    return float(np.mean(evidences))


def _targets(labels: ArrayLike, rows: int, regression: bool | None) -> Float:
    """Columns to explain, [S, K]: indicators of the classes, or regression targets."""
    array = numbers(labels, "labels", "S] or [S, T", (1, 2))
    if regression is None:
        regression = array.ndim == 2 or (array.dtype.kind == "f" and bool((array != np.floor(array)).any()))
    if not regression:
        classes, counts = class_ids(array, rows, "features")
        if len(counts) < 2:
            raise InvalidInput(f"labels holds one class for all {rows} examples: at least two are needed")
        return one_hot(classes, len(counts))
    columns = np.asarray(array, float).reshape(len(array), -1)
    if len(columns) != rows:
        raise InvalidInput(f"labels is {list(array.shape)} and features has {rows} rows: a target for each")
    if not columns.any(axis=0).all():
        place = int(np.argmin(columns.any(axis=0)))
        raise InvalidInput(f"column {place} of the regression targets is all 0: there is nothing to explain")
    return columns


def _best(squares: Float, inside: Float, total: float, rows: int) -> float:
    """The highest evidence of one column, over ratios on a grid, then by golden section around the best.

    `squares` [k] are squared singular values, `inside` [k] the squared inner products of the left singular
    vectors with the column, `total` its squared norm.
    """
    outside = total - float(inside.sum())
    outside = 0.0 if outside < EXACT * total else outside
    grid = np.linspace(math.log(LEAST), math.log(MOST), GRID)
    values = _evidence(grid, squares, inside, outside, rows)
    place = int(np.argmax(values))
    low, high = grid[max(place - 1, 0)], grid[min(place + 1, GRID - 1)]
    for _ in range(STEPS):
        pair = np.array([high - GOLDEN * (high - low), low + GOLDEN * (high - low)])
        first, second = _evidence(pair, squares, inside, outside, rows)
        low, high = (low, pair[1]) if first >= second else (pair[0], high)
    # Weights that are all 0 are the limit of large ratios.
    nothing = 0.5 * (math.log(rows / total) - 1.0 - math.log(2.0 * math.pi))
    found = _evidence(np.array([(low + high) / 2.0]), squares, inside, outside, rows)[0]
    return max(float(found), float(values[place]), nothing)


def _evidence(logs: Float, squares: Float, inside: Float, outside: float, rows: int) -> Float:
    """Evidence / S at each ln(alpha / beta), [G], with the beta that is best there.

    Then beta |y - X m|^2 + alpha m'm = S: the quadratic form of y ~ N(0, (I + X X' / ratio) / beta).
    """
    ratios = np.exp(logs)[:, None]
    shrunk = (inside * (ratios / (ratios + squares))).sum(axis=1) + outside  # y' (I + X X' / ratio)^-1 y
    spread = np.log1p(squares / ratios).sum(axis=1)  # ln |I + X X' / ratio|
    return np.asarray(0.5 * (np.log(rows / shrunk) - 1.0 - math.log(2.0 * math.pi) - spread / rows))
