"""A study's prompt for other tools: a PEFT folder, a .safetensors file or a .npy file."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transferscope import store
from transferscope.errors import PromptError, StudyError, suggest
from transferscope.importers.study_file import open_existing
from transferscope.prompts import CONFIG, KEY, TASK_TYPES, SoftPrompt, find_prompts, load_prompt, save_prompt

FORMATS = ("peft", "safetensors", "npy")


@dataclass(frozen=True)
class Exported:
    """A prompt that was written: where, in which format, rows P and width E; notes say what to know."""

    task: str
    seed: int
    path: str
    format: str
    rows: int
    width: int
    template: str
    notes: tuple[str, ...] = ()


def export_prompt(
    task: str, study: store.AnyPath, out: Path | str, format_: str, *, seed: int | None = None
) -> Exported:
    """Write one of a study's prompts (of its first seed, or of `seed`) to `out`.

    Raises StudyError (no such task or seed), PromptError (an unknown format, or a path that holds something
    else).
    """
    if format_ not in FORMATS:
        raise PromptError(f"no format {format_!r} to export to. {suggest(format_, FORMATS)}")
    folder = find_folder(task, store.place(study), seed)
    prompt = load_prompt(folder)
    written = write_prompt(prompt, Path(out), format_, kind=_kind(folder))
    notes = []
    if prompt.template != "prefix":
        notes.append(
            f"tuned as {prompt.template}: PEFT and most tools read the rows as a prefix"
            + (" (the mask row is not among them)" if prompt.template == "mask-first" else "")
        )
    if prompt.head is not None and format_ != "peft":
        notes.append("the classifier tuned with it is not in the file")
    rows, width = prompt.rows.shape
    return Exported(task, prompt.seed, str(written), format_, rows, width, prompt.template, tuple(notes))


def find_folder(task: str, study: store.Place, seed: int | None) -> store.Place:
    """The folder of a study's prompt of one seed; None is the first. Raises StudyError."""
    here, settings = open_existing(study)
    if task not in settings.tasks:
        raise StudyError(f"the study has no task {task!r}. {suggest(task, settings.tasks)}")
    found = {number: here.prompt_folder(name, number) for name, number in here.prompts() if name == task}
    elsewhere = settings.tasks[task].prompts
    if elsewhere is not None and store.inside(here.folder, elsewhere).is_dir():
        for folder in find_prompts([store.inside(here.folder, elsewhere)]):
            found.setdefault(load_prompt(folder).seed, folder)
    if not found:
        raise StudyError(f"no prompt of {task!r} in {str(study)!r}: tune it with `transferscope tune`")
    if seed is not None and seed not in found:
        raise StudyError(f"no prompt of {task!r} with seed {seed}. {suggest(str(seed), map(str, found))}")
    return found[min(found) if seed is None else seed]


def _kind(folder: store.Place) -> str:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))  # load_prompt has read it
    return next((kind for kind, task in TASK_TYPES.items() if task == config.get("task_type")), "encoder")


def write_prompt(prompt: SoftPrompt, path: Path, format_: str, *, kind: str = "encoder") -> store.Place:
    """One prompt as a PEFT folder, as the tensor `prompt_embeddings`, or as an array; [P, E] float32.

    Raises PromptError if the path holds something else.
    """
    if format_ == "peft":
        if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / CONFIG).is_file()):
            raise PromptError(
                f"{str(path)!r} is there and is no PEFT folder; a prompt is not written into it"
            )
        return save_prompt(prompt, path, kind=kind)
    if path.is_dir():
        raise PromptError(f"{str(path)!r} is a folder, and {format_} makes a file")
    rows = np.ascontiguousarray(prompt.rows, dtype=np.float32)
    if format_ == "safetensors":
        about = {"task": prompt.task, "seed": prompt.seed, "template": prompt.template}
        store.save_arrays(path, {KEY: rows}, about)
    else:
        page = io.BytesIO()
        np.save(page, rows, allow_pickle=False)
        store.write_bytes(path, page.getvalue())
    return path
