"""The demo as a newcomer runs it: it works offline, finds what it should by its own measurements, says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from transferscope.cli import main
from transferscope.demo.run import Demo, run_demo, write_study
from transferscope.demo.story import tell
from transferscope.errors import StudyError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return run_demo(tmp_path_factory.mktemp("demo") / "study")


def test_eight_tasks_in_three_families_with_label_words_of_their_own(demo: Demo) -> None:
    tasks = demo.summary.tasks
    assert len(tasks) == 8
    assert len({task.type for task in tasks}) >= 3
    words = [
        json.loads(path.read_text())["provenance"]["words"]
        for path in demo.folder.glob("prompts/*/0/transferscope.json")
    ]
    assert len({tuple(found) for found in words}) == 8


def test_tuned_prompts_are_far_above_the_majority_class(demo: Demo) -> None:
    for task in demo.summary.tasks:
        assert task.score > task.majority + 0.25, task


def test_transfer_is_better_within_families_than_across(demo: Demo) -> None:
    assert demo.means.same > demo.means.different + 0.1
    assert demo.means.same_cells + demo.means.different_cells == 8 * 7


def test_a_neuron_indicator_and_the_same_type_baseline_agree_with_transfer(demo: Demo) -> None:
    for name in ("on", "same_type"):
        score = demo.report.get(name)
        assert score.low is not None
        assert score.low > 0, score
    assert demo.report.get("random").mean == 0


def test_the_story_says_what_a_newcomer_needs(demo: Demo) -> None:
    story = tell(demo)
    for task in demo.summary.tasks:
        assert task.task in story
    for text in (
        "within a family",
        f"Sources for {demo.ranking.target}",
        "95 %",
        "same_type",
        str(demo.folder),
    ):
        assert text in story
    assert f"transferscope rank {demo.summary.tasks[-1].task} --study {demo.folder}" in story


def test_the_command_goes_on_with_a_finished_demo(demo: Demo) -> None:
    before = {
        path: path.stat().st_mtime_ns
        for path in demo.folder.rglob("*.safetensors")
        if "model" not in path.parts
    }
    result = CliRunner().invoke(main, ["demo", "--out", str(demo.folder)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "How well each indicator agreed" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_commands_that_the_story_ends_with_work(demo: Demo) -> None:
    target = demo.summary.tasks[-1].task
    ranked = CliRunner().invoke(main, ["rank", target, "--study", str(demo.folder), "--format", "json"])
    assert ranked.exit_code == 0, ranked.output
    assert len(json.loads(ranked.stdout)["sources"]) == 7
    compared = CliRunner().invoke(
        main, ["compare", "--study", str(demo.folder), "--indicator", "on", "--format", "csv"]
    )
    assert compared.stdout.splitlines()[0] == "indicator,source,target,value"
    assert len(compared.stdout.splitlines()) == 1 + 8 * 8
    prompts = demo.folder / "prompts"
    alone = CliRunner().invoke(
        main, ["rank", str(prompts / target / "0"), "--prompts", str(prompts), "--format", "csv"]
    )
    assert alone.exit_code == 0, alone.output


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StudyError, match="not empty"):
        run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_another_seed_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    write_study(tmp_path / "study", 0)
    with pytest.raises(StudyError, match="another study"):
        write_study(tmp_path / "study", 1)
