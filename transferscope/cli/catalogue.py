"""transferscope list: indicators, architectures, formats, and the tasks of a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from transferscope.cli.options import emit, output_options, study_option

if TYPE_CHECKING:
    from transferscope.exporters import Table


@click.command("list")
@click.argument("kind", type=click.Choice(["indicators", "architectures", "tasks", "formats"]))
@click.argument("name", required=False)
@study_option(required=False)
@click.option("--needs", multiple=True, help="Indicators that need no more: prompt,labels or repeated.")
@click.option("--symmetric/--asymmetric", default=None, help="Only indicators that are, or are not.")
@output_options
def command(
    kind: str,
    name: str | None,
    study: Path | None,
    needs: tuple[str, ...],
    symmetric: bool | None,
    format_: str,
    output: Path | None,
) -> None:
    """What there is to choose from; with NAME, everything about one of them.

    \b
    transferscope list indicators --needs prompt --symmetric
    transferscope list indicators on
    transferscope list tasks --study my-study
    """
    if kind != "indicators" and (needs or symmetric is not None):
        raise click.UsageError("--needs and --symmetric/--asymmetric go with 'list indicators'")
    if (study is not None) != (kind == "tasks"):
        raise click.UsageError("'list tasks' needs --study DIR, and nothing else takes it")
    needs = tuple(need.strip() for several in needs for need in several.split(","))
    rows = _indicators(needs, symmetric, name) if kind == "indicators" else _ROWS[kind](study, name)
    emit(_one(rows, kind, name) if name else _many(rows), format_, output)


def _many(rows: list[dict[str, Any]]) -> Table:
    from transferscope.errors import InputError
    from transferscope.exporters import Table

    if not rows:
        raise InputError("nothing fits these options")
    columns = tuple(key for key in rows[0] if key not in _DETAILS)
    return Table(columns, tuple(tuple(row[key] for key in columns) for row in rows))


def _one(rows: list[dict[str, Any]], kind: str, name: str) -> Table:
    from transferscope.errors import InputError, suggest
    from transferscope.exporters import Table

    found = [row for row in rows if row["name"] == name]
    if not found:
        raise InputError(f"no {name!r} among the {kind}. {suggest(name, [row['name'] for row in rows])}")
    return Table(("field", "value"), tuple((key, value) for row in found for key, value in row.items()))


# Only shown when one indicator is asked for by name.
_DETAILS = ("formula", "chance", "degenerate", "cost", "seconds", "source")


def _indicators(needs: tuple[str, ...], symmetric: bool | None, name: str | None) -> list[dict[str, Any]]:
    import indicators
    from transferscope.errors import InputError, suggest

    everything = [*indicators.records(), *indicators.parametric()]
    known = {need for record in everything for need in record.needs}
    for need in needs:
        if need not in known:
            raise InputError(f"no indicator needs {need!r}. {suggest(need, known)}")
    if name and name not in {record.name for record in everything}:
        try:
            everything = [indicators.get(name)]  # a parametric name, such as on_layers_0_3
        except indicators.UnknownIndicator as error:
            raise InputError(str(error)) from None
    from transferscope.catalogue import facts

    return [
        facts(record)
        for record in everything
        if (not needs or set(record.needs) <= set(needs)) and symmetric in (None, record.symmetric)
    ]


def _architectures(study: Path | None, name: str | None) -> list[dict[str, Any]]:
    from transferscope import architectures

    rows = [architectures.get(model_type) for model_type in architectures.names()]
    return [
        {
            "name": row.model_type,
            "kind": row.kind,
            "layers": ", ".join(stack.layers for stack in row.stacks),
            "neurons": ", ".join(f"input of {stack.down}" for stack in row.stacks),
            "gate": ", ".join(stack.gate for stack in row.stacks if stack.gate) or None,
        }
        for row in rows
    ]


def _tasks(study: Path | None, name: str | None) -> list[dict[str, Any]]:
    from transferscope.settings import read_settings
    from transferscope.store import Study, place

    path = place(study or ".")
    file = path / "study.yaml" if path.is_dir() else path
    settings, there = read_settings(file), Study(file.parent)
    tuned, extracted = [task for task, _ in there.prompts()], there.signatures()
    return [
        {
            "name": task,
            "type": spec.type,
            "data": spec.dataset or str(spec.path or spec.train),
            "metric": spec.metric,
            "prompts": tuned.count(task),
            "signature": task in extracted,
        }
        for task, spec in settings.tasks.items()
    ]


def _formats(study: Path | None, name: str | None) -> list[dict[str, Any]]:
    from transferscope import budget_tables, correlation_tables  # noqa: F401  # they register theirs
    from transferscope.exporters import pairs

    return [{"name": format_, "of": record} for record, format_ in pairs()]


_ROWS = {"architectures": _architectures, "tasks": _tasks, "formats": _formats}
