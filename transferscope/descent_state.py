"""Where a projector's training stands, as a file to go on from: layers, their optimiser, the best so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transferscope import store
from transferscope.errors import StoreError

STATE = "projector-state.safetensors"
REST = 20  # times as long as writing a state took, training goes on before the next one is written


@dataclass
class Standing:
    """How far a training is: evaluated at ``step``; ``kept`` are the best layers (float32), {} before any.

    ``best`` is the best (value, -loss), at ``best_step``; ``misses`` counts evaluations since then;
    ``history`` has [step, value, loss] of every evaluation.
    """

    step: int = 0
    best: tuple[float, float] = (-math.inf, -math.inf)
    best_step: int = 0
    misses: int = 0
    kept: dict[str, np.ndarray] = field(default_factory=dict)
    history: list[list[float]] = field(default_factory=list)


class StateFile:
    """One training's state in a file; ``inputs`` is a digest of all that the training depends on.

    A state of large layers takes seconds to write, so that states are written no more often than costs one
    part in twenty of the time. When they are written changes nothing of what is trained.
    """

    def __init__(self, path: store.Place, inputs: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self.inputs, self.clock = path, inputs, clock
        self._due = -math.inf

    def save(
        self, standing: Standing, layers: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> bool:
        """Write all that is needed to go on, unless one was written a moment ago; says whether it did."""
        began = self.clock()
        if began < self._due:
            return False
        arrays = {f"best.{name}": array for name, array in standing.kept.items()}
        for name, layer in layers.items():
            arrays[f"layer.{name}"] = as_array(layer)
            for key, value in optimizer.state[layer].items():
                arrays[f"optimizer.{name}.{key}"] = as_array(value)
        meta = {
            "inputs": self.inputs, "step": standing.step, "best": list(standing.best),
            "best_step": standing.best_step, "misses": standing.misses, "history": standing.history,
        }  # fmt: skip
        store.save_arrays(self.path, arrays, meta)
        now = self.clock()
        self._due = now + REST * (now - began)
        return True

    def load(self, layers: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> Standing:
        """Put the layers and their optimiser where the file left them; a new `Standing` where there is none.

        A damaged file, or one of other inputs, counts as none.
        """
        if not self.path.is_file():
            return Standing()
        try:
            arrays, meta = store.load_arrays(self.path)
        except StoreError:
            return Standing()
        if meta.get("inputs") != self.inputs:
            return Standing()
        for name, layer in layers.items():
            layer.data.copy_(torch.from_numpy(arrays[f"layer.{name}"]))
            start = f"optimizer.{name}."
            # AdamW counts its steps on the host, and keeps its moments beside the layer.
            optimizer.state[layer] = {
                key.removeprefix(start): torch.from_numpy(array).to(
                    "cpu" if key == f"{start}step" else layer.device
                )
                for key, array in arrays.items()
                if key.startswith(start)
            }
        return _standing(meta, arrays)


def _standing(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Standing:
    """JSON has neither NaN nor infinity: null stands for a loss that was none, and for no best yet."""
    value, loss = (-math.inf if part is None else float(part) for part in meta["best"])
    return Standing(
        step=int(meta["step"]),
        best=(value, loss),
        best_step=int(meta["best_step"]),
        misses=int(meta["misses"]),
        kept={n.removeprefix("best."): array for n, array in arrays.items() if n.startswith("best.")},
        history=[[math.nan if part is None else part for part in one] for one in meta["history"]],
    )


def as_array(value: Tensor) -> np.ndarray:
    """A copy on the host."""
    return value.detach().cpu().numpy().copy()
