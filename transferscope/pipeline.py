"""A study from its study.yaml to a ranking: stages in order, each skipped where its result is current."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transferscope import (
    cells,
    comparison,
    correlation,
    foresight,
    measuring,
    ordering,
    pairing,
    precision,
    ranking,
    selection,
    store,
    transfer,
)
from transferscope.comparison import IndicatorMatrix, Material
from transferscope.correlation import CorrelationReport
from transferscope.errors import InputError, StudyError, suggest
from transferscope.evidence import Evidence, Known, evidence_of
from transferscope.initialisation import InitComparison
from transferscope.ordering import Ranking
from transferscope.prompts import RECORD, SoftPrompt, find_prompts, load_prompt
from transferscope.quantization import refusal
from transferscope.settings import RESERVED, read_settings
from transferscope.signatures import (
    Signature,
    extract,
    extract_refused,
    extract_without_data,
    load_signature,
    save_signature,
    subtask_rows,
)
from transferscope.staleness import is_current
from transferscope.summary import StudySummary, TaskSummary
from transferscope.transfer import TransferMatrix
from transferscope.transfer_tables import TransferReport
from transferscope.workspace import Progress, Report, Workspace

STUDY_FILE = "study.yaml"
BEST = "best"
STARTS = 3  # how many sources are started from where none is named


def open_study(
    path: store.AnyPath, *, report: Report | None = None, progress: Progress | None = None
) -> Pipeline:
    """The pipeline of a study folder or its ``study.yaml``.

    ``report`` gets a line for what happens, ``progress`` (stage, done, total, what). Raises StudyError.
    """
    path = store.place(path)
    file = path / STUDY_FILE if path.is_dir() else path
    if not file.is_file():
        raise StudyError(f"no {STUDY_FILE} in {str(path)!r}" if path.is_dir() else f"no study {str(path)!r}")
    settings = read_settings(file)
    store.Study(file.parent).clean()  # temporary files of processes that were killed
    return Pipeline(file.parent, settings, report=report, progress=progress)


class Pipeline(Workspace):
    """The stages of one study; each method does what is missing before it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._signatures: dict[str, Signature] = {}
        self._matrices: list[IndicatorMatrix] | None = None
        self._refusals: set[str] = set()

    def extract(self, tasks: Sequence[str] | None = None) -> dict[str, Signature]:
        """The signatures of these tasks (None: all)."""
        names = self.chosen(tasks)
        self._foresee(names)
        prompts = self.tune(names)
        for name in names:
            if name not in self._signatures:
                self._signatures[name] = self._extracted(name, prompts[name])
        return {name: self._signatures[name] for name in names}

    def materials(self) -> list[Material]:
        """What indicators read of each task: its signature, or its prompts alone in a study without data.

        Such a study (an imported one, say) is compared without its model; `extract` adds what the model
        knows.
        """
        names = list(self.settings.tasks)
        if self.with_data or all(self.study.signature_file(name).is_file() for name in names):
            return [comparison.from_signature(signature) for signature in self.extract().values()]
        prompts, types = self.tune(), self.types
        found = [comparison.from_prompts(name, several) for name, several in prompts.items()]
        return [replace(one, type=types.get(one.task, one.type)) for one in found]

    def compare(self, names: Sequence[str] | None = None) -> list[IndicatorMatrix]:
        """All pairs of tasks by these indicators (None: the study's, or all that signatures are enough for).

        Indicators that read targets' data under sources' prompts, or profiles of tasks, cost forward passes
        and are computed by name alone.
        """
        # Asked for by name, on the spot: shown, but the table of the study stays what the study says.
        if names:
            return pairing.compare(self, names, self.materials)
        if self._matrices is not None:
            return self._matrices
        wanted, materials = list(self.settings.indicators or []) or None, self.materials()
        if wanted is None:
            self._matrices = comparison.compare_materials(materials, None)
        else:
            self._matrices = pairing.compare(self, wanted, lambda: materials)
        file = self.study.path("indicators.csv")
        made_of: list[Any] = [self._inputs(signature) for signature in self._signatures.values()]
        made_of += [[p.fingerprint for p in several] for several in self.tune().values()]
        inputs: dict[str, Any] = {"made_of": made_of, "names": wanted}
        if wanted and any(map(pairing.concerns, wanted)):
            inputs["features"] = self.settings.features.model_dump()
        if (store.provenance(file) or {}).get("inputs") != json.loads(json.dumps(inputs)):
            rows = comparison.to_rows(self._matrices)
            store.write_csv(file, comparison.COLUMNS, rows, provenance={"inputs": inputs})
            self.report(f"wrote {file.name}: {len(self._matrices)} indicators of {len(materials)} tasks")
        return self._matrices

    def measure(
        self,
        protocol: str | None = None,
        *,
        targets: Sequence[str] | None = None,
        sources: Sequence[str] | None = None,
    ) -> TransferMatrix:
        """Transfer from these sources to these targets (None: all), and the controls, cell by cell.

        ``protocol`` None: zero-shot with label words, else the linear probe. Finished cells are kept when it
        is interrupted.
        """
        return measuring.measure(self, protocol=protocol, targets=targets, sources=sources)

    def report_transfer(
        self,
        protocol: str | None = None,
        *,
        targets: Sequence[str] | None = None,
        sources: Sequence[str] | None = None,
    ) -> TransferReport:
        """`measure`, with means by task type and what the numbers rest on."""
        return TransferReport.of(self.measure(protocol, targets=targets, sources=sources), self.types)

    def compare_starts(
        self,
        target: str,
        sources: Sequence[str] | None = None,
        *,
        shots: int | None = None,
        learning_rates: Sequence[float] | None = None,
        with_random: bool = True,
    ) -> InitComparison:
        """Tune a target from sources, from scratch and from a random prompt, and compare.

        A source is a task of the study, "best" (the first by `rank`) or a PEFT folder (or a folder with one
        for each seed); None takes the three that rank first. The result is kept in the study.
        """
        names = sources or [one.source for one in self.rank(target).sources[:STARTS]]
        prompts: dict[str, Sequence[SoftPrompt]] = {}
        for name in names:
            chosen = self.rank(target).sources[0].source if name == BEST else name
            prompts.update(self.start_prompts(chosen))
        found = measuring.compare_starts(
            self,
            target,
            prompts,
            shots=shots,
            learning_rates=learning_rates,
            with_random=with_random,
        )
        measuring.record_starts(self, found)
        return found

    def start_prompts(self, name: str) -> dict[str, Sequence[SoftPrompt]]:
        """The prompts of a task, tuned if need be, or of a folder. Raises StudyError where it is neither."""
        if name in self.settings.tasks:
            return dict(self.tune([name]))
        if not store.place(name).is_dir():
            raise StudyError(
                f"no task and no folder {name!r} to start from. {suggest(name, [*self.settings.tasks, BEST])}"
            )
        short = store.place(name).resolve().name
        if short in (*RESERVED, *self.settings.tasks):
            raise StudyError(f"the folder {name!r} has the name of a task or a control ({short}): rename it")
        return {short: [load_prompt(path) for path in find_prompts([name], depth=1)]}

    def best_run(self, comparison: InitComparison) -> store.Place:
        """The PEFT folder of the recommended start: of its runs, the one with the best validation score."""
        first = comparison.recommended
        runs = [
            run
            for run in comparison.runs
            if (run.start, run.learning_rate) == (first.start, first.learning_rate)
        ]
        best = max(runs, key=lambda run: (run.validation, -run.loss))
        tuning = measuring.tuning_of(self.settings.tuning, best.start, best.learning_rate, comparison.shots)
        return measuring.run_folder(self, comparison.target, best.start, tuning, best.seed, comparison.shots)

    def evidence(self, protocol: str | None = None, names: Sequence[str] | None = None) -> Evidence:
        """What `correlate` judges here: these indicators, measured transfer, and what baselines read.

        What is not measured yet is measured. Raises StudyError where nothing can be.
        """
        measured = self.measure(protocol) if self.with_data else self.known_transfer(protocol)
        if measured is None:
            raise StudyError(
                f"{self.study.folder} has neither data to measure on nor measured transfer of this protocol"
            )
        matrices = self.compare(names)
        of_tasks = {name: one.provenance.get("train_examples") for name, one in self._signatures.items()}
        known = Known(
            types=self.types or None,
            sizes={name: size for name, size in of_tasks.items() if size} or None,
            zero_shot=self.known_transfer(transfer.ZERO_SHOT),
        )
        return evidence_of(self.settings.model.name, matrices, measured, known)

    def correlate(self) -> CorrelationReport:
        """How well each indicator agrees with measured transfer here, by the rules of the command."""
        given = self.evidence()
        report = correlation.correlate(
            given.matrices,
            given.transfer,
            aggregates=correlation.AGGREGATES,
            over_seeds=True,
            expanded=True,
            **given.beside,
        )
        store.write_json(self.study.path("correlation.json"), report, versioned=True)
        return report

    def rank(
        self,
        target: str,
        indicator: str | None = None,
        *,
        measure: int | None = None,
        race: bool = False,
        adaptive: bool = False,
        prefer_same_type: bool = False,
        protocol: str | None = None,
    ) -> Ranking:
        """The sources for a target, best first.

        ``measure`` K orders the first K by what is measured on the target (read where it is known), ``race``
        by elimination: all sources without K, and then a target without prompts of its own needs none.
        ``adaptive`` chooses each of the K by what those before it reached. ``prefer_same_type`` sorts by task
        type first. ``protocol`` None: the study's default. Raises InputError: ``adaptive`` without K, or with
        ``race``.
        """
        if adaptive and (measure is None or race):
            raise InputError("an adaptive order needs the number of sources to measure, and is no race")
        self.chosen([target])
        if race and measure is None and indicator is None and not self._tuned_already(target):
            return selection.race_all(self, target, protocol)
        found = self._predicted(target, indicator, prefer_same_type, protocol)
        if race:
            return selection.race_first(self, found, measure, protocol)
        if measure is None:
            return found
        if not self.settings.tasks[target].has_data:
            return ordering.by_known(found, measure)
        if adaptive:
            (matrix,) = self.compare([found.indicator or ranking.DEFAULT])
            return selection.measure_adaptively(self, found, matrix, measure, protocol)
        return selection.measure_first(self, found, measure, protocol)

    def _predicted(
        self, target: str, indicator: str | None, prefer_same_type: bool, protocol: str | None
    ) -> Ranking:
        if indicator is not None and pairing.concerns(indicator):
            known = self.known_transfer(protocol)
            return pairing.ranked(self, target, indicator, transfer=known, prefer_same_type=prefer_same_type)
        materials = self.materials()
        provenance = {name: signature.provenance for name, signature in self._signatures.items()}
        sizes = {name: one["train_examples"] for name, one in provenance.items() if "train_examples" in one}
        weak = [name for name, one in provenance.items() if comparison.no_better_than_majority(one)]
        return ranking.rank_materials(
            target,
            materials,
            model=self.settings.model.name,
            notes=[f"{ranking.WEAK}: {', '.join(weak)}."] if weak else [],
            indicator=indicator,
            transfer=self.known_transfer(protocol),
            types=self.types or None,
            sizes=sizes,
            prefer_same_type=prefer_same_type,
            matrices=self._matrices,
        )

    def _tuned_already(self, target: str) -> bool:
        folders = [self.study.prompt_folder(target, seed) for seed in self.settings.seeds]
        given = self.settings.tasks[target].prompts is not None
        return given or all((folder / RECORD).is_file() for folder in folders)

    def run(self) -> StudySummary:
        """Unfinished stages: tune, extract, compare; measure and correlate where there is data; rank.

        Raises IndicatorInputError, at once: an indicator of the study reads what is refused of its model.
        """
        if reason := self._foresee(list(self.settings.tasks)):
            foresight.refuse_indicators(self, reason)
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
        """Whether `run` measures: the study says so, and some task has data to measure on."""
        return self.settings.measure and bool(self.with_data)

    def signature_inputs(self, name: str, prompts: Sequence[SoftPrompt]) -> dict[str, Any]:
        """What a task's signature is made from: it is current as long as this is the same."""
        settings = self.settings
        inputs: dict[str, Any] = {
            "model": self.model_fingerprint,
            "prompts": [prompt.fingerprint for prompt in prompts],
        }
        if settings.tasks[name].has_data:
            inputs["task"] = self.task(name).fingerprint
            inputs["max_length"] = settings.max_length
            inputs["signatures"] = settings.signatures.model_dump()
            if self.task(name).subtasks:  # else one-vs-rest, as before there was a choice
                inputs["subtasks"] = [
                    [one["positive"], one["negative"]] for one in subtask_rows(self.task(name))
                ]
        return inputs

    def _foresee(self, names: Sequence[str]) -> str | None:
        """Say, before what is to be extracted is tuned, why it will have no predictivity; None if it will."""
        if reason := foresight.refused_ahead(self, names):
            self._say_refusal(reason)
        return reason

    def _say_refusal(self, reason: str) -> None:
        if reason not in self._refusals:  # it is the model's, not a task's
            self._refusals.add(reason)
            self.report(reason)

    def _extracted(self, name: str, prompts: Sequence[SoftPrompt]) -> Signature:
        file, inputs = self.study.signature_file(name), self.signature_inputs(name, prompts)
        if file.is_file():
            signature = load_signature(file)
            if is_current(signature.provenance, inputs, self.report, f"extracting {name}"):
                return signature
        signature = (
            self._extracted_with_data(name, prompts)
            if self.settings.tasks[name].has_data
            else extract_without_data(self.backbone, name, prompts)
        )
        if name in self.types:
            signature.provenance["type"] = self.types[name]  # type: ignore[index]
        signature.provenance["inputs"] = inputs  # type: ignore[index]
        save_signature(signature, file)
        for line in [f"extracted {name}: {len(prompts)} trials", *precision.remarks(signature.provenance)]:
            self.report(line)
        return signature

    def _extracted_with_data(self, name: str, prompts: Sequence[SoftPrompt]) -> Signature:
        settings = self.settings
        quantized = settings.signatures.quantized
        if refused := refusal(settings.model.name, self.backbone.quantization, quantized):
            self._say_refusal(refused)  # the study goes on with what the prompts alone do
            return extract_refused(self.backbone, self.task(name), prompts, refused)
        return extract(
            self.backbone,
            self.task(name),
            prompts,
            max_length=settings.max_length,
            compat=settings.signatures.compat,
            balanced=settings.signatures.balanced,
            token_budget=self.token_budget,
            quantized=quantized,
            progress=lambda done, total, text: self.progress("extract", done, total, text),
        )

    def _inputs(self, signature: Signature) -> Mapping[str, Any]:
        inputs = signature.provenance.get("inputs") or {}
        return json.loads(json.dumps(inputs, sort_keys=True))  # in one order, extracted now or read

    def known_transfer(self, protocol: str | None = None) -> TransferMatrix | None:
        """What transfer.csv has of a protocol (None: the study's default), measured here or imported."""
        wanted = protocol or measuring.default_protocol(self)
        matrices = transfer.from_rows(cells.read_table(self.study))
        return next((matrix for matrix in matrices if matrix.protocol == wanted), None)
