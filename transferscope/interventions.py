"""Interventions: chosen FFN neurons get noise, zero or their mean on chosen rows while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from transferscope.activations import Probe, select
from transferscope.attachment import Attached
from transferscope.errors import InputError, suggest
from transferscope.models import Backbone
from transferscope.placement import place_of
from transferscope.templates import Batch, Placed

MODES = ("noise", "zero", "mean")
UNITS = ("absolute", "neuron")
ROWS = ("prompt", "all")
NOISE_BY = ("example", "row")
Finder = Callable[[int], slice | Tensor | None]  # of a layer: its rows in this pass, None: no row


@dataclass(frozen=True)
class Edit:
    """What is done to which neurons. The edited quantity is the input of the down projection.

    ``neurons`` [L, N] bool. ``mode``: "noise" adds Gaussian noise of standard deviation ``sd`` (times
    ``scale`` where ``unit`` is "neuron"), fresh in each forward pass; "zero"; "mean" puts ``baseline`` there.
    ``scale`` and ``baseline`` are [L, N], or [L, P, N] by probed row (as in a signature) where ``rows`` is
    "prompt". ``rows``: "prompt" edits the probed rows (the readout row where that is what is probed), "all"
    every row. ``noise_by``: "example" draws one number an example and neuron and adds it on all rows that are
    edited; "row" draws anew for each row, which attention averages out in part.

    Raises InputError for an unknown word, a shape that does not fit, numbers that are missing or not finite.
    Source: Wang et al., EMNLP 2022, perturbation; noise of sd 0.1, by example, as in their published code.
    """

    neurons: np.ndarray
    mode: str = "noise"
    sd: float = 0.1
    unit: str = "absolute"
    scale: np.ndarray | None = None
    baseline: np.ndarray | None = None
    rows: str = "prompt"
    noise_by: str = "example"

    def __post_init__(self) -> None:
        for what, found, allowed in (
            ("mode", self.mode, MODES),
            ("unit", self.unit, UNITS),
            ("rows", self.rows, ROWS),
            ("noise_by", self.noise_by, NOISE_BY),
        ):
            if found not in allowed:
                raise InputError(f"{what} of an edit is {found!r}. {suggest(str(found), allowed)}")
        if self.neurons.ndim != 2 or self.neurons.dtype != np.bool_:
            raise InputError(
                f"neurons of an edit must be bool [L, N]; found {self.neurons.dtype} "
                f"{list(self.neurons.shape)}"
            )
        if self.mode == "noise" and not 0 <= self.sd < np.inf:
            raise InputError(f"sd of the noise is {self.sd}; it must be a number from 0 on")
        for name in ("scale", "baseline"):
            self._check_numbers(name)

    def _check_numbers(self, name: str) -> None:
        values, needed = getattr(self, name), name in self._needs
        if values is None:
            if needed:
                why = "unit 'neuron'" if name == "scale" else "mode 'mean'"
                raise InputError(f"{why} needs {name} [L, N] or [L, P, N]; found none")
            return
        ends = (values.shape[0], values.shape[-1]) if values.ndim in (2, 3) else None
        if ends != self.neurons.shape or (values.ndim == 3 and self.rows == "all"):
            allowed = "[L, N]" if self.rows == "all" else "[L, N] or [L, P, N]"
            raise InputError(
                f"{name} {list(values.shape)} does not fit neurons {list(self.neurons.shape)} on rows "
                f"{self.rows!r}; it must be {allowed}"
            )
        chosen = self.neurons[:, None] if values.ndim == 3 else self.neurons
        if needed and not np.isfinite(np.where(chosen, values, 0.0)).all():
            raise InputError(f"{name} of an edit has values that are not finite, at chosen neurons")

    @property
    def _needs(self) -> tuple[str, ...]:
        if self.mode == "mean":
            return ("baseline",)
        return ("scale",) if self.mode == "noise" and self.unit == "neuron" else ()


@contextmanager
def intervene(
    backbone: Backbone, edit: Edit, *, attached: Attached | None = None, seed: int = 0
) -> Iterator[Any]:
    """While open, each forward pass is edited; what it yields is ``attached`` to be used inside.

    Rows "prompt" need ``attached``, and the passes must go through the one that is yielded: it notes where
    the rows of each batch stand. Each placed batch is edited once in each layer, so tokens that a model
    writes afterwards, one row a pass, are not. Rows "all" need no prompt; every row of every pass is edited
    (None is yielded where none was given). The noise comes from a generator of its own, on the model's
    device: the same for the same seed, whatever ran before, unless memory ran out: the halves of a
    batch get another draw. Values are edited in place where no gradient is asked for. Layers without a chosen
    neuron get no hook, and all hooks are gone when the block ends, also when it raises. Raises InputError
    where the edit does not fit the backbone or the prompt.
    """
    _check_fits(backbone, edit, attached)
    placement = Placement(backbone.layers)
    given, finder = attached, cast(Finder, _every_row)
    if edit.rows == "prompt" and attached is not None:
        given = Edited(**_fields(attached), outer=attached, placement=placement)
        finder = placement.finder(Probe.of(attached))
    generator = torch.Generator(device=backbone.device).manual_seed(seed)
    handles: list[Any] = []
    try:
        for _, layer, down in backbone.down_projections():
            if edit.neurons[layer].any():
                change = _change(edit, layer, place_of(down), generator)
                handles.append(down.register_forward_pre_hook(_hook(layer, finder, change)))
        yield given
    finally:
        for handle in handles:
            handle.remove()


def _every_row(layer: int) -> slice | Tensor | None:
    return slice(None)


def _check_fits(backbone: Backbone, edit: Edit, attached: Attached | None) -> None:
    shape = (backbone.layers, backbone.neurons)
    if edit.neurons.shape != shape:
        raise InputError(
            f"neurons {list(edit.neurons.shape)} do not fit {backbone.name!r}, which has {shape[0]} layers "
            f"of {shape[1]} neurons"
        )
    if edit.rows == "all":
        return
    if attached is None:
        raise InputError("rows 'prompt' needs the attached prompt whose rows are edited; or use rows 'all'")
    rows = Probe.of(attached).rows
    for name in ("scale", "baseline"):
        values = getattr(edit, name)
        if values is not None and values.ndim == 3 and values.shape[1] != rows:
            raise InputError(f"{name} {list(values.shape)} does not fit a prompt with {rows} probed rows")


def _fields(attached: Attached) -> dict[str, Any]:
    return {name: getattr(attached, name) for name in ("backbone", "template", "prompt", "mask_row")}


class Placement:
    """Where the probed rows of the batch in hand stand, and in which layers they are still to be edited."""

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self.placed: Placed | None = None
        self.left: set[int] = set()

    def note(self, placed: Placed) -> None:
        """The next pass is of this batch."""
        self.placed, self.left = placed, set(range(self.layers))

    def finder(self, probe: Probe) -> Finder:
        """A function of the layer: its rows in the pass that runs; None where it is no placed batch."""

        def find(layer: int) -> slice | Tensor | None:
            if self.placed is None:
                raise InputError(
                    "rows 'prompt': this pass did not go through the attached prompt that intervene() "
                    "yields, so where its rows stand is not known"
                )
            if layer not in self.left:
                return None
            self.left.remove(layer)
            if probe.kinds[layer] == "prompt":
                return self.placed.prompt
            return self.placed.readout.unsqueeze(1)

        return find


@dataclass(frozen=True)
class Edited(Attached):
    """An attached prompt that notes where its rows stand in each batch; ``outer`` is what it stands for."""

    outer: Attached = field(kw_only=True)
    placement: Placement = field(kw_only=True)

    @property
    def shares_texts(self) -> bool:
        return False  # each pass is one of a placed batch, whose rows are to be edited

    def place(self, batch: Batch) -> Placed:
        placed = self.outer.place(batch)
        self.placement.note(placed)
        return placed

    def moved(self, placed: Placed) -> Placed:
        self.placement.note(placed)
        return placed

    def forward(self, placed: Placed) -> Tensor:
        self.placement.note(placed)
        return self.outer.forward(placed)


def _hook(layer: int, finder: Finder, change: Callable[[Tensor], None]) -> Callable[[nn.Module, Any], Any]:
    def hook(module: nn.Module, inputs: Any) -> Any:
        rows = finder(layer)
        if rows is None:
            return None
        values = inputs[0]
        if isinstance(rows, slice):
            values = values.clone() if values.requires_grad else values
            change(values if rows == slice(None) else values[:, rows])
        else:
            rows = rows.to(values.device)
            chosen = select(values, rows)  # a copy
            change(chosen)
            put = values.scatter if values.requires_grad else values.scatter_
            values = put(1, rows.unsqueeze(-1).expand_as(chosen), chosen)
        return (values, *inputs[1:])

    return hook


def _change(
    edit: Edit, layer: int, device: torch.device, generator: torch.Generator
) -> Callable[[Tensor], None]:
    """A function that edits rows [B, P', N] of one layer in place.

    A product with a mask and index_add_ cost about 1 % of the down projection on a CPU; torch.where,
    masked_fill_ and indexed assignment cost 3 to 20 times as much.
    """
    mask = edit.neurons[layer]
    if edit.mode == "noise":
        return _add_noise(edit, layer, device, generator)
    keep = torch.from_numpy(~mask).float().to(device)
    fill = None if edit.mode == "zero" else _of_layer(edit.baseline, layer, device)  # [P or 1, N]
    if fill is not None:
        fill = torch.where(keep.bool(), 0.0, fill)

    def replace(rows: Tensor) -> None:
        rows.mul_(keep.to(rows.dtype))
        if fill is not None:
            rows.add_(fill[: rows.shape[-2]].to(rows.dtype))

    return replace


def _add_noise(
    edit: Edit, layer: int, device: torch.device, generator: torch.Generator
) -> Callable[[Tensor], None]:
    columns = torch.from_numpy(np.flatnonzero(edit.neurons[layer])).to(device)
    factor = _of_layer(edit.scale, layer, device)[:, columns] if edit.unit == "neuron" else None

    def add(rows: Tensor) -> None:
        drawn = rows.shape[-2] if edit.noise_by == "row" else 1
        shape = (*rows.shape[:-2], drawn, len(columns))
        noise = torch.randn(shape, generator=generator, device=generator.device).to(device).mul_(edit.sd)
        if factor is not None:
            noise = noise * factor[: rows.shape[-2]]
        noise = noise.to(rows.dtype).expand(*rows.shape[:-1], -1)
        rows.index_add_(-1, columns, noise)

    return add


def _of_layer(values: np.ndarray | None, layer: int, device: torch.device) -> Tensor:
    """One layer of [L, N] or [L, P, N] as float32 [1 or P, N]; that they are there, Edit has checked."""
    chosen = np.atleast_2d(values[layer])  # type: ignore[index]
    return torch.from_numpy(chosen.astype(np.float32)).to(device)
