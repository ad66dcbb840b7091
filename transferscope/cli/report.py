"""transferscope report: what a study has as one HTML page, that works offline."""

from __future__ import annotations

from pathlib import Path

import click

from transferscope.cli import messages
from transferscope.cli.options import PlaceType


@click.command("report")
@click.argument("study", type=PlaceType())
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The file to write. [default: report.html in the study]",
)
def command(study: Path, out: Path | None) -> None:
    """Write one HTML file with what is known of STUDY, a study folder or its study.yaml.

    Rankings, heatmaps, the task graph, agreement with measured transfer, skill neurons and provenance, with
    the numbers behind each picture. Nothing is tuned, extracted or measured for it: the page says what the
    study lacks, and which command supplies it. Needs the extra report (plotly and jinja2).

    \b
    transferscope report my-study
    transferscope report my-study --out report.html
    """
    from transferscope.report import write_report

    file = write_report(study, out, progress=messages.channels()[1])
    messages.finish()
    messages.report(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")
    click.echo(file)
