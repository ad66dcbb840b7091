"""Prompts of two models compared through the embeddings of tokens that both know."""

from __future__ import annotations

import numpy as np
import pytest

import indicators
from indicators import InvalidInput
from tests.reference import REFERENCE

relative_prompt = indicators.get("relative_prompt").function


def models(anchors: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Anchors [A, 12] of one model; the same in another as a rotation into 30 dimensions; that map."""
    rng = np.random.default_rng(0)
    here = rng.normal(size=(anchors, 12))
    turn = np.linalg.qr(rng.normal(size=(30, 12)))[0].T
    return here, here @ turn, turn


def test_a_prompt_is_found_again_in_a_model_of_another_width() -> None:
    here, there, turn = models()
    prompt, other = np.random.default_rng(1).normal(size=(2, 5, 12))
    assert relative_prompt(prompt, 3 * prompt @ turn, here, 2 * there) == pytest.approx(1.0, abs=1e-12)
    assert abs(relative_prompt(other, prompt @ turn, here, there)) < 0.9


def test_any_lengths_and_widths_agree_with_the_loop() -> None:
    rng = np.random.default_rng(2)
    arrays = (
        rng.normal(size=(5, 9)),
        rng.normal(size=(2, 4)),
        rng.normal(size=(7, 9)),
        rng.normal(size=(7, 4)),
    )
    assert relative_prompt(*arrays) == pytest.approx(REFERENCE["relative_prompt"](*arrays), abs=1e-12)


def test_independent_prompts_are_at_chance() -> None:
    here, there, _ = models(400)
    rng = np.random.default_rng(3)
    tasks = [(rng.normal(size=(5, 12)), here) for _ in range(20)]
    values = indicators.matrix(
        "relative_prompt", tasks, [(rng.normal(size=(5, 30)), there) for _ in range(20)]
    )
    assert abs(values.mean()) < 0.05


def test_what_has_no_direction_is_zero() -> None:
    here, there, turn = models(8)
    prompt = np.random.default_rng(4).normal(size=(3, 12))
    assert relative_prompt(np.r_[prompt, -prompt], prompt @ turn, here, there) == 0.0
    assert relative_prompt(prompt, prompt @ turn, np.tile(here[:1], (8, 1)), there) == 0.0
    assert relative_prompt(prompt, prompt @ turn, here[:1], there[:1]) == 0.0


def test_arrays_that_do_not_fit_are_named() -> None:
    here, there, turn = models(8)
    prompt = np.ones((3, 12))
    with pytest.raises(InvalidInput, match=r"source anchors are \[8, 12\] and target anchors are \[7, 30\]"):
        relative_prompt(prompt, prompt @ turn, here, there[:7])
    with pytest.raises(InvalidInput, match=r"target prompt is \[3, 12\] and its anchors are \[8, 30\]"):
        relative_prompt(prompt, prompt, here, there)
    with pytest.raises(InvalidInput, match=r"source anchors holds nan at \[0, 1\]"):
        relative_prompt(prompt, prompt, np.where(np.arange(12) == 1, np.nan, here), here)
