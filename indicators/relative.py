"""Prompts of two models in one space: their cosines to the embeddings of tokens that both models know."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from indicators.inputs import ArrayLike, Float, InvalidInput, prompts, tables
from indicators.kernels import both, unit
from indicators.registry import indicator

ROUNDING = 64 * float(np.finfo(np.float64).eps)


def _relative_pairs(
    sources: Sequence[tuple[ArrayLike, ArrayLike]], targets: Sequence[tuple[ArrayLike, ArrayLike]]
) -> Float:
    left, right = both(_checked, sources, targets)
    _same_anchors(left, right)
    rows = np.stack([relative(*task) for task in left])
    columns = rows if right is left else np.stack([relative(*task) for task in right])
    return np.clip(rows @ columns.T, -1.0, 1.0)


@indicator(
    "relative_prompt",
    family="prompt_space",
    needs=("prompt", "anchors"),
    symmetric=True,
    bounds=(-1.0, 1.0),
    chance="0 (independent prompts), give or take 1 / sqrt(A - 1)",
    self_value=1.0,
    zero_value=0.0,
    degenerate="0 where a mean token is zero, or has one cosine to all anchors; that to a zero anchor is 0",
    formula=(
        "Pearson correlation over anchors k of cos(mean_i x_i, a_k) and cos(mean_j y_j, b_k), a_k and b_k "
        "the embeddings of one token in the two models"
    ),
    source=(
        "Wu et al., ICLR 2024 (arXiv 2310.01691): prompts encoded by cosines to shared-vocabulary anchors; "
        "there token by token, for transfer; here of the mean token, centred, as a similarity"
    ),
    requires_equal_rows=True,
    rows="aligned",
    scale="each",
    pairwise=_relative_pairs,
)
def relative_prompt(
    source_prompt: ArrayLike, target_prompt: ArrayLike, source_anchors: ArrayLike, target_anchors: ArrayLike
) -> float:
    """Likeness of two prompts [P1, D1] and [P2, D2] of two models through anchors [A, D1] and [A, D2].

    Row k of the anchors is the same token in both models. The prompts may differ in length and width; the
    anchors must be equal in number.

    >>> a, b = [[3.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[0, 0, 3], [0, 1, 0], [1, 0, 0]]
    >>> round(relative_prompt([[1.0, 0.0]], [[0.0, 0.0, 2.0]], a, b), 6)
    0.725981
    """
    task, other = (source_prompt, source_anchors), (target_prompt, target_anchors)
    return float(_relative_pairs([task], [other])[0, 0])


def relative(prompt: Float, tokens: Float) -> Float:
    """The cosines of a prompt's mean token [P, D] to the anchors [A, D], centred, of norm 1, [A]; or 0."""
    cosines = unit(tokens) @ unit(_mean(prompt))
    rest = cosines - cosines.mean()
    return unit(rest) if np.abs(rest).max() > ROUNDING else np.zeros_like(rest)


def _mean(prompt: Float) -> Float:
    """The mean row; exactly 0 where the rows cancel but for rounding."""
    mean = prompt.mean(axis=0)
    return np.where(np.abs(mean) > ROUNDING * np.abs(prompt).max(), mean, 0.0)


def _checked(tasks: Sequence[tuple[ArrayLike, ArrayLike]], side: str) -> list[tuple[Float, Float]]:
    rows = prompts([task[0] for task in tasks], side)
    tokens = tables([task[1] for task in tasks], side, "anchors", "A, D")
    for prompt, embedding in zip(rows, tokens, strict=True):
        if prompt.shape[1] != embedding.shape[1]:
            raise InvalidInput(
                f"a {side} prompt is {list(prompt.shape)} and its anchors are {list(embedding.shape)}: the "
                "last axis must agree, since both are embeddings of one model"
            )
    return list(zip(rows, tokens, strict=True))


def _same_anchors(left: list[tuple[Float, Float]], right: list[tuple[Float, Float]]) -> None:
    for _, source in left:
        for _, target in right:
            if len(source) != len(target):
                raise InvalidInput(
                    f"source anchors are {list(source.shape)} and target anchors are {list(target.shape)}: "
                    "their numbers A must agree, row by row the same token"
                )
