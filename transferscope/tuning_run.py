"""One tuning by gradient: its batches, AdamW, the schedule, the best checkpoint, and a state to go on from.

What is tuned (a prompt's rows, the parameters of another method) is for those who use it to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transferscope import store, templates
from transferscope.attachment import Attached, Readout
from transferscope.encoding import Encoded, collate, encode
from transferscope.errors import InputError, StoreError, TemplateError, suggest
from transferscope.evaluation import Evaluation, evaluate
from transferscope.metrics import metric as find_metric
from transferscope.models import Backbone
from transferscope.precision import of_backbone
from transferscope.prompts import Head
from transferscope.readouts import AnyReadout, head_words, readout_for
from transferscope.settings import TuningSettings
from transferscope.tasks import Task
from transferscope.templates import Batch

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
    rows: int | None = None,
) -> Setup:
    """Encode a task for tuning.

    A stratified share of train is set apart to choose the checkpoint, so dev stays unseen. ``rows`` are the
    places kept free beside the text, the mask row not counted (None: ``settings.rows``).
    """
    options: dict[str, Any] = {"max_length": max_length, "token_budget": token_budget, "rows": rows}
    return prepare_seeds(backbone, task, settings, [seed], template=template, head=head, **options)[0]


def prepare_seeds(
    backbone: Backbone,
    task: Task,
    settings: TuningSettings,
    seeds: Sequence[int],
    *,
    template: str | None = None,
    head: str = "verbalizer",
    max_length: int | None = None,
    token_budget: int = 8192,
    rows: int | None = None,
) -> list[Setup]:
    """What `prepare` makes for each of these seeds, which set other examples apart, of texts encoded once."""
    kind = backbone.architecture.kind
    template = templates.check(template or templates.DEFAULTS[kind], kind)
    if head not in templates.HEADS:
        raise TemplateError(f"unknown head {head!r}. {suggest(head, templates.HEADS)}")
    fixed = head == "verbalizer" or task.kind == "generation"  # nothing is tuned but the prompt
    readout = readout_for(backbone, task, head) if fixed else None
    word_ids = head_words(backbone, task) if fixed else ()
    find_metric(task.metric).require()
    rows = (settings.rows if rows is None else rows) + (template == "mask-first")
    train, dev = (
        encode(backbone, split, prompt_rows=rows, max_length=max_length, max_new_tokens=task.max_new_tokens)
        for split in (task.train, task.dev)
    )
    setups = []
    for seed in seeds:
        fit, held = hold_out(train.labels, settings.validation, seed)
        splits = (train.take(fit), train.take(held), dev)
        setups.append(
            Setup(template, head, task.classes, word_ids, readout, *splits, task.metric, token_budget)
        )
    return setups


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


def batch_order(lengths: np.ndarray, size: int, seed: int) -> Iterator[np.ndarray]:
    """Batches without end, a function of the seed alone: a resumed run sees what it would have seen."""
    epoch = 0
    while True:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(lengths))
        for start in range(0, len(order), CHUNK * size):
            chunk = order[start : start + CHUNK * size]
            chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
            groups = [chunk[i : i + size] for i in range(0, len(chunk), size)]
            for place in rng.permutation(len(groups)):
                yield groups[place]
        epoch += 1


class TuningRun:
    """One tuning: the parameters, their optimiser, the step, and the best so far.

    ``tuned`` are the tensors that the method trains, clipped together; those of a classifier head, if that is
    what the setup reads by, are trained beside them and start at zero or at ``layer``.
    """

    def __init__(
        self,
        attached: Attached,
        setup: Setup,
        settings: TuningSettings,
        seed: int,
        tuned: Sequence[Tensor],
        layer: Head | None = None,
    ) -> None:
        self.attached, self.backbone = attached, attached.backbone
        self.setup, self.settings, self.seed, self.tuned = setup, settings, seed, list(tuned)
        self.readout, head = self._head(layer)
        groups: list[dict[str, Any]] = [{"params": self.tuned, "lr": settings.learning_rate}]
        if head:
            groups.append({"params": head, "lr": settings.head_learning_rate})
        self.optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.parameters = [*self.tuned, *head]
        self.step = 0
        self.best: list[Tensor] = [parameter.detach().clone() for parameter in self.parameters]
        self.best_score, self.best_loss, self.best_step, self.misses = -math.inf, math.inf, 0, 0
        self.curve: list[tuple[int, float, float | None]] = []
        self.order = batch_order(setup.fit.lengths, settings.batch_size, seed)

    def _head(self, layer: Head | None) -> tuple[AnyReadout, list[Tensor]]:
        if self.setup.readout is not None:
            return self.setup.readout, []
        classes, device = self.setup.classes, self.backbone.device
        weight = torch.zeros(classes, self.backbone.readout_size, device=device)
        bias = torch.zeros(classes, device=device)
        if layer is not None and layer.weight.shape == weight.shape:
            weight, bias = (torch.from_numpy(part.copy()).to(device) for part in (layer.weight, layer.bias))
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

    def step_once(self) -> None:
        """One update of what is tuned (and the classifier), over ``accumulate`` batches."""
        self.begin_step()
        for _ in range(self.settings.accumulate):
            batch = collate(self.backbone, self.setup.fit, next(self.order))
            self.backbone.fitting.backward(
                "tuning", batch, self._share, self.parameters, beside=self.attached.rows
            )
        self.end_step()

    def begin_step(self) -> None:
        """Before the gradients of an update: its learning rates, and nothing left of the last one's."""
        scale = self._schedule(self.step)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * scale
        self.optimizer.zero_grad(set_to_none=True)

    def end_step(self) -> None:
        """After the gradients of an update: clip them, and step."""
        torch.nn.utils.clip_grad_norm_(self.tuned, self.settings.clip)
        self.optimizer.step()
        self.step += 1

    def loss(self, batch: Batch) -> Tensor:
        """The mean loss of a batch, with gradients to what is tuned."""
        return self.readout.loss(self.attached, batch)

    def _share(self, batch: Batch) -> Tensor:
        return self.loss(batch) / self.settings.accumulate

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
        self.judge(found)

    def judge(self, found: Evaluation) -> None:
        """Take note of a score on the held-out share, and keep the parameters if they are the best yet."""
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

    def run(
        self, name: str, state: store.Place | None = None, inputs: str = "", progress: Progress | None = None
    ) -> None:
        """Step and evaluate to the end, keeping a state in a file (None: no) at each evaluation."""
        while not self.finished:
            self.step_once()
            if self.due:
                self.evaluate()
                if state is not None and self.scored:
                    self.save(state, inputs)
            if progress is not None:
                progress(self.step, self.settings.steps, f"{name} seed {self.seed} {self.best_text}")

    def save(self, path: store.Place, inputs: str) -> None:
        """Write all that is needed to go on."""
        arrays: dict[str, np.ndarray] = {}
        for i, (parameter, best) in enumerate(zip(self.parameters, self.best, strict=True)):
            arrays[f"parameter.{i}"], arrays[f"best.{i}"] = as_array(parameter), as_array(best)
            for name, value in self.optimizer.state[parameter].items():
                arrays[f"optimizer.{i}.{name}"] = as_array(value)
        scores = {
            "score": self.best_score,
            "loss": self.best_loss,
            "step": self.best_step,
            "misses": self.misses,
        }
        meta = {"inputs": inputs, "step": self.step, "best": scores, "curve": self.curve}
        store.save_arrays(path, arrays, meta)

    def load(self, path: store.Place, inputs: str) -> None:
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

    def take_best(self, task: Task) -> None:
        """Put the best parameters in place. Raises InputError where the loss was never finite."""
        if not self.scored:
            raise InputError(
                f"tuning {task.name!r} diverged: no evaluation in {self.step} steps had a finite loss; "
                f"use a learning rate below {self.settings.learning_rate}"
            )
        with torch.no_grad():
            for parameter, best in zip(self.parameters, self.best, strict=True):
                parameter.copy_(best)

    def finish(self, task: Task, dev: Evaluation | None = None) -> tuple[list[np.ndarray], dict[str, Any]]:
        """The best parameters (left in place) as arrays, and how it went, with their score on dev.

        ``dev`` is that score where it is known already. Raises InputError where the loss was never finite.
        """
        self.take_best(task)
        dev = dev or evaluate(
            self.attached,
            self.readout,
            self.setup.dev,
            metric=self.setup.metric,
            token_budget=self.setup.token_budget,
        )
        truncated = self.setup.fit.truncated + self.setup.dev.truncated
        return [as_array(parameter) for parameter in self.parameters], {
            "model": self.backbone.name,
            "model_fingerprint": self.backbone.fingerprint,
            "layers": self.backbone.layers,
            "attention_heads": int(getattr(self.backbone.model.config, "num_attention_heads", 1)),
            "task_fingerprint": task.fingerprint,
            "task_type": task.type,
            "task_kind": task.kind,
            "words": list(task.words) if task.words and self.setup.head == "verbalizer" else None,
            "settings": self.settings.model_dump(),
            "precision": of_backbone(self.backbone),
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
        }


def as_array(value: Tensor) -> np.ndarray:
    """A copy on the host."""
    return value.detach().cpu().numpy().copy()
