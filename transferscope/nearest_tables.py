"""The stored tasks nearest to one, as tables and CSV; as JSON, the fields of the record."""

from __future__ import annotations

from dataclasses import astuple, fields

from transferscope.exporters import Table, tabular
from transferscope.nearest import Match, Nearest

COLUMNS = tuple(field.name for field in fields(Match))
NOTE = (
    "Larger is closer. No transfer was measured: `transferscope rank` says how far an indicator may be "
    "trusted."
)


def _tables(found: Nearest) -> list[Table]:
    title = f"Nearest to {found.target} by {found.indicator}, of {found.compared} stored tasks"
    return [Table(COLUMNS, tuple(astuple(match) for match in found.matches), title, (*found.notes, NOTE))]


def _long(found: Nearest) -> Table:
    rows = tuple((found.target, found.indicator, *astuple(match)) for match in found.matches)
    return Table(("target", "indicator", *COLUMNS), rows)


tabular(Nearest, _tables, _long)
