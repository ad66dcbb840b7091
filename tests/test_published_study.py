"""An imported study of the published prompts: compared and ranked by the same commands as one's own."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from transferscope.cli import main
from transferscope.pipeline import Pipeline, open_study

NAMES = {
    "prompt_cosine_concat": "C_concat",
    "prompt_cosine_average": "C_average",
    "prompt_euclidean_concat": "E_concat",
    "prompt_euclidean_average": "E_average",
    "prompt_cosine_mean_token": "C_meantoken",
    "prompt_cosine_position": "C_position",
    "prompt_cosine_maxsim": "C_maxsim",
}
TASKS = {"Roberta": 14, "T5Small": 17}


@pytest.fixture(scope="module")
def studies(shared: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for backbone in TASKS:
        made[backbone] = tmp_path_factory.mktemp("published") / backbone
        arguments = ["--backbone", backbone, "--out", made[backbone]]
        call("import", "prompt-transferability", shared("published"), *arguments)
    return made


def call(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("backbone", TASKS)
def test_compare_equals_the_reference_indicators(
    backbone: str, studies: dict[str, Path], shared: Callable[..., Path]
) -> None:
    with shared("published", "reference_indicators.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["backbone"] == backbone]
    expected = {(r["indicator"], r["source"], r["target"]): float(r["value"]) for r in rows}
    options = [word for name in NAMES for word in ("--indicator", name)]
    text = call("compare", "--study", studies[backbone], "--format", "csv", *options)
    found = {
        (NAMES[row["indicator"]], row["source"], row["target"]): float(row["value"])
        for row in csv.DictReader(io.StringIO(text))
    }
    assert set(found) == set(expected)
    assert len(found) == 7 * TASKS[backbone] ** 2
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), rtol=0, atol=1e-6)


def regrets(studies: dict[str, Path], **options: object) -> list[float]:
    """Best measured value minus that of the source ranked first, own prompt excluded; 31 targets."""
    found = []
    for folder in studies.values():
        study: Pipeline = open_study(folder)
        known = study.known_transfer()
        assert known is not None
        for target in known.targets:
            ranking = study.rank(target, **options)  # type: ignore[arg-type]
            values = {s.source: known.value(s.source, target) for s in ranking.sources}
            assert set(values) == set(known.sources) - {target}
            found.append(max(values.values()) - values[ranking.sources[0].source])
    assert len(found) == 31
    return found


def test_the_same_type_first_picks_a_source_close_to_the_best(studies: dict[str, Path]) -> None:
    assert np.mean(regrets(studies, prefer_same_type=True)) <= 0.03


def test_the_best_of_the_first_three_measured_is_closer(studies: dict[str, Path]) -> None:
    by_cosine = regrets(studies, indicator="prompt_cosine_mean_token", measure=3)
    assert np.mean(by_cosine) <= 0.02


def test_the_random_prompt_is_a_control_and_other_backbones_stand_apart(studies: dict[str, Path]) -> None:
    for backbone, tasks in TASKS.items():
        known = open_study(studies[backbone]).known_transfer()
        assert known is not None
        assert known.values.shape == (tasks, tasks)
        assert np.isfinite(known.values).all()
        assert np.isfinite(known.controls["random"]).all()
        assert known.controls["random"].shape[1] == tasks
    apart = (studies["Roberta"] / "cross-model.csv").read_text(encoding="utf-8")
    assert "zero-shot" not in apart
    assert "@Bert" in apart
