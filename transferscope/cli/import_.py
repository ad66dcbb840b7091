"""transferscope import: published results and other tools' prompts into a study."""

from __future__ import annotations

import inspect
import types
import typing
from pathlib import Path
from typing import Any

import click

from transferscope.cli.options import PlaceType, emit, output_options


class Importers(click.Group):
    """One command for each importer, made from the parameters of its function."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from transferscope import importers

        return importers.names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _command(cmd_name) if cmd_name in self.list_commands(ctx) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from transferscope import importers

        if args and not args[0].startswith("-"):
            importers.get(args[0])  # an unknown name is answered with the nearest one
        return super().resolve_command(ctx, args)


@click.group("import", cls=Importers)
def command() -> None:
    """Make or extend a study from published results or from other tools' prompts.

    \b
    transferscope import prompt-transferability CLONE --backbone Roberta --out su-roberta
    transferscope import prompts adapters/* --out my-study --model roberta-base
    transferscope import transfer results.csv --study my-study
    """


def _command(name: str) -> click.Command:
    """The click command of an importer."""
    from transferscope import importers

    record = importers.get(name)

    def run(format_: str, output: Path | None, **options: Any) -> None:
        emit(record.function(**options), format_, output)

    made = click.command(name, help=inspect.cleandoc(record.function.__doc__ or ""))(output_options(run))
    hints = typing.get_type_hints(record.function)
    signature = inspect.signature(record.function).parameters.values()
    made.params[:0] = [_parameter(one, hints[one.name], record.help) for one in signature]
    return made


def _parameter(one: inspect.Parameter, hint: Any, help_: dict[str, str]) -> click.Parameter:
    """A positional parameter as an argument (a tuple as several), a keyword-only one as an option.

    A path that may be an address (`store.Place`, two types) is taken as one.
    """
    required = one.default is inspect.Parameter.empty
    several = typing.get_origin(hint) is tuple
    plain = [kind for kind in typing.get_args(hint) or [hint] if kind not in (types.NoneType, ...)]
    kind = PlaceType() if len(plain) > 1 else click.Path(path_type=Path) if plain[0] is Path else plain[0]
    if one.kind is inspect.Parameter.KEYWORD_ONLY:
        names = [f"--{one.name.replace('_', '-')}", one.name]
        # A default of None would count as given.
        default = {} if one.default in (None, one.empty) else {"default": one.default, "show_default": True}
        return click.Option(names, type=kind, required=required, help=help_[one.name], **default)
    label = f"{one.name.removesuffix('s').upper()}..." if several else one.name.upper()
    return click.Argument([one.name], type=kind, nargs=-1 if several else 1, required=True, metavar=label)
