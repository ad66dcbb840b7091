"""A projector's training that was killed goes on where it was, and ends with the same bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tests.test_projection import QUICK, WORDS, pairs, prompt, task
from transferscope import store
from transferscope.descent_state import REST, STATE, Standing, StateFile
from transferscope.models import wrap
from transferscope.projection import fit_distance, fit_task
from transferscope.projector import Projector, save_projector

Progress = Callable[[int, int, str], None]
Fit = Callable[[Path | None, Progress | None], Projector]
SETTINGS = QUICK.model_copy(update={"patience": None})


def distance() -> Fit:
    sources, targets = pairs(7, seeds=2)
    return lambda folder, progress: fit_distance(sources, targets, SETTINGS, folder=folder, progress=progress)


def by_task() -> Fit:
    backbone = wrap(tiny.model("roberta", hidden_size=24), tiny.tokenizer("roberta"), name="tiny-b")
    rng = np.random.default_rng(0)
    sources = {name: [prompt(rng.normal(size=(3, 16)), name, seed) for seed in (0, 1)] for name in WORDS}
    tasks = {name: task(name) for name in WORDS}
    return lambda folder, progress: fit_task(
        backbone, sources, tasks, SETTINGS, folder=folder, progress=progress
    )


def killed_at(step: int) -> Progress:
    def progress(done: int, total: int, text: str) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("made", [distance, by_task])
def test_a_killed_training_goes_on_to_the_same_bytes(tmp_path: Path, made: Callable[[], Fit]) -> None:
    fit = made()
    whole, resumed = tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    save_projector(fit(None, None), whole)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, killed_at(35))
    steps: list[int] = []
    found = fit(tmp_path, lambda done, total, text: steps.append(done))
    save_projector(found, resumed)
    assert steps == list(range(21, 61))  # the state is of the evaluation after 20 steps
    assert resumed.read_bytes() == whole.read_bytes()
    assert [one[0] for one in found.provenance["training"]["history"]] == [0, 20, 40, 60]


def test_a_state_of_something_else_or_a_damaged_one_is_not_used(tmp_path: Path) -> None:
    sources, targets = pairs(7)
    fit = distance()
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, killed_at(35))
    steps: list[int] = []
    fit_distance(sources, targets, SETTINGS, folder=tmp_path, progress=lambda done, _, __: steps.append(done))
    assert steps == list(range(1, 61))
    (tmp_path / STATE).write_bytes(b"no state")
    steps.clear()
    fit(tmp_path, lambda done, _, __: steps.append(done))
    assert steps == list(range(1, 61))


def test_writing_states_takes_a_small_share_of_the_time(tmp_path: Path) -> None:
    """A write of one second is followed by REST seconds without one."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.5
        return now

    layer = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.AdamW([layer])
    file = StateFile(tmp_path / STATE, "x", clock)
    assert file.save(Standing(1), {"a": layer}, optimizer)
    assert not file.save(Standing(2), {"a": layer}, optimizer)
    now += REST
    assert file.save(Standing(3), {"a": layer}, optimizer)
    assert file.load({"a": layer}, optimizer).step == 3


def test_no_best_yet_and_losses_that_were_none_are_read_back(tmp_path: Path) -> None:
    layer = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.AdamW([layer])
    file = StateFile(tmp_path / STATE, "x")
    file.save(Standing(20, misses=2, history=[[0, -math.nan, math.nan], [20, 0.1, math.inf]]), {"a": layer},
              optimizer)  # fmt: skip
    found = file.load({"a": layer}, optimizer)
    assert (found.best, found.kept, found.misses) == ((-math.inf, -math.inf), {}, 2)
    assert math.isnan(found.history[0][1])
    assert found.history[1][:2] == [20, 0.1]
    assert store.load_arrays(tmp_path / STATE)[1]["history"][1] == [20, 0.1, None]
