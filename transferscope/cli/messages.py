"""Messages and progress on stderr, so that stdout holds the result alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

_BARS = "transferscope.bars"


def finish() -> None:
    """Take the progress bars off the terminal: before a result is printed, or they would be drawn into it."""
    bars = click.get_current_context().meta.get(_BARS)
    if bars is not None:
        bars.stop()


def silent() -> bool:
    """Whether --quiet was given."""
    return bool(click.get_current_context().find_root().params.get("quiet"))


def channels() -> tuple[Callable[[str], None], Callable[[str, int, int, str], None]]:
    """What library functions are given: `report(line)` and `progress(stage, done, total, what)`.

    Progress is drawn only on a terminal and goes away with the command; --quiet silences both.
    """
    if silent():
        return (lambda line: None), (lambda stage, done, total, text: None)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # One bar a stage; what it is doing now stands behind it.
    bars = Progress(
        *columns,
        TextColumn("{task.fields[text]}"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    context = click.get_current_context()
    context.meta[_BARS] = bars
    context.call_on_close(bars.stop)
    stages: dict[str, Any] = {}

    def report(line: str) -> None:
        console.print(line, markup=False)

    def progress(stage: str, done: int, total: int, text: str) -> None:
        if stage not in stages:
            bars.start()
            stages[stage] = bars.add_task(stage, total=total, text=text)
        bars.update(stages[stage], completed=done, total=total, text=text)

    return report, progress


def report(line: str) -> None:
    """One line on stderr, unless --quiet was given."""
    if not silent():
        click.echo(line, err=True)
