"""Two models side by side: do they see the same tasks as alike, and do their prompts say the same?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import indicators
from indicators.models_similarity import MatrixSimilarity, NeuronAlignment, align_neurons, matrix_similarity
from transferscope import pairing
from transferscope.comparison import IndicatorMatrix
from transferscope.errors import InputError
from transferscope.exporters import Cell, Table, exporter, json_text, tabular
from transferscope.models import Backbone
from transferscope.pipeline import Pipeline
from transferscope.prompts import SoftPrompt

ANCHORS, NEURONS, PERMUTATIONS = 1000, 1000, 9999
FEWEST = 3  # tasks


@dataclass(frozen=True)
class Agreement:
    """One indicator computed in both models: how alike the two matrices of tasks are (Mantel test)."""

    indicator: str
    similarity: MatrixSimilarity


@dataclass(frozen=True)
class RelativePrompts:
    """Prompts of two models through ``anchors`` words that both know (Wu et al., 2310.01691).

    ``values`` [T, T]: tasks of A down, of B across; ``same`` is the mean of a task with itself, ``other``
    that of different tasks, ``found`` the share of A's tasks whose nearest prompt in B is of the same task.
    """

    anchors: int
    values: NDArray[np.float64]
    same: float
    other: float
    found: float


@dataclass(frozen=True)
class ModelComparison:
    """What `compare_models` finds; None where it could not be computed, and the notes say why."""

    model_a: str
    model_b: str
    tasks: tuple[str, ...]
    agreements: tuple[Agreement, ...]
    prompts: RelativePrompts | None
    texts: Mapping[str, float]
    neurons: NeuronAlignment | None
    notes: tuple[str, ...]


def compare_models(
    a: Pipeline,
    b: Pipeline,
    names: Sequence[str] | None = None,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> ModelComparison:
    """Compare the models of two studies over the tasks that they have in common (by name).

    *Agreement*: for each indicator of both (or these), the Spearman correlation of the two matrices of tasks
    and its permutation p. *Prompts*: `relative_prompt` of all pairs. *Texts*: debiased linear CKA of the bare
    models' embeddings of the same texts, a task at a time. *Neurons*: the best one-to-one mapping of those
    whose predictivity varies most over tasks, beside what shuffled tasks give.

    Raises InputError: fewer than three tasks in common.
    """
    tasks = tuple(name for name in a.settings.tasks if name in b.settings.tasks)
    if len(tasks) < FEWEST:
        raise InputError(
            f"two models are compared over at least {FEWEST} tasks, and these studies have "
            f"{len(tasks)} in common ({', '.join(tasks) or 'none'}): {', '.join(a.settings.tasks)} and "
            f"{', '.join(b.settings.tasks)}"
        )
    notes: list[str] = []
    agreements = _agreements(a.compare(names), b.compare(names), tasks, permutations, seed, notes)
    return ModelComparison(
        model_a=a.settings.model.name,
        model_b=b.settings.model.name,
        tasks=tasks,
        agreements=agreements,
        prompts=_relative(a, b, tasks, seed, notes),
        texts=_texts(a, b, tasks, notes),
        neurons=_neurons(a, b, tasks, seed, notes),
        notes=tuple(notes),
    )


def _agreements(
    left: Sequence[IndicatorMatrix],
    right: Sequence[IndicatorMatrix],
    tasks: Sequence[str],
    permutations: int,
    seed: int,
    notes: list[str],
) -> tuple[Agreement, ...]:
    other = {matrix.indicator: matrix for matrix in right}
    found, undefined = [], []
    for matrix in left:
        if matrix.indicator in other:
            pair = _part(matrix, tasks), _part(other[matrix.indicator], tasks)
            try:
                similarity = matrix_similarity(*pair, permutations=permutations, seed=seed)
            except indicators.InvalidInput:  # undefined or constant values: there is nothing to correlate
                undefined.append(matrix.indicator)
                continue
            found.append(Agreement(matrix.indicator, similarity))
    if undefined:
        notes.append(f"Undefined or the same for all pairs in one of the models: {', '.join(undefined)}.")
    return tuple(sorted(found, key=lambda one: -one.similarity.spearman))


def _part(matrix: IndicatorMatrix, tasks: Sequence[str]) -> NDArray[np.float64]:
    index = [matrix.tasks.index(task) for task in tasks]
    return matrix.values[np.ix_(index, index)]


def _relative(
    a: Pipeline, b: Pipeline, tasks: Sequence[str], seed: int, notes: list[str]
) -> RelativePrompts | None:
    words = shared_words(a.backbone, b.backbone, seed=seed)
    if len(words) < FEWEST:
        notes.append(f"Prompts are not compared: the tokenizers share {len(words)} words.")
        return None
    sides = [
        [(_mean_rows(prompts), anchors) for prompts in workspace.tune(list(tasks)).values()]
        for workspace, anchors in zip((a, b), _anchors(a.backbone, b.backbone, words), strict=True)
    ]
    values = indicators.matrix("relative_prompt", *sides)
    own, same = np.diag(values), np.eye(len(tasks), dtype=bool)
    return RelativePrompts(
        anchors=len(words),
        values=values,
        same=float(own.mean()),
        other=float(values[~same].mean()),
        found=float((values.argmax(axis=1) == np.arange(len(tasks))).mean()),
    )


def _mean_rows(prompts: Sequence[SoftPrompt]) -> NDArray[np.float64]:
    """The mean tokens of the seeds' prompts, [R, E]: `relative_prompt` reads no more of them."""
    return np.stack([prompt.rows.mean(axis=0) for prompt in prompts]).astype(np.float64)


def shared_words(a: Backbone, b: Backbone, most: int = ANCHORS, seed: int = 0) -> list[tuple[int, int]]:
    """Token ids in both models of whole words that both vocabularies have: at most so many, by seed."""
    left, right = _words(a), _words(b)
    common = sorted(set(left) & set(right))
    if len(common) > most:
        chosen = np.random.default_rng(seed).choice(len(common), most, replace=False)
        common = [common[i] for i in sorted(chosen)]
    return [(left[word], right[word]) for word in common]


def _words(backbone: Backbone) -> dict[str, int]:
    """Whole words of letters, as they stand after a blank, without the vocabulary's mark for it."""
    special = set(getattr(backbone.tokenizer, "all_special_tokens", []))
    vocabulary: dict[str, int] = backbone.tokenizer.get_vocab()
    marks = {mark for mark in ("\u0120", "\u2581") if any(token.startswith(mark) for token in vocabulary)}
    words = {}
    for token, number in vocabulary.items():
        mark = next((mark for mark in marks if token.startswith(mark)), "")
        word = token.removeprefix(mark)
        if token not in special and word.isalpha() and (mark or not marks):
            words[word] = number
    return words


def _anchors(a: Backbone, b: Backbone, words: Sequence[tuple[int, int]]) -> list[NDArray[np.float64]]:
    found = []
    for side, backbone in enumerate((a, b)):
        table = backbone.embeddings.detach()
        found.append(table[[pair[side] for pair in words]].double().cpu().numpy())
    return found


def _texts(a: Pipeline, b: Pipeline, tasks: Sequence[str], notes: list[str]) -> dict[str, float]:
    """Debiased CKA of the bare models on each task's texts, where both studies have the same data."""
    found = {}
    left, right = (pairing.profiles_of(workspace, ("texts",)) for workspace in (a, b))
    for name in tasks:
        pair = [side[name].inputs if name in side else None for side in (left, right)]
        if pair[0] is None or pair[1] is None or a.task(name).train != b.task(name).train:
            continue
        if len(pair[0]) == len(pair[1]):
            found[name] = indicators.get("cka_linear_debiased").function(*pair)
    missing = [name for name in tasks if name not in found]
    if missing:
        notes.append(f"Texts are not compared, since the studies' data differ: {', '.join(missing)}.")
    return found


def _neurons(
    a: Pipeline, b: Pipeline, tasks: Sequence[str], seed: int, notes: list[str]
) -> NeuronAlignment | None:
    profiles = []
    for workspace in (a, b):
        signatures = workspace.extract(list(tasks)) if workspace.with_data else {}
        if any(one.predictivity is None for one in signatures.values()) or not signatures:
            notes.append("Neurons are not aligned: not every task has predictivities in both studies.")
            return None
        stacked = np.stack([one.mean_predictivity.ravel() for one in signatures.values()])  # [T, L N]
        defined = stacked[:, np.isfinite(stacked).all(axis=0)]
        most = np.argsort(-defined.var(axis=0), kind="stable")[:NEURONS]
        profiles.append(defined[:, most])
    notes.append(
        f"Neurons: the {NEURONS} of each model whose predictivity varies most over tasks. With {len(tasks)} "
        "tasks the best of many neurons correlates by chance: read the value beside the baseline."
    )
    return align_neurons(*profiles, seed=seed)


def _tables(found: ModelComparison) -> list[Table]:
    rows: list[tuple[Cell, ...]] = [
        (one.indicator, one.similarity.spearman, one.similarity.pearson, one.similarity.p_value)
        for one in found.agreements
    ]
    title = f"Are the same tasks alike in {found.model_a} and {found.model_b}? ({len(found.tasks)} tasks)"
    tables = [Table(("indicator", "Spearman", "Pearson", "p (Mantel)"), tuple(rows), title, found.notes)]
    other: list[tuple[Cell, ...]] = []
    if found.prompts is not None:
        words = f"through {found.prompts.anchors} words that both know"
        other += [
            ("prompts of the same task", found.prompts.same, f"relative_prompt {words}"),
            ("prompts of different tasks", found.prompts.other, "the same"),
            ("nearest prompt is the same task's", found.prompts.found, f"chance {1 / len(found.tasks):.3g}"),
        ]
    other += [(f"texts of {name}", value, "debiased linear CKA") for name, value in found.texts.items()]
    if found.neurons is not None:
        shuffled = f"shuffled tasks {found.neurons.baseline_mean:.4f}, p {found.neurons.p_value:.3g}"
        other.append(("neurons by task profiles", found.neurons.correlation, shuffled))
    return [*tables, Table(("what", "value", "how"), tuple(other), "Across the models")] if other else tables


@exporter(ModelComparison, "json")
def models_json(found: ModelComparison) -> str:
    """{"model_a", "model_b", "tasks", "agreements", "prompts", "texts", "neurons", "notes"}."""
    neurons = found.neurons
    return json_text(
        {
            "model_a": found.model_a,
            "model_b": found.model_b,
            "tasks": found.tasks,
            "agreements": [{"indicator": one.indicator, **vars(one.similarity)} for one in found.agreements],
            "prompts": None if found.prompts is None else vars(found.prompts),
            "texts": dict(found.texts),
            "neurons": None
            if neurons is None
            else {
                name: getattr(neurons, name)
                for name in ("correlation", "baseline_mean", "baseline_std", "p_value", "permutations")
            },
            "notes": found.notes,
        }
    )


tabular(ModelComparison, _tables)
