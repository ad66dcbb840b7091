"""Signatures (or prompts alone) x indicators -> IndicatorMatrix: how alike are all pairs of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import indicators
from indicators import Indicator, InvalidInput
from transferscope import needs
from transferscope import prompts as soft_prompts
from transferscope.adapters import Update, load_adapter
from transferscope.errors import IndicatorInputError, InputError, PromptError, SignatureError, suggest
from transferscope.files import AnyPath, Place, place

if TYPE_CHECKING:  # signatures.py imports torch, and records made elsewhere are as good
    from transferscope.prompts import SoftPrompt
    from transferscope.signatures import Signature

Array = NDArray[Any]
Floats = NDArray[np.float64]

COLUMNS = ("indicator", "source", "target", "value")

# Averaged over trials before the indicator is computed, as Wang et al. define predictivity, and as rates of
# firing are; of all other needs every pair of trials is compared and the values are averaged.
POOLED = frozenset({"predictivity", "firing"})

# These read how strong a stimulation is. All others ask only whether a neuron is active, which in a gated FFN
# is the gate's sign, not the value's.
READ_STRENGTH = frozenset({"on_raw"})

SUPPLIERS = needs.SUPPLIERS


@dataclass(frozen=True)
class IndicatorMatrix:
    """One indicator over all pairs: values [sources, targets] float64; larger means "transfers better"."""

    indicator: str
    tasks: tuple[str, ...]
    values: Floats


@dataclass(frozen=True)
class Material:
    """What is known of one task, as indicators read it: for each need one item for each of R trials.

    An item is an array, of "update" a mapping (see `adapters.Update.pairs`). ``adapter`` is the kind of
    adapter that was read from a folder.
    """

    task: str
    inputs: Mapping[str, Sequence[Any]]
    model: str = ""
    type: str | None = None
    own: float | None = None
    where: str = ""
    active: Sequence[Array] = field(default_factory=tuple)
    kind: str = "classification"
    adapter: str = ""

    @property
    def trials(self) -> int:
        """R."""
        return max((len(arrays) for arrays in self.inputs.values()), default=0)


def from_signature(signature: Signature) -> Material:
    """A signature as material; its trials' prompts [P', E], stimulations [L, N], predictivities [C, L, N]."""
    inputs: dict[str, Sequence[Array]] = {"stimulation": list(signature.stimulation)}
    # A source that is no soft prompt (an adapter, say) has no rows to compare.
    if signature.prompts is not None and signature.prompts.size:
        inputs["prompt"] = list(signature.prompts)
    if signature.predictivity is not None:
        inputs["predictivity"] = list(signature.predictivity)
    kind = signature.provenance.get("type")
    own = own_score(signature.provenance)
    active = list(signature.active) if signature.active is not None else []
    task_kind = str(signature.provenance.get("kind") or "classification")
    return Material(signature.task, inputs, signature.model, kind, own, "", active, task_kind)


def from_prompts(task: str, several: Sequence[SoftPrompt | Update], where: str = "") -> Material:
    """The prompts (or LoRA or IA3 adapters) of one task, one for each trial, as material."""
    first = several[0].provenance
    scores = [score for prompt in several if (score := own_score(prompt.provenance)) is not None]
    own = float(np.mean(scores)) if len(scores) == len(several) else None
    model = str(first.get("model_fingerprint") or first.get("model") or "")
    inputs: dict[str, list[Any]] = {}
    for one in several:
        need, item = ("update", one.pairs()) if isinstance(one, Update) else ("prompt", one.rows)
        inputs.setdefault(need, []).append(item)
    adapter = several[0].kind if isinstance(several[0], Update) else "soft prompt"
    return Material(task, inputs, model, first.get("task_type"), own, where, adapter=adapter)


def own_score(provenance: Mapping[str, Any]) -> float | None:
    """A task's own dev score: `scores` is {"dev": number or one per seed}, or one such mapping per seed."""
    scores = provenance.get("scores")
    if isinstance(scores, Mapping) and "dev" not in scores:
        scores = list(scores.values())  # by seed
    several = [scores] if isinstance(scores, Mapping) else scores if isinstance(scores, list | tuple) else []
    found = [one["dev"] if isinstance(one, Mapping) and "dev" in one else one for one in several]
    try:
        values = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return float(values.mean()) if values.size and np.isfinite(values).all() else None


def no_better_than_majority(provenance: Mapping[str, Any]) -> bool:
    """Whether a task's accuracy is within two standard errors of its majority class's; False if not known."""
    scores, examples = provenance.get("scores"), provenance.get("dev_examples")
    own = own_score(provenance)
    if own is None or not examples or not isinstance(scores, list) or scores[0].get("metric") != "accuracy":
        return False
    majority = float(scores[0].get("majority", 0.0))
    return own < majority + 2 * (majority * (1 - majority) / examples) ** 0.5


def compare(signatures: Sequence[Signature], names: Sequence[str] | None = None) -> list[IndicatorMatrix]:
    """All pairs of signatures by each indicator.

    `names` None takes all that can be computed, ON by groups of three layers included. Over trials: the mean
    over all pairs of trials (of different trials for a task with itself); an indicator that needs
    predictivity alone reads its mean over trials (Wang et al., EMNLP 2022).

    Raises SignatureError (none, a task twice, different backbones), IndicatorInputError (unknown name, a need
    that is missing, shapes that an indicator asked for cannot take).
    """
    return compare_materials([from_signature(signature) for signature in signatures], names)


def compare_prompts(
    prompts: Mapping[str, Array], names: Sequence[str] | None = None
) -> list[IndicatorMatrix]:
    """All pairs of prompts [P, D] (or of each task's trials [R, P, D]) by each prompt-space indicator."""
    several = {task: np.asarray(rows) for task, rows in prompts.items()}
    inputs = {task: list(rows) if rows.ndim == 3 else [rows] for task, rows in several.items()}
    return compare_materials([Material(task, {"prompt": rows}) for task, rows in inputs.items()], names)


def compare_folders(folders: Sequence[AnyPath], names: Sequence[str] | None = None) -> list[IndicatorMatrix]:
    """All pairs of the PEFT prompts in these folders, or at most three levels below them."""
    return compare_materials(read_folders(folders), names)


def compare_materials(
    materials: Sequence[Material], names: Sequence[str] | None = None
) -> list[IndicatorMatrix]:
    """`compare`, on what every kind of source is turned into."""
    check_together(materials)
    tasks = tuple(material.task for material in materials)
    if names is not None:
        records = [find(name, materials) for name in dict.fromkeys(names)]
    else:
        records = [record for record in available(materials) if fits(record, materials)]
    return [IndicatorMatrix(record.name, tasks, all_pairs(record, materials)) for record in records]


def check_together(materials: Sequence[Material]) -> None:
    """Raises SignatureError unless there is something, each task once, all of one backbone and kind."""
    if not materials:
        raise SignatureError("there is nothing to compare: no signature or prompt was given")
    _check_kinds(materials)
    seen: set[str] = set()
    for material in materials:
        if material.task in seen:
            raise SignatureError(f"task {material.task!r} is given twice; each task is compared once")
        seen.add(material.task)
        first = materials[0]
        if material.model and first.model and _model_name(material.model) != _model_name(first.model):
            raise SignatureError(
                f"{first.task!r} is of the backbone {first.model!r} and {material.task!r} of "
                f"{material.model!r}: only sources of one backbone can be compared"
            )
    _check_widths(materials)


def _check_kinds(materials: Sequence[Material]) -> None:
    """No indicator is for two kinds of adapter, so say which folders are which."""
    kinds: dict[str, list[str]] = {}
    for material in materials:
        if material.adapter:
            kinds.setdefault(material.adapter, []).append(material.where or material.task)
    if len(kinds) > 1:
        shown = [
            f"{kind}: {', '.join(where[:4])}" + (f" and {len(where) - 4} more" if len(where) > 4 else "")
            for kind, where in kinds.items()
        ]
        raise SignatureError(
            f"adapters of one kind can be compared, and here are {len(kinds)} ({'; '.join(shown)})"
        )


def _model_name(model: str) -> str:
    """Hub ids and local folders of one model differ in what stands before the last slash."""
    return model.rstrip("/\\").replace("\\", "/").rpartition("/")[2].lower()


def _check_widths(materials: Sequence[Material]) -> None:
    widths = {m.task: m.inputs["prompt"][0].shape[-1] for m in materials if "prompt" in m.inputs}
    for task, width in widths.items():
        first = next(iter(widths))
        if width != widths[first]:
            raise SignatureError(
                f"the prompt of {first!r} is {widths[first]} wide and that of {task!r} {width}: they are of "
                "different backbones, and only sources of one backbone can be compared"
            )


def have(materials: Sequence[Material]) -> set[str]:
    """The needs that every material supplies."""
    return set.intersection(*(set(material.inputs) for material in materials))


def available(materials: Sequence[Material]) -> list[Indicator]:
    """The indicators whose needs are there, in the registry's order; ON by layer groups last."""
    supplied = have(materials)
    records = [indicators.get(name) for name in indicators.names(needs=supplied)]
    if "stimulation" in supplied:
        layers = materials[0].inputs["stimulation"][0].shape[0]
        groups = indicators.layer_groups(layers)
        records += [indicators.get(name) for name in groups if len(groups) > 1]
    return records


def find(name: str, materials: Sequence[Material]) -> Indicator:
    """The record of an indicator by name; IndicatorInputError if it is unknown or a need is missing."""
    record = needs.record(name)
    for material in materials:
        missing = [need for need in record.needs if need not in material.inputs]
        if missing:
            raise needs.refuse(record, material.task, material.kind, missing)
    return record


def fits(record: Indicator, materials: Sequence[Material]) -> bool:
    """Whether prompts of these lengths can be compared by it."""
    if "prompt" not in record.needs or not record.requires_equal_rows:
        return True
    return len({rows.shape for material in materials for rows in material.inputs["prompt"]}) == 1


def items(record: Indicator, material: Material) -> list[Any]:
    """What the indicator reads of a task: an item a trial, or one in all if it needs pooled arrays alone."""
    pooled = {need: nan_mean(material.inputs[need]) for need in record.needs if need in POOLED}
    if set(record.needs) <= POOLED:
        return [_item([pooled[need] for need in record.needs])]
    inputs = dict(material.inputs)
    if material.active and record.name not in READ_STRENGTH:
        inputs["stimulation"] = material.active
    return [
        _item([pooled[need] if need in POOLED else inputs[need][trial] for need in record.needs])
        for trial in range(material.trials)
    ]


def _item(arrays: list[Array]) -> Any:
    return arrays[0] if len(arrays) == 1 else tuple(arrays)


def nan_mean(arrays: Sequence[Array]) -> Floats:
    """Mean over trials of the cells that are defined; NaN where none is."""
    stacked = np.asarray(arrays, dtype=np.float64)
    defined = np.isfinite(stacked)
    count = defined.sum(axis=0)
    total = np.where(defined, stacked, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def pair_values(record: Indicator, sources: Sequence[Any], targets: Sequence[Any], **options: Any) -> Floats:
    """Values of all pairs of items [sources, targets]; the one place where a distance is negated."""
    try:
        raw = indicators.matrix(record.name, sources, targets, **options)
    except InvalidInput as error:
        raise IndicatorInputError(f"the indicator {record.name!r} cannot be computed: {error}") from None
    return np.asarray(raw if record.higher_is_closer else 0.0 - raw, dtype=np.float64)


def all_pairs(record: Indicator, materials: Sequence[Material], **options: Any) -> Floats:
    """All pairs of tasks [T, T]: means over pairs of trials, of different trials for a task with itself."""
    several = [items(record, material) for material in materials]
    flat = [item for one in several for item in one]
    values = pair_values(record, flat, flat, **options)  # [sum R, sum R]
    ends = np.cumsum([0, *map(len, several)])
    result = np.empty((len(several), len(several)))
    for i in range(len(several)):
        for j in range(len(several)):
            block = values[ends[i] : ends[i + 1], ends[j] : ends[j + 1]]  # [R_i, R_j]
            if i == j and len(block) > 1:
                block = block[~np.eye(len(block), dtype=bool)]
            result[i, j] = block.mean()
    return result


def read_folders(folders: Sequence[AnyPath], *, without: Iterable[AnyPath] = ()) -> list[Material]:
    """The PEFT prompts in these folders as material: seeds of one task together, each other folder by itself.

    LoRA and IA3 adapters are read too. `without` are folders left out. Names that would collide are made
    longer by what stands before them in the path. Raises PromptError if nothing remains.
    """
    left_out = {place(path).resolve() for path in without}
    paths = [path for path in soft_prompts.find_prompts(folders) if path.resolve() not in left_out]
    if not paths:
        raise PromptError(f"no prompts in {', '.join(map(str, folders))} beside the target's own")
    groups: dict[tuple[str, str], list[tuple[Place, SoftPrompt | Update]]] = {}
    for path in paths:
        adapter = load_adapter(path)
        kind = adapter.kind if isinstance(adapter, Update) else ""
        groups.setdefault((adapter.task, kind), []).append((path, adapter))
    found = []
    for (task, _), members in groups.items():
        if len({adapter.seed for _, adapter in members}) == len(members):
            several = [adapter for _, adapter in members]
            found.append(from_prompts(task, several, str(members[0][0])))
        else:
            names = _distinct([path for path, _ in members])
            found += [from_prompts(n, [one], str(at)) for n, (at, one) in zip(names, members, strict=True)]
    return found


def _distinct(paths: Sequence[Place]) -> list[str]:
    """The shortest endings of the paths that tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(2, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def to_rows(matrices: Iterable[IndicatorMatrix]) -> Iterator[tuple[str, str, str, float]]:
    """Long rows in the order of COLUMNS."""
    for matrix in matrices:
        for i, source in enumerate(matrix.tasks):
            for j, target in enumerate(matrix.tasks):
                yield matrix.indicator, source, target, float(matrix.values[i, j])


def from_rows(rows: Iterable[Mapping[str, Any]], where: str = "indicators") -> list[IndicatorMatrix]:
    """Matrices from long rows (keys: COLUMNS); a pair that is not there is NaN. InputError names the row."""
    cells: dict[str, dict[tuple[str, str], float]] = {}
    for number, row in enumerate(rows, start=1):
        missing = [column for column in COLUMNS if row.get(column) is None]
        if missing:
            raise InputError(
                f"{where}, row {number}: no {', '.join(missing)}. {suggest(missing[0], map(str, row))}"
            )
        pair = (str(row["source"]), str(row["target"]))
        of_indicator = cells.setdefault(str(row["indicator"]), {})
        if pair in of_indicator:
            raise InputError(
                f"{where}, row {number}: {row['indicator']} of {pair[0]} -> {pair[1]} is given twice"
            )
        try:
            of_indicator[pair] = float(row["value"]) if row["value"] != "" else float("nan")
        except (TypeError, ValueError):
            raise InputError(
                f"{where}, row {number}: value is {row['value']!r}, which is not a number"
            ) from None
    return [_from_cells(name, of_indicator) for name, of_indicator in cells.items()]


def _from_cells(name: str, cells: Mapping[tuple[str, str], float]) -> IndicatorMatrix:
    tasks = tuple(dict.fromkeys(task for pair in cells for task in pair))
    values = np.array([[cells.get((s, t), np.nan) for t in tasks] for s in tasks])
    return IndicatorMatrix(name, tasks, values)
