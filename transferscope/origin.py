"""Where skill neurons come from: are those found with prompts crucial under other tuning methods, too?

The neurons that predict a task's labels under its prompts are perturbed while the task is done by other
methods that leave the FFN weights frozen. Controls stand in the same tables: a random-initialised model,
neurons found with random prompts, and neurons that are selective for single words.

Source: Wang et al., EMNLP 2022, where skill neurons originate from. There: adapters and BitFit; here LoRA on
attention and prefix tuning beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache, partial

import numpy as np

from indicators.predictivity import skill_mask
from transferscope import attachment, comparison, origin_material, store
from transferscope import methods as tuning_methods
from transferscope.errors import BackboneError
from transferscope.method_tuning import TunedMethod, tuned_with
from transferscope.models import Backbone
from transferscope.origin_material import FOLDER, INIT_SEED
from transferscope.origin_perturbation import (
    Chosen,
    Effect,
    Plan,
    Run,
    Subject,
    Values,
    clean_values,
    count_units,
    effects,
)
from transferscope.origin_report import (
    BY_WORDS,
    SKILL,
    OriginReport,
    Overlap,
    Performance,
    WordNeuron,
    number,
    overlap_of,
    top_of,
)
from transferscope.prompts import SoftPrompt
from transferscope.signatures import Signature
from transferscope.staleness import say_again
from transferscope.word_promotion import promoted_words
from transferscope.word_selectivity import WordSelectivity
from transferscope.workspace import Workspace

DEFAULT_METHODS = ("bitfit", "adapter", "lora")
PROMPT, RANDOM_INIT = "prompt", "prompt, random-initialised model"
FOUND_THERE, BY_RANDOM = "skill, found there", "found with random prompts"
TOP = 10  # neurons that are shown with their words
PROMOTED = 5  # words a neuron


def origin(
    workspace: Workspace,
    task: str,
    extract: Callable[[], Signature],
    *,
    methods: Sequence[str] | None = None,
    plan: Plan | None = None,
    learning_rate: float | None = None,
    controls: bool = True,
) -> OriginReport:
    """Perturb a task's skill neurons under its prompts and under other methods, with controls beside them.

    ``extract()`` gives the task's signature with the study's prompts: its predictivities choose the skill
    neurons at each rate, by layer. ``methods`` None: bitfit, adapter and lora, as far as the model can have
    them. Everything tuned and every unit measured is kept in the study. Raises StudyError (no such task, a
    generation task, a rate that means no neuron), InputError (an unknown method), BackboneError (a method
    asked for by name that the architecture cannot have; controls of a mixture of experts).
    """
    workspace.chosen([task])
    origin_material.require_classes(workspace, task)
    plan = plan or Plan()
    for name in methods or ():
        tuning_methods.get(name)
    if controls:
        origin_material.words_of(workspace, task)  # first: what no pass can give is said before tuning
    prompts, signature = workspace.tune([task])[task], extract()
    notes: list[str] = []
    tuned = _methods(workspace, task, methods, learning_rate, notes)
    study = _Study(workspace, task, prompts, signature, plan)
    subjects = [study.of_prompts(), *(study.of_method(name, several) for name, several in tuned.items())]
    skill = study.chosen(SKILL, signature.subtask_predictivity)
    choices = {subject.name: [skill] for subject in subjects}
    words, found = study.add_controls(subjects, choices) if controls else (None, {})
    measured = study.measure(subjects, choices)
    return OriginReport(
        task=task,
        model=workspace.settings.model.name,
        metric=workspace.task(task).metric,
        majority=workspace.task(task).majority,
        plan=plan,
        performances=tuple(study.performance(subject) for subject in subjects),
        effects=tuple(measured),
        predictivities=tuple(
            top_of(name, one, plan) for name, one in {"tuned prompts": signature, **_named(found)}.items()
        ),
        overlaps=tuple(study.overlaps(choices[PROMPT], found, words)),
        words=() if words is None else tuple(study.words(words.scores, words.words)),
        notes=tuple(notes),
    )


def _methods(
    workspace: Workspace, task: str, names: Sequence[str] | None, rate: float | None, notes: list[str]
) -> dict[str, list[TunedMethod]]:
    """The task tuned by each method; one that was not asked for by name may be left out, with a note."""
    found = {}
    for name in dict.fromkeys(DEFAULT_METHODS if names is None else names):
        try:
            found[name] = origin_material.tuned_methods(workspace, task, name, learning_rate=rate)
        except BackboneError as error:
            if names is not None:
                raise
            notes.append(f"{name} left out: {error}")
    return found


def _named(found: dict[str, Signature]) -> dict[str, Signature]:
    """Signatures of controls by what they were extracted under."""
    titles = {BY_RANDOM: "random prompts", FOUND_THERE: "prompts of the random-initialised model"}
    return {titles[name]: one for name, one in found.items()}


class _Study:
    """One task's study while it runs: what is perturbed, by which neurons, and the values that are there."""

    def __init__(
        self,
        workspace: Workspace,
        task: str,
        prompts: Sequence[SoftPrompt],
        signature: Signature,
        plan: Plan,
    ) -> None:
        self.workspace, self.name, self.task = workspace, task, workspace.task(task)
        self.prompts, self.signature, self.plan = prompts, signature, plan
        self.parameters: dict[str, int] = {}
        inputs = {
            "model": workspace.model_fingerprint,
            "task": self.task.fingerprint,
            "max_length": workspace.settings.max_length,
            "head": workspace.settings.head,
        }
        self.values = Values(self._path("values.json"), inputs)
        say_again(workspace.report, f"perturbing {task}", self.values.changed)

    def _path(self, file: str) -> store.Place:
        return self.workspace.study.path(FOLDER, store.checked_name(self.name), file)

    def chosen(self, name: str, scores: np.ndarray) -> Chosen:
        """The highest scores [L, N] or [C, L, N] of each layer at each rate."""
        return Chosen(name, {rate: skill_mask(scores, rate) for rate in self.plan.rates})

    def of_prompts(self) -> Subject:
        """The study's own prompts."""
        return self._prompts(PROMPT, self.prompts, lambda: self.workspace.backbone, "")

    def _prompts(
        self, name: str, prompts: Sequence[SoftPrompt], backbone: Callable[[], Backbone], where: str
    ) -> Subject:
        def run(prompt: SoftPrompt) -> Run:
            key = store.fingerprint(prompt.fingerprint, where)
            return Run(
                prompt.seed, key, lambda: nullcontext(attachment.attach(backbone(), prompt)), prompt.head
            )

        self.parameters[name] = prompts[0].rows.size
        return Subject(name, backbone, tuple(run(prompt) for prompt in prompts))

    def of_method(self, name: str, tuned: Sequence[TunedMethod]) -> Subject:
        """The task tuned by another method."""

        def run(one: TunedMethod) -> Run:
            places = tuning_methods.get(name).places(one.sizes)
            opened = lambda: tuned_with(self.workspace.backbone, one)  # noqa: E731
            return Run(one.seed, one.fingerprint, opened, one.head, places)

        self.parameters[name] = tuned[0].parameters
        return Subject(name, lambda: self.workspace.backbone, tuple(run(one) for one in tuned))

    def of_random_init(self) -> tuple[Subject, Signature]:
        """Prompts tuned on a random-initialised model, and their signature there."""
        backbone = cache(lambda: origin_material.random_backbone(self.workspace.backbone))
        prompts = origin_material.random_init_prompts(self.workspace, self.name, backbone)
        made_of = [prompt.fingerprint for prompt in prompts]
        signature = origin_material.signature_of(
            self.workspace, self.name, "random-init", made_of, lambda: prompts, backbone
        )
        where = f"random initialisation {INIT_SEED}"
        return self._prompts(RANDOM_INIT, prompts, backbone, where), signature

    def add_controls(
        self, subjects: list[Subject], choices: dict[str, list[Chosen]]
    ) -> tuple[WordSelectivity, dict[str, Signature]]:
        """Put the controls among subjects and choices; returns the words, and the signatures by choice."""
        words = origin_material.words_of(self.workspace, self.name)
        by_random = origin_material.random_prompt_signature(self.workspace, self.name, self.prompts[0])
        choices[PROMPT] += [
            self.chosen(BY_RANDOM, by_random.subtask_predictivity),
            self.chosen(BY_WORDS, words.scores),
        ]
        subject, there = self.of_random_init()
        subjects.append(subject)
        choices[subject.name] = [self.chosen(FOUND_THERE, there.subtask_predictivity)]
        return words, {BY_RANDOM: by_random, FOUND_THERE: there}

    def overlaps(
        self, choices: Sequence[Chosen], found: Mapping[str, Signature], words: WordSelectivity | None
    ) -> list[Overlap]:
        """How far the skill neurons, the first of the choices, are those of the controls at each rate."""
        scores = {name: one.mean_predictivity for name, one in found.items() if name != FOUND_THERE}
        if words is not None:
            scores[BY_WORDS] = words.scores
        masks, own = {choice.name: choice for choice in choices}, self.signature.mean_predictivity
        return [
            overlap_of(name, rate, choices[0], masks[name], own, values)
            for name, values in scores.items()
            for rate in self.plan.rates
        ]

    def measure(self, subjects: Sequence[Subject], choices: dict[str, list[Chosen]]) -> list[Effect]:
        """All effects; units that are there are read."""
        total = sum(count_units(choices[s.name], self.plan) * len(s.runs) for s in subjects)
        done, found = 0, []
        for subject in subjects:

            def progress(count: int, name: str = subject.name) -> None:
                nonlocal done
                done += count
                self.workspace.progress("origin", done, total, f"{self.name}: {name}")

            found += effects(
                self.workspace, self.name, subject, choices[subject.name], self.plan, self.values, progress
            )
        self.workspace.progress("origin", total, total, self.name)
        return found

    def performance(self, subject: Subject) -> Performance:
        """How well a subject does unperturbed."""
        values, majority = clean_values(subject, self.values), self.task.majority
        scores = [{"metric": self.task.metric, "dev": value, "majority": majority} for value in values]
        known = {"scores": scores, "dev_examples": len(self.task.dev)}
        return Performance(
            subject.name,
            tuple(run.seed for run in subject.runs),
            tuple(values),
            float(np.mean(values)),
            majority,
            comparison.no_better_than_majority(known),
            self.parameters[subject.name],
        )

    def words(self, selectivity: np.ndarray, best: np.ndarray) -> list[WordNeuron]:
        """The top skill neurons and the top word-selective ones, with their words."""
        predictivity = self.signature.mean_predictivity
        tops = {SKILL: _highest(predictivity), BY_WORDS: _highest(selectivity)}
        places = [place for several in tops.values() for place in several]
        words, promoted = self._words_at(places, best)
        return [
            WordNeuron(
                kind, layer, neuron, number(predictivity[layer, neuron]),
                number(selectivity[layer, neuron]), words[f"{layer}:{neuron}"],
                tuple(promoted[f"{layer}:{neuron}"]),
            )
            for kind, several in tops.items()
            for layer, neuron in several
        ]  # fmt: skip

    def _words_at(
        self, places: Sequence[tuple[int, int]], best: np.ndarray
    ) -> tuple[dict[str, str], dict[str, list[str]]]:
        """By "layer:neuron": the best word, and the words promoted; kept, so that it needs the model once."""
        file = self._path("promoted.json")
        inputs = {
            "model": self.workspace.model_fingerprint,
            "places": [list(place) for place in places],
            "words": [int(best[place]) for place in places],
        }
        known = store.read_json(file) if file.is_file() else {}
        if known.get("inputs") != store.json_ready(inputs):
            backbone = self.workspace.backbone
            names = partial(token_names, backbone)
            lists = promoted_words(backbone, places, PROMOTED)
            known = {
                "inputs": inputs,
                "words": {f"{p[0]}:{p[1]}": "".join(names([int(best[p])])) for p in places},
                "promoted": {
                    f"{p[0]}:{p[1]}": [word.word for word in several]
                    for p, several in zip(places, lists, strict=True)
                },
            }
            store.write_json(file, known, versioned=True)
        return known["words"], known["promoted"]


def token_names(backbone: Backbone, ids: Sequence[int]) -> list[str]:
    """Tokens as the tokenizer writes them; "#95" for a row of the embedding that has none, none for -1."""
    known = backbone.tokenizer.convert_ids_to_tokens([token for token in ids if token >= 0])
    return [name or f"#{token}" for token, name in zip((t for t in ids if t >= 0), known, strict=True)]


def _highest(scores: np.ndarray, top: int = TOP) -> list[tuple[int, int]]:
    """(layer, neuron) of the highest scores [L, N] that are defined, best first."""
    flat = np.where(np.isnan(scores), -np.inf, scores).ravel()
    order = np.argsort(-flat, kind="stable")[:top]
    layers, neurons = np.unravel_index(order[np.isfinite(flat[order])], scores.shape)
    return list(zip(layers.tolist(), neurons.tolist(), strict=True))
