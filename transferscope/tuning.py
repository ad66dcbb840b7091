"""Tuning a soft prompt on a frozen backbone: AdamW on its rows alone, best checkpoint kept, resumable."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transferscope import attachment, store, templates
from transferscope.attachment import Attached, Readout
from transferscope.encoding import Encoded, collate, encode
from transferscope.errors import InputError, StoreError, TemplateError, suggest
from transferscope.evaluation import evaluate
from transferscope.metrics import metric as find_metric
from transferscope.models import Backbone
from transferscope.prompts import Head, SoftPrompt
from transferscope.readouts import AnyReadout, head_words, readout_for
from transferscope.settings import TuningSettings
from transferscope.tasks import Task

STATE = "tuning-state.safetensors"
Progress = Callable[[int, int, str], None]
CHUNK = 16  # batches sorted by length together: little padding, and still an order that differs by epoch


@dataclass(frozen=True)
class Setup:
    """What tuning works on: the head that is read, the encoded splits, and how labels are scored.

    ``readout`` is None for a classifier, whose layer is tuned with the prompt.
    """

    template: str
    head: str
    classes: int
    word_ids: tuple[int, ...]
    readout: AnyReadout | None
    fit: Encoded
    validation: Encoded
    dev: Encoded
    metric: str
    token_budget: int


def prepare(
    backbone: Backbone,
    task: Task,
    settings: TuningSettings,
    *,
    template: str | None = None,
    head: str = "verbalizer",
    max_length: int | None = None,
    token_budget: int = 8192,
    seed: int = 0,
) -> Setup:
    """Encode a task for tuning.

    A stratified share of train is set apart to choose the checkpoint, so dev stays unseen.
    """
    kind = backbone.architecture.kind
    template = templates.check(template or templates.DEFAULTS[kind], kind)
    if head not in templates.HEADS:
        raise TemplateError(f"unknown head {head!r}. {suggest(head, templates.HEADS)}")
    fixed = head == "verbalizer" or task.kind == "generation"  # nothing is tuned but the prompt
    readout = readout_for(backbone, task, head) if fixed else None
    word_ids = head_words(backbone, task) if fixed else ()
    find_metric(task.metric).require()
    rows = settings.rows + (template == "mask-first")
    train, dev = (
        encode(backbone, split, prompt_rows=rows, max_length=max_length, max_new_tokens=task.max_new_tokens)
        for split in (task.train, task.dev)
    )
    fit, held = hold_out(train.labels, settings.validation, seed)
    splits = (train.take(fit), train.take(held), dev)
    return Setup(template, head, task.classes, word_ids, readout, *splits, task.metric, token_budget)


def hold_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (rest, held out): ``share`` of each class, at least one and never all, drawn with a seed.

    Examples without a class (-1, of a generation task) count as of one.
    """
    rng = np.random.default_rng(seed)
    held: list[int] = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        size = min(max(1, round(share * len(places))), len(places) - 1)
        held += rng.permutation(places)[:size].tolist()
    mask = np.zeros(len(labels), dtype=bool)
    mask[held] = True
    if not mask.any():  # one example a class: nothing can be spared, so the fit is its own validation
        return np.arange(len(labels)), np.arange(len(labels))
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def tune(
    backbone: Backbone,
    task: Task,
    *,
    settings: TuningSettings | None = None,
    seed: int = 0,
    template: str | None = None,
    head: str = "verbalizer",
    init_from: SoftPrompt | None = None,
    max_length: int | None = None,
    token_budget: int = 8192,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> SoftPrompt:
    """Tune a soft prompt of ``settings.rows`` rows for a task. The backbone is frozen and gets no gradient.

    Evaluates every ``evaluate_every`` steps on examples held out of train (with ``init_from`` before the
    first step, too), keeps the best (score, then loss), and scores that one on dev: ``provenance["scores"]``
    has ``validation``, ``dev``, ``dev_loss`` and ``majority``, ``provenance["curve"]`` the ``steps``,
    ``values`` and ``losses`` of the evaluations. With a ``folder``, the state is written there at each
    evaluation and a later call with the same inputs goes on from it. The same seed on the same machine gives
    the same prompt, interrupted or not.

    A generation task is tuned on the cross-entropy of its targets' tokens and scored on what it writes.

    Source: Su et al., NAACL 2022; Wang et al., EMNLP 2022: both tune on cross-entropy over the label words.
    """
    settings = settings or TuningSettings()
    if init_from is not None:  # its number of rows is kept, and the text gets the room they leave
        settings = settings.model_copy(update={"rows": len(init_from.rows)})
    setup = prepare(
        backbone,
        task,
        settings,
        template=template,
        head=head,
        max_length=max_length,
        token_budget=token_budget,
        seed=seed,
    )
    run = _Run(backbone, setup, settings, seed, init_from)
    state = None if folder is None else Path(folder) / STATE
    inputs = store.fingerprint(
        backbone.fingerprint, task.fingerprint, settings.model_dump(), seed, setup.template, head,
        max_length, init_from.fingerprint if init_from else None,
    )  # fmt: skip
    if state is not None:
        run.load(state, inputs)
    if init_from is not None and not run.curve:
        run.evaluate()  # a source that is best untouched stays so, and its curve begins there
    while not run.finished:
        run.step_once()
        if run.due:
            run.evaluate()
            if state is not None and run.scored:
                run.save(state, inputs)
        if progress is not None:
            progress(run.step, settings.steps, f"{task.name} seed {seed} {run.best_text}")
    prompt = run.result(task)
    if state is not None:
        state.unlink(missing_ok=True)
    return prompt


class _Run:
    """One tuning: the parameters, their optimiser, the step, and the best so far."""

    def __init__(
        self, backbone: Backbone, setup: Setup, settings: TuningSettings, seed: int, init: SoftPrompt | None
    ) -> None:
        self.backbone, self.setup, self.settings, self.seed = backbone, setup, settings, seed
        rows = attachment.initial_rows(
            backbone,
            settings.rows,
            init=init or settings.init,
            word_ids=setup.word_ids,
            candidates=np.unique(np.concatenate(setup.fit.ids)).tolist(),
            seed=seed,
        )
        self.prompt = rows.requires_grad_(True)
        self.attached: Attached = attachment.attach(backbone, self.prompt, setup.template)
        self.readout, head = self._head(init)
        groups: list[dict[str, Any]] = [{"params": [self.prompt], "lr": settings.learning_rate}]
        if head:
            groups.append({"params": head, "lr": settings.head_learning_rate})
        self.optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.parameters = [self.prompt, *head]
        self.step = 0
        self.best: list[Tensor] = [parameter.detach().clone() for parameter in self.parameters]
        self.best_score, self.best_loss, self.best_step, self.misses = -math.inf, math.inf, 0, 0
        self.curve: list[tuple[int, float, float | None]] = []
        self.order = self._batches()

    def _head(self, init: SoftPrompt | None) -> tuple[AnyReadout, list[Tensor]]:
        if self.setup.readout is not None:
            return self.setup.readout, []
        classes, device = self.setup.classes, self.backbone.device
        weight = torch.zeros(classes, self.backbone.hidden_size, device=device)
        bias = torch.zeros(classes, device=device)
        if init is not None and init.head is not None and init.head.weight.shape == weight.shape:
            weight, bias = (
                torch.from_numpy(init.head.weight.copy()).to(device),
                torch.from_numpy(init.head.bias.copy()).to(device),
            )
        weight.requires_grad_(True), bias.requires_grad_(True)
        return Readout(self.backbone, weight=weight, bias=bias), [weight, bias]

    @property
    def finished(self) -> bool:
        patience = self.settings.patience
        return self.step >= self.settings.steps or (patience is not None and self.misses >= patience)

    @property
    def scored(self) -> bool:
        """Whether any evaluation had a finite loss."""
        return self.best_score > -math.inf

    @property
    def due(self) -> bool:
        return self.step % self.settings.evaluate_every == 0 or self.step == self.settings.steps

    @property
    def best_text(self) -> str:
        return "" if self.best_score == -math.inf else f"{self.setup.metric} {self.best_score:.3f}"

    def _batches(self) -> Iterator[np.ndarray]:
        """Batches without end, a function of the seed alone: a resumed run sees what it would have seen."""
        lengths, size, epoch = self.setup.fit.lengths, self.settings.batch_size, 0
        while True:
            rng = np.random.default_rng([self.seed, epoch])
            order = rng.permutation(len(lengths))
            for start in range(0, len(order), CHUNK * size):
                chunk = order[start : start + CHUNK * size]
                chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
                groups = [chunk[i : i + size] for i in range(0, len(chunk), size)]
                for place in rng.permutation(len(groups)):
                    yield groups[place]
            epoch += 1

    def step_once(self) -> None:
        """One update of the prompt (and the classifier), over ``accumulate`` batches."""
        scale = self._schedule(self.step)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * scale
        self.optimizer.zero_grad(set_to_none=True)
        for _ in range(self.settings.accumulate):
            batch = collate(self.backbone, self.setup.fit, next(self.order))
            (self.readout.loss(self.attached, batch) / self.settings.accumulate).backward()
        torch.nn.utils.clip_grad_norm_([self.prompt], self.settings.clip)
        self.optimizer.step()
        self.step += 1

    def _schedule(self, step: int) -> float:
        """Linear warm-up, then linear decay to zero."""
        warmup = max(1, round(self.settings.warmup * self.settings.steps))
        if step < warmup:
            return (step + 1) / warmup
        return max(0.0, (self.settings.steps - step) / max(1, self.settings.steps - warmup))

    def evaluate(self) -> None:
        """Score on the held-out share of train, and keep the parameters if they are the best yet."""
        found = evaluate(
            self.attached,
            self.readout,
            self.setup.validation,
            metric=self.setup.metric,
            token_budget=self.setup.token_budget,
        )
        loss = found.loss if math.isfinite(found.loss) else None  # JSON has no NaN
        self.curve.append((self.step, found.value, loss))
        if math.isfinite(found.loss) and (found.value, -found.loss) > (self.best_score, -self.best_loss):
            self.best_score, self.best_loss, self.best_step, self.misses = (
                found.value,
                found.loss,
                self.step,
                0,
            )
            self.best = [parameter.detach().clone() for parameter in self.parameters]
        else:
            self.misses += 1

    def save(self, path: Path, inputs: str) -> None:
        """Write all that is needed to go on."""
        arrays: dict[str, np.ndarray] = {}
        for i, (parameter, best) in enumerate(zip(self.parameters, self.best, strict=True)):
            arrays[f"parameter.{i}"], arrays[f"best.{i}"] = _array(parameter), _array(best)
            for name, value in self.optimizer.state[parameter].items():
                arrays[f"optimizer.{i}.{name}"] = _array(value)
        scores = {
            "score": self.best_score,
            "loss": self.best_loss,
            "step": self.best_step,
            "misses": self.misses,
        }
        meta = {"inputs": inputs, "step": self.step, "best": scores, "curve": self.curve}
        store.save_arrays(path, arrays, meta)

    def load(self, path: Path, inputs: str) -> None:
        """Go on from a state of the same inputs; a damaged state or one of other inputs is started over."""
        if not path.is_file():
            return
        try:
            arrays, meta = store.load_arrays(path)
        except StoreError:
            return
        if meta.get("inputs") != inputs:
            return
        for i, parameter in enumerate(self.parameters):
            parameter.data.copy_(torch.from_numpy(arrays[f"parameter.{i}"]))
            self.best[i] = torch.from_numpy(arrays[f"best.{i}"]).to(parameter.device)
            names = [key.split(".", 2)[2] for key in arrays if key.startswith(f"optimizer.{i}.")]
            # AdamW counts its steps on the host, and keeps its moments beside the parameter.
            self.optimizer.state[parameter] = {
                name: torch.from_numpy(arrays[f"optimizer.{i}.{name}"]).to(
                    "cpu" if name == "step" else parameter.device
                )
                for name in names
            }
        self.step = int(meta["step"])
        self.curve = [(int(step), float(value), loss) for step, value, loss in meta.get("curve", [])]
        best = meta["best"]
        self.best_score, self.best_loss = float(best["score"]), float(best["loss"])
        self.best_step, self.misses = int(best["step"]), int(best["misses"])
        for _ in range(self.step * self.settings.accumulate):
            next(self.order)

    def _curve(self) -> dict[str, list[float | None]]:
        """Score and loss on the validation share by step; an undefined loss is None."""
        steps, values, losses = zip(*self.curve, strict=True)
        return {"steps": [*steps], "values": [*values], "losses": [*losses]}

    def result(self, task: Task) -> SoftPrompt:
        """The best prompt, scored on dev. Raises InputError where the loss was never finite."""
        if not self.scored:
            raise InputError(
                f"tuning {task.name!r} diverged: no evaluation in {self.step} steps had a finite loss; "
                f"use a learning rate below {self.settings.learning_rate}"
            )
        with torch.no_grad():
            for parameter, best in zip(self.parameters, self.best, strict=True):
                parameter.copy_(best)
        dev = evaluate(
            self.attached,
            self.readout,
            self.setup.dev,
            metric=self.setup.metric,
            token_budget=self.setup.token_budget,
        )
        arrays = [_array(parameter) for parameter in self.parameters]
        truncated = self.setup.fit.truncated + self.setup.dev.truncated
        return SoftPrompt(
            rows=arrays[0],
            task=task.name,
            seed=self.seed,
            template=self.setup.template,
            head=Head(arrays[1], arrays[2]) if len(arrays) > 1 else None,
            provenance={
                "model": self.backbone.name,
                "model_fingerprint": self.backbone.fingerprint,
                "layers": self.backbone.layers,
                "attention_heads": int(getattr(self.backbone.model.config, "num_attention_heads", 1)),
                "task_fingerprint": task.fingerprint,
                "task_type": task.type,
                "task_kind": task.kind,
                "words": list(task.words) if task.words and self.setup.head == "verbalizer" else None,
                "settings": self.settings.model_dump(),
                "steps": self.step,
                "best_step": self.best_step,
                "curve": self._curve(),
                "truncated_texts": truncated,
                "truncated_targets": self.setup.fit.truncated_targets + self.setup.dev.truncated_targets,
                "max_text_tokens": self.setup.fit.limit,
                "scores": {
                    "metric": self.setup.metric,
                    "validation": self.best_score,
                    "dev": dev.value,
                    "dev_loss": dev.loss,
                    "majority": task.majority,
                },
            },
        )


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy().copy()
