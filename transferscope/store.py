"""A study folder: where each artefact lies, what it was made from, whether it is current."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transferscope.addresses import Address, Place
from transferscope.errors import StudyError
from transferscope.files import (
    FORMAT_VERSION,
    AnyPath,
    csv_bytes,
    fitting,
    inside,
    load_arrays,
    local,
    local_folder,
    move,
    place,
    read_bytes,
    read_csv,
    read_json,
    remove_leftovers,
    save_arrays,
    write_bytes,
    write_json,
    write_text,
)
from transferscope.fingerprints import fingerprint, json_ready, stale_reason

__all__ = [
    "FORMAT_VERSION",
    "Place",
    "Study",
    "checked_name",
    "fingerprint",
    "fitting",
    "inside",
    "is_current",
    "json_ready",
    "load_arrays",
    "local",
    "local_folder",
    "move",
    "place",
    "provenance",
    "read_csv",
    "read_json",
    "remove_leftovers",
    "save_arrays",
    "stale_reason",
    "write_bytes",
    "write_csv",
    "write_json",
    "write_text",
]


def write_csv(
    path: AnyPath,
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a table atomically, as `transferscope.files.csv_bytes` has it.

    `provenance` (what the table was made from) goes to `<name>.json` beside it, with the table's checksum: so
    a kill between the two files, or an edit by hand, leaves a table of unknown origin, never of a wrong one.
    """
    data = csv_bytes(header, rows)
    write_bytes(path, data)
    if provenance is not None:
        write_json(_beside(path), {**provenance, "content": _checksum(data)}, versioned=True)


def _beside(table: AnyPath) -> Place:
    return place(f"{place(table)}.json")


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def provenance(path: AnyPath) -> dict[str, Any] | None:
    """What an artefact was made from: safetensors metadata, a JSON object, the record beside any other file.

    None if the artefact or its record is not there, or if the file was changed since the record was written.
    Raises StoreError if either is damaged or of another format version.
    """
    target = place(path)
    if not target.is_file():
        return None
    if target.suffix == ".safetensors":
        return load_arrays(target)[1]
    if target.suffix == ".json":
        value = read_json(target)
        return value if isinstance(value, dict) else None
    if not _beside(target).is_file():
        return None
    record = read_json(_beside(target))
    same = isinstance(record, dict) and record.get("content") == _checksum(read_bytes(target))
    return record if same else None


def is_current(path: AnyPath, fingerprint: str) -> bool:
    """Whether the artefact is there and its provenance has this under `fingerprint`: no work to do."""
    return (provenance(path) or {}).get("fingerprint") == fingerprint


@dataclass(frozen=True, init=False)
class Study:
    """A study folder, here or at an address: where each artefact lies, and which there are.

    Nothing is made until a file is written, and nothing is asked of an address until something is read.
    Names of tasks become names of files, so one that could lead out of the folder is a StudyError.
    """

    folder: Place

    def __init__(self, folder: AnyPath) -> None:
        """Raises StudyError if `folder` is a file, or an address that cannot be used."""
        object.__setattr__(self, "folder", place(folder))
        if isinstance(self.folder, Path) and self.folder.exists() and not self.folder.is_dir():
            raise StudyError(f"{folder} is a file; a study is a folder")

    def path(self, *parts: str) -> Place:
        """A path in the study. Raises StudyError if its parts or a symbolic link would lead out of it."""
        outside = any(Path(part).is_absolute() or ".." in Path(part).parts or "\0" in part for part in parts)
        if outside or not all(part.strip() for part in parts):
            raise StudyError(f"{'/'.join(parts)!r} is not a path inside the study {self.folder}")
        found = self.folder.joinpath(*parts)
        if isinstance(found, Address) or isinstance(self.folder, Address):
            return found
        if not found.resolve().is_relative_to(self.folder.resolve()):
            raise StudyError(f"{found} leads out of the study, to {found.resolve()}")
        return found

    def prompt_folder(self, task: str, seed: int) -> Place:
        """Folder of the prompt of `task` tuned with `seed`."""
        return self.path("prompts", checked_name(task), str(int(seed)))

    def signature_file(self, task: str) -> Place:
        """File of the signature of `task`."""
        return self.path("signatures", f"{checked_name(task)}.safetensors")

    def prompts(self) -> list[tuple[str, int]]:
        """Task and seed of each prompt there is (a folder with an adapter_config.json), sorted."""
        found = self.path("prompts").glob("*/*/adapter_config.json")
        names = [(file.parent.parent.name, file.parent.name) for file in found]
        prompts = sorted((task, int(seed)) for task, seed in names if seed.isdecimal() and task[0] != ".")
        for task, seed in prompts:
            self.prompt_folder(task, seed)
        return prompts

    def signatures(self) -> list[str]:
        """The tasks whose signature is there, sorted."""
        found = self.path("signatures").glob("*.safetensors")
        tasks = sorted(file.stem for file in found if file.name[0] != ".")
        for task in tasks:
            self.signature_file(task)
        return tasks

    def clean(self) -> list[Place]:
        """Remove what killed processes left behind (temporary files only); return it."""
        return remove_leftovers(self.folder)


def checked_name(task: str) -> str:
    """The name itself if it can name a file on its own in any folder; StudyError if not."""
    control = any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in task)
    if not task.strip() or task[0] == "." or control or any(letter in task for letter in "/\\"):
        raise StudyError(
            f"task name {task!r} cannot name a file: it must not be empty, start with a dot, "
            "or hold a slash, a backslash or a control character"
        )
    if len(task.encode()) > 200:
        raise StudyError(f"task name {task[:40]!r}... is too long: {len(task.encode())} bytes, at most 200")
    return task
