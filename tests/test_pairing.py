"""Indicators of pairs and profiles in a study: computed when named, kept pair by pair, read when current."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import indicators
from tests.test_pipeline import TASKS, contents, write_study
from transferscope import needs, pairing, profiles, store, workspace
from transferscope.errors import IndicatorInputError, SignatureError, StoreError, TaskError
from transferscope.pair_features import Extractor
from transferscope.pipeline import open_study

NAMES = list(TASKS)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose prompts are tuned, and nothing else."""
    folder = write_study(tmp_path_factory.mktemp("tuned") / "study")
    open_study(folder).tune()
    return folder


@pytest.fixture
def study(tuned: Path, tmp_path: Path) -> Path:
    shutil.copytree(tuned, tmp_path / "study")
    return tmp_path / "study"


def changed(study: Path, **settings: Any) -> Path:
    raw = yaml.safe_load((study / "study.yaml").read_text())
    store.write_text(study / "study.yaml", yaml.safe_dump(raw | settings))
    return study


def extractions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pairs that are really run from now on."""
    seen: list[str] = []
    real = Extractor.extract

    def counting(self: Extractor, prompt: Any, **options: Any) -> Any:
        seen.append(f"{prompt.task} -> {self.target.name}")
        return real(self, prompt, **options)

    monkeypatch.setattr(Extractor, "extract", counting)
    return seen


def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "load_backbone", lambda *a, **k: pytest.fail("the model was loaded"))


def test_values_are_those_of_the_function_on_what_was_extracted(study: Path) -> None:
    pipe = open_study(study)
    (matrix,) = pipe.compare(["logme"])
    assert matrix.tasks == tuple(NAMES)
    prompts, logme = pipe.tune(), indicators.get("logme").function
    for j, target in enumerate(NAMES):
        extractor = Extractor(pipe.backbone, pipe.task(target))
        for i, source in enumerate(NAMES):
            pairs = [extractor.extract(prompt) for prompt in prompts[source]]
            values = [logme(one.features, one.labels) for one in pairs]
            assert matrix.values[i, j] == pytest.approx(np.mean(values), abs=1e-9)


def test_all_kinds_of_indicators_are_given_together_in_the_order_asked_for(study: Path) -> None:
    names = ["text_embedding", "logme", "on", "cka_linear", "prompt_fisher", "logme"]
    matrices = open_study(study).compare(names)
    assert [matrix.indicator for matrix in matrices] == names[:-1]
    assert all(matrix.tasks == tuple(NAMES) for matrix in matrices)
    assert all(np.isfinite(matrix.values).all() for matrix in matrices)
    assert open_study(study).compare(["on"])[0].values.tolist() == matrices[2].values.tolist()


@pytest.mark.parametrize("record", indicators.records(), ids=lambda record: record.name)
def test_it_is_known_where_every_need_comes_from(record: indicators.Indicator) -> None:
    assert set(record.needs) <= set(needs.SUPPLIERS)
    of_profiles = {need for one in needs.PROFILE.values() for need in one} | set(needs.OF_ALL_TASKS)
    from_here = of_profiles | needs.PAIR
    assert pairing.concerns(record.name) == (not from_here.isdisjoint(record.needs))


def test_what_is_current_is_read_without_a_model(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["logme", "leep", "cka_linear", "otdd_gaussian", "task2vec", "neuron_spearman_auroc", "lape"]
    first = open_study(study).compare(names)
    before = contents(study)
    assert len([name for name in before if name.startswith("features/")]) == 3 * 3 * 2
    assert len([name for name in before if name.startswith("profiles/")]) == 3
    no_model(monkeypatch)
    again = open_study(study).compare(names)
    assert contents(study) == before
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.values, two.values)


def test_interrupted_it_goes_on_with_what_is_missing(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(stage: str, done: int, total: int, text: str) -> None:
        if stage == "features" and done == 4:
            assert (total, text) == (9, "films -> food")
            raise KeyboardInterrupt

    seen = extractions(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        open_study(study, progress=stop).compare(["logme"])
    assert len(seen) == 8
    steps: list[tuple[int, int]] = []
    lines: list[str] = []

    def note(stage: str, done: int, total: int, text: str) -> None:
        if stage == "features":
            steps.append((done, total))

    open_study(study, report=lines.append, progress=note).compare(["logme"])
    assert len(seen) == len(set(seen)) * 2 == 18  # two seeds; nothing twice
    assert steps == [(done, 9) for done in range(1, 10)]
    assert "extracted the features of food under 4 prompts" in lines


def test_what_changed_is_said_and_only_that_is_done_again(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_study(study).compare(["logme", "text_embedding"])
    seen, lines = extractions(monkeypatch), []
    changed(study, features={"examples": 20})
    open_study(study, report=lines.append).compare(["logme", "text_embedding"])
    assert len(seen) == 18
    assert "extracting features of pets again: examples: was 500, now 20" in lines
    assert "profiling pets again: examples: was 500, now 20" in lines
    seen.clear(), lines.clear()
    shutil.copy(study / "prompts/food/1/adapter_model.safetensors", study / "prompts/food/0")
    open_study(study, report=lines.append).compare(["logme", "text_embedding"])
    assert sorted(set(seen)) == ["food -> films", "food -> food", "food -> pets"]
    assert len(seen) == 3
    assert not any("profiling" in line for line in lines)  # no prompt has a part in it


def test_layers_are_asked_for_in_the_study(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (flat,) = open_study(study).compare(["cka_linear"])
    changed(study, features={"layers": True})
    lines: list[str] = []
    (deep,) = open_study(study, report=lines.append).compare(["cka_linear"])
    assert any("layers: was false, now true" in line for line in lines)
    assert not np.allclose(flat.values, deep.values)
    arrays, _ = store.load_arrays(study / "features/films/food/0.safetensors")
    assert arrays["layers"].shape == (2, 40, 16)


def test_a_profile_grows_by_the_parts_that_are_asked_for(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    open_study(study, report=lines.append).compare(["text_embedding"])
    file = study / "profiles/films.safetensors"
    texts = profiles.load_profile(file)
    assert set(texts.provenance["parts"]) == {"texts"}
    assert texts.firing is texts.prompt_fisher is None
    open_study(study, report=lines.append).compare(["firing_wasserstein", "mmd"])
    both = profiles.load_profile(file)
    assert set(both.provenance["parts"]) == {"texts", "activity"}
    said = [line for line in lines if "films" in line]
    assert said == ["profiled films: texts", "profiled films: activity"]
    np.testing.assert_array_equal(both.inputs, texts.inputs)
    changed(study, features={"fisher_labels": "given"})
    open_study(study).compare(["task2vec"])
    given = profiles.load_profile(file)
    assert given.provenance["parts"]["gradients"]["fisher_labels"] == "given"
    changed(study, features={"fisher_labels": "drawn"})
    open_study(study, report=lines.append).compare(["task2vec"])
    assert 'profiling films again: fisher_labels: was "given", now "drawn"' in lines
    assert not np.allclose(given.ffn_fisher, profiles.load_profile(file).ffn_fisher)


def test_specific_neurons_are_of_all_tasks_together(study: Path) -> None:
    from indicators.specificity import lape

    (matrix,) = open_study(study).compare(["lape"])
    firing = [profiles.load_profile(study / f"profiles/{name}.safetensors").firing for name in NAMES]
    masks = lape([one.mean(axis=0) for one in firing]).masks
    expected = indicators.matrix("lape", list(masks))
    np.testing.assert_allclose(matrix.values, expected)
    raw = yaml.safe_load((study / "study.yaml").read_text())
    del raw["tasks"]["pets"]
    store.write_text(study / "study.yaml", yaml.safe_dump(raw))
    with pytest.raises(IndicatorInputError, match="3"):
        open_study(study).compare(["lape"])


def test_firing_rates_are_averaged_over_trials_first(study: Path) -> None:
    (matrix,) = open_study(study).compare(["firing_wasserstein"])
    firing = [profiles.load_profile(study / f"profiles/{name}.safetensors").firing for name in NAMES]
    pooled = [one.mean(axis=0) for one in firing]
    np.testing.assert_allclose(matrix.values, -indicators.matrix("firing_wasserstein", pooled), atol=1e-12)
    assert (np.diag(matrix.values) == 0).all()


def without_data(study: Path, name: str = "pets") -> Path:
    """The task keeps its prompts and loses its texts."""
    shutil.copytree(study / "prompts" / name, study / "given")
    raw = yaml.safe_load((study / "study.yaml").read_text())
    raw["tasks"][name] = {"prompts": "given"}
    store.write_text(study / "study.yaml", yaml.safe_dump(raw))
    return study


def test_a_task_without_data_is_a_source_and_no_target(study: Path) -> None:
    lines: list[str] = []
    pipe = open_study(without_data(study), report=lines.append)
    logme, leep, cka, text = pipe.compare(["logme", "leep", "cka_linear", "text_embedding"])
    for matrix in (logme, cka):
        assert np.isnan(matrix.values).tolist() == [[False, False, True]] * 3
    assert np.isnan(leep.values[2]).all()  # of its own head nothing is known
    assert np.isfinite(text.values[:2, :2]).all()
    assert np.isnan(text.values[2]).all()
    assert np.isnan(text.values[:, 2]).all()
    assert "no text_embedding of pets: no inputs there" in lines
    ranking = pipe.rank("films", "logme")
    assert {source.source for source in ranking.sources} == {"food", "pets"}
    left = pipe.rank("films", "leep")
    assert [source.source for source in left.sources] == ["food"]
    assert "Left out, since they have no leep: pets." in left.notes
    for name in ("logme", "text_embedding"):
        with pytest.raises(TaskError, match=r"pets.*no data"):
            pipe.rank("pets", name)


def test_a_generation_task_has_no_label_scores_and_is_a_source_and_a_representation(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_data(study)
    lines = [
        json.dumps({"text": f"the cat sees {word}", "answer": "yes"}) for word in ("a", "an", "it", "so")
    ]
    store.write_text(study / "written.jsonl", "\n".join(lines))
    raw = yaml.safe_load((study / "study.yaml").read_text())
    data = {"train": "written.jsonl", "text": "text", "answer": "answer"}
    raw["tasks"]["pets"] = {"prompts": "given", **data}
    store.write_text(study / "study.yaml", yaml.safe_dump(raw))
    seen = extractions(monkeypatch)
    (logme,) = open_study(study).compare(["logme"])
    assert np.isnan(logme.values).tolist() == [[False, False, True]] * 3
    assert not any("-> pets" in pair for pair in seen)  # not run in vain
    cka, text, otdd = open_study(study).compare(["cka_linear", "text_embedding", "otdd_gaussian"])
    assert np.isfinite(cka.values).all()
    assert np.isfinite(text.values).all()
    assert np.isnan(otdd.values[2]).all()
    with pytest.raises(IndicatorInputError, match="'pets' is a generation task, which has no classes"):
        open_study(study).rank("pets", "logme")


def test_rank_by_a_label_score_runs_one_column_and_needs_no_prompt_of_the_target(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(study / "prompts" / "films")
    seen = extractions(monkeypatch)
    ranking = open_study(study).rank("films", "logme")
    assert sorted(set(seen)) == ["food -> films", "pets -> films"]
    assert not (study / "prompts" / "films").exists()
    assert not (study / "signatures").exists()
    scores = [source.score for source in ranking.sources]
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
    (matrix,) = open_study(study).compare(["logme"])
    column = dict(zip(matrix.tasks, matrix.values[:, 0], strict=True))
    assert {s.source: s.score for s in ranking.sources} == pytest.approx(
        {name: column[name] for name in ("food", "pets")}
    )
    assert ranking.model == "model"
    assert ranking.notes[0].startswith("Indicator logme: asked for. It reads the train split of 'films'")
    assert not any("table" in note for note in ranking.notes)


def test_rank_by_texts_tunes_nothing(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    ranking = open_study(study).rank("pets", "text_embedding")
    assert {source.source for source in ranking.sources} == {"films", "food"}
    assert all(source.low is None for source in ranking.sources)
    assert not (study / "prompts").exists()


def test_rank_by_a_profile_under_prompts_has_intervals(study: Path) -> None:
    ranking = open_study(study).rank("films", "neuron_spearman_auroc")
    (matrix,) = open_study(study).compare(["neuron_spearman_auroc"])
    for source in ranking.sources:
        assert source.score == pytest.approx(matrix.values[NAMES.index(source.source), 0])
        assert source.low is not None
        assert source.low <= source.score <= source.high  # type: ignore[operator]


def test_rank_measures_the_best_by_a_label_score(study: Path) -> None:
    ranking = open_study(study).rank("films", "cka_linear", measure=1)
    assert [source.basis for source in ranking.sources] == ["measured", "predicted"]
    typed = open_study(study).rank("films", "logme", prefer_same_type=True)
    assert [source.type for source in typed.sources] == ["things", "animals"]


def test_a_run_computes_them_only_where_the_study_names_them(study: Path) -> None:
    open_study(study).run()
    assert not (study / "features").exists()
    assert not (study / "profiles").exists()
    changed(study, indicators=["on", "logme", "mmd"])
    summary = open_study(study).run()
    rows = store.read_csv(
        study / "indicators.csv", ("indicator", "source", "target", "value"), numbers={"value"}
    )
    assert list(dict.fromkeys(row["indicator"] for row in rows)) == ["on", "logme", "mmd"]
    assert summary.correlation is not None
    assert {"logme", "mmd"} <= {score.name for score in summary.correlation.scores}
    record = json.loads((study / "indicators.csv.json").read_text())
    assert record["inputs"]["features"]["examples"] == 500
    before = contents(study)
    open_study(study).run()
    assert contents(study) == before


def test_errors_say_what_is_missing_before_any_work(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_model(monkeypatch)
    with pytest.raises(IndicatorInputError, match="Did you mean 'logme'"):
        open_study(study).compare(["on", "logm"])
    with pytest.raises(IndicatorInputError, match="Did you mean 'logme'"):
        open_study(study).rank("films", "logm")


def test_a_study_without_any_data_says_where_it_would_come_from(tmp_path: Path, study: Path) -> None:
    shutil.copytree(study / "prompts", study / "given")
    changed(study, tasks={name: {"prompts": f"given/{name}"} for name in NAMES})
    with pytest.raises(IndicatorInputError, match=r"no inputs: inputs comes from .*compare --study"):
        open_study(study).compare(["text_embedding"])
    with pytest.raises(SignatureError, match="no task has data"):
        open_study(study).compare(["logme"])


def test_a_damaged_file_is_named(study: Path) -> None:
    open_study(study).compare(["logme"])
    (study / "features/food/films/1.safetensors").write_bytes(b"half")
    with pytest.raises(StoreError, match=r"features/food/films/1\.safetensors"):
        open_study(study).compare(["logme"])
