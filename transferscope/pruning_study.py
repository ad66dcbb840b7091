"""The pruning of a study's task: choose, fold, write a smaller model with its prompts, and report."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from transferscope import attachment, kept_prompts, pruning, pruning_speed, store
from transferscope.encoding import encode
from transferscope.errors import InputError, StudyError
from transferscope.evaluation import Prepared, evaluate, prepared
from transferscope.kept_signatures import Keeper
from transferscope.metrics import metric as find_metric
from transferscope.models import Backbone
from transferscope.prompts import SoftPrompt, save_prompt
from transferscope.pruned import blocks, save_pruned
from transferscope.pruning_speed import Size, Speed
from transferscope.readouts import readout_for
from transferscope.resampling import bootstrap_mean
from transferscope.signatures import Signature
from transferscope.workspace import turn

REPORT = "report.json"
PROMPTS = "prompt"


class Studied(Keeper, Protocol):
    """What pruning needs of a study: `transferscope.pipeline.Pipeline` has it."""

    def tune(self, tasks: Sequence[str] | None = None) -> dict[str, tuple[SoftPrompt, ...]]: ...
    def extract(self, tasks: Sequence[str] | None = None) -> dict[str, Signature]: ...


@dataclass(frozen=True)
class PruneSettings:
    """How a model is pruned and what is measured of it.

    ``keep``: the share of neurons that stays in each layer from ``from_layer`` on (numbered from 0);
    ``baseline``: where the others are held, at their mean over the "prompt-rows" or over "all-rows";
    ``retune``: tune the prompts again on the pruned model; ``random_draws``: how often as many random neurons
    are kept instead, as a control; ``batches`` and ``rows``: at what sizes speed is measured; ``shares``:
    other shares kept, which the same prompts are scored at, for a curve.
    """

    keep: float = 0.02
    from_layer: int = 3
    baseline: str = "prompt-rows"
    retune: bool = True
    random_draws: int = 3
    batches: tuple[int, ...] = (1, 8, 32)
    rows: int = 128
    seed: int = 0
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for share in (self.keep, *self.shares):
            if not 0 < share <= 1:
                raise InputError(f"a share of the neurons is above 0 and at most 1, found {share}")


@dataclass(frozen=True)
class PrunedScore:
    """The metric on dev: mean over the study's seeds (``by_seed``), with a 95 % interval where there are two.

    ``what``: "before", "after" (the same prompts on the pruned model), "re-tuned", or "random neurons" (as
    "after", with as many random neurons kept; ``by_seed`` are means over the draws).
    """

    what: str
    value: float
    low: float | None
    high: float | None
    by_seed: tuple[float, ...]


@dataclass(frozen=True)
class PrunedShare:
    """The study's own prompts with a share ``keep`` of the neurons left.

    ``scores``: "after", and "random neurons" where any were drawn. ``pruned``: the share of the pruned
    layers' neurons that is gone.
    """

    keep: float
    pruned: float
    scores: tuple[PrunedScore, ...]


@dataclass(frozen=True)
class PruningReport:
    """What pruning a model for a task gave.

    ``curve`` has every share that was scored, the fewest neurons gone first: the model's own and the others.
    ``widths`` [L] are the neurons left of ``neurons`` in each layer; ``before`` and ``after`` the sizes;
    ``fold_error`` how far the pruned model's outputs are from those of the model whose other neurons are held
    fixed, as a share of the largest; ``majority`` the metric of always answering the most frequent class.
    """

    task: str
    model: str
    metric: str
    settings: PruneSettings
    seeds: tuple[int, ...]
    neurons: int
    widths: tuple[int, ...]
    before: Size
    after: Size
    fold_error: float
    scores: tuple[PrunedScore, ...]
    majority: float
    speeds: tuple[Speed, ...]
    device: str
    threads: int
    folder: str
    curve: tuple[PrunedShare, ...] = ()
    notes: tuple[str, ...] = ()


def prune(
    pipeline: Studied, task: str, settings: PruneSettings | None = None, out: Path | str | None = None
) -> PruningReport:
    """Prune a study's model for one task, and write the smaller model to ``out`` (None: only report).

    One model is made, by the mean predictivity over the study's seeds; each seed's prompt is scored on it.
    ``out`` gets the model, ``prompt/SEED`` (tuned again, if asked for) and ``report.json``, all at once at
    the end. Re-tuning is kept in the study, so that it goes on where it was killed. Raises StudyError where
    ``out`` is not an empty folder, SignatureError for a task without classes or data, BackboneError for a
    model that cannot be pruned, InputError.
    """
    settings = settings or PruneSettings()
    folder = None if out is None else _free(Path(out))
    blocks(pipeline.backbone.model, pipeline.backbone.architecture)  # what cannot be is said before tuning
    prompts = pipeline.tune([task])[task]
    signature = pipeline.extract([task])[task]
    kept = pruning.choose(
        pipeline.backbone, signature.subtask_predictivity, keep=settings.keep, from_layer=settings.from_layer
    )
    scorer = _Scorer(pipeline, task, prompts)
    held = scorer.baseline(settings.baseline, signature)
    before, after = pipeline.backbone, pruning.fold(pipeline.backbone, kept, held)
    pipeline.report(f"pruned for {task}: {kept.sum()} of {kept.size} neurons left")
    scores, final = scorer.scores(after, kept, held, settings)
    pruned = tuple(scores[1 : 3 if settings.random_draws else 2])  # not the re-tuned
    curve = [PrunedShare(settings.keep, _gone(kept), pruned), *scorer.shares(held, settings, signature)]
    report = PruningReport(
        task=task,
        model=before.name,
        metric=scorer.task.metric,
        settings=settings,
        seeds=tuple(prompt.seed for prompt in prompts),
        neurons=before.neurons,
        widths=after.widths,
        before=pruning_speed.size(before),
        after=pruning_speed.size(after),
        fold_error=pruning.difference(before, after, kept, held),
        scores=tuple(scores),
        majority=scorer.majority,
        speeds=_speeds(pipeline, after, settings),
        device=str(before.device),
        threads=torch.get_num_threads(),
        folder="" if folder is None else str(folder),
        curve=tuple(sorted(curve, key=lambda one: -one.keep)),
    )
    report = replace(report, notes=_notes(report))
    if folder is not None:
        _write(folder, after, final, report, {"model_fingerprint": before.fingerprint, "kept": _lists(kept)})
        pipeline.report(f"wrote the pruned model to {folder}")
    return report


def _speeds(pipeline: Studied, after: Backbone, settings: PruneSettings) -> tuple[Speed, ...]:
    """The pruned model's speed beside the unpruned one's, at the sizes that are asked for."""
    return pruning_speed.measure_speed(
        pipeline.backbone,
        after,
        batches=settings.batches,
        rows=settings.rows,
        seed=settings.seed,
        progress=partial(pipeline.progress, "speed"),
    )


class _Scorer:
    """One task's dev split, encoded once, and the prompts of its seeds."""

    def __init__(self, pipeline: Studied, name: str, prompts: Sequence[SoftPrompt]) -> None:
        self.pipeline, self.prompts, self.settings = pipeline, prompts, pipeline.settings
        self.task = pipeline.task(name)
        self.trials = [attachment.attach(pipeline.backbone, prompt) for prompt in prompts]
        self._prepared: dict[int, Prepared] = {}

    @property
    def majority(self) -> float:
        """The metric of always answering the most frequent class of dev."""
        gold = np.array([example.label for example in self.task.dev])
        return find_metric(self.task.metric).of(gold, np.full_like(gold, np.bincount(gold).argmax()))

    def baseline(self, kind: str, signature: Signature) -> np.ndarray:
        """Where the neurons that go are held, [L, N]."""
        train = encode(
            self.pipeline.backbone,
            self.task.train,
            prompt_rows=self.trials[0].rows,
            max_length=self.settings.max_length,
        )
        budget = self.settings.token_budget
        return pruning.baseline_of(kind, self.trials, train, signature.baseline, token_budget=budget)

    def scores(
        self, after: Backbone, kept: np.ndarray, held: np.ndarray, settings: PruneSettings
    ) -> tuple[list[PrunedScore], tuple[SoftPrompt, ...]]:
        """All scores, of controls and re-tuned prompts where they are asked for; and the final prompts."""
        found = [self.score("before", self.pipeline.backbone), self.score("after", after)]
        if settings.random_draws:
            found.append(self.control(kept, held, settings))
        if not settings.retune:
            return found, tuple(self.prompts)
        final = self.retuned(after, settings)
        return [*found, self.score("re-tuned", after, final)], final

    def score(
        self, what: str, backbone: Backbone, prompts: Sequence[SoftPrompt] | None = None
    ) -> PrunedScore:
        """The prompts of all seeds on a model."""
        return _score(what, [self._value(backbone, prompt) for prompt in prompts or self.prompts])

    def control(self, kept: np.ndarray, held: np.ndarray, settings: PruneSettings) -> PrunedScore:
        """The prompts on the model with as many random neurons left in each layer; means over the draws."""
        backbone, draws = self.pipeline.backbone, []
        for draw in range(settings.random_draws):
            with pruning.clamped(backbone, pruning.random_choice(kept, settings.seed + draw), held):
                draws.append([self._value(backbone, prompt) for prompt in self.prompts])
        return _score("random neurons", list(np.mean(draws, axis=0)))

    def shares(
        self, held: np.ndarray, settings: PruneSettings, signature: Signature
    ) -> Iterator[PrunedShare]:
        """The prompts with the settings' other shares left, the rest clamped, which is what folding gives."""
        backbone, predictivity = self.pipeline.backbone, signature.subtask_predictivity
        others = sorted(set(settings.shares) - {settings.keep}, reverse=True)
        for done, share in enumerate(others):
            kept = pruning.choose(backbone, predictivity, keep=share, from_layer=settings.from_layer)
            with pruning.clamped(backbone, kept, held):
                scores = [self.score("after", backbone)]
            if settings.random_draws:
                scores.append(self.control(kept, held, settings))
            self.pipeline.progress("shares", done + 1, len(others), f"{share:g} kept")
            yield PrunedShare(share, _gone(kept), tuple(scores))

    def retuned(self, backbone: Backbone, settings: PruneSettings) -> tuple[SoftPrompt, ...]:
        """The prompts tuned on, on the pruned model, each from itself; finished ones are read."""
        return tuple(self._retuned(backbone, number, prompt) for number, prompt in enumerate(self.prompts))

    def _retuned(self, backbone: Backbone, number: int, prompt: SoftPrompt) -> SoftPrompt:
        pipeline, study = self.pipeline, self.settings
        inputs = store.json_ready(
            {
                "model": backbone.fingerprint,
                "task": self.task.fingerprint,
                "head": study.head,
                "max_length": study.max_length,
                "tuning": study.tuning.model_dump(),
                "init_from": prompt.fingerprint,
            }
        )
        place = pipeline.study.path(
            "pruned", store.checked_name(self.task.name), backbone.fingerprint[:12], str(prompt.seed)
        )
        found, _ = kept_prompts.kept(
            pipeline,
            self.task,
            place,
            f"re-tuning {self.task.name} seed {prompt.seed}",
            made_of=inputs,
            backbone=lambda: backbone,
            seed=prompt.seed,
            template=prompt.template,
            init_from=prompt,
            progress=turn(pipeline.progress, "re-tune", number, len(self.prompts)),
        )
        return found

    def _value(self, backbone: Backbone, prompt: SoftPrompt) -> float:
        attached = attachment.attach(backbone, prompt)
        readout = readout_for(backbone, self.task, self.settings.head, layer=prompt.head)
        return evaluate(attached, readout, self._dev(attached.rows), metric=self.task.metric).value

    def _dev(self, rows: int) -> Prepared:
        if rows not in self._prepared:
            backbone, study = self.pipeline.backbone, self.settings
            data = encode(backbone, self.task.dev, prompt_rows=rows, max_length=study.max_length)
            budget = study.token_budget
            self._prepared[rows] = prepared(backbone, data, prompt_rows=rows, token_budget=budget)
        return self._prepared[rows]


def _gone(kept: np.ndarray) -> float:
    """The share of neurons that is gone, of the layers [L, N] where any is."""
    pruned = kept[~kept.all(axis=1)]
    return 1.0 - float(pruned.mean()) if pruned.size else 0.0


def _score(what: str, values: Sequence[float]) -> PrunedScore:
    mean, low, high = bootstrap_mean(np.array(values, dtype=np.float64), 0, expanded=True)
    return PrunedScore(what, float(mean or 0.0), low, high, tuple(map(float, values)))


def _notes(report: PruningReport) -> tuple[str, ...]:
    by = {score.what: score for score in report.scores}
    notes = [
        "the neurons were chosen by their predictivity on dev, where the scores are: expect a little less on "
        "new data",
    ]
    if by["before"].value <= report.majority:
        notes.append("the prompts are no better than the majority class before pruning: nothing can be lost")
    if "random neurons" in by and by["after"].value <= by["random neurons"].value:
        notes.append("without re-tuning, as many random neurons do as well as the chosen ones")
    if report.speeds and report.speeds[0].rows < report.settings.rows:
        notes.append(f"the model has positions for {report.speeds[0].rows} rows")
    return tuple(notes)


def _free(out: Path) -> Path:
    """The folder, if it is empty or not there. Raises StudyError."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StudyError(f"{out} is there already and is not an empty folder: name another, or remove it")
    if out.is_symlink():
        raise StudyError(f"{out} is a link; name the folder itself")
    return out


def _lists(kept: np.ndarray) -> list[list[int] | None]:
    """The numbers of the neurons that stay, by layer; None where all do."""
    return [None if row.all() else np.flatnonzero(row).tolist() for row in kept]


def _write(
    out: Path,
    backbone: Backbone,
    prompts: Sequence[SoftPrompt],
    report: PruningReport,
    origin: dict[str, Any],
) -> None:
    """Write everything beside the folder, and put it in its place at the end: all of it or nothing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    scores = report.scores[-1] if report.settings.retune else report.scores[1]
    about = {
        **origin,
        "model": report.model,
        "task": report.task,
        "settings": store.json_ready(report.settings),
    }
    with tempfile.TemporaryDirectory(
        dir=out.parent, prefix=".transferscope-", ignore_cleanup_errors=True
    ) as box:
        work = Path(box) / "model"
        save_pruned(backbone.model, work, {"origin": about}, tokenizer=backbone.tokenizer)
        for prompt, value in zip(prompts, scores.by_seed, strict=True):
            known = prompt.provenance
            changed = {
                **known,
                "model": str(out),
                "model_fingerprint": backbone.fingerprint,
                "scores": {**known.get("scores", {}), "metric": report.metric, "dev": value},
            }
            place = work / PROMPTS / str(prompt.seed)
            kind = backbone.architecture.kind
            save_prompt(replace(prompt, provenance=changed), place, model=str(out), kind=kind)
        store.write_json(work / REPORT, report, versioned=True)
        if out.is_dir():
            out.rmdir()  # only an empty one: whatever came in the meantime stays
        os.replace(work, out)
