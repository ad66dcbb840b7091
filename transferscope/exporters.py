"""Records as text: one function for each pair of record type and format (table, json, csv, md, latex).

Adding an exporter is one decorated function, here or in any module that is imported:

    @exporter(Ranking, "dot")
    def ranking_dot(ranking: Ranking) -> str: ...

`tabular(Type, tables)` adds table, csv and md at once for a record that is a table. The exporters of a record
that is defined in MODULE.py may stand in MODULE_tables.py, which is imported when such a record is exported.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
import json
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np

from transferscope import latex
from transferscope.comparison import COLUMNS, IndicatorMatrix, to_rows
from transferscope.errors import InputError, suggest
from transferscope.ranking import Ranking

Cell = str | int | float | bool | None
F = TypeVar("F", bound=Callable[..., str])

_EXPORTERS: dict[tuple[type, str], Callable[..., str]] = {}


@dataclass(frozen=True)
class Table:
    """Rows under named columns, with a title above and notes below; what `list` prints is such a record."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    notes: tuple[str, ...] = field(default_factory=tuple)


def exporter(record: type, format_: str) -> Callable[[F], F]:
    """Register a function from record to text under (type, format); a list goes by its elements' type."""

    def add(function: F) -> F:
        _EXPORTERS[record, format_] = function
        return function

    return add


def formats(record: type | None = None) -> list[str]:
    """The formats known for a record type, or for any, sorted."""
    return sorted({name for kind, name in _EXPORTERS if record in (None, kind)})


def pairs() -> list[tuple[str, str]]:
    """(record type, format) of all exporters, sorted."""
    return sorted((kind.__name__, name) for kind, name in _EXPORTERS)


def export(record: Any, format_: str, *, width: int | None = None) -> str:
    """A record as text, without a newline at its end.

    `width` folds a table to so many columns; None gives each table the width it needs. A list of records is
    exported as one document. Raises InputError: an unknown format, or a record with no exporter.
    """
    kind = type(record)
    if isinstance(record, list | tuple):
        if not record:
            raise InputError("there is nothing to export: the list of records is empty")
        kind = type(record[0])
    _find(kind)
    if not formats(kind):
        known = sorted({name for name, _ in pairs()})
        raise InputError(f"no exporter for a {kind.__name__}. {suggest(kind.__name__, known)}")
    if (kind, format_) not in _EXPORTERS:
        raise InputError(f"no format {format_!r} for a {kind.__name__}. {suggest(format_, formats(kind))}")
    function = _EXPORTERS[kind, format_]
    text = function(record, width=width) if format_ == "table" else function(record)
    return text.rstrip("\n")


def _find(kind: type) -> None:
    """Import the file beside a record's own that has its exporters, if they are not there yet."""
    beside = f"{kind.__module__}_tables"
    if (
        not formats(kind)
        and kind.__module__.startswith("transferscope.")
        and importlib.util.find_spec(beside)
    ):
        importlib.import_module(beside)


def tabular(
    record: type, tables: Callable[[Any], list[Table]], long: Callable[[Any], Table] | None = None
) -> None:
    """Register table and md from a record's tables, csv from its one long table (default: the first).

    json is all fields of the record, unless a function for it is registered.
    """

    def as_table(value: Any, width: int | None = None) -> str:
        return "\n\n".join(_rich(table, width) for table in tables(value))

    def as_md(value: Any) -> str:
        return "\n\n".join(_markdown(table) for table in tables(value))

    def as_csv(value: Any) -> str:
        return _csv(long(value) if long else tables(value)[0])

    _EXPORTERS.setdefault((record, "json"), lambda value: json_text(asdict(value)))
    _EXPORTERS.update({(record, "table"): as_table, (record, "md"): as_md, (record, "csv"): as_csv})


def _rich(table: Table, width: int | None) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, name in enumerate(table.columns):
        numbers = all(row[i] is None or type(row[i]) in (int, float) for row in table.rows)
        drawn.add_column(Text(name), justify="right" if numbers else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(show(cell)) for cell in row))
    page = io.StringIO()
    # Wide enough for anything, so that piped output is never cut; the table takes only what it needs.
    Console(file=page, width=width or 100_000, color_system=None).print(drawn)
    body = "\n".join(line.rstrip() for line in page.getvalue().splitlines())
    wrapped = [
        textwrap.fill(note, width or 110, initial_indent="- ", subsequent_indent="  ") for note in table.notes
    ]
    return "\n".join(part for part in (table.title, body, *wrapped) if part)


def _markdown(table: Table) -> str:
    def line(cells: Sequence[Cell]) -> str:
        return "| " + " | ".join(show(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    parts = [f"**{table.title}**", ""] if table.title else []
    parts += [line(table.columns), "|" + " --- |" * len(table.columns), *map(line, table.rows)]
    if table.notes:
        parts += ["", *(f"- {note}" for note in table.notes)]
    return "\n".join(parts)


def _csv(table: Table) -> str:
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.rows:
        # repr keeps every digit of a float; an undefined number is an empty cell.
        writer.writerow(
            [repr(cell) if isinstance(cell, float) and cell == cell else _blank(cell) for cell in row]
        )
    return page.getvalue()


def _blank(cell: Cell) -> str:
    if cell is None or cell != cell:
        return ""
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


def show(cell: Cell) -> str:
    """A cell as people read it: four digits, yes or no, a dash for what is not known."""
    if cell is None or cell != cell:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return f"{cell:.4f}" if isinstance(cell, float) else str(cell)


def json_text(value: Any) -> str:
    """A value as JSON; arrays become lists, NaN and infinities null."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: both become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


@exporter(Table, "json")
def tablejson_text(table: Table) -> str:
    """A list of objects, one for each row, with the columns as keys."""
    return json_text([dict(zip(table.columns, row, strict=True)) for row in table.rows])


tabular(Table, lambda table: [table])

SOURCE_KEYS = (
    "rank",
    "source",
    "score",
    "low",
    "high",
    "ties_with_best",
    "measured",
    "basis",
    "examples",
    "type",
    "tied_by_evidence",
)


@exporter(Ranking, "json")
def rankingjson_text(ranking: Ranking) -> str:
    """{"target", "model", "indicator", "sources": [{SOURCE_KEYS}], "baselines", "notes"}."""
    sources = [{key: getattr(source, key) for key in SOURCE_KEYS} for source in ranking.sources]
    head = {"target": ranking.target, "model": ranking.model, "indicator": ranking.indicator}
    baselines = [asdict(baseline) for baseline in ranking.baselines]
    return json_text({**head, "sources": sources, "baselines": baselines, "notes": ranking.notes})


def _ranking_tables(ranking: Ranking) -> list[Table]:
    sources = ranking.sources
    columns: dict[str, list[Cell]] = {
        "rank": [source.rank for source in sources],
        "source": [source.source for source in sources],
        "score": [source.score for source in sources],
        "95 % interval": [None if s.low is None else f"{s.low:.4f} .. {s.high:.4f}" for s in sources],
        "ties with best": [source.ties_with_best for source in sources],
        "measured": [source.measured for source in sources],
    }
    if any(source.tied_by_evidence is not None for source in sources):
        columns["tied by evidence"] = [source.tied_by_evidence for source in sources]
    several = {source.basis for source in sources}
    if "measured" in several:
        columns["basis"] = [source.basis for source in sources]
    if any(source.examples is not None for source in sources):
        columns["examples"] = [source.examples for source in sources]
    if any(source.type for source in sources):
        columns["type"] = [source.type for source in sources]
    orders = [*(["what was measured"] if "measured" in several else []), *filter(None, [ranking.indicator])]
    title = f"Sources for {ranking.target}, by {', then '.join(orders)}"
    best = Table(tuple(columns), tuple(zip(*columns.values(), strict=True)), title, ranking.notes)
    others = tuple(
        (baseline.name, _several(baseline.best), baseline.measured, baseline.description)
        for baseline in ranking.baselines
    )
    return [best, Table(("baseline", "would pick", "measured", "what it is"), others, "What it has to beat")]


def _several(names: Sequence[str] | None) -> str:
    if not names:
        return "any"
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} or {len(names) - 3} more"


def _ranking_long(ranking: Ranking) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (ranking.target, ranking.indicator, *(getattr(source, key) for key in SOURCE_KEYS))
        for source in ranking.sources
    ]
    return Table(("target", "indicator", *SOURCE_KEYS), tuple(rows))


tabular(Ranking, _ranking_tables, _ranking_long)


def _several_matrices(record: IndicatorMatrix | Sequence[IndicatorMatrix]) -> Sequence[IndicatorMatrix]:
    return [record] if isinstance(record, IndicatorMatrix) else record


@exporter(IndicatorMatrix, "json")
def matricesjson_text(record: IndicatorMatrix | Sequence[IndicatorMatrix]) -> str:
    """{"indicators": [{"indicator", "tasks", "values": [source][target]}]}."""
    several = _several_matrices(record)
    return json_text(
        {
            "indicators": [
                {"indicator": m.indicator, "tasks": m.tasks, "values": m.values.tolist()} for m in several
            ]
        }
    )


def _matrix_tables(record: IndicatorMatrix | Sequence[IndicatorMatrix]) -> list[Table]:
    tables = []
    for matrix in _several_matrices(record):
        rows: tuple[tuple[Cell, ...], ...] = tuple(
            (task, *map(float, row)) for task, row in zip(matrix.tasks, matrix.values, strict=True)
        )
        title = f"{matrix.indicator} (sources down, targets across; larger is closer)"
        tables.append(Table(("source", *matrix.tasks), rows, title))
    return tables


tabular(
    IndicatorMatrix, _matrix_tables, lambda record: Table(COLUMNS, tuple(to_rows(_several_matrices(record))))
)


def latex_text(tables: Sequence[Table]) -> str:
    """Tables for LaTeX (booktabs), numbers to the right."""
    return "\n\n".join(
        latex.tabular(
            table.title,
            table.columns,
            [[show(cell) for cell in row] for row in table.rows],
            [all(not isinstance(row[i], str) for row in table.rows) for i in range(len(table.columns))],
            table.notes,
        )
        for table in tables
    )
