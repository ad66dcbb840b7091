"""A CSV table of transfer that was measured elsewhere -> a study."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from transferscope import store
from transferscope.errors import InputError, suggest
from transferscope.files import read_bytes
from transferscope.importers.registry import ImportReport, importer
from transferscope.importers.study_file import open_existing

NAME = "transfer"
COLUMNS = ("protocol", "source", "target", "seed", "metric", "value")
PROTOCOLS = ("zero-shot", "linear-probe", "init")
DEFAULTS = {"seed": 0, "metric": "accuracy"}


@importer(NAME, study="The study to add the results to: a folder or its study.yaml.")
def import_transfer(file: Path, *, study: store.Place) -> ImportReport:
    """A CSV table of measured transfer: protocol,source,target,value and, if there are, seed and metric.

    The sources "none" and "random" stand for no prompt and for random prompts (their seed is the draw).

    \b
    transferscope import transfer results.csv --study my-study
    """
    from transferscope import cells, transfer  # with torch, which a mistake in the table need not wait for

    target, settings = open_existing(study)
    rows, problems = read_table(Path(file))
    matrices = transfer.from_rows(rows)  # refuses a cell that is given twice
    named = sorted({task for matrix in matrices for task in (*matrix.sources, *matrix.targets)})
    problems += [
        f"{name}: has results and is no task of the study" for name in named if name not in settings.tasks
    ]
    cells.add_imported(target, rows, Path(file).name)
    random = sum(row["source"] in transfer.CONTROLS for row in rows)
    return ImportReport(
        NAME,
        str(target.folder),
        settings.model.name,
        tuple(name for name in named if name in settings.tasks),
        cells=len(rows) - random,
        random=random,
        problems=tuple(problems),
    )


def read_table(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows with the keys COLUMNS, and a line for each that has no value.

    Raises StudyError for what is no such table, InputError for a protocol or seed that is none.
    """
    header = [name for name in COLUMNS if name not in DEFAULTS or name in _header(path)]
    rows, problems = [], []
    for number, row in enumerate(
        store.read_csv(path, header, numbers={"seed", "value"} & set(header)), start=2
    ):
        where = f"{path.name}, row {number}"
        row = {**DEFAULTS, **{name: value for name, value in row.items() if value != ""}}
        if not all(row.get(name) for name in ("protocol", "source", "target")):
            raise InputError(f"{where}: protocol, source and target are needed")
        if row["protocol"] not in PROTOCOLS:
            raise InputError(
                f"{where}: unknown protocol {row['protocol']!r}. {suggest(row['protocol'], PROTOCOLS)}"
            )
        if not math.isfinite(row["value"]):
            problems.append(f"{where}: no value for {row['source']} -> {row['target']}; left out")
            continue
        seed = 0.0 if row["seed"] != row["seed"] else float(row["seed"])
        if not seed.is_integer() or seed < 0:
            raise InputError(f"{where}: seed is {row['seed']}, not a whole number of at least 0")
        rows.append({**row, "seed": int(seed)})
    if not rows:
        raise InputError(f"{path} has no results")
    return rows, problems


def _header(path: Path) -> list[str]:
    lines = read_bytes(path).decode("utf-8-sig", "replace").splitlines()[:1]
    return [name.strip() for name in next(csv.reader(lines), [])]
