"""What a library keeps of a signature, and the indicators that can be computed from that alone.

A sketch of 36,864 neurons takes some 12 KB: bits of the active neurons of each trial, bits of the skill
neurons, and the direction of each trial's mean virtual token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from indicators import kernels
from transferscope import needs, packed
from transferscope.errors import IndicatorInputError, SignatureError, suggest
from transferscope.fingerprints import fingerprint
from transferscope.segments import DTYPES, Entry, Index
from transferscope.skill_sets import RATE

if TYPE_CHECKING:  # signatures.py imports torch, which a query of what is stored does not need
    from transferscope.signatures import Signature

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """How a library computes an indicator: from which column, and from what two rows share.

    ``value``: (shared [S, T], sizes [S, G] and [T, G], N) -> [S, T]; for directions, `shared` is the inner
    product. Larger is closer.
    """

    column: str
    need: str
    value: Callable[[Floats, Floats, Floats, int], Floats]


def _ochiai(shared: Floats, a: Floats, b: Floats, neurons: int) -> Floats:
    return kernels.ochiai(shared, *_totals(a, b))


def _jaccard(shared: Floats, a: Floats, b: Floats, neurons: int) -> Floats:
    return kernels.jaccard(shared, *_totals(a, b))


def _kappa(shared: Floats, a: Floats, b: Floats, neurons: int) -> Floats:
    """Shared neurons beyond chance, layer by layer, as `skill_overlap` has it."""
    expected, most = a @ b.T / neurons, sum(_totals(a, b)) / 2.0
    free = most - expected > 1e-9
    return np.asarray(np.where(free, (shared - expected) / np.where(free, most - expected, 1.0), 0.0))


def _cosine(inner: Floats, a: Floats, b: Floats, neurons: int) -> Floats:
    return np.clip(inner, -1.0, 1.0)


def _totals(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    return a.sum(axis=1)[:, None], b.sum(axis=1)[None, :]


MEASURES: Mapping[str, Measure] = {
    "on": Measure("active", "stimulation", _ochiai),
    "on_jaccard": Measure("active", "stimulation", _jaccard),
    "skill_jaccard": Measure("skills", "predictivity", _jaccard),
    "skill_overlap": Measure("skills", "predictivity", _kappa),
    "prompt_cosine_mean_token": Measure("directions", "prompt", _cosine),
}


def measure(indicator: str) -> Measure:
    """How a library computes an indicator. Raises IndicatorInputError: unknown, or not from a sketch."""
    needs.record(indicator)
    if indicator not in MEASURES:
        raise IndicatorInputError(
            f"a library cannot compute {indicator!r}: it keeps no more than active neurons, skill neurons "
            f"and the prompts' mean tokens. {suggest(indicator, MEASURES)}"
        )
    return MEASURES[indicator]


@dataclass(frozen=True)
class Sketch:
    """What a library keeps of one signature: its entry, and its rows of each column (`segments.DTYPES`).

    active uint8 [R, B], skills uint8 [1, B] and skill_sizes int32 [1, L] (no row without predictivity),
    directions float32 [R, E] (no row where there is no prompt).
    """

    entry: Entry
    model: str
    shape: tuple[int, int]
    columns: Mapping[str, Array]

    @property
    def width(self) -> int | None:
        """E, None where there is no prompt."""
        return self.columns["directions"].shape[1] if self.entry.prompts else None

    @property
    def bytes(self) -> int:
        """How much it takes."""
        return sum(array.nbytes for array in self.columns.values())


def of_signature(signature: Signature, *, name: str | None = None, source: str = "") -> Sketch:
    """The sketch of a signature, which is called `name` (default: its task) in the library.

    Raises SignatureError where its arrays are not those of a signature, or hold no finite numbers.
    """
    active = signature.active if signature.active is not None else signature.stimulation > 0
    columns = {"active": packed.pack(_sets(active, signature.task))}
    columns |= _skills(signature, active.shape[1:]) | {"directions": _directions(signature)}
    found = {column: np.ascontiguousarray(columns[column], dtype) for column, dtype in DTYPES.items()}
    kind = signature.provenance.get("type")
    entry = Entry(
        task=_checked(signature.task if name is None else name),
        type=None if kind is None else str(kind),
        seeds=tuple(int(seed) for seed in signature.seeds),
        source=source,
        fingerprint=fingerprint(signature.task, signature.model, list(signature.seeds), found),
        trials=len(active),
        skills=bool(len(found["skills"])),
        prompts=bool(len(found["directions"])),
    )
    return Sketch(entry, signature.model, (active.shape[1], active.shape[2]), found)


def _checked(name: str) -> str:
    if not name.strip() or any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in name):
        raise SignatureError(f"{name!r} cannot name a task: it is empty or holds a control character")
    return name


def _sets(active: Array, task: str) -> Array:
    if active.ndim != 3 or not active.size or active.dtype != np.bool_:
        raise SignatureError(
            f"the active neurons of {task!r} are {active.dtype} {list(active.shape)}: bool [R, L, N] is "
            "needed"
        )
    return active


def _skills(signature: Signature, shape: tuple[int, ...]) -> dict[str, Array]:
    """One set of skill neurons, of the mean over trials (Wang et al., EMNLP 2022)."""
    if signature.predictivity is None:
        return {
            "skills": np.zeros((0, packed.width(int(np.prod(shape))))),
            "skill_sizes": np.zeros((0, shape[0])),
        }
    mask = signature.skill_mask(RATE)
    if mask.shape != shape:
        raise SignatureError(
            f"{signature.task!r} has predictivities [L, N] = {list(mask.shape)} and active neurons "
            f"{list(shape)}: one network's are needed"
        )
    return {"skills": packed.pack(mask[None]), "skill_sizes": mask.sum(axis=1)[None]}


def _directions(signature: Signature) -> Array:
    prompts = signature.prompts
    if prompts is None or not prompts.size:  # an adapter's signature, say
        return np.zeros((0, 0))
    if not np.isfinite(prompts).all():
        raise SignatureError(f"the prompts of {signature.task!r} hold numbers that are not finite")
    return kernels.unit(prompts.astype(np.float64).mean(axis=1))  # [R, E]


def rows_of_array(array: Array, one: Measure, index: Index) -> tuple[Array, Floats]:
    """The rows of a query given as an array, and the sizes of its sets by group of neurons [R, G].

    Sets are bool [L, N] or [R, L, N], prompts floats [P, E] or [R, P, E]. Raises SignatureError.
    """
    several = np.asarray(array)
    several = several[None] if several.ndim == 2 else several
    if one.column == "directions":
        good = several.dtype.kind == "f" and several.ndim == 3 and several.shape[2] == index.width
        if not good or not several.size or not np.isfinite(several).all():
            raise _unfit(array, f"finite floats [P, {index.width}] or [R, P, {index.width}]")
        return kernels.unit(several.astype(np.float64).mean(axis=1)), np.zeros((len(several), 1))
    shape = (index.layers, index.neurons)
    if several.dtype != np.bool_ or several.ndim != 3 or several.shape[1:] != shape or not len(several):
        raise _unfit(array, f"bool [{shape[0]}, {shape[1]}], or [R, {shape[0]}, {shape[1]}]")
    return packed.pack(several), several.sum(axis=2).astype(np.float64)


def _unfit(array: Array, wanted: str) -> SignatureError:
    found = np.asarray(array)
    return SignatureError(f"a query of {found.dtype} {list(found.shape)} does not fit the library: {wanted}")


def sizes(sketch: Sketch, one: Measure) -> Floats:
    """The sizes of a sketch's sets in the column that a measure reads, by group of neurons, [R, G]."""
    rows = sketch.columns[one.column]
    if one.column == "directions":
        return np.zeros((len(rows), 1))
    counted = packed.sizes(rows)[:, None] if one.column == "active" else sketch.columns["skill_sizes"]
    return counted.astype(np.float64)


def check_fits(sketch: Sketch, index: Index) -> None:
    """Raises SignatureError unless a sketch is of the library's model and sizes."""
    name = sketch.entry.task
    if sketch.model != index.model:
        raise SignatureError(
            f"the library is of the backbone {index.model!r} and {name!r} of {sketch.model!r}: only "
            "signatures of one backbone can be compared"
        )
    if sketch.shape != (index.layers, index.neurons):
        raise SignatureError(
            f"the library has {index.layers} layers of {index.neurons} neurons and {name!r} "
            f"{sketch.shape[0]} of {sketch.shape[1]}: only signatures of one backbone can be compared"
        )
    if None not in (sketch.width, index.width) and sketch.width != index.width:
        raise SignatureError(
            f"the library's prompts are {index.width} wide and those of {name!r} {sketch.width}: only "
            "signatures of one backbone can be compared"
        )
