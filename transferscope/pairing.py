"""The stage for indicators that read more than signatures: sources' prompts on targets' data, and profiles.

Both cost forward passes, so they run only when such an indicator is asked for. What they find is kept in the
study, pair by pair and task by task, with what it was made from; a run that was killed goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from indicators import Indicator, InvalidInput
from indicators.specificity import lape
from transferscope import comparison, needs, pair_comparison, ranking, store
from transferscope.activity import KEPT
from transferscope.comparison import IndicatorMatrix, Material
from transferscope.errors import IndicatorInputError, InputError
from transferscope.ordering import Ranking
from transferscope.pair_comparison import Column
from transferscope.pair_features import Extractor, PairFeatures, load_features, save_features, source_readout
from transferscope.pieces import Features, Profile
from transferscope.profiles import TaskProfile, load_profile, profile, save_profile
from transferscope.prompts import SoftPrompt
from transferscope.staleness import say_again
from transferscope.transfer import TransferMatrix
from transferscope.trials import score
from transferscope.workspace import Workspace, turn

FEATURES, PROFILES = "features", "profiles"
FISHER_SEED = 0


def concerns(name: str) -> bool:
    """Whether an indicator reads what this stage supplies. Raises IndicatorInputError: no such indicator."""
    record = needs.record(name)
    return needs.of_pair(record) or needs.of_profile(record)


def compare(
    workspace: Workspace, names: Sequence[str], materials: Callable[[], Sequence[Material]]
) -> list[IndicatorMatrix]:
    """All pairs of tasks by these indicators, in this order; ``materials`` are for those of signatures.

    A pair is NaN where its target has no data, or has not what an indicator reads. Raises
    IndicatorInputError (an unknown indicator, or no pair at all has what it reads), TaskError, TemplateError.
    """
    records = {name: needs.record(name) for name in dict.fromkeys(names)}
    plain = [name for name in records if not concerns(name)]
    found = list(comparison.compare_materials(materials(), plain)) if plain else []
    if pairs := [record for record in records.values() if needs.of_pair(record)]:
        found += compare_pairs(workspace, pairs)
    found += [compare_profiles(workspace, one) for one in records.values() if needs.of_profile(one)]
    by_name = {matrix.indicator: matrix for matrix in found}
    return [by_name[name] for name in records]


def compare_pairs(
    workspace: Workspace,
    records: Sequence[Indicator],
    *,
    targets: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
) -> list[IndicatorMatrix]:
    """These sources (None: all) on these targets (None: all with data), one target after the other."""
    goals = _readable(workspace, records, list(targets) if targets is not None else workspace.with_data)
    named = workspace.chosen(sources)
    with_own = any(record.convention != "score" for record in records)
    prompts = workspace.tune(list(dict.fromkeys([*named, *(goals if with_own else [])])))
    under = {target: dict.fromkeys([*named, *([target] if with_own else [])]) for target in goals}
    workspace.ahead([Features(target, source) for target, several in under.items() for source in several])
    columns: dict[str, Column] = {}
    for number, target in enumerate(goals):
        stored = TargetFeatures(workspace, target)

        def pairs(stored: TargetFeatures = stored, before: int = number) -> Iterator[Any]:
            for done, source in enumerate(named, start=1):
                yield source, [stored.get(source, prompt) for prompt in prompts[source]]
                done, total = before * len(named) + done, len(goals) * len(named)
                workspace.progress("features", done, total, f"{source} -> {stored.target}")

        own = [stored.get(target, prompt) for prompt in prompts[target]] if with_own else []
        columns[target] = pair_comparison.column(records, target, pairs(), own)
        if stored.extracted:
            workspace.report(f"extracted the features of {target} under {stored.extracted} prompts")
    return pair_comparison.matrices(records, list(workspace.settings.tasks), columns)


def _readable(workspace: Workspace, records: Sequence[Indicator], targets: Sequence[str]) -> list[str]:
    """The targets of which some indicator can read something: no classes, nothing for a label score.

    Raises IndicatorInputError where none remains.
    """
    kinds = {target: workspace.settings.tasks[target].kind for target in targets}
    missing = [[need for need in record.needs if need in needs.OF_CLASSES] for record in records]
    kept = [target for target in targets if kinds[target] != "generation" or not all(missing)]
    if targets and not kept:
        raise needs.refuse(records[0], targets[0], kinds[targets[0]], missing[0])
    return kept


class TargetFeatures:
    """One target's data under any prompt: read where it is current, else extracted and kept at once.

    ``features/<target>/<source>/<seed>.safetensors``; ``extracted`` counts what was not there.
    """

    def __init__(self, workspace: Workspace, target: str) -> None:
        self.workspace, self.target, self.extracted = workspace, target, 0
        self._said = False

    def get(self, source: str, prompt: SoftPrompt) -> PairFeatures:
        """The target's sample under a source's prompt. Raises StoreError for a damaged file."""
        inputs, path = self._inputs(source, prompt), self._path(source, prompt.seed)
        if path.is_file():
            found, provenance = load_features(path)
            changed = store.stale_reason(provenance.get("inputs") or {}, inputs)
            if not changed:
                return found
            if not self._said:
                say_again(self.workspace.report, f"extracting features of {self.target}", changed)
                self._said = True
        workspace = self.workspace
        task = workspace.task(source) if workspace.settings.tasks[source].has_data else None
        found = self._extractor.extract(
            prompt,
            layers=workspace.settings.features.layers,
            head=source_readout(workspace.backbone, prompt, task),
        )
        names = {"source": source, "target": self.target, "seed": prompt.seed}
        save_features(found, path, {**names, "inputs": inputs})
        self.extracted += 1
        return found

    def _path(self, source: str, seed: int) -> store.Place:
        folders = [store.checked_name(name) for name in (self.target, source)]
        return self.workspace.study.path(FEATURES, *folders, f"{seed}.safetensors")

    def _inputs(self, source: str, prompt: SoftPrompt) -> dict[str, Any]:
        settings = self.workspace.settings
        words = self.workspace.task(source).words if settings.tasks[source].has_data else None
        return {
            **_of_task(self.workspace, self.target),
            "prompt": prompt.fingerprint,
            "source_words": words,
            "layers": settings.features.layers,
        }

    @cached_property
    def _extractor(self) -> Extractor:
        settings = self.workspace.settings
        return Extractor(
            self.workspace.backbone,
            self.workspace.task(self.target),
            examples=settings.features.examples,
            max_length=settings.max_length,
            token_budget=settings.token_budget,
        )


def _of_task(workspace: Workspace, name: str) -> dict[str, Any]:
    """What all that is read of a task's sample depends on."""
    return {
        "model": workspace.model_fingerprint,
        "task": workspace.task(name).fingerprint,
        "max_length": workspace.settings.max_length,
        "examples": workspace.settings.features.examples,
    }


def compare_profiles(workspace: Workspace, record: Indicator) -> IndicatorMatrix:
    """All pairs of the tasks whose profiles have what an indicator reads; the others are NaN.

    Raises IndicatorInputError where no profile has it.
    """
    tasks = tuple(workspace.settings.tasks)
    usable, without = _usable(record, profile_materials(workspace, record))
    if not usable:
        first = without[0]
        missing = [need for need in record.needs if need not in first.inputs]
        raise needs.refuse(record, first.task, first.kind, missing)
    if names := ", ".join(material.task for material in without):
        workspace.report(f"no {record.name} of {names}: no {' and '.join(record.needs)} there")
    (matrix,) = comparison.compare_materials(usable, [record.name])
    values = np.full((len(tasks), len(tasks)), np.nan)
    place = [tasks.index(task) for task in matrix.tasks]
    values[np.ix_(place, place)] = matrix.values
    return IndicatorMatrix(record.name, tasks, values)


def profile_materials(workspace: Workspace, record: Indicator) -> list[Material]:
    """What an indicator of profiles reads of each task; nothing of one without data."""
    settings = workspace.settings
    profiles = profiles_of(workspace, needs.parts(record))
    masks = _specific(profiles) if "lape_mask" in record.needs else {}
    found = []
    for name, spec in settings.tasks.items():
        several = {need: profiles[name].items(need) for need in record.needs} if name in profiles else {}
        several |= {"lape_mask": [masks[name]]} if name in masks else {}
        inputs = {need: items for need, items in several.items() if items}
        known = [comparison.own_score(p.provenance) for p in workspace.loaded.get(name, ())]
        scores = [score for score in known if score is not None]
        own = float(np.mean(scores)) if known and len(scores) == len(known) else None
        model = workspace.model_fingerprint if name in profiles else ""
        found.append(Material(name, inputs, model, workspace.types.get(name), own, kind=spec.kind))
    return found


def _specific(profiles: Mapping[str, TaskProfile]) -> dict[str, np.ndarray]:
    """The neurons specific to each of three tasks or more, bool [L, N]. Raises IndicatorInputError."""
    firing = {name: one.firing.mean(axis=0) for name, one in profiles.items() if one.firing is not None}
    try:
        found = lape(list(firing.values()))
    except InvalidInput as error:
        raise IndicatorInputError(f"the indicator 'lape' cannot be computed: {error}") from None
    return dict(zip(firing, found.masks, strict=True))


def _usable(record: Indicator, materials: Sequence[Material]) -> tuple[list[Material], list[Material]]:
    """Those that have all that an indicator reads, and the others."""
    whole = [set(record.needs) <= set(material.inputs) for material in materials]
    with_all = [material for material, there in zip(materials, whole, strict=True) if there]
    return with_all, [material for material, there in zip(materials, whole, strict=True) if not there]


def profiles_of(workspace: Workspace, parts: Sequence[str]) -> dict[str, TaskProfile]:
    """The profiles of all tasks with data, with these parts; prompts are tuned if a part runs them."""
    names = workspace.with_data
    own = any(part != "texts" for part in parts)
    prompts = workspace.tune(names) if own and names else {}
    workspace.ahead([Profile(name, tuple(parts)) for name in names])
    found = {}
    for number, name in enumerate(names):
        progress = turn(workspace.progress, "profile", number, len(names))
        found[name] = profile_of(workspace, name, prompts.get(name, ()), parts, progress)
    return found


def profile_of(
    workspace: Workspace,
    name: str,
    prompts: Sequence[SoftPrompt],
    parts: Sequence[str],
    progress: Callable[[int, int, str], None] | None = None,
) -> TaskProfile:
    """``profiles/<task>.safetensors``: the parts that are current are read, the others are added."""
    settings = workspace.settings
    path = workspace.study.path(PROFILES, f"{store.checked_name(name)}.safetensors")
    known = load_profile(path) if path.is_file() else TaskProfile(name)
    made = dict(known.provenance.get("parts") or {})
    wanted = {part: _part_inputs(workspace, name, prompts, part) for part in parts}
    changed = {part: store.stale_reason(made.get(part, {}), inputs) for part, inputs in wanted.items()}
    missing = [part for part in parts if changed[part] or part not in made]
    if not missing:
        return known
    again = [line for part in missing if part in made for line in changed[part]]
    say_again(workspace.report, f"profiling {name}", list(dict.fromkeys(again)))
    new = profile(
        workspace.backbone,
        workspace.task(name),
        prompts,
        parts=missing,
        examples=settings.features.examples,
        max_length=settings.max_length,
        token_budget=settings.token_budget,
        fisher_labels=settings.features.fisher_labels,
        seed=FISHER_SEED,
        progress=progress,
    )
    arrays = {need: getattr(new, need) for part in missing for need in needs.PROFILE[part]}
    made |= {part: wanted[part] for part in missing}
    merged = replace(known, **arrays, seeds=new.seeds or known.seeds, provenance={"parts": made})
    save_profile(merged, path)
    workspace.report(f"profiled {name}: {', '.join(missing)}")
    return merged


def _part_inputs(workspace: Workspace, name: str, prompts: Sequence[SoftPrompt], part: str) -> dict[str, Any]:
    inputs = _of_task(workspace, name)
    if part != "texts":
        inputs["prompts"] = [prompt.fingerprint for prompt in prompts]
    if part == "activity":
        inputs["kept"] = KEPT
    if part == "gradients":
        inputs |= {"fisher_labels": workspace.settings.features.fisher_labels, "seed": FISHER_SEED}
    return inputs


def ranked(
    workspace: Workspace,
    target: str,
    name: str,
    *,
    transfer: TransferMatrix | None = None,
    prefer_same_type: bool = False,
) -> Ranking:
    """The sources for a target by an indicator of pairs or profiles; only what concerns this target is run.

    A label score needs no prompt of the target, an indicator of texts no prompts at all. Raises InputError
    (no source), TaskError (a target without data), IndicatorInputError (the target lacks what is read).
    """
    record = needs.record(name)
    others = [task for task in workspace.settings.tasks if task != target]
    if not others:
        raise InputError(f"there is no source for {target!r}: at least one other task is needed")
    workspace.task(target)  # says so where it has no data
    beside: dict[str, Any] = {
        "indicator": name,
        "transfer": transfer,
        "types": workspace.types or None,
        "prefer_same_type": prefer_same_type,
    }
    if needs.of_pair(record):
        (matrix,) = compare_pairs(workspace, [record], targets=[target], sources=others)
        found = ranking.rank_values(target, [matrix], notes=[_about(record, target)], **beside)
    else:
        usable, without = _usable(record, profile_materials(workspace, record))
        comparison.find(name, [one for one in without if one.task == target])
        if needs.WITHOUT_TRIALS.issuperset(record.needs):
            values = _towards(record, target, usable)
            found = ranking.rank_values(target, [values], notes=[_about(record, target)], **beside)
        else:
            found = ranking.rank_materials(target, usable, **beside)
    there = {source.source for source in found.sources}
    left = [task for task in others if task not in there]
    notes = [f"Left out, since they have no {name}: {', '.join(left)}."] if left else []
    notes = [*found.notes, *notes, *_weak(workspace, others)]
    return replace(found, model=workspace.settings.model.name, notes=tuple(notes))


def _towards(record: Indicator, target: str, materials: Sequence[Material]) -> IndicatorMatrix:
    """The column of one target: all other pairs are NaN."""
    tasks = tuple(material.task for material in materials)
    (goal,) = (material for material in materials if material.task == target)
    values = np.full((len(tasks), len(tasks)), np.nan)
    for i, material in enumerate(materials):
        if material is not goal:
            values[i, tasks.index(target)] = score(record, material, goal)
    return IndicatorMatrix(record.name, tasks, values)


def _about(record: Indicator, target: str) -> str:
    name = record.name
    if not needs.of_pair(record):
        return f"Indicator {name}: asked for. One value a task: no trials, so no interval and no ties."
    return (
        f"Indicator {name}: asked for. It reads the train split of {target!r} under each source's prompt: "
        "the mean over seeds, so no interval, and no telling which sources tie."
    )


def _weak(workspace: Workspace, names: Sequence[str]) -> list[str]:
    """A note on sources whose prompts are no better than a blind guess."""
    weak = []
    for name, several in workspace.loaded.items():
        if name in names and workspace.settings.tasks[name].has_data:
            given = [prompt.provenance.get("scores") for prompt in several]
            scores = [one if isinstance(one, Mapping) else {} for one in given]
            known: Mapping[str, Any] = {"scores": scores, "dev_examples": len(workspace.task(name).dev)}
            weak += [name] if comparison.no_better_than_majority(known) else []
    return [f"{ranking.WEAK}: {', '.join(weak)}."] if weak else []
