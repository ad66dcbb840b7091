"""A study being worked on: settings, backbone, tasks and prompts, each read when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transferscope import safe_precision, store, token_budget
from transferscope.errors import InputError, PromptError, StudyError, TaskError, suggest
from transferscope.metrics import metric as find_metric
from transferscope.models import Backbone, load_backbone
from transferscope.pieces import Piece
from transferscope.prompts import RECORD, SoftPrompt, find_prompts, load_prompt, save_prompt
from transferscope.readouts import head_words
from transferscope.settings import StudySettings, TuningSettings
from transferscope.staleness import Report, is_current, say_again
from transferscope.tasks import Task, load_task
from transferscope.tuning import tune
from transferscope.tuning_together import tune_together

Progress = Callable[[str, int, int, str], None]


def turn(
    progress: Progress, stage: str, number: int, count: int, lead: str = ""
) -> Callable[[int, int, str], None]:
    """The progress of a stage as turn ``number`` (from 0) of ``count`` goes; texts begin by ``lead``."""
    return lambda done, total, text: progress(stage, number * total + done, count * total, lead + text)


class Workspace:
    """What the stages of one study share; prompts are tuned, or read, when a stage asks for them.

    ``report`` gets a line for what happens, ``progress`` (stage, done, total, what).
    """

    def __init__(
        self,
        folder: store.AnyPath,
        settings: StudySettings,
        *,
        report: Report | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.study = store.Study(folder)
        self.settings = settings
        self.report: Report = report or (lambda line: None)
        self.progress: Progress = progress or (lambda stage, done, total, text: None)
        self.device: str | None = None  # where the model goes instead of where the settings say
        self._tasks: dict[str, Task] = {}
        self._prompts: dict[str, tuple[SoftPrompt, ...]] = {}
        self._scoring: dict[str, Backbone] = {}

    @cached_property
    def backbone(self) -> Backbone:
        """The study's model, loaded when first needed."""
        model = self.settings.model
        self.report(f"loading {model.name}")
        loaded = load_backbone(
            self.model_name,
            head=self.settings.head,
            device=self.device or model.device,
            dtype=model.dtype,
            revision=model.revision,
            attention=model.attention,
            trust_remote_code=model.trust_remote_code,
            device_map=model.device_map,
            max_memory=model.max_memory,
            quantization=model.quantization,
        )
        loaded.fitting.report = self.report
        # Under the name that the study gives it: artefacts do not tell where on this machine the study lies.
        return replace(loaded, name=model.name)

    def scoring_backbone(self, task: Task) -> Backbone:
        """The backbone for accuracy and tuning on a task: in bfloat16 where the settings say so.

        Under ``auto`` a probe of each task decides, where the device is made for bfloat16. Neurons are read
        by `backbone` alone.
        """
        if task.name not in self._scoring:
            study = self.settings
            how = {"template": study.template, "head": study.head, "max_length": study.max_length}
            found, line = safe_precision.chosen(self.backbone, study.model, task, study.tuning, **how)
            self._scoring[task.name] = found
            if line:
                self.report(line)
        return self._scoring[task.name]

    @cached_property
    def token_budget(self) -> int:
        """Rows in one forward pass of tuning's scores, extraction and measured transfer.

        As the settings say; where they do not, 8192, and more on a GPU with the memory for it.
        """
        if self.settings.has_token_budget:
            return self.settings.token_budget
        return token_budget.automatic(self.backbone)

    @cached_property
    def model_fingerprint(self) -> str:
        """The backbone's fingerprint, remembered so that a finished study is read without its model.

        What is remembered holds for these settings and, of a local folder, for files of this size and time. A
        hub model without a revision counts as unchanged.
        """
        if (known := self.remembered_fingerprint) is not None:
            return known
        record = {"key": self._fingerprint_key, "fingerprint": self.backbone.fingerprint}
        store.write_json(self.study.path("backbone.json"), record, versioned=True)
        return self.backbone.fingerprint

    @property
    def remembered_fingerprint(self) -> str | None:
        """The backbone's fingerprint as far as it is known without the model."""
        file = self.study.path("backbone.json")
        known = store.read_json(file) if file.is_file() else {}
        same = known.get("key") == store.json_ready(self._fingerprint_key)
        return str(known["fingerprint"]) if same else None

    @property
    def _fingerprint_key(self) -> dict[str, Any]:
        folder = Path(self.model_name)
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        return {
            "model": self.settings.model.model_dump(),
            "head": self.settings.head,
            "files": {entry.name: [entry.stat().st_size, entry.stat().st_mtime_ns] for entry in files},
        }

    @property
    def model_name(self) -> str:
        """The model's folder, relative to the study where it is there, or its hub id."""
        there = store.inside(self.study.folder, self.settings.model.name)
        if not (there / "config.json").is_file():
            return self.settings.model.name
        return str(store.local_folder(there))

    @property
    def types(self) -> dict[str, str]:
        """The type of each task that has one."""
        return {name: spec.type for name, spec in self.settings.tasks.items() if spec.type is not None}

    @property
    def with_data(self) -> list[str]:
        """The tasks that have texts: those that can be tuned on and measured."""
        return [name for name, spec in self.settings.tasks.items() if spec.has_data]

    def given(self, tasks: Sequence[str] | None = None) -> list[str]:
        """Those of the tasks (None: of all) whose prompts were tuned elsewhere."""
        return [name for name in self.chosen(tasks) if self.settings.tasks[name].prompts is not None]

    def chosen(self, tasks: Sequence[str] | None) -> list[str]:
        """These tasks, or all; StudyError with the nearest name for one that is not there."""
        names = list(tasks) if tasks else list(self.settings.tasks)
        for name in names:
            if name not in self.settings.tasks:
                raise StudyError(f"the study has no task {name!r}. {suggest(name, self.settings.tasks)}")
        return list(dict.fromkeys(names))

    def ahead(self, pieces: Sequence[Piece]) -> bool:
        """These pieces come next, of prompts that are there. Whether any was done now, elsewhere, say.

        Here they are left to the stage, which does what it does not find done.
        """
        return False

    @property
    def loaded(self) -> dict[str, tuple[SoftPrompt, ...]]:
        """The prompts that were tuned or read until now."""
        return dict(self._prompts)

    def task(self, name: str) -> Task:
        """One task of the study, read when first needed. Raises StudyError, TaskError."""
        self.chosen([name])
        spec = self.settings.tasks[name]
        if not spec.has_data:
            raise TaskError(
                f"task {name!r} has no data in this study, only prompts ({spec.prompts}): it can be a "
                "source. To measure on it, give it a dataset, a path or train"
            )
        if name not in self._tasks:
            self._tasks[name] = load_task(name, spec, folder=self.study.folder)
        return self._tasks[name]

    def tune(self, tasks: Sequence[str] | None = None) -> dict[str, tuple[SoftPrompt, ...]]:
        """The prompts of these tasks (None: all): tuned, one for each seed, or read where they are given."""
        names = self.chosen(tasks)
        wanted = [name for name in names if name not in self._prompts]
        self._prompts.update({n: self._given(n) for n in wanted if self.settings.tasks[n].prompts})
        wanted = [name for name in wanted if name not in self._prompts]
        self._check(wanted)
        missing = [(name, seed) for name in wanted for seed in self.settings.seeds]
        steps = self.settings.tuning.steps
        found: dict[str, list[SoftPrompt]] = {}
        for number, (name, seed) in enumerate(missing):

            def progress(done: int, _: int, text: str, before: int = number * steps) -> None:
                self.progress("tune", before + done, len(missing) * steps, text)

            if name not in found:
                self._tune_together(name, progress)
            found.setdefault(name, []).append(self._tuned(name, seed, progress))
            progress(steps, steps, f"{name} seed {seed}")
        self._prompts.update({name: tuple(several) for name, several in found.items()})
        return {name: self._prompts[name] for name in names}

    def tuned(
        self,
        task: Task,
        folder: store.Place,
        *,
        seed: int,
        settings: TuningSettings | None = None,
        init_from: SoftPrompt | None = None,
        extra: Mapping[str, Any] | None = None,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> tuple[SoftPrompt, bool]:
        """One prompt of a task in a folder of the study: read where it is current, else tuned and saved.

        ``extra`` are inputs beside the usual ones, by which it goes stale. Returns the prompt, and whether it
        was tuned now.
        """
        study, chosen = self.settings, settings or self.settings.tuning
        inputs = self.prompt_inputs(task, chosen, init_from, extra)
        if (folder / RECORD).is_file():
            prompt = load_prompt(folder)
            stored = prompt.provenance.get("inputs") or {}
            wanted = safe_precision.accepted(study.model, stored, inputs)
            if is_current(prompt.provenance, wanted, self.report, f"tuning {task.name} seed {seed}"):
                return prompt, False
        backbone = self.scoring_backbone(task)
        prompt = tune(
            backbone,
            task,
            settings=chosen,
            seed=seed,
            template=init_from.template if init_from is not None else study.template,
            head=study.head,
            init_from=init_from,
            max_length=study.max_length,
            token_budget=self.token_budget,
            folder=folder,
            progress=progress,
        )
        self._save(prompt, folder, inputs | safe_precision.made_in(backbone))
        return prompt, True

    def _save(self, prompt: SoftPrompt, folder: store.Place, inputs: Mapping[str, Any]) -> None:
        prompt.provenance["inputs"] = inputs  # type: ignore[index]
        save_prompt(prompt, folder, model=self.settings.model.name, kind=self.backbone.architecture.kind)

    def prompt_inputs(
        self,
        task: Task,
        settings: TuningSettings,
        init_from: SoftPrompt | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """What a tuned prompt is made from: it is current as long as this is the same."""
        return {
            "model": self.model_fingerprint,
            "task": task.fingerprint,
            "template": self.settings.template,
            "head": self.settings.head,
            "max_length": self.settings.max_length,
            "tuning": settings.model_dump(),
            **({"init_from": init_from.fingerprint} if init_from is not None else {}),
            **(extra or {}),
        }

    def _tuned(self, name: str, seed: int, progress: Callable[[int, int, str], None]) -> SoftPrompt:
        folder, task = self.study.prompt_folder(name, seed), self.task(name)
        prompt, new = self.tuned(task, folder, seed=seed, progress=progress)
        if new:
            self._say(task, prompt)
        return prompt

    def _tune_together(self, name: str, progress: Callable[[int, int, str], None]) -> None:
        """Tune the seeds of a task that lack a current prompt in one batch, where settings or a GPU say so.

        They are then in the study, and read from there.
        """
        study, chosen = self.settings, self.settings.tuning.together
        if chosen is False or len(study.seeds) < 2:
            return
        task = self.task(name)
        inputs = self.prompt_inputs(task, study.tuning)
        changed = {seed: self._changed(name, seed, inputs) for seed in study.seeds}
        seeds = [seed for seed, lines in changed.items() if lines is None or lines]
        if len(seeds) < 2 or (chosen == "auto" and self.backbone.device.type != "cuda"):
            return
        for seed in seeds:
            say_again(self.report, f"tuning {name} seed {seed}", changed[seed] or ())
        folders = {seed: self.study.prompt_folder(name, seed) for seed in seeds}
        backbone = self.scoring_backbone(task)
        made_from = inputs | safe_precision.made_in(backbone)

        def keep(prompt: SoftPrompt) -> None:
            self._save(prompt, folders[prompt.seed], made_from)
            self._say(task, prompt)

        before = (len(study.seeds) - len(seeds)) * study.tuning.steps
        tune_together(
            backbone,
            task,
            seeds=seeds,
            settings=study.tuning,
            template=study.template,
            head=study.head,
            max_length=study.max_length,
            token_budget=self.token_budget,
            folders=list(folders.values()),
            progress=lambda done, total, text: progress(before + done, total, text),
            keep=keep,
        )

    def _changed(self, name: str, seed: int, inputs: Mapping[str, Any]) -> list[str] | None:
        """Which inputs of a stored prompt are others now, one line each; None where there is no prompt."""
        folder = self.study.prompt_folder(name, seed)
        if not (folder / RECORD).is_file():
            return None
        stored = load_prompt(folder).provenance.get("inputs") or {}
        return store.stale_reason(stored, safe_precision.accepted(self.settings.model, stored, inputs))

    def _say(self, task: Task, prompt: SoftPrompt) -> None:
        """Report how good a prompt is that was tuned now."""
        name, seed = task.name, prompt.seed
        scores = prompt.provenance["scores"]
        blind = "majority class" if task.kind == "classification" else "one answer for all"
        self.report(
            f"tuned {name} seed {seed}: {scores['metric']} {scores['dev']:.3f} "
            f"({blind} {scores['majority']:.3f})"
        )
        if cut := prompt.provenance["truncated_texts"]:
            limit, texts = prompt.provenance["max_text_tokens"], len(task.train) + len(task.dev)
            self.report(f"  {cut} of {texts} texts of {name} were longer than {limit} tokens and were cut")

    def _given(self, name: str) -> tuple[SoftPrompt, ...]:
        """The prompts that a task brings, one a seed, under the name that the study gives the task."""
        where = store.inside(self.study.folder, str(self.settings.tasks[name].prompts))
        try:
            found = [load_prompt(path) for path in find_prompts([where], depth=1)]
        except PromptError as error:
            raise PromptError(f"prompts of task {name!r}: {error}") from None
        seeds = [prompt.seed for prompt in found]
        if len(set(seeds)) < len(seeds):  # folders of other tools do not say their seeds
            seeds = list(range(len(found)))
        return tuple(replace(prompt, task=name, seed=seed) for prompt, seed in zip(found, seeds, strict=True))

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
                find_metric(task.metric).require()
                if untuned and (self.settings.head == "verbalizer" or task.kind == "generation"):
                    head_words(self.backbone, task)
            except InputError as error:
                problems.append(error)
        if problems:
            raise type(problems[0])("\n".join(map(str, problems)))
