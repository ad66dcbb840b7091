"""Statistics of neurons that not every example has: those of experts, over the examples sent to the expert.

A value is NaN where the row was not sent to the neuron's expert (see `expertise`). It counts nowhere: neither
as zero, which would measure the router, nor as a comparison that was lost. A cell of which too few examples
are known is not ranked: of a handful, a perfect accuracy is soon found by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transferscope.activations import FireCounts, Moments, onehot, row_blocks, shift_of
from transferscope.models import Backbone

# Of each class, in train and in dev, this share of the examples must be sent to a cell's expert.
LEAST_SHARE = 0.25


@dataclass
class RoutedMoments(Moments):
    """`Moments` over the examples that a cell has; ``here`` [K, L, P, N], how many, in the dtype of sums."""

    here: Tensor

    @classmethod
    def zeros(cls, classes: int, shape: tuple[int, int, int], device: torch.device) -> RoutedMoments:
        """No examples yet. ``shape`` is (L, P, N)."""
        none = Moments.zeros(classes, shape, device)
        return cls(none.counts, none.sums, none.squares, none.seen, torch.zeros_like(none.sums))

    @classmethod
    def of_layers(cls, parts: Sequence[Moments], order: Tensor) -> RoutedMoments:
        """As of `Moments`."""
        found = Moments.of_layers(parts, order)
        here = torch.cat([part.here.cpu() for part in parts if isinstance(part, RoutedMoments)], dim=1)
        return cls(found.counts, found.sums, found.squares, found.seen, here[:, order])

    def add(self, layer: int, values: Tensor, labels: Tensor) -> None:
        """Take in one layer of a batch: values [B, P', N] with P' <= P, NaN where unknown; class ids [B].

        Wholly or not at all: what needs memory comes before the first number is changed.
        """
        members = onehot(labels, self.counts)
        counts = members.sum(1)
        found = [
            (rows, *self._of_known(layer, rows, values[:, rows], members)) for rows in row_blocks(values)
        ]
        for rows, here, sums, squares in found:
            self.squares[layer, rows] += squares
            self.sums[:, layer, rows] += sums
            self.here[:, layer, rows] += here
        self.seen[layer] += len(values)
        if layer == 0:
            self.counts += counts

    def _of_known(
        self, layer: int, rows: slice, values: Tensor, members: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What some rows add to numbers, sums and squares: values [B, P', N], examples in classes [K, B]."""
        known = ~values.isnan()
        wide = values.to(self.sums.dtype).nan_to_num(nan=0.0)
        here = (members @ known.flatten(1).to(members.dtype)).unflatten(1, values.shape[1:])  # [K, P', N]
        sums = (members @ wide.flatten(1)).unflatten(1, values.shape[1:])
        n = here.sum(0)
        squares = (wide - sums.sum(0) / n.clamp_min(1)).mul_(known).square_().sum(0)
        before = self.sums[:, layer, rows].sum(0), self.here[:, layer, rows].sum(0)
        return here, sums, squares + shift_of(*before, sums.sum(0), n)

    def __add__(self, other: Moments) -> RoutedMoments:
        assert isinstance(other, RoutedMoments)
        ours, theirs = self.here.sum(0), other.here.sum(0)
        return RoutedMoments(
            self.counts + other.counts,
            self.sums + other.sums,
            self.squares + other.squares + shift_of(self.sums.sum(0), ours, other.sums.sum(0), theirs),
            self.seen + other.seen,
            self.here + other.here,
        )

    @property
    def mean(self) -> Tensor:
        """The baseline a_bsl [L, P, N]: the mean over the examples sent there; NaN where none was."""
        return self.sums.sum(0) / self.here.sum(0)

    @property
    def balanced_mean(self) -> Tensor:
        """The mean of the classes' means [L, P, N]."""
        return (self.sums / self.here).mean(0)

    @property
    def varies(self) -> Tensor:
        """Which cells [L, P, N] vary over enough examples of each class."""
        return self.deviates(self.here.sum(0)) & enough(self.here, self.counts)

    def above(self, baseline: Tensor, classes: int) -> RoutedFires:
        """Counts against a baseline [L, P, N], NaN where there is none."""
        return RoutedFires.above(baseline, classes)


@dataclass
class RoutedFires(FireCounts):
    """`FireCounts` over the examples that a cell has; ``here`` [K, L, P, N] int32, how many."""

    here: Tensor

    @classmethod
    def above(cls, baseline: Tensor, classes: int) -> RoutedFires:
        """Count against a baseline [L, P, N]; a cell that has none (NaN) never fires."""
        none = FireCounts.above(baseline, classes)
        return cls(none.thresholds, none.counts, none.fires, torch.zeros_like(none.fires))

    @classmethod
    def of_layers(cls, parts: Sequence[FireCounts], order: Tensor) -> RoutedFires:
        """As of `FireCounts`."""
        found = FireCounts.of_layers(parts, order)
        here = torch.cat([part.here.cpu() for part in parts if isinstance(part, RoutedFires)], dim=1)
        return cls(found.thresholds, found.counts, found.fires, here[:, order])

    def add(self, layer: int, values: Tensor, labels: Tensor) -> None:
        """Take in one layer of a batch: values [B, P', N] with P' <= P, NaN where unknown; class ids [B]."""
        members = onehot(labels, self.counts).float()
        known = (members @ (~values.isnan()).flatten(1).float()).unflatten(1, values.shape[1:])
        known = known.to(torch.int32)
        super().add(layer, values, labels)  # a comparison with NaN is false
        self.here[:, layer, : values.shape[1]] += known

    def __add__(self, other: FireCounts) -> RoutedFires:
        assert isinstance(other, RoutedFires)
        found = super().__add__(other)
        return RoutedFires(found.thresholds, found.counts, found.fires, self.here + other.here)

    def _sizes(self, side: list[int], layer: int) -> Tensor:
        return self.here[side, layer].sum(0).to(self.counts.dtype)

    def _accuracy(self, layer: int, inside: list[int], outside: list[int], balanced: bool) -> Tensor:
        """`accuracy` of one layer, [P, N]; NaN where too few examples are sent to the cell."""
        found = super()._accuracy(layer, inside, outside, balanced)
        sides = [*inside, *outside]
        return found.where(enough(self.here[sides, layer], self.counts[sides]), torch.nan)


def moments_of(backbone: Backbone) -> type[Moments]:
    """The kind of sums that a backbone's neurons need."""
    return RoutedMoments if backbone.architecture.experts else Moments


def enough(here: Tensor, counts: Tensor) -> Tensor:
    """Which cells [...] have LEAST_SHARE of the examples of each class: ``here`` [K, ...], of ``counts`` [K].

    Two of all classes together at the least.
    """
    least = LEAST_SHARE * counts.to(torch.float32).reshape(-1, *[1] * (here.ndim - 1))
    return (here >= least).all(0) & (here.sum(0) >= 2)
