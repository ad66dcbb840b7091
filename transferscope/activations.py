"""FFN neuron activations as they stream by: hooks on the down projections, statistics that merge by `+`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transferscope import templates
from transferscope.architectures import Part
from transferscope.attachment import Attached
from transferscope.errors import BackboneError
from transferscope.models import Backbone
from transferscope.templates import Placed

Sink = Callable[[int, Tensor, Tensor | None], None]
CONSTANT_SD = 1e-5  # below this a cell does not vary: rounding alone would decide its comparisons
# Values that are reduced at once. On a CPU a block must stay in the cache: sums and squares then take an
# eighth of the time and no copy of a layer. Elsewhere it only bounds the memory, and few kernels are wanted.
CPU_BLOCK, BLOCK = 1 << 19, 1 << 26


@contextmanager
def capture(backbone: Backbone, sink: Sink, *, gates: bool = False, missing: bool = False) -> Iterator[None]:
    """While open, each forward pass calls ``sink(layer, values, gate)`` for every FFN layer, in their order.

    ``values`` [B, Q, N] is the input of the layer's down projection, that is its neurons, and ``gate`` [B, Q,
    N] the gate before its activation function, if ``gates`` is asked for and the FFN has one. The hooks are
    gone when the block ends, also when it raises.

    In a mixture of experts both are NaN where a row is not sent to a neuron's expert: who can read that says
    so by ``missing``. Raises BackboneError for the others.
    """
    if not missing:
        refuse_experts(backbone)
    handles: list[Any] = []
    try:
        for (stack, layer, down), gate in zip(backbone.down_projections(), backbone.gates(), strict=True):
            held: dict[str, Tensor] = {}
            if gates and gate is not None:
                handles.append(gate.register_forward_hook(_keep(held, stack.gate_part)))
            handles.append(down.register_forward_pre_hook(_emit(sink, layer, held)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def refuse_experts(backbone: Backbone) -> None:
    """Raises BackboneError for a mixture of experts: of what needs a value of each neuron in each row."""
    if backbone.architecture.experts:
        raise BackboneError(
            f"{backbone.name!r} is a mixture of experts: a neuron has no value in a row that is not sent to "
            "its expert, and this needs all values. Tuning, transfer, signatures and perturbation do not"
        )


def _keep(held: dict[str, Tensor], part: Part) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        held["gate"] = output if part == "whole" else output.chunk(2, dim=-1)[part == "second"]

    return hook


def _emit(sink: Sink, layer: int, held: dict[str, Tensor]) -> Callable[[nn.Module, Any], None]:
    def hook(module: nn.Module, inputs: Any) -> None:
        sink(layer, inputs[0], held.pop("gate", None))

    return hook


def select(values: Tensor, rows: slice | Tensor) -> Tensor:
    """Rows of [B, Q, N]: a slice for all, or row numbers [B, P] by example. Returns [B, P, N]."""
    if isinstance(rows, slice):
        return values[:, rows]
    rows = rows.to(values.device)  # of the inputs' device, and the layer may lie on another
    return values.gather(1, rows.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


@dataclass(frozen=True)
class Probe:
    """Which rows are recorded in each layer: ``kinds`` has ``prompt`` or ``readout`` for each layer."""

    kinds: tuple[str, ...]
    rows: int

    @classmethod
    def of(cls, attached: Attached) -> Probe:
        """The probed rows of a prompt in its template."""
        kind = attached.backbone.architecture.kind
        stacks = [stack for stack, _, _ in attached.backbone.down_projections()]
        kinds = tuple(templates.probed(attached.template, kind, stack.rows) for stack in stacks)
        return cls(kinds, attached.rows if "prompt" in kinds else 1)

    @property
    def exists(self) -> np.ndarray:
        """Which rows there are in each layer, [L, P] bool: the readout is one, whatever P is elsewhere."""
        return np.array([[kind == "prompt" or row == 0 for row in range(self.rows)] for kind in self.kinds])

    def pick(self, layer: int, values: Tensor, placed: Placed) -> Tensor:
        """The probed rows of one layer's values [B, Q, N]: [B, P, N], or [B, 1, N] for the readout."""
        if self.kinds[layer] == "prompt":
            return select(values, placed.prompt)
        return select(values, placed.readout.unsqueeze(1))


@dataclass
class Moments:
    """Sums over examples of the activations of probed cells, by class.

    ``counts`` [K]; ``sums`` [K, L, P, N]; ``squares`` [L, P, N], of the deviations from the mean: all
    float64, on the model's device. Two of them merge by ``+``. The squares are centred (Chan, Golub and
    LeVeque 1979): plain ones would cancel, and a large constant would look as if it varied.

    ``seen`` [L] is how many examples each layer has taken in: all as many, but in the middle of a pass.
    """

    counts: Tensor
    sums: Tensor
    squares: Tensor
    seen: Tensor

    @classmethod
    def zeros(cls, classes: int, shape: tuple[int, int, int], device: torch.device) -> Moments:
        """No examples yet. ``shape`` is (L, P, N)."""
        wide = wide_dtype(device)
        return cls(
            torch.zeros(classes, dtype=wide, device=device),
            torch.zeros(classes, *shape, dtype=wide, device=device),
            torch.zeros(*shape, dtype=wide, device=device),
            torch.zeros(shape[0], dtype=wide, device=device),
        )

    @classmethod
    def of_layers(cls, parts: Sequence[Moments], order: Tensor) -> Moments:
        """Those of the same examples in different layers, on the host; ``order`` [L] sorts the layers."""
        sums, squares, seen = (
            torch.cat([getattr(part, name).cpu() for part in parts], dim=dim)
            for name, dim in (("sums", 1), ("squares", 0), ("seen", 0))
        )
        return cls(parts[0].counts.cpu(), sums[:, order], squares[order], seen[order])

    def add(self, layer: int, values: Tensor, labels: Tensor) -> None:
        """Take in one layer of a batch: values [B, P', N] with P' <= P, class ids [B].

        Wholly or not at all: what needs memory comes before the first number is changed.
        """
        members = onehot(labels, self.counts)  # [K, B]
        counts = members.sum(1)
        found = [(rows, *self._of_rows(layer, rows, values[:, rows], members)) for rows in row_blocks(values)]
        for rows, by_class, squares in found:
            self.squares[layer, rows] += squares
            self.sums[:, layer, rows] += by_class
        self.seen[layer] += len(values)
        if layer == 0:
            self.counts += counts

    def _of_rows(self, layer: int, rows: slice, values: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
        """What some rows add to the sums and the squares: values [B, P', N], examples in classes [K, B]."""
        sums, shape = self.sums[:, layer, rows], values.shape[1:]
        flat = values.to(sums.dtype).flatten(1)  # [B, P' N]
        # Distances from the first example: exactly 0 where all are alike, however large they are.
        first, flat = flat[:1], flat - flat[:1]
        sizes, apart = members.sum(1, keepdim=True), members @ flat  # [K, 1], [K, P' N]
        by_class = (apart + sizes * first).unflatten(1, shape)  # [K, P', N]
        within = flat.square_().sum(0) - apart.sum(0).square() / len(flat)
        shift = shift_of(sums.sum(0), self.seen[layer], by_class.sum(0), sizes.sum())
        return by_class, within.unflatten(0, shape) + shift

    def __add__(self, other: Moments) -> Moments:
        shift = shift_of(self.sums.sum(0), self.counts.sum(), other.sums.sum(0), other.counts.sum())
        return Moments(
            self.counts + other.counts,
            self.sums + other.sums,
            self.squares + other.squares + shift,
            self.seen + other.seen,
        )

    @property
    def mean(self) -> Tensor:
        """The baseline a_bsl [L, P, N]: the mean over all examples."""
        return self.sums.sum(0) / self.counts.sum()

    @property
    def balanced_mean(self) -> Tensor:
        """The mean of the classes' means [L, P, N]: each class counts alike."""
        return (self.sums / self.counts[:, None, None, None]).mean(0)

    @property
    def varies(self) -> Tensor:
        """Which cells [L, P, N] vary over the examples (sd of at least 1e-5)."""
        return self.deviates(self.counts.sum())

    def deviates(self, examples: Tensor) -> Tensor:
        """Which cells have an sd of at least 1e-5 over so many examples."""
        return (self.squares / examples).sqrt_() >= CONSTANT_SD

    def above(self, baseline: Tensor, classes: int) -> FireCounts:
        """Counts against a baseline [L, P, N], of the same kind of cells."""
        return FireCounts.above(baseline, classes)


def shift_of(a: Tensor, n_a: Tensor, b: Tensor, n_b: Tensor) -> Tensor:
    """What the distance of two means adds to the squared deviations; a count may be 0."""
    distance = a / n_a.clamp_min(1) - b / n_b.clamp_min(1)
    return distance.square() * (n_a * n_b / (n_a + n_b).clamp_min(1))


def row_blocks(values: Tensor) -> Iterator[slice]:
    """The rows of values [B, P, N] in slices that are reduced at once."""
    most = CPU_BLOCK if values.device.type == "cpu" else BLOCK
    step = max(1, most // max(1, values.shape[0] * values.shape[2]))
    for start in range(0, values.shape[1], step):
        yield slice(start, min(start + step, values.shape[1]))


@dataclass
class FireCounts:
    """How often a cell is above its baseline, by class: ``counts`` [K] and ``fires`` [K, L, P, N] int32."""

    thresholds: Tensor
    counts: Tensor
    fires: Tensor

    @classmethod
    def above(cls, baseline: Tensor, classes: int) -> FireCounts:
        """Count against a baseline [L, P, N] (float64): a cell fires when a > a_bsl."""
        wide = wide_dtype(baseline.device)
        shape = (classes, *baseline.shape)
        return cls(
            float32_floor(baseline),
            torch.zeros(classes, dtype=wide, device=baseline.device),
            torch.zeros(shape, dtype=torch.int32, device=baseline.device),
        )

    @classmethod
    def of_layers(cls, parts: Sequence[FireCounts], order: Tensor) -> FireCounts:
        """Those of the same examples in different layers, on the host; ``order`` [L] sorts the layers."""
        thresholds = torch.cat([part.thresholds.cpu() for part in parts])[order]
        fires = torch.cat([part.fires.cpu() for part in parts], dim=1)[:, order]
        return cls(thresholds, parts[0].counts.cpu(), fires)

    def add(self, layer: int, values: Tensor, labels: Tensor) -> None:
        """Take in one layer of a batch: values [B, P', N] with P' <= P, class ids [B].

        Wholly or not at all: what needs memory comes before the first number is changed.
        """
        members = onehot(labels, self.counts)
        counts, chosen = members.sum(1), members.float()
        found = []
        for rows in row_blocks(values):
            part = values[:, rows]
            fired = (part.float() > self.thresholds[layer, rows]).flatten(1).float()
            # Counts of one batch are small whole numbers: exact in float32.
            found.append((rows, (chosen @ fired).unflatten(1, part.shape[1:]).to(torch.int32)))
        for rows, fires in found:
            self.fires[:, layer, rows] += fires
        if layer == 0:
            self.counts += counts

    def __add__(self, other: FireCounts) -> FireCounts:
        return FireCounts(self.thresholds, self.counts + other.counts, self.fires + other.fires)

    def accuracy(
        self, positive: int | Sequence[int], negative: Sequence[int] | None = None, *, balanced: bool = False
    ) -> Tensor:
        """Acc [L, P, N] of class ``positive`` against the rest: the share of examples with 1[a > a_bsl] = y.

        Or of some classes against ``negative`` ones: examples of classes on neither side are left out.
        ``balanced`` averages the two sides' shares instead, so that the size of the rest does not matter.
        """
        inside = list(positive) if isinstance(positive, Sequence) else [positive]
        outside = [one for one in range(len(self.counts)) if one not in inside]
        sides = inside, outside if negative is None else list(negative)
        found = torch.empty(self.fires.shape[1:], dtype=self.counts.dtype, device=self.fires.device)
        for layer, accuracy in enumerate(found):  # one layer's intermediate results at a time
            accuracy.copy_(self._accuracy(layer, *sides, balanced))
        return found

    def _accuracy(self, layer: int, inside: list[int], outside: list[int], balanced: bool) -> Tensor:
        """`accuracy` of one layer, [P, N]."""
        (hits, n_hits), (false, n_rest) = (
            (self.fires[side, layer].sum(0).to(self.counts.dtype), self._sizes(side, layer))
            for side in (inside, outside)
        )
        if balanced:
            return (hits / n_hits + (n_rest - false) / n_rest) / 2
        return (hits + (n_rest - false)) / (n_hits + n_rest)

    def _sizes(self, side: list[int], layer: int) -> Tensor:
        """How many examples of these classes the cells of a layer have: one number for all."""
        return self.counts[side].sum()


def float32_floor(values: Tensor) -> Tensor:
    """The largest float32 not above each float64: a float32 is above one just when it is above the other."""
    near = values.to(torch.float32)
    below = torch.nextafter(near, torch.full_like(near, -torch.inf))
    return torch.where(near.to(values.dtype) > values, below, near)


def wide_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on devices that lack it (Apple's mps)."""
    return torch.float32 if device.type == "mps" else torch.float64


def to_numpy(values: Tensor) -> np.ndarray:
    """A float64 numpy array on the host."""
    return values.detach().cpu().to(torch.float64).numpy()


def onehot(labels: Tensor, like: Tensor) -> Tensor:
    """Class ids [B] as [K, B] in the dtype of ``like`` [K, ...].

    A product with it sums by class, in a fixed order, without leaving the device.
    """
    return (labels.unsqueeze(0) == torch.arange(len(like), device=labels.device).unsqueeze(1)).to(like.dtype)
