"""The catalogue of indicators: every need has a cost, every indicator its place, the page is current."""

from __future__ import annotations

import csv
import io
from importlib import resources
from pathlib import Path

import pytest
from click.testing import CliRunner

from indicators import Indicator
from transferscope import catalogue
from transferscope.cli import main
from transferscope.needs import SUPPLIERS

PAGE = Path(__file__).parents[1] / "docs" / "indicators.md"
every = pytest.mark.parametrize("record", catalogue.everything(), ids=lambda record: record.name)


def test_the_page_is_what_the_registry_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == catalogue.page(), "run scripts/catalogue"


@every
def test_every_indicator_has_a_cost_a_supplier_and_a_family(record: Indicator) -> None:
    assert catalogue.cost(record)
    assert set(record.needs) <= set(catalogue.NEEDS)
    assert set(record.needs) <= set(SUPPLIERS)
    assert record.family in catalogue.FAMILIES


@every
def test_every_indicator_was_timed_and_no_other(record: Indicator) -> None:
    assert catalogue.seconds()[record.name] >= 0
    assert set(catalogue.seconds()) == {one.name for one in catalogue.everything()}


def test_label_scores_keep_to_their_bounds() -> None:
    file = resources.files("transferscope") / catalogue.SECONDS
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
    bounded = [row for row in rows if row["bound"]]
    assert len(bounded) > 15
    for row in bounded:
        assert float(row["seconds"]) <= float(row["bound"]), row["name"]


def test_one_indicator_is_shown_with_all_that_is_known() -> None:
    result = CliRunner().invoke(main, ["list", "indicators", "logme", "--format", "csv"])
    assert result.exit_code == 0
    shown = dict(csv.reader(io.StringIO(result.stdout)))
    assert {"formula", "range", "chance", "closer", "cost", "seconds", "source", "degenerate"} <= set(shown)
    assert shown["needs"] == "features, labels"
    assert float(shown["seconds"]) > 0


def test_needs_may_be_given_with_commas() -> None:
    one = CliRunner().invoke(main, ["list", "indicators", "--needs", "features,labels", "--format", "csv"])
    two = CliRunner().invoke(
        main, ["list", "indicators", "--needs", "features", "--needs", "labels", "--format", "csv"]
    )
    assert one.stdout == two.stdout
    assert "logme" in one.stdout
    assert "otdd" not in one.stdout
