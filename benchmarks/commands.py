"""A benchmark as a command: its options by name and default, its result as one JSON document."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def printing_json(measure: Callable[..., Any]) -> click.Command:
    """A command of the options that a function has: it prints what the function returns."""

    @functools.wraps(measure)
    def command(**options: Any) -> None:
        click.echo(json.dumps(measure(**options), indent=2))

    return click.command()(command)


def numbers(**defaults: float) -> Callable[[F], F]:
    """Options that say all by their name and their default, in this order."""

    def add(function: F) -> F:
        for name, default in reversed(defaults.items()):
            option = click.option(f"--{name.replace('_', '-')}", default=default, show_default=True)
            function = option(function)
        return function

    return add
