"""The origin study of a small task: every number from its parts, nothing measured twice, staleness seen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.test_pipeline import contents, write_study
from transferscope import origin_material, origin_perturbation, store
from transferscope.digests import weights_digest
from transferscope.errors import BackboneError, InputError, StoreError, StudyError
from transferscope.method_tuning import load_tuned
from transferscope.origin import BY_RANDOM, FOUND_THERE, PROMPT, RANDOM_INIT, origin, token_names
from transferscope.origin_perturbation import Plan, Values, random_like
from transferscope.origin_report import BY_WORDS, SKILL, OriginReport, spearman
from transferscope.pipeline import open_study
from transferscope.prompts import load_prompt
from transferscope.signatures import load_signature
from transferscope.tuning import tune
from transferscope.zero_shot import ZeroShot

PLAN = Plan(rates=(0.1, 0.25), draws=2, sd=2.0)
METHODS = ("bitfit", "prefix")


def study_of(folder: Path, **options: Any) -> OriginReport:
    pipe = open_study(folder)
    known: dict[str, Any] = {"methods": METHODS, "plan": PLAN} | options
    return origin(pipe, "films", lambda: pipe.extract(["films"])["films"], **known)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, OriginReport]:
    folder = write_study(tmp_path_factory.mktemp("origin") / "study")
    return folder, study_of(folder)


@pytest.fixture
def study(finished: tuple[Path, OriginReport], tmp_path: Path) -> Path:
    shutil.copytree(finished[0], tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is evaluated from now on: one entry a pass over dev."""
    seen: list[str] = []
    real = origin_perturbation.evaluate

    def counted(*args: Any, **options: Any) -> Any:
        seen.append(args[0].backbone.name)
        return real(*args, **options)

    monkeypatch.setattr(origin_perturbation, "evaluate", counted)
    return seen


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("transferscope.workspace.load_backbone", refuse)


def test_the_table_has_every_subject_and_every_control(finished: tuple[Path, OriginReport]) -> None:
    folder, report = finished
    rows = [(one.subject, one.neurons) for one in report.effects if one.rate == 0.1]
    assert rows == [
        (PROMPT, SKILL), (PROMPT, BY_RANDOM), (PROMPT, BY_WORDS), ("bitfit", SKILL), ("prefix", SKILL),
        (RANDOM_INIT, FOUND_THERE),
    ]  # fmt: skip
    assert [one.count for one in report.effects if one.rate == 0.25] == [2 * 6] * 6
    assert [one.subject for one in report.performances] == [PROMPT, *METHODS, RANDOM_INIT]
    assert [one.parameters for one in report.performances[1:3]] == [
        sum(a.size for a in load_tuned(folder / "methods" / "films" / name / "0").arrays.values())
        for name in METHODS
    ]
    assert report.performances[0].value == pytest.approx(np.mean([
        load_prompt(folder / "prompts" / "films" / seed).provenance["scores"]["dev"] for seed in "01"
    ]))  # fmt: skip
    for name, found in zip(METHODS, report.performances[1:3], strict=True):
        kept = [load_tuned(folder / "methods" / "films" / name / str(seed)) for seed in found.seeds]
        assert list(found.values) == [one.provenance["scores"]["dev"] for one in kept]
    assert {path.name for path in (folder / "origin" / "films").iterdir()} == {
        "promoted.json", "random-init", "random-init.safetensors", "random-prompts.safetensors",
        "values.json", "words.safetensors",
    }  # fmt: skip


def by_hand(folder: Path, mask: np.ndarray, draw: int, seed: int, sd: float) -> float:
    """The score of a prompt with noise on the chosen columns of every row, by plain hooks."""
    pipe = open_study(folder)
    prompt = load_prompt(folder / "prompts" / "films" / str(seed))
    generator = torch.Generator().manual_seed(draw)
    handles = []
    for _, layer, down in pipe.backbone.down_projections():
        columns = torch.from_numpy(np.flatnonzero(mask[layer]))

        def add(module: Any, inputs: Any, columns: torch.Tensor = columns) -> Any:
            values = inputs[0].clone()
            noise = torch.randn((len(values), 1, len(columns)), generator=generator)  # one an example
            values[..., columns] += sd * noise
            return (values,)

        handles.append(down.register_forward_pre_hook(add))
    value = ZeroShot(pipe.backbone, pipe.task("films")).score(prompt).value
    for handle in handles:
        handle.remove()
    return value


def test_an_effect_is_the_mean_of_paired_drops(finished: tuple[Path, OriginReport]) -> None:
    folder, report = finished
    effect = next(one for one in report.effects if (one.neurons, one.rate) == (SKILL, 0.25))
    skill = load_signature(folder / "signatures" / "films.safetensors").skill_mask(0.25)
    clean = report.performances[0].values
    drops = np.array(
        [
            [
                [clean[seed] - by_hand(folder, mask, draw, seed, PLAN.sd)
                 for mask in (skill, random_like(skill, draw))]
                for draw in range(2)
            ]
            for seed in range(2)
        ]
    )  # fmt: skip
    assert drops.any()
    assert (effect.drop, effect.random_drop) == pytest.approx(tuple(drops.mean(axis=(0, 1))))
    assert effect.difference.mean == pytest.approx((drops[..., 0] - drops[..., 1]).mean())
    assert (effect.difference.name, effect.difference.against) == (SKILL, "random")
    by_draw = (drops[..., 0] - drops[..., 1]).mean(axis=0)
    assert effect.difference.low == pytest.approx(by_draw.min())
    assert effect.difference.high == pytest.approx(by_draw.max())
    for seed, one in enumerate(effect.seeds):
        assert (one.seed, one.clean) == (seed, clean[seed])
        assert (one.drop, one.random_drop) == pytest.approx(tuple(drops[seed].mean(axis=0)))
        assert one.higher == int((drops[seed, :, 0] > drops[seed, :, 1]).sum())


def test_overlaps_and_predictivities_are_those_of_the_signatures(finished: tuple[Path, OriginReport]) -> None:
    folder, report = finished
    own = load_signature(folder / "signatures" / "films.safetensors")
    other = load_signature(folder / "origin" / "films" / "random-prompts.safetensors")
    found = next(one for one in report.overlaps if (one.neurons, one.rate) == (BY_RANDOM, 0.25))
    a, b = own.skill_mask(0.25), other.skill_mask(0.25)
    assert (found.count, found.common) == (12, int((a & b).sum()))
    assert found.expected == pytest.approx(2 * 6 * 6 / 24)
    assert found.spearman == spearman(own.mean_predictivity, other.mean_predictivity)
    assert found.by_layer[1] == spearman(own.mean_predictivity[1], other.mean_predictivity[1])
    trained, by_random, at_random = report.predictivities
    assert (trained.condition, trained.highest) == ("tuned prompts", own.mean_predictivity.max())
    assert dict(trained.top)[0.25] == pytest.approx(own.mean_predictivity[a].mean())
    assert (by_random.trials, at_random.trials) == (3, 2)


def test_the_random_model_is_another_one_of_the_same_shape(study: Path) -> None:
    backbone = open_study(study).backbone
    made, again = (origin_material.random_backbone(backbone) for _ in range(2))
    assert weights_digest(made.model) == weights_digest(again.model) != weights_digest(backbone.model)
    other = origin_material.random_backbone(backbone, seed=1)
    assert weights_digest(other.model) != weights_digest(made.model)
    shapes = [{k: v.shape for k, v in one.model.state_dict().items()} for one in (made, backbone)]
    assert shapes[0] == shapes[1]
    assert made.model.config is not backbone.model.config
    # The kept prompts were tuned there, not on the study's model.
    kept = load_prompt(study / "origin" / "films" / "random-init" / "1")
    pipe = open_study(study)
    tuned = tune(made, pipe.task("films"), settings=pipe.settings.tuning, seed=1)
    np.testing.assert_array_equal(kept.rows, tuned.rows)


def test_words_stand_beside_the_top_neurons(finished: tuple[Path, OriginReport]) -> None:
    folder, report = finished
    own = load_signature(folder / "signatures" / "films.safetensors").mean_predictivity
    skills = [one for one in report.words if one.kind == SKILL]
    selective = [one for one in report.words if one.kind == BY_WORDS]
    assert len(skills) == len(selective) == 10
    assert [one.predictivity for one in skills] == sorted(own.ravel(), reverse=True)[:10]
    scores = store.load_arrays(folder / "origin" / "films" / "words.safetensors")[0]["scores"]
    assert selective[0].selectivity == np.nanmax(scores)
    assert all(len(one.promotes) == 5 and one.word for one in report.words)


def test_rows_of_the_embedding_without_a_token_have_a_number(study: Path) -> None:
    backbone = open_study(study).backbone
    assert token_names(backbone, [4, -1, 95]) == ["[MASK]", "#95"]


def test_a_second_time_nothing_is_run_and_no_model_loaded(
    study: Path, finished: tuple[Path, OriginReport], no_model: None
) -> None:
    before = contents(study)
    assert study_of(study) == finished[1]
    assert contents(study) == before


def test_an_interrupted_study_goes_on_from_the_unit_in_hand(
    study: Path, finished: tuple[Path, OriginReport], evaluations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = study / "origin" / "films" / "values.json"
    whole = store.read_json(values)
    values.unlink()
    add = Values.add

    def stop(self: Values, key: str, value: float) -> None:
        if len(self._values) == 7:
            raise KeyboardInterrupt
        add(self, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(Values, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            study_of(study)
    assert len(store.read_json(values)["values"]) == 7
    evaluations.clear()
    assert study_of(study) == finished[1]
    assert len(evaluations) == len(whole["values"]) - 7
    assert store.read_json(values)["values"] == whole["values"]


def test_more_draws_measure_only_what_is_new(study: Path, evaluations: list[str]) -> None:
    plan = Plan(rates=PLAN.rates, draws=3, sd=PLAN.sd)
    study_of(study, plan=plan, methods=("bitfit",), controls=False)
    assert len(evaluations) == 2 * 2 * 2 * 2  # subjects, seeds, rates, chosen and random


def test_other_tuning_settings_are_seen(study: Path, evaluations: list[str]) -> None:
    settings = yaml.safe_load((study / "study.yaml").read_text())
    settings["tuning"]["steps"] = 9
    store.write_text(study / "study.yaml", yaml.safe_dump(settings))
    lines: list[str] = []
    pipe = open_study(study, report=lines.append)
    origin(pipe, "films", lambda: pipe.extract(["films"])["films"], methods=METHODS, plan=PLAN)
    assert len(evaluations) > 40
    again = [line for line in lines if "again: tuning" in line]
    for what in ("films by bitfit seed 0", "films by prefix seed 1", "on the random-initialised model"):
        assert any(what in line for line in again), lines


def test_a_learning_rate_of_the_user_s_is_taken(study: Path) -> None:
    study_of(study, methods=("bitfit",), controls=False, learning_rate=0.25)
    kept = load_tuned(study / "methods" / "films" / "bitfit" / "0")
    assert kept.provenance["settings"]["learning_rate"] == 0.25


def test_without_controls_there_are_none(study: Path) -> None:
    report = study_of(study, methods=("bitfit",), controls=False)
    assert {one.subject for one in report.effects} == {PROMPT, "bitfit"}
    assert (report.overlaps, report.words, len(report.predictivities)) == ((), (), 1)


def test_a_default_method_that_does_not_fit_is_left_out_with_a_note(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = origin_material.tuned_methods

    def unfit(workspace: Any, task: str, method: str, **options: Any) -> Any:
        if method == "lora":
            raise BackboneError("it has no attention")
        return real(workspace, task, "bitfit", **options)

    monkeypatch.setattr(origin_material, "tuned_methods", unfit)
    report = study_of(study, methods=None, controls=False)
    assert [one.subject for one in report.performances] == [PROMPT, "bitfit", "adapter"]
    assert report.notes == ("lora left out: it has no attention",)
    with pytest.raises(BackboneError, match="no attention"):
        study_of(study, methods=("lora",), controls=False)


def test_refusals_come_before_any_work(study: Path, no_model: None) -> None:
    def never() -> Any:
        raise AssertionError("extracted")

    pipe = open_study(study)
    with pytest.raises(StudyError, match=r"no task 'film'. Did you mean 'films'"):
        origin(pipe, "film", never)
    with pytest.raises(InputError, match="unknown method 'lore'"):
        origin(pipe, "films", never, methods=["lore"])
    for wrong in ({"rates": ()}, {"rates": (0.0,)}, {"rates": (1.5,)}, {"draws": 0}):
        with pytest.raises(InputError, match=r"rates are|draws is"):
            Plan(**wrong)
    with pytest.raises(StudyError, match=r"rate 0.01 of 24 neurons a layer is none"):
        study_of(study, methods=("bitfit",), plan=Plan(rates=(0.01,)), controls=False)


def test_what_controls_cannot_have_is_said_before_anything_is_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise BackboneError("a mixture of experts")

    folder = write_study(tmp_path / "study")
    monkeypatch.setattr(origin_material, "word_selectivity", refuse)
    with pytest.raises(BackboneError, match="mixture"):
        study_of(folder)
    assert not (folder / "prompts").exists()


def test_generation_tasks_have_no_skill_neurons(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = open_study(study)
    task = pipe.task("films")
    monkeypatch.setattr(type(task), "kind", "generation", raising=False)
    with pytest.raises(
        StudyError, match="no skill neurons; tasks of this study that have: films, food, pets"
    ):
        origin(pipe, "films", lambda: pipe.extract(["films"])["films"])


def test_random_neurons_are_as_many_in_each_layer_and_any() -> None:
    mask = np.zeros((3, 40), bool)
    mask[0, :4], mask[2, :20] = True, True
    drawn = [random_like(mask, seed) for seed in range(200)]
    assert all((one.sum(axis=1) == [4, 0, 20]).all() for one in drawn)
    np.testing.assert_array_equal(drawn[3], random_like(mask, 3))
    shares = np.mean(drawn, axis=0)  # the chosen ones are drawn like all others
    assert np.abs(shares[2] - 0.5).max() < 0.15
    assert np.abs(shares[0] - 0.1).max() < 0.09


def test_spearman_leaves_out_what_is_undefined() -> None:
    a, b = np.array([1.0, 2.0, np.nan, 4.0, 3.0]), np.array([1.0, 3.0, 9.0, 4.0, np.nan])
    assert spearman(a, b) == pytest.approx(1.0)
    assert spearman(a, -b) == pytest.approx(-1.0)
    assert spearman(a[:3], b[:3]) is None
    assert spearman(a, np.where(np.isnan(b), b, 5.0)) is None


def test_values_are_kept_for_the_same_inputs_only(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    Values(path, {"task": "a"}).add("x", 0.5)
    assert Values(path, {"task": "a"}).get("x") == 0.5
    other = Values(path, {"task": "b"})
    assert other.get("x") is None
    assert other.changed
    store.write_json(path, {"inputs": {"task": "a"}, "values": {"x": "much"}}, versioned=True)
    with pytest.raises(StoreError, match="does not hold measured values"):
        Values(path, {"task": "a"})
