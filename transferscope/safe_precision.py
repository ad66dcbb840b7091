"""bfloat16 for accuracy and tuning: where it may be used, a probe that says whether it is safe, what is kept.

Neurons are never read under it (see `precision`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transferscope import attachment, precision
from transferscope.attachment import Attached, Readout
from transferscope.encoding import TOKEN_BUDGET, Prepared, encode, prepared
from transferscope.evaluation import evaluation
from transferscope.fingerprints import stale_reason
from transferscope.loading import choose_device
from transferscope.models import Backbone
from transferscope.readouts import AnyReadout, TextReadout, head_words, readout_for
from transferscope.settings import ModelSettings, TuningSettings
from transferscope.tasks import Task
from transferscope.templates import DEFAULTS, Batch

AUTO, FLOAT32, BFLOAT16 = "auto", "float32", "bfloat16"
KEY = "precision"  # of what an artefact was made from; not there for what was made without autocast
EXAMPLES = 128  # of the probe
AGREEMENT = 0.98  # the share of predictions that must be those of float32
LOSS = 0.02  # nats by which the mean loss may differ


@dataclass(frozen=True)
class Agreement:
    """How predictions under bfloat16 compare with those of float32, on S examples.

    ``share`` are alike, and the mean loss differs by ``loss`` nats (absolute). Of a generation task, whose
    predictions are tokens after the right ones, both are over tokens.
    """

    examples: int
    share: float
    loss: float

    @property
    def safe(self) -> bool:
        """Alike enough for accuracy and tuning; not where a loss is not finite."""
        return self.share >= AGREEMENT and self.loss <= LOSS

    def __str__(self) -> str:
        return (
            f"on {self.examples} examples {self.share:.1%} of the predictions are those of float32 (wanted: "
            f"{AGREEMENT:.0%}) and the loss differs by {self.loss:.2g} nats (allowed: {LOSS})"
        )


def native(device: torch.device) -> bool:
    """Whether a device is CUDA and multiplies bfloat16 itself, so that it is faster there."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def probed(settings: ModelSettings) -> bool:
    """Whether these settings leave the precision to a probe; reads no model."""
    return settings.precision == AUTO and settings.dtype == FLOAT32 and native(choose_device(settings.device))


def chosen(
    backbone: Backbone, settings: ModelSettings, task: Task, tuning: TuningSettings, **options: Any
) -> tuple[Backbone, str]:
    """The backbone to score and tune a task with, and a line on the choice (empty where there is none).

    ``options`` are those of `agreement`.
    """
    if settings.precision == BFLOAT16:
        return backbone.at(torch.bfloat16), ""
    if not probed(settings):
        return backbone, ""
    found = agreement(backbone, task, tuning, **options)
    if not found.safe:
        return backbone, f"accuracy and tuning of {task.name} in float32, for bfloat16 is not safe: {found}"
    return backbone.at(torch.bfloat16), f"accuracy and tuning of {task.name} in bfloat16: {found}"


def agreement(
    backbone: Backbone,
    task: Task,
    tuning: TuningSettings,
    *,
    template: str | None = None,
    head: str = "verbalizer",
    max_length: int | None = None,
    token_budget: int = TOKEN_BUDGET,
    seed: int = 0,
) -> Agreement:
    """Compare bfloat16 with float32 under the prompt from which tuning starts.

    On at most 128 examples of train, drawn with ``seed``: dev stays unseen. A classifier, whose layer does
    not exist yet, is read by a fixed random one.
    """
    template = template or DEFAULTS[backbone.architecture.kind]
    beside = tuning.rows + (template == "mask-first")
    order = np.random.default_rng(seed).permutation(len(task.train))[:EXAMPLES]
    few = [task.train[i] for i in np.sort(order)]
    data = encode(
        backbone, few, prompt_rows=beside, max_length=max_length, max_new_tokens=task.max_new_tokens
    )
    fixed = head == "verbalizer" or task.kind == "generation"
    rows = attachment.initial_rows(
        backbone,
        tuning.rows,
        init=tuning.init,
        word_ids=head_words(backbone, task) if fixed else (),
        candidates=np.unique(np.concatenate(data.ids)).tolist(),
        seed=seed,
    )
    batches = prepared(backbone, data, prompt_rows=beside, token_budget=token_budget)
    found = []
    for one in (backbone.at(None), backbone.at(torch.bfloat16)):
        attached = attachment.attach(one, rows, template)
        readout = readout_for(one, task, head) if fixed else _random_layer(one, task.classes, seed)
        found.append(_predicted(attached, readout, batches))
    (exact, loss), (rounded, other) = found
    return Agreement(len(data), float((exact == rounded).mean()), abs(loss - other))


def _random_layer(backbone: Backbone, classes: int, seed: int) -> Readout:
    generator = torch.Generator().manual_seed(seed)
    size = backbone.readout_size
    weight = torch.randn(classes, size, generator=generator) / size**0.5
    return Readout(
        backbone, weight=weight.to(backbone.device), bias=torch.zeros(classes, device=backbone.device)
    )


def _predicted(attached: Attached, readout: AnyReadout, data: Prepared) -> tuple[np.ndarray, float]:
    """What is predicted for each example, or each token to be written; and the mean loss."""
    if isinstance(readout, TextReadout):
        return _tokens(attached, readout, data)

    def read(batch: Batch) -> Tensor:
        return readout.logits(attached.forward(attached.place(batch))).float()

    with torch.inference_mode():
        rows = attached.backbone.fitting.over("evaluation", data.batches, read, beside=attached.rows)
        logits = torch.cat(rows).cpu().numpy()
    labels = data.data.labels[np.concatenate(data.groups)]
    return logits.argmax(axis=1), evaluation(logits, labels, "accuracy").loss


def _tokens(attached: Attached, readout: TextReadout, data: Prepared) -> tuple[np.ndarray, float]:
    def read(batch: Batch) -> tuple[np.ndarray, float]:
        logits, targets = readout.token_logits(attached, batch)
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        return logits.argmax(dim=-1).cpu().numpy(), float(loss)

    with torch.inference_mode():
        found = attached.backbone.fitting.over("evaluation", data.batches, read, beside=attached.rows)
    tokens = np.concatenate([written for written, _ in found])
    return tokens, sum(loss for _, loss in found) / len(tokens)


def made_in(backbone: Backbone) -> dict[str, str]:
    """What the precision adds to what an artefact was made from: nothing without autocast, as ever."""
    return {} if backbone.autocast is None else {KEY: precision.of_backbone(backbone)}


def as_made_in(backbone: Backbone, inputs: Mapping[str, Any]) -> Backbone:
    """The backbone in the precision that inputs name (`made_in`)."""
    return backbone.at(torch.bfloat16 if inputs.get(KEY) == BFLOAT16 else None)


def accepted(settings: ModelSettings, stored: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs with the precision that settings want; ``auto`` takes what the ``stored`` ones were made in."""
    if settings.precision == BFLOAT16:
        return {**inputs, KEY: BFLOAT16}
    return {**inputs, **({KEY: stored[KEY]} if settings.precision == AUTO and KEY in stored else {})}


def is_current(settings: ModelSettings, stored: Mapping[str, Any], inputs: Mapping[str, Any]) -> bool:
    """Whether what was made from ``stored`` inputs may stay, and be added to."""
    return not stale_reason(stored, accepted(settings, stored, inputs))
