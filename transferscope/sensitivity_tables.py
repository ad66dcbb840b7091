"""Curves of indicators by layer, rate or trials as text: a table for each indicator, one long csv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from transferscope.agreement import METRICS
from transferscope.exporters import Cell, Table, exporter, json_text, latex_text, tabular
from transferscope.sensitivity import SensitivityPoint, SensitivityReport

_HEADS = {"layer": "layer", "layer-group": "layers", "rate": "rate", "trials": "trials"}
_SHOWN = ("mean", "low", "high", "p", "n_targets", "n_skipped")
_COLUMNS = ("low", "high", "p", "targets", "skipped")


def _tables(report: SensitivityReport) -> list[Table]:
    """One table for each curve, and the baselines in the last, with the notes."""
    averaged = any(point.subsets > 1 for point in report.points)
    tables = [_curve(report, name, averaged) for name in report.names]
    wide = ", widened for few targets" if report.expanded else ""
    notes = (
        f"Own prompt {report.own_prompt}; {report.scope} sources; {len(report.targets)} targets; 95 % "
        f"bootstrap over {report.resampled}{wide}.",
        *report.notes,
        f"{report.metric}: {METRICS[report.metric].definition}.",
    )
    rows = tuple((point.name, *_cells(point)) for point in report.baselines)
    title = f"What a curve has to beat: {report.metric} of the baselines"
    return [*tables, Table(("baseline", report.metric, *_COLUMNS), rows, title, notes)]


def _curve(report: SensitivityReport, name: str, averaged: bool) -> Table:
    more = ("spread", "subsets") if averaged else ()
    rows = tuple(
        (point.label, *_cells(point), *(getattr(point, key) for key in more)) for point in report.curve(name)
    )
    columns = (_HEADS[report.by], report.metric, *_COLUMNS, *more)
    title = f"{name} by {report.by}: agreement with measured transfer ({report.protocol}), mean over targets"
    return Table(columns, rows, title)


def _cells(point: SensitivityPoint) -> Sequence[Cell]:
    return [getattr(point, key) for key in _SHOWN]


def _long(report: SensitivityReport) -> Table:
    """One row a point, under what it was computed for; baselines last."""
    keys = tuple(field.name for field in fields(SensitivityPoint))
    head = (report.by, report.protocol, report.own_prompt, report.scope, report.metric)
    rows = tuple(
        (*head, *(getattr(point, key) for key in keys)) for point in (*report.points, *report.baselines)
    )
    return Table(("by", "protocol", "own_prompt", "scope", "metric", *keys), rows)


@exporter(SensitivityReport, "json")
def report_json(report: SensitivityReport) -> str:
    """{"by", "protocol", "metric", "own_prompt", "scope", "targets", "curves", "baselines", "notes"}.

    A curve is {"indicator", "points": [{"x", "label", "mean", "low", "high", "p", "n_targets", ...}]}.
    """
    curves = [
        {"indicator": name, "points": [_plain(point) for point in report.curve(name)]}
        for name in report.names
    ]
    head = {
        key: getattr(report, key) for key in ("by", "protocol", "metric", "own_prompt", "scope", "targets")
    }
    baselines = [{"name": one.name, **{key: getattr(one, key) for key in _SHOWN}} for one in report.baselines]
    return json_text({**head, "curves": curves, "baselines": baselines, "notes": report.notes})


def _plain(point: SensitivityPoint) -> dict[str, Any]:
    return {key: value for key, value in asdict(point).items() if key not in ("name", "kind")}


tabular(SensitivityReport, _tables, _long)
exporter(SensitivityReport, "latex")(lambda report: latex_text(_tables(report)))
