"""A close look at single neurons of a task: when they fire, for which texts, and which words they promote.

Source: Wang et al., EMNLP 2022: predictivity, the baseline as threshold, the best row, binary subtasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indicators.predictivity import skill_mask
from transferscope import attachment
from transferscope.attachment import Attached
from transferscope.encoding import TOKEN_BUDGET, Prepared, encode, prepared
from transferscope.errors import InputError, SignatureError
from transferscope.models import Backbone
from transferscope.neuron_stream import Picked, at_rows, baselines, best_rows, subtask_baselines
from transferscope.prompts import SoftPrompt
from transferscope.signatures import Signature
from transferscope.skill_sets import Floats, check_rate
from transferscope.task_spec import Subtask, default_subtasks
from transferscope.tasks import Example, Task
from transferscope.word_promotion import WORDS, Neuron, Word, promoted_words

TOP, EXAMPLES, BINS = 10, 5, 20


@dataclass(frozen=True)
class Fired:
    """A dev text with what a neuron made of it; ``index`` is its place in the split, ``label`` its class."""

    index: int
    label: str
    value: float
    text: str
    pair: str | None


@dataclass(frozen=True)
class ClassActivation:
    """A neuron's activation over the dev texts of one class; ``sd`` is None for a single text."""

    label: str
    examples: int
    mean: float
    sd: float | None


@dataclass(frozen=True)
class Histogram:
    """How many dev texts of each class fall into each of B bins: ``edges`` [B + 1], ``counts`` [K][B]."""

    edges: tuple[float, ...]
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class NeuronCard:
    """One neuron. ``predictivity``: of its best subtask, mean over trials, with ``sd`` and each trial's.

    ``rank`` among all neurons of the network, 1 the highest. In the trial that is shown: the probed ``row``
    where it is most predictive of the subtask, its ``baseline`` and ``accuracy`` there, and ``fires_for``,
    the class or classes whose texts bring it above the baseline ("not A" for all but A; None where neither
    side does). None stands for what is not defined: a neuron that does not vary.
    """

    layer: int
    neuron: int
    predictivity: float | None
    sd: float | None
    by_trial: tuple[float | None, ...]
    rank: int | None
    row: int
    baseline: float
    accuracy: float | None
    fires_for: str | None
    classes: tuple[ClassActivation, ...]
    most: tuple[Fired, ...]
    least: tuple[Fired, ...]
    promotes: tuple[Word, ...]
    histogram: Histogram | None = None


@dataclass(frozen=True)
class NeuronView:
    """Neurons of one task, under the prompt of one of its ``seeds`` (``shown``), on its dev split."""

    task: str
    model: str
    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    shown: int
    examples: int
    majority: float
    neurons: tuple[NeuronCard, ...]
    notes: tuple[str, ...] = ()


def best_subtask(signature: Signature) -> tuple[Floats, np.ndarray]:
    """Each neuron's highest predictivity over subtasks [L, N] (NaN where undefined), and of which subtask."""
    values = signature.subtask_predictivity
    filled = np.where(np.isfinite(values), values, -np.inf)
    subtask = filled.argmax(axis=0)
    best = filled.max(axis=0)
    return np.where(np.isfinite(best), best, np.nan), subtask


def choose(
    signature: Signature, *, top: int = TOP, rate: float | None = None, by: str = "layer"
) -> list[Neuron]:
    """The ``top`` neurons of highest predictivity, or all skill neurons at a ``rate``; the highest first.

    Raises InputError for a rate or a number that takes none.
    """
    values, _ = best_subtask(signature)
    defined = np.isfinite(values)
    if rate is not None:
        check_rate(rate, values.shape[1])
        defined &= skill_mask(signature.subtask_predictivity, rate, by=by)
    elif top < 1:
        raise InputError(f"the top {top} neurons: at least 1 is needed")
    order = np.argsort(-np.where(defined, values, -np.inf), axis=None, kind="stable")
    taken = order[: int(defined.sum()) if rate is not None else min(top, int(defined.sum()))]
    return [(int(i) // values.shape[1], int(i) % values.shape[1]) for i in taken]


def view(
    backbone: Backbone,
    task: Task,
    prompts: Sequence[SoftPrompt],
    signature: Signature,
    neurons: Sequence[Neuron],
    *,
    shown: int | None = None,
    examples: int = EXAMPLES,
    words: int = WORDS,
    bins: int | None = None,
    max_length: int | None = None,
    balanced: bool | None = None,
    token_budget: int = TOKEN_BUDGET,
) -> NeuronView:
    """Look at these neurons on the task's dev split, under the prompt of the seed ``shown``.

    None takes the prompt with the best validation score in its record, the first of equal ones. Two passes
    over dev: one counts at which row each neuron is most predictive, one keeps its activation there, [S, k]
    for k neurons; and one over train where the task gives subtasks, for their baselines. ``bins``: a
    histogram by class, too. Raises InputError for a neuron or seed that is not there, SignatureError for a
    signature without predictivity or of other prompts.
    """
    _check(task, prompts, signature, neurons)
    trial = _trial(prompts, shown)
    attached = attachment.attach(backbone, prompts[trial])
    picked = Picked(attached, neurons)
    dev = _batches(attached, task.dev, max_length, token_budget)
    train = _batches(attached, task.train, max_length, token_budget) if task.subtasks else None
    best = _best(picked, signature, trial, task, train, dev, balanced)
    values = at_rows(picked, dev, np.array([one["row"] for one in best]))
    promoted = promoted_words(backbone, neurons, words)
    cards = [
        _card(signature, neuron, best[i], _measured(task, values[:, i], examples, bins), promoted[i])
        for i, neuron in enumerate(neurons)
    ]
    return NeuronView(
        task.name,
        backbone.name,
        task.labels,
        signature.seeds,
        signature.seeds[trial],
        len(task.dev),
        task.majority,
        tuple(cards),
        _notes(backbone, neurons, signature.seeds[trial], len(signature.seeds)),
    )


def _check(
    task: Task, prompts: Sequence[SoftPrompt], signature: Signature, neurons: Sequence[Neuron]
) -> None:
    _ = signature.subtask_predictivity  # says why there is none
    if signature.predictivity is None or signature.baseline is None or task.kind != "classification":
        raise SignatureError(f"the signature of {task.name!r} has no baseline: extract it again")
    subtasks = len(task.subtasks or default_subtasks(task.labels))
    found = signature.predictivity.shape
    if tuple(prompt.seed for prompt in prompts) != signature.seeds or found[1] != subtasks:
        raise SignatureError(
            f"the signature of {task.name!r} has seeds {list(signature.seeds)} and {found[1]} subtasks, and "
            f"here are prompts of seeds {[prompt.seed for prompt in prompts]} and {subtasks} subtasks: "
            "extract it again"
        )
    if not neurons:
        raise InputError("no neurons are chosen: at least one is needed")
    layers, width = found[2:]
    for layer, neuron in neurons:
        if not (0 <= layer < layers and 0 <= neuron < width):
            raise InputError(
                f"no neuron {layer}:{neuron}: the model has layers 0 to {layers - 1} with neurons 0 to "
                f"{width - 1}"
            )


def _trial(prompts: Sequence[SoftPrompt], seed: int | None) -> int:
    seeds = [prompt.seed for prompt in prompts]
    if seed is not None:
        if seed not in seeds:
            raise InputError(f"no prompt of seed {seed}: there are {', '.join(map(str, seeds))}")
        return seeds.index(seed)
    scores = [(prompt.provenance.get("scores") or {}).get("validation") for prompt in prompts]
    known = [-np.inf if score is None else float(score) for score in scores]
    return int(np.argmax(known))


def _batches(
    attached: Attached, texts: Sequence[Example], max_length: int | None, token_budget: int
) -> Prepared:
    """Texts in batches that have room for the prompt."""
    backbone, rows = attached.backbone, attached.rows
    encoded = encode(backbone, texts, prompt_rows=rows, max_length=max_length)
    return prepared(backbone, encoded, prompt_rows=rows, token_budget=token_budget)


def _best(
    picked: Picked,
    signature: Signature,
    trial: int,
    task: Task,
    train: Prepared | None,
    dev: Prepared,
    balanced: bool | None,
) -> list[dict[str, Any]]:
    """For each neuron its most predictive row of its best subtask, with baseline and accuracy there."""
    assert signature.baseline is not None  # checked where the view begins
    subtasks = task.subtasks or default_subtasks(task.labels)
    how = {"balanced": task.classes > 2 if balanced is None else balanced}
    if train is not None:
        bases = subtask_baselines(picked, train, subtasks, task.classes, **how)
    else:
        bases = baselines(picked, signature.baseline[trial], len(subtasks))
    rows, accuracy = best_rows(picked, dev, bases, subtasks, task.classes, **how)
    _, chosen = best_subtask(signature)
    found = []
    for place, neuron in enumerate(picked.neurons):
        subtask = int(chosen[neuron])
        row, acc = int(rows[subtask, place]), float(accuracy[subtask, place])
        found.append(
            {
                "row": row,
                "baseline": float(bases[subtask, row, place]),
                "accuracy": acc if np.isfinite(acc) else None,
                "fires_for": _fires_for(task.labels, subtasks[subtask], acc),
            }
        )
    return found


def _card(
    signature: Signature,
    neuron: Neuron,
    best: Mapping[str, Any],
    measured: Mapping[str, Any],
    promotes: tuple[Word, ...],
) -> NeuronCard:
    layer, place = neuron
    predictivity = _predictivity(signature, neuron)
    return NeuronCard(layer, place, **predictivity, **best, **measured, promotes=promotes)


def _predictivity(signature: Signature, neuron: Neuron) -> dict[str, Any]:
    assert signature.predictivity is not None  # checked where the view begins
    best, subtask = best_subtask(signature)
    trials = signature.predictivity[:, subtask[neuron], neuron[0], neuron[1]]
    known = trials[np.isfinite(trials)]
    value = float(best[neuron])
    return {
        "predictivity": value if np.isfinite(value) else None,
        "sd": float(known.std(ddof=1)) if len(known) > 1 else None,
        "by_trial": tuple(float(one) if np.isfinite(one) else None for one in trials),
        "rank": int((best > value).sum()) + 1 if np.isfinite(value) else None,
    }


def _fires_for(labels: Sequence[str], subtask: Subtask, accuracy: float) -> str | None:
    if not np.isfinite(accuracy) or accuracy == 0.5:
        return None
    side, other = subtask.positive, subtask.negative
    if accuracy < 0.5:
        side, other = other, side
    if len(side) > 1 and len(side) + len(other) == len(labels):
        return f"not {' or '.join(labels[k] for k in other)}"
    return " or ".join(labels[k] for k in side)


def _measured(task: Task, values: np.ndarray, examples: int, bins: int | None) -> dict[str, Any]:
    """What a neuron's activations [S] say: by class, the texts at both ends, the histogram."""
    labels, wide = np.array([example.label for example in task.dev]), values.astype(np.float64)
    groups = [wide[labels == k] for k in range(task.classes)]
    classes = tuple(
        ClassActivation(
            task.labels[k],
            len(group),
            float(group.mean()) if len(group) else float("nan"),
            float(group.std(ddof=1)) if len(group) > 1 else None,
        )
        for k, group in enumerate(groups)
    )
    ends = [np.argsort(sign * wide, kind="stable")[:examples] for sign in (-1, 1)]
    most, least = (tuple(_fired(task, task.dev[i], int(i), wide[i]) for i in end) for end in ends)
    histogram = None
    if bins is not None:
        edges = np.histogram_bin_edges(wide, bins)
        counts = tuple(tuple(np.histogram(group, edges)[0].tolist()) for group in groups)
        histogram = Histogram(tuple(edges.tolist()), task.labels, counts)
    return {"classes": classes, "most": most, "least": least, "histogram": histogram}


def _fired(task: Task, example: Example, index: int, value: float) -> Fired:
    return Fired(index, task.labels[example.label], float(value), example.text, example.pair)


def _notes(backbone: Backbone, neurons: Sequence[Neuron], seed: int, trials: int) -> tuple[str, ...]:
    notes = [
        f"activations, texts and rows: the prompt of seed {seed}, dev split; predictivity: {trials} "
        f"trial{'s' if trials > 1 else ''}",
        "the highest of many neurons, chosen and shown on the same texts: on others they predict less",
    ]
    if not backbone.has_lm_head:
        notes.append("promoted words need the language-model head, which was not loaded (head: verbalizer)")
    else:
        notes.append("promoted words: output embeddings times the neuron's output vector (logit lens)")
    encoder = backbone.architecture.kind == "encoder-decoder" and any(
        stack.rows == "prompt" and layer in {one[0] for one in neurons}
        for stack, layer, _ in backbone.down_projections()
    )
    if encoder and backbone.has_lm_head:
        notes.append("an encoder's neurons do not write to the output embedding: read their words with care")
    return tuple(notes)
