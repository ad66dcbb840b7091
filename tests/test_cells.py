"""Measured cells on disk: kept one by one, stale alone, and one table of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from transferscope import cells, store
from transferscope.cells import TargetCells
from transferscope.errors import InputError, StoreError
from transferscope.store import Study
from transferscope.transfer import COLUMNS, Cell

INPUTS = {"model": "m", "task": "t"}
CELL = Cell("imdb", 1, "accuracy", 0.75, 0.5, 20, "p1")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def row(source: str, target: str, value: Any, protocol: str = "zero-shot", seed: int = 0) -> dict[str, Any]:
    return dict(zip(COLUMNS, (protocol, source, target, seed, "accuracy", value), strict=True))


def test_a_cell_is_on_disk_as_soon_as_it_is_added(study: Study) -> None:
    TargetCells(study, "zero-shot", "sst2", INPUTS).add(CELL)
    again = TargetCells(study, "zero-shot", "sst2", INPUTS)
    assert again.get("imdb", 1, "p1") == CELL
    assert again.changed == []


def test_a_cell_of_another_prompt_seed_or_source_is_not_there(study: Study) -> None:
    kept = TargetCells(study, "zero-shot", "sst2", INPUTS)
    kept.add(CELL)
    for wrong in (("imdb", 1, "p2"), ("imdb", 0, "p1"), ("mr", 1, "p1")):
        assert kept.get(*wrong) is None
    assert TargetCells(study, "linear-probe", "sst2", INPUTS).get("imdb", 1, "p1") is None


def test_other_inputs_drop_what_was_there_and_say_which(study: Study) -> None:
    TargetCells(study, "zero-shot", "sst2", INPUTS).add(CELL)
    changed = TargetCells(study, "zero-shot", "sst2", {**INPUTS, "model": "other"})
    assert changed.get("imdb", 1, "p1") is None
    assert changed.changed == ['model: was "m", now "other"']


def test_the_table_has_all_cells_in_a_fixed_order(study: Study) -> None:
    for target, source in (("b", "z"), ("a", "y"), ("a", "x")):
        TargetCells(study, "zero-shot", target, INPUTS).add(Cell(source, 0, "accuracy", 0.5))
    rows = cells.write_table(study)
    assert [(r["target"], r["source"]) for r in rows] == [("a", "x"), ("a", "y"), ("b", "z")]
    assert cells.read_table(study) == rows
    before = (study.folder / "transfer.csv").read_bytes()
    cells.write_table(study)
    assert (study.folder / "transfer.csv").read_bytes() == before


def test_imported_results_stand_beside_and_measured_ones_go_first(study: Study) -> None:
    cells.add_imported(study, [row("imdb", "sst2", 0.6, seed=1), row("random", "sst2", 0.5)], "paper.csv")
    TargetCells(study, "zero-shot", "sst2", INPUTS).add(CELL)
    found = {(r["source"], r["seed"]): r["value"] for r in cells.write_table(study)}
    assert found == {("imdb", 1): 0.75, ("random", 0): 0.5}
    cells.add_imported(study, [row("random", "sst2", 0.25)], "paper.csv")
    assert {r["source"]: r["value"] for r in cells.read_table(study)} == {"imdb": 0.75, "random": 0.25}


def test_cells_that_the_study_no_longer_means_are_left_out_of_the_table(study: Study) -> None:
    kept = TargetCells(study, "zero-shot", "sst2", INPUTS)
    kept.add(CELL)
    kept.add(Cell("mr", 0, "accuracy", 0.5, prompt="p3"))
    rows = cells.write_table(study, lambda protocol, target, cell: cell.prompt == "p3")
    assert [r["source"] for r in rows] == ["mr"]


def test_a_table_made_by_hand_is_not_lost(study: Study) -> None:
    text = "protocol,source,target,seed,metric,value\nzero-shot,a,b,0,accuracy,0.5\n"
    store.write_text(study.folder / "transfer.csv", text)
    TargetCells(study, "zero-shot", "sst2", INPUTS).add(CELL)
    cells.write_table(study)
    assert (study.folder / "transfer.before.csv").read_text() == text
    assert [r["source"] for r in cells.read_table(study)] == ["imdb"]
    cells.write_table(study)  # our own table is not put aside
    assert (study.folder / "transfer.before.csv").read_text() == text


def test_what_is_no_number_is_refused_by_name(study: Study) -> None:
    with pytest.raises(InputError, match=r"paper.csv: the value of a -> b is 'high', no number"):
        cells.add_imported(study, [row("a", "b", "high")], "paper.csv")


def test_a_damaged_file_is_named(study: Study) -> None:
    path = study.path("transfer", "zero-shot", "sst2.json")
    store.write_json(path, {"inputs": INPUTS, "cells": [{"source": "imdb"}]}, versioned=True)
    with pytest.raises(StoreError, match=r"sst2\.json does not hold measured cells"):
        TargetCells(study, "zero-shot", "sst2", INPUTS)
