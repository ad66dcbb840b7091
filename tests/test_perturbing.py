"""The perturbation stage: values by hand, forward passes counted, stopped and gone on with, read for free."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_benchmarks import load
from tests.test_interventions import columns
from tests.test_pipeline import contents, write_study
from transferscope import perturbation, perturbing, store, workspace
from transferscope.attachment import attach, verbalizer
from transferscope.dev_halves import halves
from transferscope.encoding import encode
from transferscope.errors import InputError, StoreError, StudyError, TaskError
from transferscope.evaluation import evaluate
from transferscope.perturbation import Subject
from transferscope.perturbation_curves import PerturbationReport
from transferscope.perturbation_plan import RANDOM, SKILL, PerturbationSettings, Ranking, plan
from transferscope.perturbing import perturb
from transferscope.pipeline import Pipeline, open_study
from transferscope.readouts import head_words
from transferscope.signatures import extract, load_signature, save_signature

FEW = PerturbationSettings(rates=(0.2, 0.5), draws=2, sd=2.0)


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose signatures are there."""
    folder = write_study(tmp_path_factory.mktemp("whole") / "study")
    open_study(folder).extract()
    return folder


@pytest.fixture
def study(extracted: Path, tmp_path: Path) -> Path:
    shutil.copytree(extracted, tmp_path / "study")
    return tmp_path / "study"


def passes(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each forward pass of the model has, from now on."""
    seen: list[int] = []
    forward = pipeline.backbone.base.forward

    def counting(*args: Any, **options: Any) -> Any:
        seen.append(len(options["inputs_embeds"]))
        return forward(*args, **options)

    monkeypatch.setattr(pipeline.backbone.base, "forward", counting)
    return seen


def plain(report: PerturbationReport) -> str:
    return json.dumps(store.json_ready(report))


def test_zeroed_neurons_give_what_zeroed_weights_give(study: Path) -> None:
    pipeline = open_study(study)
    settings = PerturbationSettings("zero", rates=(0.5,), draws=2, rows="all")
    curves = perturb(pipeline, ["food"], settings).tasks[0]
    ranking = Ranking.of(pipeline.extract(["food"])["food"])
    prompts, task, backbone = pipeline.tune(["food"])["food"], pipeline.task("food"), pipeline.backbone
    data = encode(backbone, task.dev, prompt_rows=4)
    readout = verbalizer(backbone, head_words(backbone, task))
    found: dict[str, list[float]] = {}
    for unit in plan(ranking, prompts, settings, rates=(0.5,)):
        saved = [(columns(d), columns(d).clone()) for _, _, d in backbone.down_projections()]
        for layer, (weight, _) in enumerate(saved):
            weight[:, torch.from_numpy(unit.mask[layer])] = 0.0
        value = evaluate(attach(backbone, prompts[unit.place]), readout, data).value
        found.setdefault(unit.condition, []).append(value)
        for weight, before in saved:
            weight.copy_(before)
    assert {c: len(v) for c, v in found.items()} == {"skill": 2, "random": 4, "bottom": 2}
    for condition, values in found.items():
        assert curves.point(condition, 0.5).mean == pytest.approx(np.mean(values))
    own = [prompt.provenance["scores"]["dev"] for prompt in prompts]
    assert curves.unperturbed == curves.point(RANDOM, 0.0).mean == pytest.approx(np.mean(own))


@pytest.mark.parametrize("rows", ["prompt", "all"])
def test_the_benchmark_runs_each_unit_beside_one_plain_evaluation(rows: str) -> None:
    bench = load("perturbation")
    settings = PerturbationSettings(rows=rows, rates=(0.1, 0.2), draws=2)
    found = bench.compare(bench.backbone_of(None, 1, 32), settings, 20)
    assert found["evaluations"] == 1 + 2 * 2 * 3
    assert found["ratio"] > 0


@pytest.mark.parametrize(
    ("mode", "per_prompt"),
    [("noise", 1 + 10 * 15), ("zero", 1 + 10 * 7)],  # rate 0 once; then draws x conditions, or 5 + 1 + 1
)
def test_eleven_rates_and_five_draws_cost_their_forward_passes(
    study: Path, monkeypatch: pytest.MonkeyPatch, mode: str, per_prompt: int
) -> None:
    pipeline = open_study(study)
    seen, encoded = passes(pipeline, monkeypatch), []
    encode_ = perturbation.encode
    monkeypatch.setattr(perturbation, "encode", lambda *a, **k: encoded.append(a) or encode_(*a, **k))
    # Of 24 neurons a layer 4 to 13: at each rate another set, and no two sets are equal by chance.
    rates = (0.0, *((count + 0.5) / 24 for count in range(4, 14)))
    perturb(pipeline, ["films"], PerturbationSettings(mode, rates=rates))
    assert seen == [20] * (2 * per_prompt)
    assert len(encoded) == 1


def test_a_finished_study_is_read_without_its_model(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = perturb(open_study(study), None, FEW, across=True)
    before = contents(study)
    monkeypatch.setattr(workspace, "load_backbone", lambda *a, **k: pytest.fail("the model was loaded again"))
    second = perturb(open_study(study), None, FEW, across=True)
    assert plain(second) == plain(first)
    assert contents(study) == before


def test_a_study_that_was_stopped_goes_on_where_it_was(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[str] = []
    score = Subject.score

    def failing(self: Subject, unit: Any) -> Any:
        if len(scored) == 7:
            raise KeyboardInterrupt
        scored.append(unit.key)
        return score(self, unit)

    monkeypatch.setattr(Subject, "score", failing)
    with pytest.raises(KeyboardInterrupt):
        perturb(open_study(study), ["films"], FEW)
    first, more = list(scored), []
    monkeypatch.setattr(Subject, "score", lambda self, unit: more.append(unit.key) or score(self, unit))
    whole = perturb(open_study(study), ["films"], FEW)
    assert not set(first) & set(more)
    assert len(first + more) == len(set(first + more)) == 2 * (1 + 2 * 6)
    shutil.rmtree(study / "perturbation")
    assert plain(perturb(open_study(study), ["films"], FEW)) == plain(whole)


def test_units_are_written_while_they_come(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perturbing, "SECONDS", 0.0)
    monkeypatch.setattr(perturbing, "SHARE", float("inf"))
    there: list[int] = []
    score, file = Subject.score, study / "perturbation" / "films" / "zero_all.json"

    def looking(self: Subject, unit: Any) -> Any:
        there.append(len(store.read_json(file)["units"]) if file.is_file() else 0)
        return score(self, unit)

    monkeypatch.setattr(Subject, "score", looking)
    perturb(open_study(study), ["films"], PerturbationSettings("zero", rates=(0.5,), draws=1))
    assert there == list(range(len(there)))
    assert len(there) == 2 * 4


def test_more_rates_and_other_layers_keep_what_is_there(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    perturb(open_study(study), ["films"], FEW)
    pipeline = open_study(study)
    seen = passes(pipeline, monkeypatch)
    settings = PerturbationSettings(rates=(0.1, 0.2, 0.5), draws=3, sd=2.0)
    perturb(pipeline, ["films"], settings)
    assert len(seen) == 2 * 3 * (3 + 1 + 1)  # rate 0.1, and the third draw of two rates
    perturb(pipeline, ["films"], PerturbationSettings(rates=(0.2, 0.5), draws=2, sd=1.0))
    assert sorted(p.name for p in (study / "perturbation" / "films").iterdir()) == [
        "noise_all_1_absolute_example.json",
        "noise_all_2_absolute_example.json",
    ]


def test_changed_data_are_measured_again(study: Path) -> None:
    perturb(open_study(study), ["films"], FEW)
    lines = (study / "films" / "dev.jsonl").read_text().splitlines()
    store.write_text(study / "films" / "dev.jsonl", "\n".join(lines[:10]))
    said: list[str] = []
    curves = perturb(open_study(study, report=said.append), ["films"], FEW).tasks[0]
    assert curves.examples == 10
    assert any(line.startswith("perturbing films again: task:") for line in said)


def test_across_tasks_the_diagonal_is_the_curves_own_drop(study: Path) -> None:
    pipeline = open_study(study)
    report = perturb(pipeline, None, FEW, across=True)
    across = report.across
    assert across is not None
    assert (across.rate, across.tasks) == (0.5, ("films", "food", "pets"))
    for i, curves in enumerate(report.tasks):
        skill, random = curves.point(SKILL, 0.5), curves.point(RANDOM, 0.5)
        assert across.drops[i, i] == pytest.approx(curves.unperturbed - skill.mean)
        assert across.random[i, i] == pytest.approx(curves.unperturbed - random.mean)
    # One cell by hand: food is done with the neurons of pets.
    ranking = Ranking.of(pipeline.extract(["pets"])["pets"])
    prompts = pipeline.tune(["food"])["food"]
    subject = Subject(pipeline.backbone, pipeline.task("food"), prompts, FEW)
    units = plan(ranking, prompts, FEW, rates=(0.5,), conditions=(SKILL,))
    value = np.mean([subject.score(unit).value for unit in units])
    assert across.drops[2, 1] == pytest.approx(report.tasks[1].unperturbed - value)


def one_edit(study: Path, settings: PerturbationSettings) -> tuple[Subject, Any, np.ndarray]:
    """A task, what is done to some unit's neurons, and the signature's baseline [L, P, N] of its prompt."""
    pipeline = open_study(study)
    signature, prompts = pipeline.extract(["food"])["food"], pipeline.tune(["food"])["food"]
    baseline = signature.baseline
    assert baseline is not None
    subject = Subject(pipeline.backbone, pipeline.task("food"), prompts, settings, baseline=baseline)
    units = plan(Ranking.of(signature), prompts, settings, rates=(0.5,))
    second = next(unit for unit in units if unit.place == 1)
    assert np.isfinite(subject.score(second).value)
    return subject, subject.edit(second), baseline[1]


@pytest.mark.parametrize("rows", ["prompt", "all"])
def test_noise_in_units_of_a_neuron_has_its_own_sd(study: Path, rows: str) -> None:
    settings = PerturbationSettings(sd=0.5, unit="neuron", rows=rows, noise_by="row")
    subject, edit, _ = one_edit(study, settings)
    assert (edit.sd, edit.unit, edit.rows, edit.noise_by) == (0.5, "neuron", rows, "row")
    assert edit.scale is subject.levels(1).sd
    assert edit.scale.shape == ((2, 4, 24) if rows == "prompt" else (2, 24))


def test_means_are_the_baseline_by_row_over_the_prompt_or_over_all_rows(study: Path) -> None:
    subject, by_row, baseline = one_edit(study, PerturbationSettings("mean", rows="prompt"))
    np.testing.assert_array_equal(by_row.baseline, baseline)
    np.testing.assert_allclose(subject.levels(1).mean, baseline, atol=1e-5)  # both are means over train
    _, prompt, _ = one_edit(study, PerturbationSettings("mean"))
    np.testing.assert_allclose(prompt.baseline, baseline.mean(axis=1), atol=1e-6)
    subject, every, _ = one_edit(study, PerturbationSettings("mean", baseline="all-rows"))
    assert every.baseline is subject.levels(1).mean
    assert np.abs(every.baseline - prompt.baseline).max() > 1e-3


def test_what_cannot_be_perturbed_is_refused(study: Path) -> None:
    pipeline = open_study(study)
    with pytest.raises(StudyError, match="Did you mean 'films'"):
        perturb(pipeline, ["film"], FEW)
    with pytest.raises(InputError, match="across tasks at least two are needed; got films"):
        perturb(pipeline, ["films"], FEW, across=True)
    store.write_text(study / "perturbation" / "films" / "noise_all_2_absolute_example.json", "[]")
    with pytest.raises(StoreError):
        perturb(pipeline, ["films"], FEW)


def test_held_out_neurons_are_found_on_one_half_of_dev_and_scored_on_the_other(study: Path) -> None:
    pipeline = open_study(study)
    task, prompts = pipeline.task("food"), pipeline.tune(["food"])["food"]
    first, second = halves(task)
    both = [example.text for half in (first, second) for example in half.dev]
    assert sorted(both) == sorted(example.text for example in task.dev)
    assert first.dev
    assert second.dev
    assert (first.train, second.train) == (task.train, task.train)
    settings = PerturbationSettings("zero", rates=(0.5,), draws=1, held_out=True)
    curves = perturb(pipeline, ["food"], settings).tasks[0]
    found = extract(pipeline.backbone, first, prompts)
    units = list(plan(Ranking.of(found), prompts, settings))
    subject = Subject(pipeline.backbone, second, prompts, settings)
    by_hand = [subject.score(unit).value for unit in units if unit.condition == SKILL and unit.rate]
    assert curves.point(SKILL, 0.5).mean == pytest.approx(np.mean(by_hand))
    assert curves.examples == len(second.dev)


def test_held_out_signatures_are_kept_and_made_again_when_the_prompts_change(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PerturbationSettings("zero", rates=(0.5,), draws=1, held_out=True)
    report = perturb(open_study(study), ["food"], settings)
    same = perturb(open_study(study), ["food"], PerturbationSettings("zero", rates=(0.5,), draws=1))
    assert any("scored on the other" in note for note in report.notes)
    assert any("same dev examples" in note for note in same.notes)
    names = {path.name for path in (study / "perturbation" / "food").iterdir()}
    assert names == {"half-of-dev.safetensors", "zero_all_half-of-dev.json", "zero_all.json"}
    with monkeypatch.context() as patched:
        patched.setattr(workspace, "load_backbone", None)  # a second call needs no model
        assert plain(perturb(open_study(study), ["food"], settings)) == plain(report)
    file = study / "perturbation" / "food" / "half-of-dev.safetensors"
    signature = load_signature(file)
    inputs = {**signature.provenance["inputs"], "prompts": ["others"]}
    save_signature(replace(signature, provenance={**signature.provenance, "inputs": inputs}), file)
    said: list[str] = []
    assert plain(perturb(open_study(study, report=said.append), ["food"], settings)) == plain(report)
    assert any(line.startswith("extracting food on half of dev again: prompts") for line in said)


def test_halves_need_two_examples_of_each_class(study: Path) -> None:
    task = open_study(study).task("food")
    lone = next(example for example in task.dev if example.label == 1)
    few = replace(task, dev=(*(example for example in task.dev if example.label == 0), lone))
    with pytest.raises(TaskError, match=f"has one example of {task.labels[1]}"):
        halves(few)
