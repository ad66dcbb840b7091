"""The study.yaml that an import makes or extends: what a person wrote in it stays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from transferscope import architectures, store
from transferscope.errors import StoreError, StudyError
from transferscope.settings import StudySettings, parse_settings, read_settings
from transferscope.store import Study

FILE, MARK = "study.yaml", "import.json"


def open_existing(path: store.AnyPath) -> tuple[Study, StudySettings]:
    """A study folder or its study.yaml, with its settings. Raises StudyError."""
    path = store.place(path)
    file = path if path.is_file() else path / FILE
    return Study(file.parent), read_settings(file)


def claim(out: store.AnyPath, identity: Mapping[str, str]) -> Study:
    """The folder for an import of this identity: a new one, or one that the same import made before.

    Raises StudyError for a folder with another study.
    """
    study = Study(out)
    mark = study.path(MARK)
    known = store.read_json(mark) if mark.is_file() else None
    taken = study.path(FILE).is_file() or study.path("prompts").exists()
    if known is None and taken:
        raise StudyError(
            f"{str(study.folder)!r} holds a study that was not made by this import; choose another --out"
            + ("" if "backbone" in identity else ", or add to it with --study")
        )
    if known is not None and known != dict(identity):
        found = ", ".join(f"{name} {value}" for name, value in _pairs(known))
        wanted = ", ".join(f"{name} {value}" for name, value in identity.items())
        raise StudyError(
            f"{str(study.folder)!r} holds another import: {found}; this one is {wanted}. Choose another --out"
        )
    store.write_json(mark, dict(identity))
    return study


def _pairs(known: Any) -> list[tuple[str, Any]]:
    if not isinstance(known, dict):
        raise StoreError(f"{MARK} should hold an object, found {type(known).__name__}")
    return list(known.items())


def write_tasks(
    study: Study, tasks: Mapping[str, Mapping[str, Any]], head: Mapping[str, Any], comment: str
) -> bool:
    """Have these tasks, with these fields, in study.yaml; whether it had to be written.

    `head` are the settings of a new file, `comment` its first line. In a file that is there, only what is
    missing or different is changed, and its comments stay where the text lets us. Raises StudyError if the
    result is no valid study.
    """
    path = study.path(FILE)
    if not path.is_file():
        raw = {**head, "tasks": {name: dict(fields) for name, fields in tasks.items()}}
        parse_settings(raw, str(path))
        store.write_text(path, f"# {comment}\n" + _dump(raw))
        return True
    read_settings(path)  # what is there is a study
    text = before = path.read_text(encoding="utf-8")
    for name, fields in tasks.items():
        text = _with_task(text, name, fields)
    if text == before:
        return False
    parse_settings(yaml.safe_load(text), str(path))
    store.write_text(path, text)
    return True


def _dump(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _with_task(text: str, name: str, fields: Mapping[str, Any]) -> str:
    """The text of a study.yaml with these fields in a task; edited line by line, or else written anew."""
    raw = yaml.safe_load(text)
    keys = {str(key): key for key in raw["tasks"]}
    before = raw["tasks"].get(keys.get(name, name)) or {}
    if all(before.get(field) == value for field, value in fields.items()):
        return text
    raw["tasks"][keys.get(name, name)] = {**before, **fields}
    edited = _inserted(text, name, fields, new=name not in keys)
    return edited if edited is not None and _same(edited, raw) else _dump(raw)


def _same(text: str, raw: Any) -> bool:
    try:
        return bool(yaml.safe_load(text) == raw)
    except yaml.YAMLError:
        return False


def _inserted(text: str, name: str, fields: Mapping[str, Any], *, new: bool) -> str | None:
    """The text with lines for a new task, or for new fields of one; None where it is not laid out in blocks.

    Whoever calls checks that the result means what it should.
    """
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    start = next((i for i, line in enumerate(lines) if re.match(r"tasks:\s*(#.*)?$", line)), None)
    if start is None:
        return None
    inside = [
        i for i in range(start + 1, len(lines)) if lines[i].strip() and not lines[i].lstrip().startswith("#")
    ]
    end = next((i for i in inside if not lines[i][0].isspace()), len(lines))
    inside = [i for i in inside if i < end]
    if not inside:
        return None
    indent = _indent(lines[inside[0]])
    if new:
        at = inside[-1] + 1
        block = _dump({name: dict(fields)})
    else:
        key = _dump({name: None}).partition(":")[0]
        at = next((i + 1 for i in inside if re.match(rf"{indent}{re.escape(key)}:\s*(#.*)?$", lines[i])), 0)
        if not at or at not in inside:
            return None
        indent = _indent(lines[at])
        block = _dump(dict(fields))
    lines[at:at] = [indent + line for line in block.splitlines(keepends=True)]
    return "".join(lines)


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def kind_of(model: str) -> str:
    """Encoder, decoder or encoder-decoder: by the configuration of a local folder, or else by the longest
    model type that the name contains; encoder if there is none.

    It decides the task type in PEFT's configuration, and where the prompt rows stand by default.
    """
    config = Path(model) / "config.json"
    if config.is_file():
        value = store.read_json(config)
        model = str(value.get("model_type", model)) if isinstance(value, dict) else model
    plain = re.sub(r"[^a-z0-9]", "", model.rstrip("/").rpartition("/")[2].lower())
    fitting = [name for name in architectures.names() if re.sub(r"[^a-z0-9]", "", name) in plain]
    return architectures.get(max(fitting, key=len)).kind if fitting else "encoder"
