"""Fitting projectors between tiny backbones of different width, and the report on them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from transferscope import projection
from transferscope.attachment import attach, initial_rows
from transferscope.encoding import encode
from transferscope.errors import InputError, PromptError, TaskError, TemplateError
from transferscope.evaluation import evaluate
from transferscope.models import Backbone, wrap
from transferscope.projection import fit_distance, fit_task, split_tasks
from transferscope.projection_report import evaluate_projection
from transferscope.projector import Projector, ProjectorSettings
from transferscope.prompts import SoftPrompt
from transferscope.readouts import readout_for
from transferscope.settings import TuningSettings
from transferscope.tasks import Example, Task
from transferscope.tuning import tune
from transferscope.zero_shot import ZeroShot

WORDS = {"films": ("bad", "good"), "food": ("terrible", "great"), "pets": ("no", "yes")}
Many = dict[str, list[SoftPrompt]]


def prompt(rows: np.ndarray, task: str, seed: int = 0, **provenance: Any) -> SoftPrompt:
    return SoftPrompt(rows.astype(np.float32), task, seed, "mask-first", None, provenance)


def pairs(
    tasks: int, *, rows: int = 2, widths: tuple[int, int] = (3, 4), seeds: int = 1, flatten: bool = True
) -> tuple[Many, Many]:
    """Source prompts, and targets that are an exact affine map of them."""
    rng = np.random.default_rng(3)
    inputs, outputs = (rows * w if flatten else w for w in widths)
    matrix, bias = rng.normal(size=(inputs, outputs)), 5 * rng.normal(size=outputs)
    sources: Many = {}
    targets: Many = {}
    for number in range(tasks):
        name = f"t{number:02}"
        for seed in range(seeds):
            x = rng.normal(size=(rows, widths[0]))
            y = (x.reshape(-1 if not flatten else 1, inputs) @ matrix + bias).reshape(rows, widths[1])
            sources.setdefault(name, []).append(prompt(x, name, seed, model="a"))
            targets.setdefault(name, []).append(prompt(y, name, seed, model="b"))
    return sources, targets


def first(prompts: Many, count: int) -> Many:
    return {name: prompts[name] for name in sorted(prompts)[:count]}


def distance(projector: Projector, sources: Many, targets: Many) -> float:
    missed = [
        projector.project(a).rows - b.rows
        for name in sources
        for a, b in zip(sources[name], targets[name], strict=True)
    ]
    return float(np.mean(np.square(missed)))


def of_mean(fitted: Many, targets: Many) -> float:
    """The distance of the mean target prompt of the training tasks."""
    mean = np.mean([p.rows for several in fitted.values() for p in several], axis=0)
    return float(np.mean([np.square(p.rows - mean) for several in targets.values() for p in several]))


@pytest.mark.parametrize("flatten", [True, False])
def test_ridge_finds_a_linear_map_and_projects_held_out_tasks_by_it(flatten: bool) -> None:
    sources, targets = pairs(14, flatten=flatten)
    settings = ProjectorSettings(kind="linear", flatten=flatten)
    projector = fit_distance(first(sources, 10), first(targets, 10), settings)
    for name in sorted(sources)[10:]:
        np.testing.assert_allclose(
            projector.project(sources[name][0]).rows, targets[name][0].rows, rtol=0, atol=1e-4
        )
    assert projector.trained_on == tuple(sorted(sources)[:10])
    assert projector.provenance["training"]["left_out_distance"] < 1e-8


def test_wide_prompts_are_kept_as_factors() -> None:
    sources, targets = pairs(4, rows=5, widths=(6, 7))
    projector = fit_distance(sources, targets, ProjectorSettings(kind="linear"))
    assert projector.arrays["down"].shape == (30, 3)
    assert projector.arrays["up"].shape == (3, 35)


@pytest.mark.parametrize("layer_norm", [True, False])
def test_two_layers_do_better_than_the_mean_on_held_out_tasks(layer_norm: bool) -> None:
    sources, targets = pairs(60, flatten=False)
    settings = ProjectorSettings(
        flatten=False, hidden=32, steps=400, learning_rate=0.02, layer_norm=layer_norm
    )
    fitted = first(targets, 50)
    projector = fit_distance(first(sources, 50), fitted, settings)
    rest = {name: sources[name] for name in sorted(sources)[50:]}
    own = {name: targets[name] for name in rest}
    share = 0.8 if layer_norm else 0.2  # a normalised row cannot have the length of every target
    assert distance(projector, rest, own) < share * of_mean(fitted, own)
    training = projector.provenance["training"]
    assert training["held_out_tasks"] == 10
    assert training["loss"] == min(loss for _, _, loss in training["history"])
    assert training["loss"] < training["history"][0][2]


def test_few_tasks_choose_the_checkpoint_on_the_pairs_themselves() -> None:
    sources, targets = pairs(4)
    projector = fit_distance(sources, targets, ProjectorSettings(hidden=8, steps=60, learning_rate=0.02))
    assert projector.provenance["training"]["held_out_tasks"] == 0
    assert distance(projector, sources, targets) < of_mean(targets, targets)


def test_training_stops_when_nothing_gets_better() -> None:
    sources, targets = pairs(6)
    rng = np.random.default_rng(0)
    targets = {n: [replace(p, rows=rng.normal(size=(2, 4)).astype("f4"))] for n, (p,) in targets.items()}
    settings = ProjectorSettings(hidden=8, steps=2000, evaluate_every=5, patience=3, learning_rate=0.05)
    training = fit_distance(sources, targets, settings).provenance["training"]
    assert training["steps"] == training["best_step"] + 15


def test_every_seed_of_a_source_is_paired_with_every_seed_of_its_target() -> None:
    sources, targets = pairs(5, seeds=3)
    sources = {name: several[:1] for name, several in sources.items()}
    projector = fit_distance(sources, targets, ProjectorSettings(kind="linear"))
    for name, several in targets.items():  # five points in six dimensions: the mean of the seeds is reached
        np.testing.assert_allclose(
            projector.project(sources[name][0]).rows, np.mean([p.rows for p in several], axis=0), atol=1e-3
        )
    assert len(projector.provenance["source_prompts"]) == 5
    assert len(projector.provenance["target_prompts"]) == 15


@pytest.mark.parametrize("kind", ["linear", "two-layer"])
def test_one_pair_gives_its_target(kind: Any) -> None:
    sources, targets = pairs(1)
    settings = ProjectorSettings(kind=kind, layer_norm=False, hidden=4, steps=3)
    projector = fit_distance(sources, targets, settings)
    found = projector.project(prompt(np.ones((2, 3)), "new")).rows
    if kind == "linear":
        np.testing.assert_allclose(found, targets["t00"][0].rows, rtol=1e-6)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("kind", ["linear", "two-layer"])
def test_the_same_seed_gives_the_same_projector(kind: Any) -> None:
    sources, targets = pairs(6)
    settings = ProjectorSettings(kind=kind, hidden=8, steps=20)
    one, same = (fit_distance(sources, targets, settings) for _ in range(2))
    assert one.fingerprint == same.fingerprint
    if kind == "two-layer":
        other = fit_distance(sources, targets, settings.model_copy(update={"seed": 1}))
        assert other.arrays["weight1"].tobytes() != one.arrays["weight1"].tobytes()


def test_prompts_that_cannot_be_paired_are_refused() -> None:
    sources, targets = pairs(3)
    linear = ProjectorSettings(kind="linear")

    def refused(complaint: str, a: Any, b: Any, **settings: Any) -> None:
        with pytest.raises(PromptError, match=complaint):
            fit_distance(a, b, ProjectorSettings(kind="linear", **settings))

    refused("at least one task", {}, {})
    refused("'t02' is missing on the target side", sources, first(targets, 2))
    refused("'t02' is missing on the source side", first(sources, 2), targets)
    refused("'t00' has no source prompt", {**sources, "t00": []}, targets)
    refused("'t00' has no target prompt", sources, {**targets, "t00": []})
    wide = {**sources, "t00": [prompt(np.ones((2, 9)), "t00")]}
    refused(r"one shape .* \(2, 9\) \(t00\)", wide, targets)
    mixed = {**sources, "t00": [prompt(np.ones((2, 3)), "t00", model="c")]}
    refused("several backbones: a, c", mixed, targets)
    other = {**targets, "t00": [replace(targets["t00"][0], template="prefix")]}
    refused("several templates", sources, other)
    assert fit_distance(sources, other, linear, template="prefix").template == "prefix"
    longer = pairs(3, rows=3)[0]
    refused("use flatten", longer, targets, flatten=False)
    assert fit_distance(longer, targets, linear).project(longer["t00"][0]).rows.shape == (2, 4)


@pytest.mark.parametrize(("count", "held"), [(1, 0), (2, 0), (3, 1), (7, 1), (8, 2), (13, 3)])
def test_one_task_in_four_is_held_out(count: int, held: int) -> None:
    names = [f"t{number}" for number in range(count)]
    trained, rest = split_tasks(names, seed=2)
    assert len(rest) == held
    assert sorted(trained + rest) == sorted(names)
    assert split_tasks(names[::-1], seed=2) == (trained, rest)


def test_the_seed_draws_who_is_held_out() -> None:
    names = [f"t{number}" for number in range(8)]
    assert len({split_tasks(names, seed)[1] for seed in range(5)}) > 1


# --- through a model -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return wrap(tiny.model("roberta", hidden_size=24), tiny.tokenizer("roberta"), name="tiny-b")


@pytest.fixture(scope="module")
def small() -> Backbone:
    return wrap(tiny.model("bert"), tiny.tokenizer("bert"), name="tiny-a")


def task(name: str, size: int = 32) -> Task:
    rng = random.Random(name)

    def split(count: int) -> tuple[Example, ...]:
        lines = []
        for i in range(count):
            word = rng.choice(["hates", "small", "old"] if i % 2 == 0 else ["likes", "big", "new"])
            lines.append(Example(f"the {name} {word} {rng.choice(['a', 'an', 'it'])}", None, i % 2))
        return tuple(lines)

    return Task(name, split(size), split(16), ("no", "yes"), WORDS[name])


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    return {name: task(name) for name in WORDS}


@pytest.fixture(scope="module")
def sources(small: Backbone) -> Many:
    """Prompts of the small backbone, two seeds a task: embeddings of its words."""
    about = {"model": small.name, "model_fingerprint": small.fingerprint}
    return {
        name: [
            prompt(initial_rows(small, 3, seed=10 * i + seed).numpy(), name, seed, **about)
            for seed in range(2)
        ]
        for i, name in enumerate(WORDS)
    }


QUICK = ProjectorSettings(
    hidden=16, steps=60, batch_size=16, evaluate_every=20, learning_rate=0.02, validation=0.25
)


def train_loss(backbone: Backbone, projector: Projector, task: Task, source: SoftPrompt) -> float:
    attached = attach(backbone, projector.project(source))
    data = encode(backbone, task.train, prompt_rows=attached.rows)
    return evaluate(attached, readout_for(backbone, task), data).loss


@pytest.mark.parametrize("options", [{}, {"flatten": False}, {"kind": "linear"}])
def test_task_tuning_lowers_the_training_tasks_loss(
    backbone: Backbone, tasks: dict[str, Task], sources: Many, options: dict[str, Any]
) -> None:
    settings = QUICK.model_copy(update=options)
    chosen = {name: tasks[name] for name in ("films", "food")}
    given = {name: sources[name] for name in chosen}
    projector = fit_task(backbone, given, chosen, settings)
    start = fit_task(
        backbone, given, chosen, settings.model_copy(update={"steps": 1, "learning_rate": 1e-12})
    )
    assert (projector.source.width, projector.target.width) == (16, 24)
    for name, several in given.items():
        for source in several:
            assert train_loss(backbone, projector, tasks[name], source) < train_loss(
                backbone, start, tasks[name], source
            )
    assert projector.objective == "task"
    assert projector.template == "mask-first"
    history = projector.provenance["training"]["history"]
    assert [step for step, _, _ in history] == [0, 20, 40, 60]
    kept = max((value, -loss) for _, value, loss in history)
    training = projector.provenance["training"]
    assert (training["value"], -training["loss"]) == kept


def test_task_tuning_moves_the_projector_and_not_the_model(
    backbone: Backbone, tasks: dict[str, Task], sources: Many, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = backbone.fingerprint
    seen: dict[str, torch.Tensor] = {}
    update = projection.Descent._update

    def watched(self: Any, loss: torch.Tensor, step: int) -> None:
        update(self, loss, step)
        seen.update({name: layer.grad.clone() for name, layer in self.layers.items()})

    monkeypatch.setattr(projection.Descent, "_update", watched)
    chosen = {"films": tasks["films"]}
    fit_task(backbone, {"films": sources["films"]}, chosen, QUICK.model_copy(update={"steps": 1}))
    assert set(seen) == {"weight1", "bias1", "weight2", "bias2", "gain", "shift"}
    assert all(float(grad.abs().sum()) > 0 for grad in seen.values())
    assert all(parameter.grad is None for parameter in backbone.model.parameters())
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert backbone.fingerprint == before


def test_task_tuning_is_a_function_of_its_seed(
    backbone: Backbone, tasks: dict[str, Task], sources: Many
) -> None:
    settings = QUICK.model_copy(update={"steps": 6})

    def fitted(seed: int, names: tuple[str, ...] = ("films", "pets")) -> str:
        return fit_task(
            backbone,
            {name: sources[name] for name in names},
            {name: tasks[name] for name in names},
            settings.model_copy(update={"seed": seed}),
        ).fingerprint

    one = fitted(0)
    assert fitted(0) == one
    assert fitted(0, ("pets", "films")) == one
    assert fitted(1) != one


def test_dev_is_not_seen_by_task_tuning(backbone: Backbone, tasks: dict[str, Task], sources: Many) -> None:
    settings = QUICK.model_copy(update={"steps": 4, "evaluate_every": 2})
    flipped = tuple(replace(example, label=1 - example.label) for example in tasks["films"].dev)
    found = [
        fit_task(backbone, {"films": sources["films"]}, {"films": one}, settings).provenance["training"]
        for one in (tasks["films"], replace(tasks["films"], dev=flipped))
    ]
    assert found[0] == found[1]


def test_the_projected_prompt_may_have_other_rows(
    backbone: Backbone, tasks: dict[str, Task], sources: Many
) -> None:
    given, chosen = {"films": sources["films"]}, {"films": tasks["films"]}
    settings = QUICK.model_copy(update={"steps": 1})
    projector = fit_task(backbone, given, chosen, settings, rows=5, template="prefix")
    found = projector.project(sources["films"][0])
    assert found.rows.shape == (5, 24)
    assert found.template == "prefix"
    with pytest.raises(PromptError, match="by token, 3 rows stay 3 rows"):
        fit_task(backbone, given, chosen, settings.model_copy(update={"flatten": False}), rows=5)


def test_task_tuning_refuses_what_it_cannot_train_on(
    backbone: Backbone, tasks: dict[str, Task], sources: Many
) -> None:
    with pytest.raises(PromptError, match="'food' is missing on the target side"):
        fit_task(backbone, first(sources, 2), {"films": tasks["films"]}, QUICK)
    silent = {"films": replace(tasks["films"], words=None)}
    with pytest.raises(TemplateError, match="no label words"):
        fit_task(backbone, {"films": sources["films"]}, silent, QUICK)
    wild = {"films": [replace(sources["films"][0], rows=np.full((3, 16), np.nan, np.float32))]}
    with pytest.raises(InputError, match="diverged"):
        fit_task(backbone, wild, {"films": tasks["films"]}, QUICK.model_copy(update={"steps": 1}))


def test_a_projected_prompt_is_a_start_for_tuning(
    backbone: Backbone, tasks: dict[str, Task], sources: Many
) -> None:
    given = {"films": sources["films"]}
    projector = fit_task(backbone, given, {"films": tasks["films"]}, QUICK.model_copy(update={"steps": 1}))
    start = projector.project(sources["pets"][0])
    settings = TuningSettings(steps=2, evaluate_every=2, batch_size=4, learning_rate=1e-9)
    tuned = tune(backbone, tasks["pets"], settings=settings, init_from=start)
    np.testing.assert_allclose(tuned.rows, start.rows, atol=1e-6)


# --- the report ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def projector(backbone: Backbone, tasks: dict[str, Task], sources: Many) -> Projector:
    chosen = {name: tasks[name] for name in ("films", "food")}
    return fit_task(backbone, first(sources, 2), chosen, QUICK.model_copy(update={"steps": 20}))


def score(backbone: Backbone, prompt: SoftPrompt, task: Task) -> float:
    attached = attach(backbone, prompt)
    data = encode(backbone, task.dev, prompt_rows=attached.rows)
    return evaluate(attached, readout_for(backbone, task), data, metric=task.metric).value


def test_the_report_keeps_held_out_tasks_apart(
    backbone: Backbone, tasks: dict[str, Task], sources: Many, projector: Projector
) -> None:
    own = {
        name: [prompt(initial_rows(backbone, 4, seed=seed).numpy(), name, seed) for seed in (0, 1)]
        for name in ("films", "pets")
    }
    report = evaluate_projection(backbone, projector, sources, tasks, own=own, random_draws=2)
    assert [(row.task, row.held_out) for row in report.tasks] == [
        ("films", False),
        ("food", False),
        ("pets", True),
    ]
    for row in report.tasks:
        expected = [score(backbone, projector.project(p), tasks[row.task]) for p in sources[row.task]]
        assert row.values == pytest.approx(expected)
        assert row.value == pytest.approx(np.mean(expected))
        assert row.seeds == (0, 1)
        assert row.majority == 0.5
        drawn = [
            prompt(initial_rows(backbone, 3, init="random", seed=draw).numpy(), row.task) for draw in (0, 1)
        ]
        assert row.random == pytest.approx(np.mean([score(backbone, p, tasks[row.task]) for p in drawn]))
        nothing = prompt(np.zeros((0, 24)), row.task)
        assert row.none == score(backbone, nothing, tasks[row.task])
        assert row.projected_spread.values == row.values
        low, high = row.projected_spread.low, row.projected_spread.high
        assert low is not None
        assert high is not None
        assert low <= row.value <= high
        assert row.random_spread.values == tuple(score(backbone, p, tasks[row.task]) for p in drawn)
        if row.task in own:
            its_own = np.mean([score(backbone, p, tasks[row.task]) for p in own[row.task]])
            assert row.own == pytest.approx(its_own)
            assert row.relative == pytest.approx(row.value / its_own)
    films, food, pets = report.tasks
    assert food.own is None
    assert (food.own_spread.values, food.own_spread.low) == ((), None)
    assert food.relative is None
    assert report.trained is not None
    assert report.held_out is not None
    assert (report.trained.tasks, report.held_out.tasks) == (2, 1)
    assert report.trained.value == pytest.approx((films.value + food.value) / 2)
    assert report.trained.relative == films.relative
    assert report.held_out.value == pets.value
    assert report.held_out.relative == pets.relative
    assert (report.source_model, report.target_model) == ("tiny-a", "tiny-b")
    assert report.projector == projector.fingerprint


def test_the_report_says_what_it_does_not_know(
    backbone: Backbone, tasks: dict[str, Task], sources: Many, projector: Projector
) -> None:
    chosen = {"films": replace(tasks["films"], metric="macro_f1"), "food": tasks["food"]}
    report = evaluate_projection(backbone, projector, sources, chosen)
    assert report.held_out is None
    assert any("no task was held out" in note for note in report.notes)
    assert any("different metrics" in note for note in report.notes)
    assert report.tasks[0].majority == pytest.approx(1 / 3)  # F1 2/3 of one class, 0 of the other


def test_a_prompt_no_better_than_chance_is_named(
    backbone: Backbone, tasks: dict[str, Task], sources: Many, projector: Projector
) -> None:
    one_class = replace(
        tasks["films"], dev=tuple(replace(example, label=0) for example in tasks["films"].dev)
    )
    report = evaluate_projection(backbone, projector, sources, {"films": one_class})
    assert report.tasks[0].majority == 1.0
    assert any("no better than a random prompt or the majority class: films" in n for n in report.notes)


def test_what_was_measured_is_not_measured_again(
    backbone: Backbone,
    tasks: dict[str, Task],
    sources: Many,
    projector: Projector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Kept(dict[str, float]):
        def add(self, key: str, value: float) -> None:
            self[key] = value

    kept, chosen = Kept(), {"films": tasks["films"], "pets": tasks["pets"]}
    report = evaluate_projection(backbone, projector, sources, chosen, kept=kept)
    assert len(kept) == 2 * (2 + 3 + 1)  # projected, random, none
    calls: list[str] = []
    score_of = ZeroShot.score

    def counted(self: ZeroShot, one: SoftPrompt) -> Any:
        calls.append(self.target.name)
        return score_of(self, one)

    monkeypatch.setattr(ZeroShot, "score", counted)
    del kept[list(kept)[-1]]
    assert evaluate_projection(backbone, projector, sources, chosen, kept=kept) == report
    assert calls == ["pets"]


def test_the_report_refuses_a_task_without_a_prompt(
    backbone: Backbone, tasks: dict[str, Task], sources: Many, projector: Projector
) -> None:
    with pytest.raises(PromptError, match="'pets' has no prompt to project"):
        evaluate_projection(backbone, projector, first(sources, 2), tasks)
    with pytest.raises(InputError, match="random_draws"):
        evaluate_projection(backbone, projector, sources, tasks, random_draws=0)


def test_a_projector_of_another_backbone_is_refused(
    small: Backbone, tasks: dict[str, Task], sources: Many, projector: Projector
) -> None:
    with pytest.raises(PromptError, match="do not fit 'tiny-a'"):
        evaluate_projection(small, projector, sources, {"films": tasks["films"]})


def test_a_task_needs_room_beside_the_prompt(backbone: Backbone, tasks: dict[str, Task]) -> None:
    long = {"films": [prompt(np.ones((70, 16)), "films")]}
    with pytest.raises(TaskError, match="no room for text"):
        fit_task(backbone, long, {"films": tasks["films"]}, QUICK)
