"""A study from its study.yaml to a ranking: stages in order, each skipped where its result is current."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transferscope import comparison, correlation, ranking, store, transfer
from transferscope.comparison import IndicatorMatrix
from transferscope.correlation import CorrelationReport
from transferscope.errors import InputError, StudyError, TaskError, TemplateError, suggest
from transferscope.exporters import Table, tabular
from transferscope.models import Backbone, load_backbone
from transferscope.prompts import RECORD, SoftPrompt, load_prompt, save_prompt
from transferscope.ranking import Ranking
from transferscope.settings import StudySettings, read_settings
from transferscope.signatures import Signature, extract, load_signature, save_signature
from transferscope.summary import StudySummary, TaskSummary
from transferscope.tasks import Task, load_task
from transferscope.transfer import TransferMatrix
from transferscope.tuning import head_words, tune

Report = Callable[[str], None]
Progress = Callable[[str, int, int, str], None]
STUDY_FILE = "study.yaml"


def open_study(
    path: Path | str, *, report: Report | None = None, progress: Progress | None = None
) -> Pipeline:
    """The pipeline of a study folder or its ``study.yaml``.

    ``report`` gets a line for what happens, ``progress`` (stage, done, total, what). Raises StudyError.
    """
    path = Path(path)
    file = path / STUDY_FILE if path.is_dir() else path
    if not file.is_file():
        raise StudyError(f"no {STUDY_FILE} in {str(path)!r}" if path.is_dir() else f"no study {str(path)!r}")
    settings = read_settings(file)
    store.Study(file.parent).clean()  # temporary files of processes that were killed
    return Pipeline(file.parent, settings, report=report, progress=progress)


class Pipeline:
    """The stages of one study; each method does what is missing before it."""

    def __init__(
        self,
        folder: Path | str,
        settings: StudySettings,
        *,
        report: Report | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.study = store.Study(folder)
        self.settings = settings
        self.report: Report = report or (lambda line: None)
        self.progress: Progress = progress or (lambda stage, done, total, text: None)
        self._tasks: dict[str, Task] = {}
        self._prompts: dict[str, tuple[SoftPrompt, ...]] = {}
        self._signatures: dict[str, Signature] = {}
        self._matrices: list[IndicatorMatrix] | None = None

    @cached_property
    def backbone(self) -> Backbone:
        """The study's model, loaded when first needed."""
        model = self.settings.model
        self.report(f"loading {model.name}")
        loaded = load_backbone(
            self._model_name,
            head=self.settings.head,
            device=model.device,
            dtype=model.dtype,
            revision=model.revision,
            attention=model.attention,
            trust_remote_code=model.trust_remote_code,
        )
        # Under the name that the study gives it: artefacts do not tell where on this machine the study lies.
        return replace(loaded, name=model.name)

    @cached_property
    def model_fingerprint(self) -> str:
        """The backbone's fingerprint, remembered so that a finished study is read without its model.

        What is remembered holds for these settings and, of a local folder, for files of this size and time. A
        hub model without a revision counts as unchanged.
        """
        file, folder = self.study.path("backbone.json"), Path(self._model_name)
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        key = {
            "model": self.settings.model.model_dump(),
            "head": self.settings.head,
            "files": {entry.name: [entry.stat().st_size, entry.stat().st_mtime_ns] for entry in files},
        }
        known = store.read_json(file) if file.is_file() else {}
        if known.get("key") == store.json_ready(key):
            return str(known["fingerprint"])
        store.write_json(file, {"key": key, "fingerprint": self.backbone.fingerprint}, versioned=True)
        return self.backbone.fingerprint

    @property
    def _model_name(self) -> str:
        """The model's folder, relative to the study where it is there, or its hub id."""
        local = self.study.folder / self.settings.model.name
        return str(local) if (local / "config.json").is_file() else self.settings.model.name

    def task(self, name: str) -> Task:
        """One task of the study, read when first needed. Raises StudyError, TaskError."""
        if name not in self.settings.tasks:
            raise StudyError(f"the study has no task {name!r}. {suggest(name, self.settings.tasks)}")
        if name not in self._tasks:
            self._tasks[name] = load_task(name, self.settings.tasks[name], folder=self.study.folder)
        return self._tasks[name]

    def tune(self, tasks: Sequence[str] | None = None) -> dict[str, tuple[SoftPrompt, ...]]:
        """The tuned prompts of these tasks (None: all), one for each seed."""
        names = self._chosen(tasks)
        self._check(names)
        missing = [
            (name, seed) for name in names if name not in self._prompts for seed in self.settings.seeds
        ]
        steps = self.settings.tuning.steps
        found: dict[str, list[SoftPrompt]] = {}
        for number, (name, seed) in enumerate(missing):

            def progress(done: int, _: int, text: str, before: int = number * steps) -> None:
                self.progress("tune", before + done, len(missing) * steps, text)

            found.setdefault(name, []).append(self._tuned(name, seed, progress))
            progress(steps, steps, f"{name} seed {seed}")
        self._prompts.update({name: tuple(several) for name, several in found.items()})
        return {name: self._prompts[name] for name in names}

    def extract(self, tasks: Sequence[str] | None = None) -> dict[str, Signature]:
        """The signatures of these tasks (None: all)."""
        names = self._chosen(tasks)
        prompts = self.tune(names)
        for name in names:
            if name not in self._signatures:
                self._signatures[name] = self._extracted(name, prompts[name])
        return {name: self._signatures[name] for name in names}

    def compare(self, names: Sequence[str] | None = None) -> list[IndicatorMatrix]:
        """All pairs of tasks by these indicators (None: the study's, or all that can be computed)."""
        if names is None and self._matrices is not None:
            return self._matrices
        wanted = list(names or self.settings.indicators or []) or None
        signatures = self.extract()
        matrices = comparison.compare(list(signatures.values()), wanted)
        file = self.study.path("indicators.csv")
        inputs = {"signatures": [self._inputs(s) for s in signatures.values()], "names": wanted}
        # Asked for by name, on the spot: shown, but the table of the study stays what the study says.
        self._matrices = matrices if names is None else self._matrices
        if names is None and (store.provenance(file) or {}).get("inputs") != json.loads(json.dumps(inputs)):
            store.write_csv(
                file, comparison.COLUMNS, comparison.to_rows(matrices), provenance={"inputs": inputs}
            )
            self.report(f"wrote {file.name}: {len(matrices)} indicators of {len(signatures)} tasks")
        return matrices

    def measure(self) -> TransferMatrix:
        """Zero-shot transfer between all tasks. Finished targets are kept when it is interrupted."""
        prompts, tasks = self.tune(), {name: self.task(name) for name in self.settings.tasks}
        file = self.study.path("transfer.csv")
        inputs = {
            "model": self.model_fingerprint,
            "prompts": {
                name: [prompt.fingerprint for prompt in several] for name, several in prompts.items()
            },
            "tasks": {name: task.fingerprint for name, task in tasks.items()},
            "max_length": self.settings.max_length,
        }
        rows = self._measured(file, inputs)
        for before, (name, task) in enumerate(tasks.items()):
            if any(row["target"] == name for row in rows):
                continue

            def progress(done: int, cells: int, text: str, before: int = before) -> None:
                self.progress("measure", before * cells + done, len(tasks) * cells, text)

            column = transfer.zero_shot_column(
                self.backbone,
                prompts,
                task,
                max_length=self.settings.max_length,
                token_budget=self.settings.token_budget,
                progress=progress,
            )
            rows += transfer.column_rows(task, column)
            table = [[row[column] for column in transfer.COLUMNS] for row in rows]
            store.write_csv(file, transfer.COLUMNS, table, provenance={"inputs": inputs})
        return transfer.from_rows(rows)[0]

    def correlate(self) -> CorrelationReport:
        """How well each indicator agrees with measured transfer here."""
        report = correlation.correlate(self.compare(), self.measure(), types=self.types)
        store.write_json(self.study.path("correlation.json"), report, versioned=True)
        return report

    def rank(self, target: str, indicator: str | None = None) -> Ranking:
        """The sources for a target, best first."""
        if target not in self.settings.tasks:
            raise StudyError(f"the study has no task {target!r}. {suggest(target, self.settings.tasks)}")
        signatures = self.extract()
        sizes = {name: signature.provenance.get("train_examples") for name, signature in signatures.items()}
        return ranking.rank(
            target,
            signatures,
            indicator=indicator,
            transfer=self._known_transfer(),
            types=self.types or None,
            sizes={name: size for name, size in sizes.items() if size is not None},
        )

    def run(self) -> StudySummary:
        """Unfinished stages: tune, extract, compare; where the head allows measure and correlate; rank."""
        signatures = self.extract()
        self.compare()
        report = self.correlate() if self.measurable and len(signatures) > 1 else None
        rankings = {name: self.rank(name) for name in signatures} if len(signatures) > 1 else {}
        tasks = [
            TaskSummary.of(name, signature, self.settings.tasks[name].type, rankings.get(name))
            for name, signature in signatures.items()
        ]
        return StudySummary(str(self.study.folder), self.settings.model.name, tuple(tasks), report)

    @property
    def measurable(self) -> bool:
        """Whether the zero-shot protocol applies: label words and an LM head."""
        return self.settings.measure and self.settings.head == "verbalizer"

    @property
    def types(self) -> dict[str, str]:
        """The type of each task that has one."""
        return {name: spec.type for name, spec in self.settings.tasks.items() if spec.type is not None}

    def _chosen(self, tasks: Sequence[str] | None) -> list[str]:
        names = list(tasks) if tasks else list(self.settings.tasks)
        for name in names:
            if name not in self.settings.tasks:
                raise StudyError(f"the study has no task {name!r}. {suggest(name, self.settings.tasks)}")
        return list(dict.fromkeys(names))

    def _check(self, names: Iterable[str]) -> None:
        """Read every task before hours of work begin, so that a mistake in the last one shows at once."""
        problems: list[InputError] = []
        for name in names:
            try:
                task = self.task(name)
                untuned = [
                    s
                    for s in self.settings.seeds
                    if not (self.study.prompt_folder(name, s) / RECORD).is_file()
                ]
                if untuned and self.settings.head == "verbalizer":
                    head_words(self.backbone, task)
            except (TaskError, TemplateError) as error:
                problems.append(error)
        if problems:
            raise type(problems[0])("\n".join(map(str, problems)))

    def _tuned(self, name: str, seed: int, progress: Callable[[int, int, str], None]) -> SoftPrompt:
        folder, task, settings = self.study.prompt_folder(name, seed), self.task(name), self.settings
        inputs = {
            "model": self.model_fingerprint,
            "task": task.fingerprint,
            "template": settings.template,
            "head": settings.head,
            "max_length": settings.max_length,
            "tuning": settings.tuning.model_dump(),
        }
        if (folder / RECORD).is_file():
            prompt = load_prompt(folder)
            changed = store.stale_reason(prompt.provenance.get("inputs") or {}, inputs)
            if not changed:
                return prompt
            self.report(f"tuning {name} seed {seed} again: {'; '.join(changed)}")
        prompt = tune(
            self.backbone,
            task,
            settings=settings.tuning,
            seed=seed,
            template=settings.template,
            head=settings.head,
            max_length=settings.max_length,
            token_budget=settings.token_budget,
            folder=folder,
            progress=progress,
        )
        prompt.provenance["inputs"] = inputs  # type: ignore[index]
        save_prompt(prompt, folder, model=settings.model.name, kind=self.backbone.architecture.kind)
        scores = prompt.provenance["scores"]
        self.report(
            f"tuned {name} seed {seed}: {scores['metric']} {scores['dev']:.3f} "
            f"(majority class {scores['majority']:.3f})"
        )
        if cut := prompt.provenance["truncated_texts"]:
            limit, texts = prompt.provenance["max_text_tokens"], len(task.train) + len(task.dev)
            self.report(f"  {cut} of {texts} texts of {name} were longer than {limit} tokens and were cut")
        return prompt

    def _extracted(self, name: str, prompts: Sequence[SoftPrompt]) -> Signature:
        file, settings = self.study.signature_file(name), self.settings
        inputs = {
            "model": self.model_fingerprint,
            "task": self.task(name).fingerprint,
            "prompts": [prompt.fingerprint for prompt in prompts],
            "max_length": settings.max_length,
            "signatures": settings.signatures.model_dump(),
        }
        if file.is_file():
            signature = load_signature(file)
            changed = store.stale_reason(self._inputs(signature), inputs)
            if not changed:
                return signature
            self.report(f"extracting {name} again: {'; '.join(changed)}")
        if settings.model.dtype != "float32":
            self.report(
                f"  {settings.model.dtype}: predictivity compares rounded activations, and how many that "
                "flips is not measured; float32 is what the published procedure used"
            )
        signature = extract(
            self.backbone,
            self.task(name),
            prompts,
            max_length=settings.max_length,
            compat=settings.signatures.compat,
            balanced=settings.signatures.balanced,
            token_budget=settings.token_budget,
            progress=lambda done, total, text: self.progress("extract", done, total, text),
        )
        signature.provenance["inputs"] = inputs  # type: ignore[index]
        save_signature(signature, file)
        self.report(f"extracted {name}: {len(prompts)} trials")
        return signature

    def _inputs(self, signature: Signature) -> Mapping[str, Any]:
        return signature.provenance.get("inputs") or {}

    def _measured(self, file: Path, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        stored = (store.provenance(file) or {}).get("inputs")
        if stored is None:
            return []
        changed = store.stale_reason(stored, inputs)
        if changed:
            self.report(f"measuring transfer again: {'; '.join(changed)}")
            return []
        return store.read_csv(file, transfer.COLUMNS, numbers={"seed", "value"})

    def _known_transfer(self) -> TransferMatrix | None:
        file = self.study.path("transfer.csv")
        if not file.is_file():
            return None
        matrices = transfer.from_rows(store.read_csv(file, transfer.COLUMNS, numbers={"seed", "value"}))
        return next((matrix for matrix in matrices if matrix.protocol == transfer.ZERO_SHOT), None)


def _tables(summary: StudySummary) -> list[Table]:
    columns = (
        "task",
        "type",
        "metric",
        "seeds",
        "own prompt",
        "sd",
        "majority class",
        "first source",
        "others tied",
    )
    rows = tuple(
        (t.task, t.type, t.metric, t.seeds, t.score, t.spread, t.majority, t.source, t.ties)
        for t in summary.tasks
    )
    notes = [f"study {summary.folder}, model {summary.model}; scores on dev, which tuning never saw"]
    if weak := [t.task for t in summary.tasks if t.weak]:
        notes.append(f"{ranking.WEAK}: {', '.join(weak)}")
    return [Table(columns, rows, "Tasks, their prompts, and the source ranked first", tuple(notes))]


tabular(StudySummary, _tables)
