"""Measured cells of a study on disk: each is kept as soon as it is there, with what it was made from.

transfer/<protocol>/<target>.json    the cells of one target, rewritten whole (atomically) for each new one
transfer/<protocol>/<target>.blocks/ those that several processes measure at once, a file each, until the
                                     target has them all
transfer/imported.json               results measured elsewhere
transfer.csv                         all of them as one table, made from these files
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transferscope import store
from transferscope.errors import InputError, StoreError
from transferscope.store import Study
from transferscope.transfer import COLUMNS, Cell, cell_rows

FOLDER, IMPORTED, TABLE = "transfer", "imported.json", "transfer.csv"
BLOCKS = ".blocks"


def stored_inputs(study: Study, protocol: str, target: str) -> dict[str, Any] | None:
    """What the stored cells of a target were measured from; None where there are none."""
    path = study.path(FOLDER, protocol, f"{store.checked_name(target)}.json")
    return _read(path)["inputs"] if path.is_file() else None


class TargetCells:
    """The cells of one target under one protocol; what was measured from other inputs is left out.

    With ``block``, new cells go to the file of that block, which no other process writes; those of the target
    and of its other blocks are read. ``changed`` says which inputs differ from those of the cells that were
    there (empty: none do).
    """

    def __init__(
        self, study: Study, protocol: str, target: str, inputs: Mapping[str, Any], block: str | None = None
    ) -> None:
        self.protocol, self.target, self.inputs = protocol, target, store.json_ready(dict(inputs))
        name = store.checked_name(target)
        whole, self._folder = (study.path(FOLDER, protocol, f"{name}{end}") for end in (".json", BLOCKS))
        self.path = whole if block is None else self._folder / f"{store.checked_name(block)}.json"
        self.changed: list[str] = []
        self._cells = self._current(self.path)
        others = [whole, *store.fitting(self._folder, "[!.]*.json")]
        self._apart = {path: self._current(path) for path in others if path.is_file() and path != self.path}

    def _current(self, path: store.Place) -> dict[tuple[str, int], Cell]:
        if not path.is_file():
            return {}
        record = _read(path)
        changed = store.stale_reason(record["inputs"], self.inputs)
        self.changed = self.changed or changed
        return {} if changed else {(cell.source, cell.seed): cell for cell in record["cells"]}

    def get(self, source: str, seed: int, prompt: str) -> Cell | None:
        """The cell of a source's prompt, if it was measured with the prompt of this fingerprint."""
        for cells in (self._cells, *self._apart.values()):
            cell = cells.get((source, seed))
            if cell is not None and cell.prompt == prompt:
                return cell
        return None

    def add(self, *cells: Cell) -> None:
        """Keep these cells, now; nothing is written where all are in the file already."""
        new = {(cell.source, cell.seed): cell for cell in cells}
        if all(self._cells.get(key) == cell for key, cell in new.items()):
            return
        self._cells |= new
        self._write()

    def _write(self) -> None:
        record = {
            "protocol": self.protocol,
            "target": self.target,
            "inputs": self.inputs,
            "cells": [asdict(one) for one in self._cells.values()],
        }
        store.write_json(self.path, record, versioned=True)

    def settle(self, order: Sequence[tuple[str, int]]) -> None:
        """All of a column is there: put it into this order of (source, seed), in whatever order it came.

        Blocks that hold nothing more are removed: their cells were added to the target, or are stale.
        """
        first = {key: self._cells[key] for key in order if key in self._cells}
        if [*self._cells] != [*(arranged := first | self._cells)]:
            self._cells = arranged
            self._write()
        for path, cells in self._apart.items():
            if all(self._cells.get(key) == cell for key, cell in cells.items()):
                path.unlink(missing_ok=True)
        if isinstance(self._folder, Path):  # elsewhere a folder is gone with its files
            with contextlib.suppress(OSError):  # not there, or not empty
                self._folder.rmdir()


def _read(path: Any) -> dict[str, Any]:
    record = store.read_json(path)
    try:
        cells = [Cell(**cell) for cell in record["cells"]]
        return {**record, "inputs": dict(record["inputs"]), "cells": cells}
    except (KeyError, TypeError) as error:
        raise StoreError(f"{path} does not hold measured cells: {error}") from None


def add_imported(study: Study, rows: Iterable[Mapping[str, Any]], source: str) -> None:
    """Add results measured elsewhere (rows with the keys COLUMNS) to the study, and write its table again.

    A cell that was imported before is replaced. ``source`` says where the rows come from. Raises InputError
    for a value that is no number.
    """
    path = study.path(FOLDER, IMPORTED)
    kept = {_key(row): row for row in (store.read_json(path)["rows"] if path.is_file() else [])}
    for row in rows:
        try:
            value = float(row["value"])
        except (TypeError, ValueError):
            raise InputError(
                f"{source}: the value of {row['source']} -> {row['target']} is {row['value']!r}, no number"
            ) from None
        plain = {name: str(row[name]) for name in COLUMNS} | {"seed": int(row["seed"]), "value": value}
        kept[_key(plain)] = {**plain, "from": source}
    ordered = [kept[key] for key in sorted(kept)]
    store.write_json(path, {"rows": ordered}, versioned=True)
    write_table(study)


def _key(row: Mapping[str, Any]) -> tuple[str, str, str, int]:
    return str(row["protocol"]), str(row["target"]), str(row["source"]), int(row["seed"])


def collect(study: Study, current: Callable[[str, str, Cell], bool] | None = None) -> list[dict[str, Any]]:
    """All cells as long rows with the keys COLUMNS, in a fixed order; measured here goes before imported.

    ``current(protocol, target, cell)`` may leave out those that the study no longer means.
    """
    found: dict[tuple[str, str, str, int], dict[str, Any]] = {}
    imported = study.path(FOLDER, IMPORTED)
    if imported.is_file():
        for row in store.read_json(imported)["rows"]:
            found[_key(row)] = {name: row[name] for name in COLUMNS}
    for path in sorted(study.path(FOLDER).glob("*/*.json")):
        record = _read(path)
        kept = [
            cell
            for cell in record["cells"]
            if current is None or current(record["protocol"], record["target"], cell)
        ]
        for row in cell_rows(record["protocol"], record["target"], kept):
            found[_key(row)] = row
    return [found[key] for key in sorted(found)]


def write_table(
    study: Study, current: Callable[[str, str, Cell], bool] | None = None
) -> list[dict[str, Any]]:
    """Write transfer.csv from the cells, and return its rows.

    A transfer.csv that this package did not write is kept as transfer.before.csv.
    """
    rows, path = collect(study, current), study.path(TABLE)
    if path.is_file() and store.provenance(path) is None:
        store.move(path, study.path("transfer.before.csv"))
    table = [[row[name] for name in COLUMNS] for row in rows]
    store.write_csv(path, COLUMNS, table, provenance={"made_of": f"{FOLDER}/"})
    return rows


def read_table(study: Study) -> list[dict[str, Any]]:
    """The rows of transfer.csv; none where it is not there."""
    path = study.path(TABLE)
    return store.read_csv(path, COLUMNS, numbers={"seed", "value"}) if path.is_file() else []
