"""Choosing by measuring: the best few of a ranking, or a race; and the cost is counted."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.test_pipeline import write_study
from transferscope import store
from transferscope.errors import InputError
from transferscope.ordering import Ranking
from transferscope.pipeline import open_study


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks with prompts and signatures, and nothing measured."""
    folder = write_study(tmp_path_factory.mktemp("tuned") / "study")
    open_study(folder).extract()
    return folder


@pytest.fixture
def study(tuned: Path, tmp_path: Path) -> Path:
    shutil.copytree(tuned, tmp_path / "study")
    return tmp_path / "study"


def passes(ranking: Ranking) -> tuple[int, int]:
    note = next(note for note in ranking.notes if note.startswith("Forward passes"))
    spent, exhaustive = map(int, re.findall(r"\d+", note.split("%")[0])[:2])
    return spent, exhaustive


def test_the_first_k_are_measured_and_ordered_by_it(study: Path) -> None:
    predicted = open_study(study).rank("films")
    one = open_study(study).rank("films", measure=1)
    assert [source.basis for source in one.sources] == ["measured", "predicted"]
    assert one.sources[0].source == predicted.sources[0].source
    assert passes(one) == (2 * 20, 2 * 2 * 20)  # two seeds, twenty examples; of two sources
    two = open_study(study).rank("films", measure=5)
    assert passes(two) == (2 * 20, 2 * 2 * 20)  # the first was known
    values = [source.measured for source in two.sources]
    assert values == sorted(values, key=lambda value: -(value or 0.0))
    matrix = open_study(study).measure()
    for source in two.sources:
        assert source.measured == pytest.approx(matrix.value(source.source, "films"))


def test_a_race_of_all_sees_what_measuring_sees(study: Path) -> None:
    matrix = open_study(study).measure()
    raced = open_study(study).rank("films", race=True)
    assert raced.indicator is not None
    assert {source.basis for source in raced.sources} == {"measured"}
    spent, exhaustive = passes(raced)
    assert spent <= exhaustive == 2 * 2 * 20
    for source in raced.sources:  # twenty examples are one round: all are seen
        assert source.measured == pytest.approx(matrix.value(source.source, "films"))


def test_a_race_of_the_first_leaves_the_others_predicted(study: Path) -> None:
    raced = open_study(study).rank("films", race=True, measure=1)
    assert [source.basis for source in raced.sources] == ["measured", "predicted"]
    assert passes(raced)[1] == 2 * 2 * 20


def test_a_target_without_a_prompt_needs_none_to_race(study: Path) -> None:
    shutil.rmtree(study / "prompts" / "films")
    shutil.rmtree(study / "signatures")
    raced = open_study(study).rank("films", race=True)
    assert raced.indicator is None
    assert not (study / "prompts" / "films").exists()
    assert {source.source for source in raced.sources} == {"food", "pets"}
    assert all(source.score is None for source in raced.sources)


@pytest.mark.parametrize("metric", ["macro_f1", "matthews"])
def test_a_race_is_run_in_the_target_s_metric(study: Path, metric: str) -> None:
    settings = yaml.safe_load((study / "study.yaml").read_text())
    settings["tasks"]["films"]["metric"] = metric
    store.write_text(study / "study.yaml", yaml.safe_dump(settings))
    shutil.rmtree(study / "prompts" / "films")
    raced = open_study(study).rank("films", race=True)
    matrix = open_study(study).measure(targets=["films"])
    assert dict(matrix.metrics or {}) == {"films": metric}
    for source in raced.sources:
        assert source.measured == pytest.approx(matrix.value(source.source, "films"), abs=1e-12)


def test_the_same_type_first(study: Path) -> None:
    ranking = open_study(study).rank("films", prefer_same_type=True)
    assert [source.type for source in ranking.sources] == ["things", "animals"]


def test_a_race_is_zero_shot(study: Path) -> None:
    with pytest.raises(InputError, match="--measure K"):
        open_study(study).rank("films", race=True, protocol="linear-probe")
    probed = open_study(study).rank("films", measure=2, protocol="linear-probe")
    matrix = open_study(study).measure("linear-probe", targets=["films"])
    assert probed.sources[0].measured == pytest.approx(np.nanmax(_others(matrix, "films")))


def _others(matrix: Any, target: str) -> list[float]:
    return [matrix.value(source, target) for source in matrix.sources if source != target]


def test_an_adaptive_choice_measures_k_and_the_own_prompt(study: Path) -> None:
    """The first is the indicator's own first; passes are counted, those of the own prompts too."""
    predicted = open_study(study).rank("films")
    one = open_study(study).rank("films", measure=1, adaptive=True)
    assert [source.basis for source in one.sources] == ["measured", "predicted"]
    assert one.sources[0].source == predicted.sources[0].source
    assert passes(one)[0] == 2 * 2 * 20
    assert one.notes[0].startswith("Measured one after another")
    both = open_study(study).rank("films", measure=2, adaptive=True)
    assert passes(both)[0] == 2 * 20  # the rest was known
    values = [source.measured for source in both.sources]
    matrix = open_study(study).measure()
    assert values == [pytest.approx(matrix.value(source.source, "films")) for source in both.sources]
    for options in ({}, {"measure": 1, "race": True}):
        with pytest.raises(InputError, match="adaptive"):
            open_study(study).rank("films", adaptive=True, **options)  # type: ignore[arg-type]
