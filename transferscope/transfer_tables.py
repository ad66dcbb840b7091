"""Measured transfer as tables: the matrix with its controls and means, and starts compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from transferscope.exporters import Cell, Table, exporter, json_text, tabular
from transferscope.initialisation import InitComparison, StartResult
from transferscope.transfer import COLUMNS, TransferMatrix, TypeMeans, by_type, to_rows


@dataclass(frozen=True)
class TransferReport:
    """A transfer matrix to be shown: ``means`` within and across task types, None where types are missing."""

    matrix: TransferMatrix
    means: TypeMeans | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, matrix: TransferMatrix, types: Mapping[str, str]) -> TransferReport:
        """The matrix with what its numbers rest on."""
        known = set(matrix.sources) | set(matrix.targets) <= set(types)
        notes = [
            f"{len(matrix.seeds)} seed{'s' if len(matrix.seeds) > 1 else ''} a source; a cell is their mean, "
            "its standard error is over seeds alone (not over the examples of dev)."
        ]
        if "random" in matrix.controls:
            notes.append(f"random: mean of {len(matrix.controls['random'])} draws.")
        means = by_type(matrix, types) if known and len(matrix.sources) > 1 else None
        return cls(matrix, means, tuple(notes))


def _grid(title: str, matrix: TransferMatrix, values: np.ndarray, notes: Sequence[str] = ()) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (source, *map(float, row)) for source, row in zip(matrix.sources, values, strict=True)
    ]
    return Table(("source", *matrix.targets), tuple(rows), title, tuple(notes))


def _tables(report: TransferReport) -> list[Table]:
    matrix = report.matrix
    beside: list[tuple[Cell, ...]] = [
        (f"({name})", *map(float, np.nanmean(values, axis=0))) for name, values in matrix.controls.items()
    ]
    plain = _grid(
        f"Measured transfer, {matrix.protocol} (sources down, targets across)", matrix, matrix.values
    )
    metrics = ("metric", *(dict(matrix.metrics or {}).get(t, "accuracy") for t in matrix.targets))
    tables = [Table(plain.columns, (*plain.rows, *beside, metrics), plain.title, report.notes)]
    if np.isfinite(matrix.relative).any():
        tables.append(_grid("Relative to the target's own prompt", matrix, matrix.relative))
    if np.isfinite(matrix.standard_errors).any():
        tables.append(_grid("Standard error over seeds", matrix, matrix.standard_errors))
    if report.means is not None:
        tables.append(_means_table(report.means))
    return tables


def _means_table(means: TypeMeans) -> Table:
    rows = (
        ("same type", means.same, means.same_relative, means.same_cells),
        ("different types", means.different, means.different_relative, means.different_cells),
    )
    return Table(
        ("pairs", "mean value", "mean relative", "cells"), rows, "By task type, own prompts left out"
    )


@exporter(TransferReport, "json")
def report_json(report: TransferReport) -> str:
    """{"protocol", "sources", "targets", "metrics", "seeds", "values" [source][target], "relative", ...}."""
    m = report.matrix
    return json_text(
        {
            "protocol": m.protocol,
            "sources": m.sources,
            "targets": m.targets,
            "metrics": dict(m.metrics or {}),
            "seeds": m.seeds,
            "values": m.values,
            "relative": m.relative,
            "standard_errors": m.standard_errors,
            "controls": dict(m.controls),
            "by_type": None if report.means is None else asdict(report.means),
            "notes": report.notes,
        }
    )


tabular(TransferReport, _tables, lambda report: Table(COLUMNS, tuple(to_rows(report.matrix))))

_SHOWN = {
    "start": "start",
    "learning_rate": "learning rate",
    "validation": "validation",
    "dev": "dev",
    "error": "se",
    "untouched": "untouched",
    "convergence_steps": "converged at",
    "convergence_speedup": "speed-up",
    "comparable_steps": "as good as scratch at",
    "comparable_speedup": "speed-up there",
}


def _start_tables(record: InitComparison | Sequence[InitComparison]) -> list[Table]:
    several = [record] if isinstance(record, InitComparison) else record
    return [_start_table(one) for one in several]


def _start_table(comparison: InitComparison) -> Table:
    rows = tuple(tuple(getattr(start, name) for name in _SHOWN) for start in comparison.starts)
    data = "all examples" if comparison.shots is None else f"{comparison.shots} shots"
    title = f"Starts for {comparison.target}: {comparison.metric}, {data}, {comparison.steps} steps"
    return Table(tuple(_SHOWN.values()), rows, title, comparison.notes)


def _starts_long(record: InitComparison | Sequence[InitComparison]) -> Table:
    several = [record] if isinstance(record, InitComparison) else record
    names = [field.name for field in fields(StartResult)]
    rows: list[tuple[Any, ...]] = [
        (one.target, one.shots, one.metric, *(getattr(start, name) for name in names))
        for one in several
        for start in one.starts
    ]
    return Table(("target", "shots", "metric", *names), tuple(rows))


@exporter(InitComparison, "json")
def starts_json(record: InitComparison | Sequence[InitComparison]) -> str:
    """{"comparisons": [the fields of InitComparison, with "recommended"]}; an infinite speed-up is null."""
    several = [record] if isinstance(record, InitComparison) else record
    return json_text(
        {"comparisons": [{**asdict(one), "recommended": asdict(one.recommended)} for one in several]}
    )


tabular(InitComparison, _start_tables, _starts_long)
