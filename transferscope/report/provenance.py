"""What a report rests on: tasks and prompts, model, settings, seeds, versions, dates of the artefacts."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from transferscope import __version__, comparison, store
from transferscope.report.stored import BACKBONE, CORRELATION, INDICATORS, Stored
from transferscope.summary import TaskSummary

PACKAGES = ("numpy", "scipy", "torch", "transformers", "plotly")


@dataclass(frozen=True)
class TaskRow:
    """One task: examples, and what its own prompts reach (mean and sd over the seeds)."""

    task: str
    type: str | None
    metric: str | None
    train: int | None
    dev: int | None
    seeds: int | None
    own: float | None
    spread: float | None
    majority: float | None
    weak: bool


@dataclass(frozen=True)
class Artefact:
    """A file of the study, or several of a kind: how many, bytes in all, date of the newest (UTC)."""

    name: str
    files: int
    size: int
    date: str


@dataclass(frozen=True)
class Provenance:
    """Names and values for the page, in groups, and the artefacts."""

    model: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    artefacts: tuple[Artefact, ...]


def task_rows(stored: Stored) -> tuple[TaskRow, ...]:
    """A row for each task, those that only tables know with their names and types alone."""
    own = {material.task: material.own for material in stored.materials}
    return tuple(_task_row(stored, name, own.get(name)) for name in stored.tasks)


def _task_row(stored: Stored, name: str, own: float | None) -> TaskRow:
    signature, type_ = stored.signatures.get(name), stored.types.get(name)
    if signature is None or not signature.provenance.get("scores"):
        measured = stored.measured
        if own is None and measured is not None and name in measured.targets:
            own = float(measured.own[measured.targets.index(name)])
        seeds = len(signature.seeds) if signature is not None else None
        reached = own if own is not None and np.isfinite(own) else None
        return TaskRow(name, type_, None, None, None, seeds, reached, None, None, False)
    known = TaskSummary.of(name, signature, type_, None)
    of = signature.provenance
    return TaskRow(
        name,
        type_,
        known.metric or None,
        of.get("train_examples"),
        of.get("dev_examples"),
        known.seeds,
        known.score,
        known.spread,
        known.majority,
        comparison.no_better_than_majority(of),
    )


def provenance(stored: Stored) -> Provenance:
    """What the study and its artefacts say of themselves; the model is not loaded."""
    settings = stored.pipeline.settings
    # A folder's name, not where on a machine it lies: the page may be given to others.
    model = [("name", Path(settings.model.name).name or settings.model.name)]
    prints = dict.fromkeys(one.model for one in stored.signatures.values())
    file = stored.pipeline.study.path(BACKBONE)
    known = [str(store.read_json(file).get("fingerprint", ""))] if file.is_file() else []
    model += [("fingerprint", ", ".join(prints) or ", ".join(known) or "not known: nothing was extracted")]
    of_model = settings.model.model_dump(exclude={"name", "device"}, exclude_none=True)
    model += _named(of_model)
    plain = {
        "template": settings.template or "the usual one of the model",
        "head": settings.head,
        "seeds": list(settings.seeds),
        "max_length": settings.max_length,
        **{f"tuning.{key}": value for key, value in settings.tuning.model_dump().items()},
        **{f"signatures.{key}": value for key, value in settings.signatures.model_dump().items()},
        **{f"transfer.{key}": value for key, value in settings.transfer.model_dump().items()},
    }
    versions = [("transferscope", __version__), ("Python", platform.python_version())]
    versions += [(name, found) for name in PACKAGES if (found := _version(name))]
    return Provenance(tuple(model), tuple(_named(plain)), tuple(versions), tuple(_artefacts(stored)))


def _named(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, _shown(value)) for name, value in values.items()]


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "not set" if value is None else str(value)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _artefacts(stored: Stored) -> list[Artefact]:
    study = stored.pipeline.study
    kinds: dict[str, list[store.Place]] = {
        "study.yaml": [study.path("study.yaml")],
        "prompts/": sorted(study.path("prompts").glob("*/*/adapter_model.safetensors")),
        "signatures/": sorted(study.path("signatures").glob("*.safetensors")),
        INDICATORS: [study.path(INDICATORS)],
        "transfer.csv": [study.path("transfer.csv")],
        CORRELATION: [study.path(CORRELATION)],
    }
    found = [(name, [file for file in files if file.is_file()]) for name, files in kinds.items()]
    return [_artefact(name, files) for name, files in found if files]


def _artefact(name: str, files: Sequence[store.Place]) -> Artefact:
    stats = [file.stat() for file in files]
    newest = datetime.fromtimestamp(max(one.st_mtime for one in stats), UTC)
    return Artefact(name, len(files), sum(one.st_size for one in stats), f"{newest:%Y-%m-%d %H:%M} UTC")
