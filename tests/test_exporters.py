"""Exporters: JSON keys, long CSV, tables of the width asked for, and how one is added."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from transferscope import exporters
from transferscope.baselines import Baseline
from transferscope.comparison import IndicatorMatrix, from_rows
from transferscope.correlation import correlate
from transferscope.errors import InputError
from transferscope.exporters import Table, export, exporter, formats, tabular
from transferscope.ranking import RankedSource, Ranking
from transferscope.transfer import TransferMatrix

RANKING = Ranking(
    target="t",
    model="tiny",
    indicator="on",
    sources=(
        RankedSource(1, "a", 0.1 + 0.2, 0.25, 0.4, True, None, "x"),
        RankedSource(2, "b", float("nan"), None, None, None, 0.5, None),
    ),
    baselines=(Baseline("random", "any source alike", None, None, 0.5, None),),
    notes=("One | note.",),
)
MATRICES = [
    IndicatorMatrix("on", ("a", "b"), np.array([[1.0, 1 / 3], [np.nan, 1.0]])),
    IndicatorMatrix("on_raw", ("a", "b"), np.eye(2)),
]


def report() -> Any:
    transfer = TransferMatrix("zero-shot", ("a", "b"), ("a", "b"), np.eye(2), np.eye(2)[None])
    return correlate(MATRICES[1:], transfer, own_prompt="included")


def test_the_json_of_a_ranking() -> None:
    found = json.loads(export(RANKING, "json"))
    assert list(found) == ["target", "model", "indicator", "sources", "baselines", "notes"]
    keys = ["rank", "source", "score", "low", "high", "ties_with_best", "measured"]
    keys += ["basis", "examples", "type", "tied_by_evidence"]
    assert [list(source) for source in found["sources"]] == [keys, keys]
    assert [source["type"] for source in found["sources"]] == ["x", None]
    assert found["sources"][0]["score"] == 0.1 + 0.2
    assert found["sources"][1]["score"] is None
    assert list(found["baselines"][0]) == ["name", "description", "order", "best", "chance", "measured"]
    assert found["notes"] == ["One | note."]


def test_the_json_of_matrices() -> None:
    found = json.loads(export(MATRICES, "json"))
    assert found["indicators"][0] == {
        "indicator": "on",
        "tasks": ["a", "b"],
        "values": [[1.0, 1 / 3], [None, 1.0]],
    }
    assert json.loads(export(MATRICES[1], "json"))["indicators"][0]["indicator"] == "on_raw"


def test_the_json_of_a_report() -> None:
    found = json.loads(export(report(), "json"))
    assert list(found) == ["protocol", "own_prompt", "targets", "scores"]
    assert found["own_prompt"] == "included"
    assert list(found["scores"][0]) == [
        *(
            "name",
            "kind",
            "scope",
            "aggregate",
            "metric",
            "mean",
            "low",
            "high",
            "p",
            "n_targets",
            "n_skipped",
        )
    ]


def test_csv_is_long_and_keeps_every_digit() -> None:
    rows = list(csv.DictReader(io.StringIO(export(MATRICES, "csv"))))
    assert list(rows[0]) == ["indicator", "source", "target", "value"]
    assert rows[2]["value"] == ""
    np.testing.assert_array_equal(from_rows(rows)[0].values, MATRICES[0].values)
    (first, second) = csv.DictReader(io.StringIO(export(RANKING, "csv")))
    assert float(first["score"]) == 0.1 + 0.2
    assert (first["target"], first["ties_with_best"], first["type"]) == ("t", "true", "x")
    assert (second["score"], second["low"], second["measured"]) == ("", "", "0.5")


def test_tables_show_all_or_fold_to_the_width() -> None:
    long = Table(("name", "text"), (("[b]x[/b]", "word " * 60),), "Title", ("A note. " * 40,))
    wide = export(long, "table")
    assert ("word " * 60).strip() in wide
    assert "[b]x[/b]" in wide  # not read as markup
    narrow = export(long, "table", width=40)
    assert max(map(len, narrow.splitlines())) <= 40
    assert narrow.count("word") == 60


def test_the_table_of_a_ranking_has_what_matters() -> None:
    text = export(RANKING, "table")
    for part in ("Sources for t, by on", "0.3000", "0.2500 .. 0.4000", "yes", "random", "- One | note."):
        assert part in text


def test_a_measured_ranking_says_what_each_place_rests_on() -> None:
    sources = (
        RankedSource(1, "a", 0.2, None, None, None, 0.75, None, "measured", 128),
        RankedSource(2, "b", 0.3, None, None, None, None, None),
    )
    mixed = Ranking("t", "tiny", "on", sources, (), ())
    lines = export(mixed, "table").splitlines()
    assert lines[0] == "Sources for t, by what was measured, then on"
    assert lines[1].split()[-3:] == ["measured", "basis", "examples"]
    assert lines[3].split()[-3:] == ["0.7500", "measured", "128"]
    assert lines[4].split()[-3:] == ["-", "predicted", "-"]
    rows = json.loads(export(mixed, "json"))["sources"]
    assert [(row["basis"], row["examples"]) for row in rows] == [("measured", 128), ("predicted", None)]
    alone = Ranking("t", "tiny", None, (RankedSource(1, "a", *[None] * 4, 0.5, None, "measured"),), (), ())
    assert "Sources for t, by what was measured\n" in export(alone, "table")
    assert json.loads(export(alone, "json"))["indicator"] is None
    (row,) = csv.DictReader(io.StringIO(export(alone, "csv")))
    assert (row["indicator"], row["score"], row["basis"], row["examples"]) == ("", "", "measured", "")
    assert "basis" not in export(RANKING, "table")


def test_markdown() -> None:
    lines = export(RANKING, "md").splitlines()
    assert lines[0] == "**Sources for t, by on**"
    assert lines[2].count("|") == lines[3].count("|") == lines[4].count("|")
    assert "- One | note." in lines
    assert "a\\|b" in export(Table(("x",), (("a|b",),)), "md")


@pytest.mark.parametrize("record", [RANKING, MATRICES, report(), Table(("x",), ((1,),))])
def test_every_record_has_every_format(record: Any) -> None:
    for format_ in ("table", "json", "csv", "md"):
        text = export(record, format_)
        assert text
        assert not text.endswith("\n")


def test_unknown_formats_and_records() -> None:
    with pytest.raises(
        InputError, match=r"no format 'jsno' for a Ranking. Did you mean 'json'\? Available: csv, json"
    ):
        export(RANKING, "jsno")
    with pytest.raises(InputError, match=r"no exporter for a int. .*Available: .*Ranking"):
        export(3, "json")
    with pytest.raises(InputError, match="the list of records is empty"):
        export([], "json")


def test_an_exporter_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Pair:
        left: int
        right: float

    monkeypatch.setattr(exporters, "_EXPORTERS", {**exporters._EXPORTERS})
    exporter(Pair, "dot")(lambda pair: f"{pair.left} -> {pair.right}\n")
    tabular(Pair, lambda pair: [Table(("left", "right"), ((pair.left, pair.right),))])
    assert formats(Pair) == ["csv", "dot", "json", "md", "table"]
    assert export(Pair(1, 2.5), "dot") == "1 -> 2.5"
    assert export(Pair(1, 2.5), "csv") == "left,right\n1,2.5"
    assert json.loads(export(Pair(1, float("nan")), "json")) == {"left": 1, "right": None}
