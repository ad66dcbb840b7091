"""Tuned together: the prompts of separate runs to rounding, each trial by itself, states in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from transferscope import tuning_together
from transferscope.digests import weights_digest
from transferscope.errors import InputError, PromptError
from transferscope.models import Backbone, wrap
from transferscope.prompts import SoftPrompt
from transferscope.settings import TuningSettings
from transferscope.tasks import Example, Task
from transferscope.tuning import tune
from transferscope.tuning_run import STATE
from transferscope.tuning_together import tune_together

FILL = ["movie", "film", "plot", "story", "food", "the", "a", "was", "is", "very", "quite", "so", "and", "it"]
SEEDS = (0, 3, 4)
QUICK: dict[str, Any] = {"rows": 3, "steps": 8, "batch_size": 8, "evaluate_every": 3, "learning_rate": 0.01}


@pytest.fixture(autouse=True)
def _in_common_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU."""
    monkeypatch.setattr(tuning_together, "pools", lambda backbone: True)


def split(count: int, seed: int, *, answers: bool = False) -> tuple[Example, ...]:
    """Three to nine words of no meaning, and one that tells the class."""
    rng, found = np.random.default_rng(seed), []
    for i in range(count):
        words = [*map(str, rng.choice(FILL, rng.integers(3, 10))), ("likes", "hates")[i % 2]]
        answer = ("good movie", "bad")[i % 2]
        found.append(Example(" ".join(words), None, -1 if answers else i % 2, (answer,) if answers else ()))
    return tuple(found)


TASK = Task("mood", split(42, 0), split(20, 1), ("pos", "neg"), ("good", "bad"))
WRITTEN = Task(
    "say", split(42, 0, answers=True), split(12, 1, answers=True), (), metric="exact_match", max_new_tokens=3
)


def small(model_type: str = "bert", **options: Any) -> Backbone:
    tokenizer = tiny.tokenizer(tiny.tokenizer_kind(model_type))
    return wrap(tiny.model(model_type, **options), tokenizer, model_type)


def quick(**changes: Any) -> TuningSettings:
    return TuningSettings(**(QUICK | changes))


def apart(backbone: Backbone, task: Task, **options: Any) -> list[SoftPrompt]:
    return [tune(backbone, task, seed=seed, **options) for seed in SEEDS]


def agree(several: list[SoftPrompt], alone: list[SoftPrompt], tolerance: float = 2e-5) -> None:
    """Rows, heads, curves and scores are those of the separate runs, up to rounding."""
    assert [p.seed for p in several] == [p.seed for p in alone]
    for one, other in zip(several, alone, strict=True):
        np.testing.assert_allclose(one.rows, other.rows, atol=tolerance, rtol=0)
        assert (one.head is None) == (other.head is None)
        if one.head is not None and other.head is not None:
            np.testing.assert_allclose(one.head.weight, other.head.weight, atol=tolerance, rtol=0)
            np.testing.assert_allclose(one.head.bias, other.head.bias, atol=tolerance, rtol=0)
        for key in ("steps", "values", "losses"):
            assert one.provenance["curve"][key] == pytest.approx(other.provenance["curve"][key], abs=1e-4)
        for key in ("validation", "dev", "dev_loss", "majority"):
            assert one.provenance["scores"][key] == pytest.approx(other.provenance["scores"][key], abs=1e-4)
        assert one.provenance["best_step"] == other.provenance["best_step"]
        assert one.provenance["steps"] == other.provenance["steps"]
        changed = {"scores", "curve", "tuned_together"}
        assert {k: v for k, v in one.provenance.items() if k not in changed} == {
            k: v for k, v in other.provenance.items() if k not in changed
        }


@pytest.mark.parametrize(
    ("model_type", "template", "head"),
    [
        ("bert", "mask-first", "verbalizer"),
        ("bert", "prefix", "classifier"),
        ("roberta", "mask-first", "classifier"),
        ("gpt2", "suffix", "verbalizer"),
        ("llama", "prefix", "verbalizer"),
        ("gpt2", "suffix", "classifier"),
        ("t5", "prefix", "verbalizer"),
        ("t5-gated", "prefix", "classifier"),
        ("bart", "prefix", "verbalizer"),
        ("bloom", "prefix", "verbalizer"),
    ],
)
def test_they_are_the_prompts_of_separate_runs(model_type: str, template: str, head: str) -> None:
    backbone = small(model_type)
    options: dict[str, Any] = {"settings": quick(), "template": template, "head": head}
    agree(tune_together(backbone, TASK, seeds=SEEDS, **options), apart(backbone, TASK, **options))


@pytest.mark.parametrize(
    ("model_type", "template"),
    [("t5", "prefix"), ("llama", "prefix"), ("gpt2", "suffix"), ("bart", "prefix")],
)
def test_generation_is_tuned_by_each_trial_s_own_tokens(model_type: str, template: str) -> None:
    backbone = small(model_type)
    options: dict[str, Any] = {"settings": quick(), "template": template}
    agree(tune_together(backbone, WRITTEN, seeds=SEEDS, **options), apart(backbone, WRITTEN, **options))


@pytest.mark.parametrize(
    "changes", [{"accumulate": 2}, {"weight_decay": 0.1, "clip": 0.01}, {"batch_size": 5}]
)
def test_they_are_so_under_other_settings(changes: dict[str, Any]) -> None:
    backbone, settings = small(), quick(**changes)
    agree(
        tune_together(backbone, TASK, seeds=SEEDS, settings=settings),
        apart(backbone, TASK, settings=settings),
    )


def test_one_piece_within_the_token_budget_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    cut = tuning_together.cut_by_budget

    def counting(*args: Any, **options: Any) -> list[np.ndarray]:
        pieces = cut(*args, **options)
        passes.append(len(pieces))
        return pieces

    monkeypatch.setattr(tuning_together, "cut_by_budget", counting)
    backbone = small()
    agree(
        tune_together(backbone, TASK, seeds=SEEDS, settings=quick()), apart(backbone, TASK, settings=quick())
    )
    assert passes == [1] * 8


@pytest.mark.parametrize("head", ["verbalizer", "classifier"])
def test_on_a_cpu_the_updates_are_those_of_separate_runs_to_the_bit(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    backbone = small()
    options: dict[str, Any] = {"settings": quick(), "head": head}
    together, alone = tune_together(backbone, TASK, seeds=SEEDS, **options), apart(backbone, TASK, **options)
    agree(together, alone)
    for one, other in zip(together, alone, strict=True):
        assert one.rows.tobytes() == other.rows.tobytes()


def test_each_starts_from_the_prompt_of_its_seed() -> None:
    backbone, settings = small(), quick(steps=4)
    sources = apart(backbone, replace(TASK, train=split(42, 9)), settings=quick(rows=5), head="classifier")
    together = tune_together(
        backbone, TASK, seeds=SEEDS, settings=settings, init_from=sources, head="classifier"
    )
    alone = [
        tune(backbone, TASK, seed=seed, settings=settings, init_from=source, head="classifier")
        for seed, source in zip(SEEDS, sources, strict=True)
    ]
    agree(together, alone)
    assert [p.provenance["curve"]["steps"] for p in together] == [[0, 3, 4]] * 3
    assert {p.rows.shape for p in together} == {(5, 16)}


def test_a_trial_without_patience_leaves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = quick(steps=30, learning_rate=0.5, patience=2)
    live: list[tuple[int, ...]] = []
    step = tuning_together.step_together

    def counting(runs: Any) -> None:
        live.append(tuple(run.seed for run in runs))
        step(runs)

    monkeypatch.setattr(tuning_together, "step_together", counting)
    prompts = tune_together(small(), TASK, seeds=SEEDS, settings=settings)
    ended = [prompt.provenance["steps"] for prompt in prompts]
    assert len(set(ended)) > 1
    assert [sum(seed in now for now in live) for seed in SEEDS] == ended
    assert ended == [p.provenance["steps"] for p in apart(small(), TASK, settings=settings)]


def test_a_prompt_that_is_not_finite_spoils_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begin = tuning_together.begin

    def broken(*args: Any, **options: Any) -> Any:
        begun = begin(*args, **options)
        if begun.run.seed == SEEDS[1]:
            begun.run.prompt.data.fill_(torch.nan)
        return begun

    monkeypatch.setattr(tuning_together, "begin", broken)
    backbone, kept = small(), list[SoftPrompt]()
    folders = [tmp_path / str(seed) for seed in SEEDS]
    with pytest.raises(InputError, match="'mood' diverged"):
        tune_together(backbone, TASK, seeds=SEEDS, settings=quick(), keep=kept.append, folders=folders)
    alone = apart(backbone, TASK, settings=quick())
    agree(kept, [alone[0], alone[2]])
    assert list(tmp_path.rglob(STATE)) == []


def test_the_backbone_stays_as_it_was() -> None:
    backbone = small()
    before = weights_digest(backbone.model)
    tune_together(backbone, TASK, seeds=SEEDS, settings=quick(), head="classifier")
    assert weights_digest(backbone.model) == before
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())


def test_the_same_seeds_give_the_same_bytes_whatever_stands_beside() -> None:
    backbone = small()
    one, two = (tune_together(backbone, TASK, seeds=SEEDS, settings=quick()) for _ in range(2))
    assert [p.rows.tobytes() for p in one] == [p.rows.tobytes() for p in two]
    assert one[0].provenance["tuned_together"] == list(SEEDS)
    agree(tune_together(backbone, TASK, seeds=SEEDS[::-1], settings=quick())[::-1], one)


@pytest.mark.gpu
def test_on_a_gpu_they_are_the_prompts_of_separate_runs() -> None:
    model = tiny.model("bert").to("cuda")
    backbone, settings = wrap(model, tiny.tokenizer("bert"), "bert"), quick()
    agree(
        tune_together(backbone, TASK, seeds=SEEDS, settings=settings, head="classifier"),
        apart(backbone, TASK, settings=settings, head="classifier"),
        tolerance=1e-4,
    )


# Kills and states.


class Stop(Exception):
    """Raised in the middle of a tuning."""


def stop_at(step: int) -> Any:
    def progress(done: int, total: int, what: str) -> None:
        if done >= step:
            raise Stop

    return progress


def test_what_was_stopped_together_goes_on_together_byte_for_byte(tmp_path: Path) -> None:
    backbone, folders = small(), [tmp_path / str(seed) for seed in SEEDS]
    whole = tune_together(backbone, TASK, seeds=SEEDS, settings=quick())
    options: dict[str, Any] = {"seeds": SEEDS, "settings": quick(), "folders": folders}
    with pytest.raises(Stop):
        tune_together(backbone, TASK, progress=stop_at(5 * len(SEEDS)), **options)
    assert sorted(path.parent.name for path in tmp_path.rglob(STATE)) == ["0", "3", "4"]
    seen: list[tuple[int, int, str]] = []
    again = tune_together(backbone, TASK, progress=lambda *what: seen.append(what), **options)
    assert [p.rows.tobytes() for p in again] == [p.rows.tobytes() for p in whole]
    assert [p.provenance for p in again] == [p.provenance for p in whole]
    assert [what[:2] for what in seen] == [(3 * step, 24) for step in (4, 5, 6, 7, 8)]
    assert seen[-1][2].startswith("mood seeds 0, 3, 4 accuracy ")
    assert list(tmp_path.rglob(STATE)) == []


def test_trials_at_different_steps_go_on_together_or_alone(tmp_path: Path) -> None:
    backbone, folders = small(), [tmp_path / str(seed) for seed in SEEDS]
    alone = apart(backbone, TASK, settings=quick())
    # The first is not begun, the second at step 3, the third at step 6.
    for seed, folder, step in zip(SEEDS[1:], folders[1:], (4, 7), strict=True):
        with pytest.raises(Stop):
            tune(backbone, TASK, settings=quick(), seed=seed, folder=folder, progress=stop_at(step))
    options: dict[str, Any] = {"seeds": SEEDS, "settings": quick(), "folders": folders}
    first: list[int] = []
    with pytest.raises(Stop):
        tune_together(
            backbone,
            TASK,
            progress=lambda done, *_: (first.append(done), stop_at(17)(done, 0, "")),
            **options,
        )
    assert first == [12, 15, 17]  # steps 0 + 3 + 6, and one of each that has not ended
    steps: list[int] = []
    single = tune(
        backbone,
        TASK,
        settings=quick(),
        seed=3,
        folder=folders[1],
        progress=lambda done, *_: steps.append(done),
    )
    assert steps == [7, 8]
    agree([replace(single, provenance=alone[1].provenance)], [alone[1]])
    agree(tune_together(backbone, TASK, **options), alone)


# What is refused.


def test_what_cannot_be_tuned_together_is_refused() -> None:
    backbone = small()
    with pytest.raises(InputError, match=r"one seed each, all different; found \[1, 1\]"):
        tune_together(backbone, TASK, seeds=[1, 1])
    with pytest.raises(InputError, match=r"one seed each, all different; found \[\]"):
        tune_together(backbone, TASK, seeds=[])
    starts = [SoftPrompt(np.zeros((rows, 16), np.float32), "x", 0, "mask-first") for rows in (2, 3)]
    with pytest.raises(PromptError, match=r"have 2, 3 rows.*tune those of another number apart"):
        tune_together(backbone, TASK, seeds=[0, 1], init_from=starts)
    with pytest.raises(InputError, match=r"3 seeds need .* found 2 and 3"):
        tune_together(backbone, TASK, seeds=SEEDS, init_from=starts)
