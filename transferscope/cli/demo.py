"""transferscope demo: the whole job on a tiny model and tasks that ship with the package, offline."""

from __future__ import annotations

from pathlib import Path

import click

from transferscope.cli.messages import channels, finish
from transferscope.cli.options import terminal_width


@click.command("demo")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The study folder to make.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the tasks and of the tuning.")
def command(out: Path | None, seed: int) -> None:
    """Tune, extract, compare, measure, correlate and rank on eight small tasks.

    Needs no network and no data. What was found is printed, and left in the folder as an ordinary study.

    \b
    transferscope demo --out demo-study
    """
    from transferscope.demo.run import run_demo
    from transferscope.demo.story import tell

    report, progress = channels()
    story = tell(run_demo(out, seed=seed, report=report, progress=progress), terminal_width())
    finish()
    click.echo(story)
