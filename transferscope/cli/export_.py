"""transferscope export: a study's prompt for other tools."""

from __future__ import annotations

from pathlib import Path

import click

from transferscope.cli.messages import report
from transferscope.cli.options import study_option


@click.command("export")
@click.argument("task")
@study_option()
@click.option(
    "--as",
    "as_",
    type=click.Choice(["peft", "safetensors", "npy"]),
    required=True,
    help="A PEFT folder, a file with the tensor prompt_embeddings, or a numpy array.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder or file to write.")
@click.option("--seed", type=int, help="Which trial; the first if not given.")
def command(task: str, study: Path, as_: str, out: Path, seed: int | None) -> None:
    """Write the prompt of TASK as a PEFT folder, a .safetensors file or a .npy file.

    \b
    transferscope export sst2 --study my-study --as peft --out sst2-adapter
    transferscope export sst2 --study my-study --as npy --out sst2.npy --seed 1
    """
    from transferscope.importers.exports import export_prompt

    written = export_prompt(task, study, out, as_, seed=seed)
    for note in written.notes:
        report(f"note: {note}")
    report(f"wrote {written.path}: {task}, seed {written.seed}, {written.rows} rows of {written.width}")
