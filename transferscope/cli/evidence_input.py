"""What `correlate` reads: a study, or CSV files of indicators, transfer and types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from transferscope.cli.options import open_study, read_indicators, read_types


def check_inputs(
    studies: Sequence[Path], tables: Sequence[Path], transfers: Sequence[Path], types: Sequence[Path]
) -> None:
    """Studies or pairs of files. Raises click.UsageError for anything else."""
    if bool(studies) == bool(tables) or len(tables) != len(transfers):
        raise click.UsageError("give --study DIR, or --indicators FILE with --transfer FILE")
    if studies and types:
        raise click.UsageError("--types goes with --indicators: a study says the types of its tasks")
    if len(types) > 1 and len(types) != len(tables):
        raise click.UsageError(f"{len(types)} --types and {len(tables)} --indicators: give one, or as many")


def read_studies(paths: Sequence[Path], protocol: str | None) -> list[tuple[Any, Any]]:
    """Of each study the evidence (`Pipeline.evidence`) and its pipeline; the evidence has distinct names."""
    pipelines = [open_study(path) for path in paths]
    every = [pipeline.evidence(protocol) for pipeline in pipelines]
    folders = _names([pipeline.study.folder for pipeline in pipelines])
    models = [one.backbone for one in every]
    # Two studies of one model are told apart by their folders.
    names = [m if models.count(m) == 1 else folder for m, folder in zip(models, folders, strict=True)]
    return [
        (replace(one, backbone=name), pipeline)
        for one, name, pipeline in zip(every, names, pipelines, strict=True)
    ]


def read_files(
    tables: Sequence[Path], transfers: Sequence[Path], types: Sequence[Path], protocol: str | None
) -> list[tuple[Any, None]]:
    """The same of pairs of CSV files, named as the files of indicators are; one file of types is for all."""
    every = [read_types(path) for path in types] or [None]
    kinds = every if len(every) == len(tables) else every * len(tables)
    return [
        (_of_files(name, table, transfer, kind, protocol), None)
        for table, transfer, kind, name in zip(tables, transfers, kinds, _names(tables), strict=True)
    ]


def _names(paths: Sequence[Path]) -> list[str]:
    """Last parts of the paths, or as much of them as tells them apart."""
    parts = [path.resolve().with_suffix("").parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _of_files(name: str, table: Path, file: Path, types: dict[str, str] | None, protocol: str | None) -> Any:
    from transferscope import store, transfer
    from transferscope.errors import InputError, suggest
    from transferscope.evidence import Known, evidence_of

    rows = store.read_csv(file, transfer.COLUMNS, numbers={"seed", "value"})
    several = {matrix.protocol: matrix for matrix in transfer.from_rows(rows)}
    if not several:
        raise InputError(f"{file} has no measured transfer: it has no rows")
    wanted = protocol or next(iter(several))
    if wanted not in several:
        raise InputError(f"{file} has no protocol {wanted!r}. {suggest(wanted, several)}")
    known = Known(types=types, zero_shot=several.get(transfer.ZERO_SHOT))
    return evidence_of(name, read_indicators(table), several[wanted], known)
