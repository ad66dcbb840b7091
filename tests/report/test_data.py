"""The report's record: the study's own numbers, honest sentences, what it lacks; nothing is done to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from indicators.predictivity import skill_mask
from tests.report_studies import HOSTILE, LAYERS, NEURONS, write_study
from transferscope import budget, correlation, ranking, store
from transferscope.comparison import from_signature
from transferscope.errors import StoreError, StudyError
from transferscope.report import StudyReport, collect
from transferscope.report.agreement import agreement
from transferscope.report.packing import json_for_script, numbers, rounded
from transferscope.report.stored import read_stored
from transferscope.workspace import Workspace

NAMES = tuple(f"task_{i}" for i in range(7))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    return write_study(folder, NAMES, with_correlation=True, weak=["task_5"])


@pytest.fixture(scope="module")
def report(study: Path) -> StudyReport:
    return collect(study)


def test_nothing_is_done_to_the_study_and_no_model_is_loaded(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Workspace) -> None:
        raise AssertionError("a report loads no model")

    monkeypatch.setattr(Workspace, "backbone", property(refuse))
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*")}
    collect(study)
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*")} == before


def test_rankings_are_those_of_the_library(study: Path, report: StudyReport) -> None:
    stored = read_stored(study)
    materials = [from_signature(one) for one in stored.signatures.values()]
    wanted = ranking.rank_materials(
        "task_3",
        materials,
        transfer=stored.measured,
        types=stored.types,
        sizes=stored.sizes,
        matrices=stored.matrices,
    )
    (found,) = [one for one in report.data["rankings"] if one["target"] == "task_3"]
    assert found["indicator"] == wanted.indicator
    assert [row[0] for row in found["sources"]] == [one.source for one in wanted.sources]
    assert [row[1] for row in found["sources"]] == [rounded(one.score) for one in wanted.sources]
    assert [row[2] for row in found["sources"]] == [rounded(one.low) for one in wanted.sources]
    assert [row[6] for row in found["sources"]] == [one.tied_by_evidence for one in wanted.sources]
    assert [row[0] for row in found["baselines"]] == [one.name for one in wanted.baselines]
    assert found["notes"][: len(wanted.notes)] == list(wanted.notes)
    assert any("task_5" in note and "majority" in note for note in found["notes"])


def test_matrices_are_spread_over_all_tasks_source_by_source(study: Path, report: StudyReport) -> None:
    stored, n = read_stored(study), len(NAMES)
    measures = {one["name"]: one for one in report.data["measures"]}
    assert list(measures)[:2] == ["zero-shot", "zero-shot relative"]
    measured = stored.measured
    assert measured is not None
    for s, t in [(0, 1), (4, 2), (6, 6)]:
        place = s * n + t
        assert measures["zero-shot"]["values"][place] == rounded(measured.values[s, t])
        assert measures["zero-shot relative"]["values"][place] == rounded(measured.relative[s, t])
        assert measures["zero-shot"]["errors"][place] == rounded(measured.standard_errors[s, t])
        assert measures["on"]["values"][place] == rounded(stored.matrices[0].values[s, t])


def test_agreement_and_budgets_are_those_of_the_library(study: Path, report: StudyReport) -> None:
    stored = read_stored(study)
    options = {"types": stored.types, "sizes": stored.sizes, "over_seeds": True, "expanded": True}
    assert stored.measured is not None
    wanted = correlation.correlate(
        stored.matrices, stored.measured, metrics=["spearman"], permutations=0, **options
    )
    rows = {row[0]: row for row in report.data["agreement"]["scores"] if row[2:4] == ["all", "spearman"]}
    for score in wanted.scores:
        assert rows[score.name][4:7] == [rounded(v) for v in (score.mean, score.low, score.high)]
    curves = budget.budget_curves(stored.matrices, stored.measured, **options)
    assert [row[:4] for row in report.data["budget"]] == [
        [p.name, p.kind, p.k, rounded(p.mean)] for p in curves.points
    ]


def test_p_is_that_of_correlation_json_only_while_it_is_of_the_same_numbers(tmp_path: Path) -> None:
    folder = write_study(tmp_path, NAMES, with_signatures=False, with_correlation=True)
    found = agreement(read_stored(folder))
    assert found is not None
    kept = json.loads((folder / "correlation.json").read_text())
    wanted = {s["name"]: s["p"] for s in kept["scores"] if s["metric"] == "spearman"}
    here = {s.name: s.p for s in found.report.scores if (s.metric, s.scope) == ("spearman", "all")}
    assert here["on"] == wanted["on"]
    assert here["on"] is not None
    assert found.lacks == ()
    for score in kept["scores"]:
        score["mean"] = None if score["mean"] is None else score["mean"] + 0.01
    store.write_json(folder / "correlation.json", kept)
    changed = agreement(read_stored(folder))
    assert changed is not None
    assert {s.p for s in changed.report.scores} == {None}
    assert "correlation.json is of other numbers" in changed.lacks[0].what


def test_skill_neurons_by_layer_and_the_top_ones(study: Path, report: StudyReport) -> None:
    signature = read_stored(study).signatures["task_2"]  # three subtasks
    found = report.data["neurons"]["tasks"][2]
    mask = skill_mask(signature.subtask_predictivity, 0.2, by="network")
    assert list(found["counts"]) == mask.sum(axis=1).tolist()
    assert found["expected"] == rounded(mask.sum() / LAYERS)
    assert signature.predictivity is not None
    mean = signature.predictivity.mean(axis=(0, 1))  # [L, N]
    layer, neuron, value, low, high, subtask, _ = found["top"][0]
    assert (layer, neuron) == np.unravel_index(mean.argmax(), (LAYERS, NEURONS))
    assert value == rounded(mean.max())
    trials = signature.predictivity.mean(axis=1)[:, layer, neuron]
    assert [low, high] == [rounded(trials.min()), rounded(trials.max())]
    best = signature.predictivity.mean(axis=0)[:, layer, neuron].argmax()
    assert subtask == f"class {best} against the rest"
    assert len(found["top"]) == 10
    assert report.data["neurons"]["tasks"][0]["top"][0][5] is None  # one subtask has no name to tell


def test_the_summary_says_what_the_evidence_is_and_how_little(report: StudyReport) -> None:
    said = " ".join(report.summary)
    assert "7 tasks of 3 types (agreement, opinion, topic)" in said
    assert "42 of 42 pairs of different tasks" in said
    assert "Of 3 indicators, " in said
    assert "than a random order beyond doubt" in said
    assert "than the task type alone beyond doubt" in said
    assert "Among sources of other types than the target's" in said
    assert "communities" in said
    caveats = " ".join(report.caveats)
    assert "2 seeds a task: fewer than 5, so intervals over seeds are likely too narrow" in caveats
    assert "judged over 7 targets: few" in caveats
    assert "picked on the same targets" in caveats
    assert "task_5" in caveats
    assert "task_4" not in caveats
    assert report.lacks == ()


def test_provenance(report: StudyReport) -> None:
    found = report.provenance
    assert dict(found.model)["name"] == "model"  # not where it lies
    assert dict(found.model)["fingerprint"] == "0123456789abcdef"
    assert dict(found.settings)["seeds"] == "0, 1"
    assert {"transferscope", "plotly", "torch"} <= set(dict(found.versions))
    files = {one.name: one.files for one in found.artefacts}
    assert files["signatures/"] == 7
    assert files["correlation.json"] == 1
    assert report.tasks[1].train == 601
    assert [row.task for row in report.tasks if row.weak] == ["task_5"]


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ({"with_signatures": False}, "extract"),
        ({"indicators": ()}, "compare"),
        ({"with_transfer": False}, "measure"),
        ({}, "run"),
    ],
)
def test_what_is_missing_is_said_with_the_command_that_supplies_it(
    tmp_path: Path, options: dict[str, object], command: str
) -> None:
    found = collect(write_study(tmp_path, NAMES[:4], **options))  # type: ignore[arg-type]
    assert command in [lack.command.split()[0] for lack in found.lacks]


def test_a_study_of_tables_alone_is_ranked_by_its_default_indicator(tmp_path: Path) -> None:
    found = collect(write_study(tmp_path, NAMES[:5], with_signatures=False))
    assert {one["indicator"] for one in found.data["rankings"]} == {"prompt_cosine_mean_token"}
    assert found.data["neurons"] is None
    assert "No prompts or signatures of all tasks" in " ".join(found.caveats)


def test_a_study_with_measured_transfer_alone_is_ranked_by_that(tmp_path: Path) -> None:
    found = collect(write_study(tmp_path, NAMES[:5], with_signatures=False, indicators=()))
    ranked = found.data["rankings"][0]
    assert ranked["indicator"] is None
    values = [row[5] for row in ranked["sources"]]
    assert values == sorted(values, reverse=True)
    assert found.data["agreement"] is None


def test_a_study_with_nothing_yet_has_a_report_that_says_so(tmp_path: Path) -> None:
    bare = write_study(tmp_path, NAMES[:2], with_signatures=False, indicators=(), with_transfer=False)
    found = collect(bare)
    assert found.data["rankings"] == []
    assert found.data["measures"] == []
    assert [lack.command.split()[0] for lack in found.lacks] == ["tune", "extract", "compare", "measure"]


def test_one_seed_has_no_intervals_and_the_caveats_say_so(tmp_path: Path) -> None:
    found = collect(write_study(tmp_path, NAMES[:5], seeds=1))
    assert "One seed a task" in found.caveats[0]
    assert {row[2] for one in found.data["rankings"] for row in one["sources"]} == {None}


def test_without_types_the_baseline_is_missed_aloud(tmp_path: Path) -> None:
    found = collect(write_study(tmp_path, NAMES[:5], types=False, with_signatures=False))
    assert "the baseline same type is missing" in " ".join(found.summary)
    assert {row[2] for row in found.data["agreement"]["scores"]} == {"all"}


def test_signatures_of_other_prompts_than_those_there_are_said_to_be_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transferscope.prompts import SoftPrompt
    from transferscope.report import stored

    folder = write_study(tmp_path, NAMES[:3])
    prompt = SoftPrompt(np.zeros((2, 8), np.float32), "task_1", 0, "prefix")
    monkeypatch.setattr(stored, "_prompts", lambda pipeline: {"task_1": (prompt, prompt)})
    assert "signatures of the prompts that are there now, of task_1" in [
        lack.what for lack in read_stored(folder).lacks
    ]


def test_a_folder_without_a_study_and_a_damaged_artefact_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no study\.yaml"):
        collect(tmp_path)
    folder = write_study(tmp_path, NAMES[:3])
    (folder / "signatures" / "task_0.safetensors").write_bytes(b"nonsense")
    with pytest.raises(StoreError, match="task_0"):
        collect(folder)


def test_hostile_names_survive_the_way_to_the_page_unchanged(tmp_path: Path) -> None:
    found = collect(write_study(tmp_path, HOSTILE))
    text = json_for_script(found.data)
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert tuple(json.loads(text)["tasks"]) == HOSTILE
    # In a sentence a name must not turn what follows it.
    said = [
        *found.summary,
        *found.caveats,
        *(note for one in found.data["rankings"] for note in one["notes"]),
    ]
    assert any("right to left" in one for one in said)
    assert not any("\u202e" in one for one in said)


def test_numbers_are_short_and_never_nan() -> None:
    assert numbers(np.array([[0.123456789, np.nan], [1e-12, -3.0]])) == [0.12346, None, 1e-12, -3]
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_for_script({"x": float("nan")})
