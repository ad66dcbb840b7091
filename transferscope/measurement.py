"""One prompt's neurons on one task: baseline, accuracy, predictivity, stimulation, mean features.

Source: Wang et al., EMNLP 2022 (Finding Skill Neurons): baseline activation, accuracy and predictivity of a
neuron; Su et al., NAACL 2022 (On Transferability of Prompt Tuning): the neurons that a prompt stimulates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transferscope import attachment
from transferscope.activations import FireCounts, Moments, Probe, capture, to_numpy
from transferscope.attachment import Attached
from transferscope.encoding import (
    Encoded,
    batches,
    empty_text,
    from_token_ids,
    room,
)
from transferscope.errors import BackboneError, TaskError
from transferscope.loading import attention
from transferscope.models import Backbone, wrap
from transferscope.quantization import refuse_predictivity
from transferscope.streaming import How, Pass, Statistics, in_one_pass, sides_of, stream, within_cache
from transferscope.task_spec import Subtask, subtask_problem


@dataclass(frozen=True)
class NeuronMeasurement:
    """What one prompt does on one task.

    ``baseline`` [L, P, N], over all of train, and ``accuracy`` [L, P, N] are float64 (``accuracy`` is of the
    first of C subtasks, and ``subtask_accuracy`` [C, L, P, N] has all: of a subtask that was given it is NaN
    where a cell does not vary over the subtask's own examples); ``stimulation`` [L, N] float32 at the readout
    row on an empty text; ``active`` [L, N] bool; ``defined`` [L, P, N] bool: cells that vary (sd >= 1e-5 over
    train), the others are not ranked; ``features`` [K, D] float32: the mean last hidden state at the readout
    row, by class, over dev.

    In a mixture of experts a cell's baseline and accuracy are over the examples that are sent to its expert,
    NaN where these are none or too few (see `routed`); where the readout row of the empty text is not sent
    to it, a neuron is not active and its stimulation is 0, which is what it adds.
    """

    baseline: np.ndarray
    subtask_accuracy: np.ndarray
    stimulation: np.ndarray
    active: np.ndarray
    defined: np.ndarray
    features: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """Acc [L, P, N], before max(Acc, 1 - Acc)."""
        return self.subtask_accuracy[0]

    @property
    def predictivity(self) -> np.ndarray:
        """Pred [C, L, N] of this trial: max over probed rows of max(Acc, 1 - Acc); NaN: no row defined."""
        either = np.maximum(self.subtask_accuracy, 1 - self.subtask_accuracy)
        best = np.where(self.defined & np.isfinite(either), either, -np.inf).max(axis=2)
        return np.where(np.isfinite(best), best, np.nan)


def measure_neurons(
    model: Any,
    prompt_rows: np.ndarray | Tensor,
    train: Sequence[tuple[Sequence[int], int]],
    dev: Sequence[tuple[Sequence[int], int]],
    *,
    template: str = "mask-first",
    compat: bool = False,
    empty: Sequence[int] | None = None,
    subtasks: Sequence[Subtask] = (),
) -> NeuronMeasurement:
    """Measure the neurons of a model under a prompt, on token ids: the low-level entry.

    ``prompt_rows`` [P, E] are all rows of the prompt, the mask row included where the template has one
    (``mask-first``: row 0). ``train`` and ``dev`` are sequences of (token ids with specials, class id).
    ``compat`` reproduces the reference procedure of Wang et al. (eager attention, data order, batches of 16
    padded to the longest). ``empty`` is the empty text of the stimulation; by default the config's BOS token,
    or the token that all texts start with. ``subtasks`` as in `measure`.

    Raises ArchitectureError for an unknown model type, PromptError where widths differ, TaskError for
    unusable examples.
    """
    values = prompt_rows.detach().float().cpu().numpy() if isinstance(prompt_rows, Tensor) else prompt_rows
    with _borrowed(model) as backbone:
        rows = torch.from_numpy(np.array(values, dtype=np.float32)).to(backbone.device)
        fixed = attachment.attach_rows(backbone, rows, template)
        examples = from_token_ids(train), from_token_ids(dev)
        blank = from_token_ids([(list(empty) if empty is not None else _common_start(backbone, train), 0)])
        return measure(fixed, *examples, blank=blank, compat=compat, subtasks=subtasks)


def measure(
    attached: Attached,
    train: Encoded,
    dev: Encoded,
    *,
    blank: Encoded | None = None,
    compat: bool = False,
    balanced: bool | None = None,
    token_budget: int = 8192,
    subtasks: Sequence[Subtask] = (),
    quantized: bool = False,
) -> NeuronMeasurement:
    """Measure the neurons under an attached prompt: one pass over train, one over dev, one empty text.

    Without ``subtasks``, two classes are one subtask and more are K, one-vs-rest, and all share the baseline
    over train. A given subtask is a task of its own, as in the published code of Wang et al.: baseline and
    accuracy are over the examples of its classes alone. (The prompt is that of the whole task.)

    ``balanced`` scores subtasks by balanced accuracy; None: where there are more than two classes, so that
    the many examples of "the rest" do not make a silent neuron look predictive. The two sides of a given
    subtask then count alike in its baseline, too: the published code keeps equally many examples of each
    side, and we keep all and weigh them. ``quantized``: also of a model with 4-bit weights. Raises TaskError
    for unusable examples or subtasks, SignatureError for a quantised model.
    """
    how: dict[str, Any] = {"compat": compat, "balanced": balanced, "token_budget": token_budget}
    how |= {"subtasks": subtasks, "quantized": quantized}
    return next(measure_several([attached], train, dev, blank=blank, **how))


def measure_several(
    several: Sequence[Attached],
    train: Encoded,
    dev: Encoded,
    *,
    blank: Encoded | None = None,
    compat: bool = False,
    balanced: bool | None = None,
    token_budget: int = 8192,
    subtasks: Sequence[Subtask] = (),
    quantized: bool = False,
) -> Iterator[NeuronMeasurement]:
    """`measure` each of R prompts of one shape and template on one backbone, in their order.

    Texts that two or more prompts can share (``suffix``; not in compat mode) go through the model once for as
    many prompts as have statistics of at most TOGETHER_BYTES in all; beside these, memory holds the keys and
    values of one batch. The numbers are those of `measure` up to rounding. Raises as it does.
    """
    backbone, probe = several[0].backbone, Probe.of(several[0])
    _refuse_autocast(backbone)
    refuse_predictivity(backbone.name, backbone.quantization, quantized)
    classes = _classes(train, dev)
    if problem := subtask_problem(subtasks, classes):
        raise TaskError(problem)
    _check_room(several[0], train, dev)
    balanced = classes > 2 if balanced is None else balanced
    shared = not compat and len(several) > 1 and all(one.shares_texts for one in several)
    cells = backbone.layers * probe.rows * backbone.neurons
    size = in_one_pass(cells, classes, len(subtasks), experts=backbone.architecture.experts) if shared else 1
    token_budget = within_cache(backbone.device, token_budget)
    how = How(backbone, probe, classes, tuple(subtasks), balanced, shared, compat, token_budget)
    for start in range(0, len(several), size):
        with _mode(backbone, compat):
            found = _measure_block(several[start : start + size], train, dev, blank, how)
        yield from found


def _measure_block(
    several: Sequence[Attached], train: Encoded, dev: Encoded, blank: Encoded | None, how: How
) -> list[NeuronMeasurement]:
    """The measurements of prompts that go through the splits together."""
    sides = [sides_of(one, how.classes) for one in how.subtasks]
    every = [how.empty(how.classes) for _ in several]
    of_subtasks = [[how.empty(2) for _ in sides] for _ in several]

    def passes(statistics: Sequence[Statistics], parts: Sequence[Sequence[Statistics]]) -> list[Pass]:
        return [
            Pass(attached, one, list(zip(sides, own, strict=True)))
            for attached, one, own in zip(several, statistics, parts, strict=True)
        ]

    stream(passes(every, of_subtasks), train, how, readouts=False)
    firing = [one.map(lambda part: part.above(part.mean, how.classes)) for one in every]
    beside = [
        [one.map(lambda part: part.above(_baseline(part, how.balanced), 2)) for one in own]
        for own in of_subtasks
    ]
    whole = [one.merged() for one in every]
    baselines, varies = [to_numpy(one.mean) for one in whole], [one.varies.cpu().numpy() for one in whole]
    of_parts = [[one.merged().varies.cpu().numpy() for one in own] for own in of_subtasks]
    del every, whole, of_subtasks  # as large as what the second pass keeps
    readouts = stream(passes(firing, beside), dev, how)
    found = []
    for r, attached in enumerate(several):
        stimulation, active = stimulate(attached, blank)
        counts = firing[r].merged()
        accuracies = [
            _accuracy(fired.merged(), varied, how.balanced)
            for fired, varied in zip(beside[r], of_parts[r], strict=True)
        ] or _one_vs_rest(counts, how.balanced)
        # No second copy of a large array where there is but one subtask.
        accuracy = np.stack(accuracies) if len(accuracies) > 1 else accuracies[0][None]
        defined = varies[r] & how.probe.exists[:, :, None]
        features = to_numpy(readouts[r].to(counts.counts.device) / counts.counts.unsqueeze(1))
        measured = accuracy, stimulation, active, defined, features.astype(np.float32)
        found.append(NeuronMeasurement(baselines[r], *measured))
    return found


def stimulate(attached: Attached, blank: Encoded | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The neurons that a prompt fires with nothing to read: values [L, N] float32 and active [L, N] bool.

    Taken at the readout row; in encoder layers of an encoder-decoder, whose readout is in the decoder, at the
    first prompt row. Needs no task data. Source: Su et al., NAACL 2022.
    """
    backbone = attached.backbone
    _refuse_autocast(backbone)
    _ = backbone.neurons  # says so where layers were pruned to different widths
    blank = empty_text(backbone) if blank is None else blank
    values: dict[int, Tensor] = {}
    gates: dict[int, Tensor] = {}
    batch = next(batches(backbone, blank, [np.arange(1)]))
    with torch.inference_mode():
        placed = attached.place(batch)
        # 0 for an encoder-decoder: the decoder start in the decoder, the first prompt row in the encoder.
        row = placed.readout[:1]  # a tensor: as a number it would have to be waited for

        def sink(layer: int, neurons: Tensor, gate: Tensor | None) -> None:
            at = row.to(neurons.device)
            fired = neurons if gate is None else gate
            values[layer], gates[layer] = (
                # An expert that the row is not sent to adds nothing, and none of its neurons is active.
                one[0].index_select(0, at)[0].float().nan_to_num(nan=0.0).to(backbone.device)
                for one in (neurons, fired)
            )

        with capture(backbone, sink, gates=True, missing=True):
            attached.forward(placed)
    order = range(backbone.layers)
    stacked = torch.stack([values[layer] for layer in order]).cpu().numpy()
    return stacked, torch.stack([gates[layer] > 0 for layer in order]).cpu().numpy()


def _one_vs_rest(counts: FireCounts, balanced: bool) -> list[np.ndarray]:
    """Acc [L, P, N] of each class against the rest; of two classes, of class 1 alone."""
    classes = len(counts.counts)
    positives = [1] if classes == 2 else range(classes)
    return [to_numpy(counts.accuracy(one, balanced=balanced)) for one in positives]


def _baseline(part: Moments, balanced: bool) -> Tensor:
    """The baseline of a given subtask [L, P, N]: the mean over its examples, or half of each side."""
    return part.balanced_mean if balanced else part.mean


def _accuracy(fired: FireCounts, varies: np.ndarray, balanced: bool) -> np.ndarray:
    """Acc of a given subtask [L, P, N], NaN where the cell does not vary over its examples."""
    return np.where(varies, to_numpy(fired.accuracy(1, balanced=balanced)), np.nan)


@contextmanager
def _borrowed(model: Any) -> Iterator[Backbone]:
    """A model as a backbone for a while: frozen and in eval mode, then as it was."""
    if isinstance(model, Backbone):
        yield model
        return
    modes = [(module, module.training) for module in model.modules()]
    grads = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield wrap(model)
    finally:
        for module, training in modes:
            module.training = training
        for parameter, wanted in grads:
            parameter.requires_grad_(wanted)


def _refuse_autocast(backbone: Backbone) -> None:
    if backbone.autocast is not None:
        raise BackboneError(
            f"neurons are not measured under autocast ({backbone.name!r} is under {backbone.autocast}): that "
            "is for accuracy and tuning; use backbone.at(None), or load the model in that dtype"
        )


@contextmanager
def _mode(backbone: Backbone, compat: bool) -> Iterator[None]:
    """As the published code computes, in compat mode: eager attention, the stock products."""
    with ExitStack() as mode:
        if compat:
            mode.enter_context(attention(backbone.model, "eager"))
            if backbone.products is not None:
                mode.enter_context(backbone.products.stock())
        yield


def _classes(train: Encoded, dev: Encoded) -> int:
    if train.references is not None or dev.references is not None:
        raise TaskError(
            "these are texts of a generation task, which has no classes, and predictivity needs classes; "
            "stimulate() needs none"
        )
    classes = int(max(train.labels.max(), dev.labels.max())) + 1
    for name, data in (("train", train), ("dev", dev)):
        counts = np.bincount(data.labels[data.labels >= 0], minlength=classes)
        if data.labels.min() < 0 or classes < 2 or (counts == 0).any():
            raise TaskError(
                f"{name} has {counts.tolist()} examples of classes 0..{classes - 1}; predictivity needs at "
                "least two classes, numbered from 0, each in both splits"
            )
    return classes


def _check_room(attached: Attached, *splits: Encoded) -> None:
    # Beyond the last position an encoder fails on a bare index, and a GPU takes the whole process with it.
    limit = room(attached.backbone, attached.rows, None)
    longest = max(int(split.lengths.max()) for split in splits)
    if limit is not None and longest > limit:
        raise TaskError(
            f"a text of {longest} tokens does not fit: {attached.backbone.name!r} has room for {limit} "
            f"beside {attached.rows} prompt rows"
        )


def _common_start(backbone: Backbone, train: Sequence[tuple[Sequence[int], int]]) -> list[int]:
    bos = getattr(backbone.model.config, "bos_token_id", None)
    if bos is not None:
        return [int(bos)]
    starts = {int(ids[0]) for ids, _ in train}
    if len(starts) != 1:
        raise TaskError(
            "the texts start with different tokens and the config has no bos_token_id: give empty=[token ids]"
        )
    return [starts.pop()]
