"""What a signature library holds, as tables, CSV and JSON."""

from __future__ import annotations

from transferscope.exporters import Table, exporter, json_text, tabular
from transferscope.library import Contents

COLUMNS = ("task", "type", "trials", "skills", "prompts", "source")


def _rows(contents: Contents) -> tuple[tuple[str | int | bool | None, ...], ...]:
    return tuple(tuple(getattr(entry, name) for name in COLUMNS) for entry in contents.entries)


@exporter(Contents, "json")
def contents_json(contents: Contents) -> str:
    """{"model", "layers", "neurons", "width", "tasks": [{COLUMNS}]}; width is null without prompts."""
    head = {name: getattr(contents, name) for name in ("model", "layers", "neurons", "width")}
    return json_text(head | {"tasks": [dict(zip(COLUMNS, row, strict=True)) for row in _rows(contents)]})


def _tables(contents: Contents) -> list[Table]:
    note = (
        f"{len(contents.entries)} tasks of the backbone {contents.model}: {contents.layers} layers of "
        f"{contents.neurons} neurons."
    )
    return [Table(COLUMNS, _rows(contents), notes=(note,))]


tabular(Contents, _tables)
