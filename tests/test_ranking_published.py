"""What a ranking picks on the published transfer matrices: RoBERTa-base and T5-small, 31 targets."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transferscope.agreement_tables import per_target
from transferscope.budget import budget_curves
from transferscope.comparison import IndicatorMatrix, Material, from_rows
from transferscope.default_indicator import by_needs
from transferscope.evidence import Known, gather
from transferscope.ranking import rank_values
from transferscope.resampling import bootstrap_mean
from transferscope.transfer import COLUMNS, TransferMatrix
from transferscope.transfer import from_rows as transfer_from_rows

TARGETS = {"Roberta": 14, "T5Small": 17}
DOCS = Path(__file__).resolve().parents[1] / "docs" / "ranking.md"


@dataclass(frozen=True)
class Published:
    """One backbone's mean-token cosines, measured transfer, and task types."""

    cosine: IndicatorMatrix
    transfer: TransferMatrix
    types: dict[str, str]


@pytest.fixture(scope="module")
def published(shared: Callable[..., Path]) -> list[Published]:
    folder = shared("published")
    types = {row["task"]: row["type"] for row in read(folder / "task_types.csv")}
    found = []
    for backbone, targets in TARGETS.items():
        rows = [
            row
            for row in read(folder / "reference_indicators.csv")
            if row["backbone"] == backbone and row["indicator"] == "C_meantoken"
        ]
        (cosine,) = from_rows(rows)
        transfer = measured(folder / "Prompt-Transferability-1.0" / "result", backbone, cosine.tasks)
        assert len(transfer.targets) == len(transfer.sources) == targets
        found.append(Published(cosine, transfer, types))
    return found


@cache
def read(file: Path) -> tuple[dict[str, str], ...]:
    with file.open(encoding="utf-8") as handle:
        return tuple(csv.DictReader(handle))


def measured(folder: Path, backbone: str, tasks: tuple[str, ...]) -> TransferMatrix:
    """Folder: target; file: source; JSON in a JSON string."""
    rows = []
    for target in tasks:
        for source in tasks:
            file = folder / f"{target}Prompt{backbone}" / f"result_{source}Prompt{backbone}.json"
            value = json.loads(json.loads(file.read_text()))["acc"]
            rows.append(dict(zip(COLUMNS, ("zero-shot", source, target, 0, "acc", value), strict=True)))
    return transfer_from_rows(rows)[0]


def regrets(data: list[Published], **options: Any) -> list[float]:
    """Best value minus the first source's, the own prompt excluded, for each target of both backbones."""
    found = []
    for one in data:
        for target in one.cosine.tasks:
            ranking = rank_values(target, [one.cosine], transfer=one.transfer, types=one.types, **options)
            values = {source.source: source.measured or 0.0 for source in ranking.sources}
            assert set(values) == set(one.cosine.tasks) - {target}
            found.append(max(values.values()) - values[ranking.sources[0].source])
    assert len(found) == 31
    return found


def by_baseline(data: list[Published], name: str) -> list[float]:
    """Expected regret of picking at random among the sources that a baseline ties for the first place."""
    found = []
    for one in data:
        for target in one.cosine.tasks:
            ranking = rank_values(target, [one.cosine], transfer=one.transfer, types=one.types)
            best = max(source.measured or 0.0 for source in ranking.sources)
            (baseline,) = [baseline for baseline in ranking.baselines if baseline.name == name]
            assert baseline.measured is not None
            found.append(best - baseline.measured)
    return found


def figures(data: list[Published]) -> dict[str, list[float]]:
    return {
        "random": by_baseline(data, "random"),
        "same type alone": by_baseline(data, "same_type"),
        "the indicator alone": regrets(data),
        "type first, indicator inside": regrets(data, prefer_same_type=True),
        "best of three measured, by indicator": regrets(data, measure=3),
        "best of three measured, type first": regrets(data, prefer_same_type=True, measure=3),
    }


def test_the_type_first_and_the_indicator_inside(published: list[Published]) -> None:
    found = float(np.mean(regrets(published, prefer_same_type=True)))
    assert found <= 0.03
    assert found == pytest.approx(0.0254, abs=1e-4)


def test_the_best_of_three_measured(published: list[Published]) -> None:
    found = float(np.mean(regrets(published, measure=3)))
    assert found <= 0.02
    assert found == pytest.approx(0.0125, abs=1e-4)


def test_the_table_of_the_docs_is_what_is_measured(published: list[Published]) -> None:
    text = DOCS.read_text(encoding="utf-8")
    for name, values in figures(published).items():
        roberta, t5, both = (np.mean(part) for part in (values[:14], values[14:], values))
        assert f"| {name} | {roberta:.4f} | {t5:.4f} | {both:.4f} |" in text


def test_measuring_everything_has_no_regret(published: list[Published]) -> None:
    assert max(regrets(published, measure=16)) == 0.0


def test_what_is_said_without_evidence_is_what_is_measured(published: list[Published]) -> None:
    """The notes and the page quote agreement over both backbones, a task on both drawn as one."""
    note = by_needs([Material("a", {"prompt": [np.zeros((2, 3))]})])[1]
    for scope, quoted in (("all", ".411"), ("different-type", ".175 [.05, .31]")):
        names, values, means = [], [], []
        for one in published:
            judged, orderings = gather([one.cosine], one.transfer, Known(one.types), ["random"])
            cells = judged.cells("excluded", scope, one.types)  # type: ignore[arg-type]
            table = per_target(orderings, judged.values[None], cells, ["spearman"])["spearman"][0, 0]
            names += judged.targets
            values += table.tolist()
            means.append(float(np.mean(table)))
        mean, low, high = bootstrap_mean(np.array(values), 0, clusters=names, expanded=True)
        assert mean is not None
        assert low is not None
        assert high is not None
        said = f"{mean:.3f}" if scope == "all" else f"{mean:.3f} [{low:.2f}, {high:.2f}]"
        assert said.replace("0.", ".") == quoted
        assert quoted in note
        if scope != "all":
            backbones = f"(RoBERTa-base {means[0]:.2f}, T5-small {means[1]:.2f})".replace("0.", ".")
            assert backbones in note
            assert backbones in DOCS.read_text(encoding="utf-8")


def test_the_adaptive_orders_regret_in_the_docs(published: list[Published]) -> None:
    text = " ".join(DOCS.read_text(encoding="utf-8").split())
    for one in published:
        report = budget_curves([one.cosine], one.transfer, adaptive=["C_meantoken"])
        adaptive, plain = (report.curve(name) for name in ("gp(C_meantoken)", "C_meantoken"))
        for way in (adaptive, plain):
            two, three = (f"{way[k - 1].mean:.4f}".removeprefix("0") for k in (2, 3))
            assert f"{two} and {three}" in text
