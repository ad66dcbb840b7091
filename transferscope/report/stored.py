"""What a study has: its artefacts as they lie there. Nothing is tuned, extracted or measured for a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from transferscope import cells, comparison, measuring, store, transfer
from transferscope.comparison import IndicatorMatrix, Material
from transferscope.errors import InputError, StudyError
from transferscope.ordering import listed
from transferscope.pipeline import Pipeline, open_study
from transferscope.prompts import RECORD, SoftPrompt, find_prompts, load_prompt
from transferscope.signatures import Signature, load_signature
from transferscope.transfer import TransferMatrix

INDICATORS, CORRELATION, BACKBONE = "indicators.csv", "correlation.json", "backbone.json"


@dataclass(frozen=True)
class Lack:
    """Something that the study does not have, or that is out of date, and the command that supplies it."""

    what: str
    command: str


@dataclass(frozen=True)
class Stored:
    """A study as it lies there.

    ``signatures`` are without what is large and not shown (baselines and features). ``materials`` is what a
    ranking reads of each task: signatures where every task has one, else prompts; empty where neither is
    whole. ``protocol`` is the measured one that indicators are judged by, None where nothing is measured.
    """

    pipeline: Pipeline
    signatures: dict[str, Signature]
    materials: tuple[Material, ...]
    matrices: tuple[IndicatorMatrix, ...]
    transfers: tuple[TransferMatrix, ...]
    protocol: str | None
    correlation: dict[str, Any] | None
    lacks: tuple[Lack, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The study's tasks, then those that only tables know."""
        tables = [*(m.tasks for m in self.matrices), *(side for m in self.transfers for side in _sides(m))]
        return tuple(dict.fromkeys([*self.pipeline.settings.tasks, *(t for some in tables for t in some)]))

    @property
    def types(self) -> dict[str, str]:
        """The types that are known, by the study and by its signatures."""
        of_signatures = {
            name: str(one.provenance["type"])
            for name, one in self.signatures.items()
            if one.provenance.get("type")
        }
        return of_signatures | self.pipeline.types

    @property
    def measured(self) -> TransferMatrix | None:
        """Measured transfer of the judged protocol."""
        return next((one for one in self.transfers if one.protocol == self.protocol), None)

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers of training examples, where signatures know them."""
        known = {name: one.provenance.get("train_examples") for name, one in self.signatures.items()}
        return {name: int(size) for name, size in known.items() if size}


def _sides(matrix: TransferMatrix) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return matrix.sources, matrix.targets


def read_stored(path: store.AnyPath) -> Stored:
    """The artefacts of a study folder (or its study.yaml), without its model.

    Raises StudyError where there is no study, StoreError and InputError where an artefact is damaged.
    """
    pipeline = open_study(path)
    study = pipeline.study
    signatures = _signatures(pipeline)
    prompts = _prompts(pipeline)
    matrices = _matrices(pipeline)
    transfers = tuple(
        measuring.in_order(one, list(pipeline.settings.tasks))
        for one in transfer.from_rows(cells.read_table(study))
        if np.isfinite(one.per_seed).any()
    )
    report = study.path(CORRELATION)
    return Stored(
        pipeline=pipeline,
        signatures=signatures,
        materials=_materials(pipeline, signatures, prompts),
        matrices=matrices,
        transfers=transfers,
        protocol=_protocol(pipeline, transfers),
        correlation=store.read_json(report) if report.is_file() else None,
        lacks=tuple(_lacks(pipeline, signatures, prompts, matrices, transfers)),
    )


def _signatures(pipeline: Pipeline) -> dict[str, Signature]:
    found = {}
    for name in pipeline.settings.tasks:
        try:
            file = pipeline.study.signature_file(name)
        except StudyError:  # a name that can be no file's: it has none
            continue
        if file.is_file():
            # One after another, each without its largest arrays: dozens of them would not fit in memory.
            found[name] = replace(load_signature(file), baseline=None, features=None)
    return found


def _prompts(pipeline: Pipeline) -> dict[str, tuple[SoftPrompt, ...]]:
    """The prompts that lie there, by task, in the order of their seeds; given ones too."""
    found = {}
    for name, spec in pipeline.settings.tasks.items():
        try:
            if spec.prompts is not None:
                folders = find_prompts([store.inside(pipeline.study.folder, str(spec.prompts))], depth=1)
            else:
                seeds = [pipeline.study.prompt_folder(name, seed) for seed in pipeline.settings.seeds]
                folders = [folder for folder in seeds if (folder / RECORD).is_file()]
            several = tuple(replace(load_prompt(folder), task=name) for folder in folders)
        except InputError:  # nothing there, or something else than soft prompts
            continue
        if several:
            found[name] = several
    return found


def _materials(
    pipeline: Pipeline, signatures: dict[str, Signature], prompts: dict[str, tuple[SoftPrompt, ...]]
) -> tuple[Material, ...]:
    names, types = list(pipeline.settings.tasks), pipeline.types
    if len(signatures) == len(names):
        found = [comparison.from_signature(signatures[name]) for name in names]
    elif len(prompts) == len(names):
        found = [comparison.from_prompts(name, prompts[name]) for name in names]
    else:
        return ()
    return tuple(replace(one, type=types.get(one.task, one.type)) for one in found)


def _matrices(pipeline: Pipeline) -> tuple[IndicatorMatrix, ...]:
    file = pipeline.study.path(INDICATORS)
    if not file.is_file():
        return ()
    rows = store.read_csv(file, comparison.COLUMNS, numbers={"value"})
    return tuple(comparison.from_rows(rows, str(file)))


def _protocol(pipeline: Pipeline, transfers: Sequence[TransferMatrix]) -> str | None:
    """The study's own protocol where it was measured, else the first that was."""
    there = [one.protocol for one in transfers]
    usual = measuring.default_protocol(pipeline)
    return usual if usual in there else next(iter(there), None)


def _lacks(
    pipeline: Pipeline,
    signatures: dict[str, Signature],
    prompts: dict[str, tuple[SoftPrompt, ...]],
    matrices: Sequence[IndicatorMatrix],
    transfers: Sequence[TransferMatrix],
) -> list[Lack]:
    """What is missing or out of date, as far as that is known without the model and the data."""
    names = list(pipeline.settings.tasks)
    found = []
    untuned = [name for name in names if name not in prompts and name not in signatures]
    if untuned:
        found.append(Lack(f"prompts of {listed(untuned)}", "tune --study STUDY"))
    unread = [name for name in names if name not in signatures]
    if unread:
        what = f"signatures (and with them skill neurons) of {listed(unread)}"
        found.append(Lack(what, "extract --study STUDY"))
    old = [name for name in names if _is_old(signatures.get(name), prompts.get(name, ()))]
    if old:
        what = f"signatures of the prompts that are there now, of {listed(old)}"
        found.append(Lack(what, "extract --study STUDY"))
    if not matrices:
        found.append(Lack("indicators of all pairs of tasks", "compare --study STUDY"))
    elif problem := _about_table(pipeline, signatures):
        found.append(Lack(problem, "compare --study STUDY"))
    if not transfers:
        found.append(Lack("measured transfer", "measure --study STUDY"))
    return found


def _is_old(signature: Signature | None, prompts: Sequence[SoftPrompt]) -> bool:
    if signature is None or not prompts:
        return False
    known = signature.provenance.get("prompts")
    return known is not None and list(known) != [prompt.fingerprint for prompt in prompts]


def _about_table(pipeline: Pipeline, signatures: dict[str, Signature]) -> str | None:
    """Whether indicators.csv is of other prompts than the signatures; None where it is not, or not known."""
    record = store.provenance(pipeline.study.path(INDICATORS))
    made_of = ((record or {}).get("inputs") or {}).get("made_of")
    of_signatures = [signatures[name].provenance.get("prompts") for name in signatures]
    if made_of is None or len(signatures) < len(pipeline.settings.tasks) or None in of_signatures:
        return None
    of_table = [one for one in made_of if isinstance(one, list)]
    return None if of_table == of_signatures else "indicators of the signatures that are there now"
