"""Statistics of layers that lie on several devices: kept where each layer is, put together at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from transferscope.activations import FireCounts, Moments
from transferscope.models import Backbone
from transferscope.placement import place_of
from transferscope.routed import moments_of

S = TypeVar("S", Moments, FireCounts)
U = TypeVar("U", Moments, FireCounts)


@dataclass(frozen=True)
class ByDevice(Generic[S]):
    """One statistic for each device, of the layers that lie there; ``places`` are theirs, in order.

    With one device there is one statistic, of all layers, and nothing is copied anywhere.
    """

    parts: tuple[S, ...]
    places: tuple[tuple[int, ...], ...]

    @classmethod
    def make(cls, devices: Sequence[torch.device], zeros: Callable[[int, torch.device], S]) -> ByDevice[S]:
        """``zeros(layers, device)`` gives the statistic of so many layers; ``devices`` [L] has each one's."""
        distinct = tuple(dict.fromkeys(devices))
        places = tuple(tuple(i for i, one in enumerate(devices) if one == device) for device in distinct)
        parts = tuple(zeros(len(own), device) for own, device in zip(places, distinct, strict=True))
        return cls(parts, places)

    def add(self, layer: int, values: Tensor, labels: Tensor) -> None:
        """Take in one layer of a batch where the layer is: values [B, P', N], class ids [B]."""
        for part, own in zip(self.parts, self.places, strict=True):
            if layer in own:
                device = part.counts.device
                part.add(own.index(layer), values.to(device), labels.to(device))

    def map(self, function: Callable[[S], U]) -> ByDevice[U]:
        """Another statistic made of each, where it lies."""
        return ByDevice(tuple(function(part) for part in self.parts), self.places)

    def merged(self) -> S:
        """One statistic of all L layers: the only one there is, or all of them put together on the host."""
        if len(self.parts) == 1:
            return self.parts[0]
        order = torch.tensor([place for own in self.places for place in own]).argsort()
        return type(self.parts[0]).of_layers(self.parts, order)


def empty_moments(backbone: Backbone, classes: int, rows: int) -> ByDevice[Moments]:
    """Moments of no examples in K classes at P probed rows, where the layers are."""

    def zeros(layers: int, device: torch.device) -> Moments:
        return moments_of(backbone).zeros(classes, (layers, rows, backbone.neurons), device)

    return ByDevice.make(layer_devices(backbone), zeros)


def layer_devices(backbone: Backbone) -> tuple[torch.device, ...]:
    """Where each of the L layers computes."""
    return tuple(place_of(module) for _, _, module in backbone.down_projections())
