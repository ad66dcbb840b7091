"""Signatures beside the study's own (under random prompts, on half of dev), each kept in a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from transferscope.files import Place
from transferscope.models import Backbone
from transferscope.prompts import SoftPrompt
from transferscope.settings import StudySettings
from transferscope.signatures import Signature, extract, load_signature, save_signature, subtask_rows
from transferscope.staleness import is_current
from transferscope.store import Study
from transferscope.tasks import Task


class Keeper(Protocol):
    """What of a study is needed: `transferscope.workspace.Workspace` has it."""

    study: Study
    settings: StudySettings

    @property
    def backbone(self) -> Backbone: ...
    @property
    def model_fingerprint(self) -> str: ...
    def task(self, name: str) -> Task: ...
    def report(self, line: str) -> None: ...
    def progress(self, stage: str, done: int, total: int, text: str) -> None: ...


def kept(
    workspace: Keeper,
    task: Task,
    file: Place,
    what: str,
    *,
    made_of: Any,
    prompts: Callable[[], Sequence[SoftPrompt]],
    backbone: Callable[[], Backbone],
) -> Signature:
    """The signature in a file: read if it is current, and then without any model; else extracted and kept.

    ``made_of`` says what the prompts are, and ``what`` the signature is, in messages. Settings are the
    study's.
    """
    study = workspace.settings
    inputs = {
        "model": workspace.model_fingerprint,
        "task": task.fingerprint,
        "max_length": study.max_length,
        "signatures": study.signatures.model_dump(),
        "subtasks": subtask_rows(task),
        "prompts": made_of,
    }
    if file.is_file():
        known = load_signature(file)
        if is_current(known.provenance, inputs, workspace.report, f"extracting {what}"):
            return known
    found = extract(
        backbone(),
        task,
        prompts(),
        max_length=study.max_length,
        compat=study.signatures.compat,
        balanced=study.signatures.balanced,
        token_budget=study.token_budget,
        progress=lambda done, total, text: workspace.progress("extract", done, total, text),
    )
    found = replace(found, provenance={**found.provenance, "inputs": inputs})
    save_signature(found, file)
    return found
