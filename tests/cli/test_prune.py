"""transferscope prune on a real (tiny) study: folder, prompts, report, and commands on the pruned model."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from tests import tiny
from tests.test_pipeline import write_study
from transferscope import kept_prompts, pruning, pruning_study, store
from transferscope.cli import main
from transferscope.errors import SignatureError
from transferscope.models import load_backbone
from transferscope.pipeline import open_study
from transferscope.prompts import load_prompt
from transferscope.pruning_study import PruneSettings

KEYS = {
    "task", "model", "metric", "settings", "seeds", "neurons", "widths", "before", "after", "fold_error",
    "scores", "majority", "speeds", "device", "threads", "folder", "curve", "notes",
}  # fmt: skip
QUICK = ("--batch", "1", "--rows", "16", "--from-layer", "1", "--keep", "0.25")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("prune") / "study")
    open_study(folder).extract(["films"])
    return folder


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in ("prune", *arguments)])


@pytest.fixture(scope="module")
def pruned(study: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("out") / "pruned"
    result = call("films", "--study", study, "--out", out, *QUICK, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), out


def by_what(report: dict[str, Any]) -> dict[str, Any]:
    return {score["what"]: score for score in report["scores"]}


def test_json_has_its_documented_keys(pruned: tuple[dict[str, Any], Path], study: Path) -> None:
    report, _ = pruned
    assert set(report) == KEYS
    assert (report["task"], report["seeds"], report["widths"]) == ("films", [0, 1], [24, 6])
    assert list(by_what(report)) == ["before", "after", "random neurons", "re-tuned"]
    assert report["fold_error"] < 1e-5
    own = [
        load_prompt(study / "prompts" / "films" / str(seed)).provenance["scores"]["dev"] for seed in (0, 1)
    ]
    before = by_what(report)["before"]
    assert before["by_seed"] == own
    assert before["value"] == pytest.approx(np.mean(own))
    assert before["low"] <= before["value"] <= before["high"]
    assert report["majority"] == 0.5
    (speed,) = report["speeds"]
    assert (speed["batch"], speed["rows"]) == (1, 16)
    assert speed["limit"] > 1


def test_the_folder_has_a_smaller_model_and_the_prompts(
    pruned: tuple[dict[str, Any], Path], study: Path
) -> None:
    report, out = pruned
    assert {path.name for path in out.iterdir()} == {
        "config.json", "model.safetensors", "pruned.json", "tokenizer.json", "tokenizer_config.json",
        "prompt", "report.json",
    }  # fmt: skip
    assert not [path for path in out.parent.iterdir() if path != out]  # nothing temporary is left
    before, after = (folder / "model.safetensors" for folder in (study / "model", out))
    assert after.stat().st_size < before.stat().st_size
    header = 8 + int.from_bytes(after.read_bytes()[:8], "little")
    assert report["after"]["bytes"] == after.stat().st_size - header
    assert store.read_json(out / "report.json")["scores"] == report["scores"]
    origin = store.read_json(out / "pruned.json")["origin"]
    assert origin["kept"][0] is None
    assert len(origin["kept"][1]) == 6
    assert origin["model_fingerprint"] == open_study(study).model_fingerprint


def test_kept_are_the_task_s_skill_neurons(pruned: tuple[dict[str, Any], Path], study: Path) -> None:
    signature = open_study(study).extract(["films"])["films"]
    origin = store.read_json(pruned[1] / "pruned.json")["origin"]
    assert origin["kept"][1] == np.flatnonzero(signature.skill_mask(0.25)[1]).tolist()


def test_the_prompts_are_those_of_the_pruned_model(
    pruned: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """A study on the pruned folder measures what the report says."""
    report, out = pruned
    loaded = load_backbone(out, device="cpu")
    for seed, value in enumerate(by_what(report)["re-tuned"]["by_seed"]):
        prompt = load_prompt(out / "prompt" / str(seed))
        assert prompt.provenance["model_fingerprint"] == loaded.fingerprint
        assert prompt.provenance["scores"]["dev"] == value
    mine = write_study(tmp_path / "mine", measure=True)
    settings = yaml.safe_load((mine / "study.yaml").read_text())
    settings["model"] = str(out)
    settings["tasks"]["films"]["prompts"] = str(out / "prompt")
    store.write_text(mine / "study.yaml", yaml.safe_dump(settings))
    pipeline = open_study(mine)
    matrix = pipeline.measure(targets=["films"], sources=["films"])
    assert matrix.value("films", "films") == pytest.approx(by_what(report)["re-tuned"]["value"])
    tuned = pipeline.tune(["food"])["food"][0]
    assert tuned.provenance["model_fingerprint"] == loaded.fingerprint
    result = CliRunner().invoke(main, ["extract", "--study", str(mine), "food"])
    assert result.exit_code == 2
    assert "It is a pruned model" in result.stderr


def test_scores_after_are_those_of_the_clamped_model(
    pruned: tuple[dict[str, Any], Path], study: Path
) -> None:
    report, _ = pruned
    pipeline = open_study(study)
    prompts, signature = pipeline.tune(["films"])["films"], pipeline.extract(["films"])["films"]
    kept = pruning.choose(pipeline.backbone, signature.subtask_predictivity, keep=0.25, from_layer=1)
    scorer = pruning_study._Scorer(pipeline, "films", prompts)
    held = scorer.baseline("prompt-rows", signature)
    with pruning.clamped(pipeline.backbone, kept, held):
        found = scorer.score("after", pipeline.backbone)
    assert list(found.by_seed) == by_what(report)["after"]["by_seed"]


def test_other_shares_are_scored_and_drawn_but_not_written(study: Path, tmp_path: Path) -> None:
    options = ("films", "--study", study, *QUICK, "--no-retune", "--format", "json")
    result = call(
        *options, "--out", tmp_path / "a", "--shares", "0.75,0.25,0.5", "--plot", tmp_path / "a.svg"
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    curve = [(one["keep"], one["pruned"]) for one in report["curve"]]
    assert curve == [(0.75, 0.25), (0.5, 0.5), (0.25, 0.75)]
    assert report["curve"][2]["scores"] == report["scores"][1:]
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")
    half = call(*options[:-2], "--format", "csv", "--out", tmp_path / "b", "--keep", 0.5, "--shares", "0.25")
    rows = [row for row in csv.DictReader(io.StringIO(half.stdout)) if row["quantity"] == "accuracy"]
    own = {row["at"]: float(row["value"]) for row in rows if row["keep"] == "0.5"}
    folded = {one["what"]: one["value"] for one in report["curve"][1]["scores"]}
    assert {name: own[name] for name in folded} == pytest.approx(folded)  # clamped is what folding gives
    assert [row["at"] for row in rows if row["keep"] == "0.25"] == ["after", "random neurons"]
    wrong = call(*options, "--out", tmp_path / "c", "--shares", "0.5,2")
    assert wrong.exit_code == 2
    assert "above 0 and at most 1, found 2" in wrong.stderr


def test_without_retuning_the_source_s_prompts_are_saved(study: Path, tmp_path: Path) -> None:
    result = call(
        "films", "--study", study, "--out", tmp_path / "a", *QUICK, "--no-retune", "--random-draws", 0,
        "--baseline", "all-rows", "--format", "csv",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [r["at"] for r in rows if r["quantity"] == "accuracy"] == ["before", "after", "majority"]
    assert {row["baseline"] for row in rows} == {"all-rows"}
    after = float(rows[1]["value"])
    saved = [load_prompt(tmp_path / "a" / "prompt" / seed) for seed in "01"]
    for prompt, seed in zip(saved, "01", strict=True):
        assert prompt.fingerprint == load_prompt(study / "prompts" / "films" / seed).fingerprint
    assert np.mean([p.provenance["scores"]["dev"] for p in saved]) == pytest.approx(after)


def test_a_classifier_s_head_is_saved_with_the_prompt(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", head="classifier", seeds=[3])
    result = call("pets", "--study", study, "--out", tmp_path / "out", *QUICK)
    assert result.exit_code == 0, result.output
    for line in (
        "pruned for pets: accuracy on dev",
        "tuned again",
        "What is left",
        "FLOP limit",
        "majority class",
    ):
        assert line in result.stdout
    saved = load_prompt(tmp_path / "out" / "prompt" / "3")
    assert saved.head is not None
    assert load_backbone(tmp_path / "out", head="classifier", device="cpu").widths == (24, 6)


def test_retuning_goes_on_where_it_was_killed(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_study(study)
    settings = PruneSettings(keep=0.5, from_layer=0, random_draws=0, batches=(1,), rows=8)
    calls: list[int] = []
    tune = kept_prompts.tune

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(options["seed"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return tune(*arguments, **options)

    monkeypatch.setattr(kept_prompts, "tune", counted)
    with pytest.raises(KeyboardInterrupt):
        pruning_study.prune(pipeline, "films", settings, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    report = pruning_study.prune(pipeline, "films", settings, tmp_path / "out")
    assert calls == [0, 1, 1]
    again = pruning_study.prune(pipeline, "films", settings)  # nothing is written
    assert calls == [0, 1, 1]
    assert again.scores == report.scores
    assert again.folder == ""


def test_refusals_write_nothing(study: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("x")
    file = tmp_path / "file"
    file.write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for arguments, hint in (
        (("films", "--out", full), "is not an empty folder"),
        (("films", "--out", file), "is not an empty folder"),
        (("films", "--out", tmp_path / "link"), "is a link"),
        (("flims", "--out", tmp_path / "new"), "Did you mean 'films'"),
        (("films", "--out", tmp_path / "new", "--from-layer", 2), "has the layers 0 to 1"),
        (("films", "--out", tmp_path / "new", "--keep", 0), "--keep"),
    ):
        result = call(*arguments, "--study", study, "--no-retune")
        assert result.exit_code == 2, result.output
        assert hint in result.stderr
        assert "Traceback" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "link"]
    assert [path.name for path in full.iterdir()] == ["mine.txt"]


def test_a_model_that_cannot_be_pruned_is_refused_before_anything_is_tuned(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study")
    tiny.model("albert").save_pretrained(folder / "model")
    result = call("films", "--study", folder, "--out", tmp_path / "out", *QUICK)
    assert result.exit_code == 2, result.output
    assert "cannot be pruned" in result.stderr
    assert not (folder / "prompts").exists()


def test_a_task_without_predictivity(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = open_study(study)
    signature = pipeline.extract(["films"])["films"]
    object.__setattr__(signature, "predictivity", None)
    with pytest.raises(SignatureError, match="no predictivity"):
        pruning_study.prune(pipeline, "films", PruneSettings(from_layer=1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_used_and_the_command_knows_its_tables(study: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    words = ["prune", "films", "--study", str(study), "--out", str(tmp_path / "out"), "--no-retune", *QUICK]
    done = subprocess.run(
        [sys.executable, "-m", "transferscope", *words],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "as many random neurons left" in done.stdout
    assert (tmp_path / "out" / "report.json").is_file()
