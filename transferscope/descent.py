"""Training a projector's layers by gradient: AdamW, warm-up and decay, the best checkpoint, an early stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transferscope.descent_state import Standing, StateFile, as_array
from transferscope.errors import InputError
from transferscope.projector import ProjectorSettings, Space, forward, initial_layers

Progress = Callable[[int, int, str], None]
WARMUP = 0.06  # share of the steps, as in prompt tuning
INPUTS = 64  # up to so many inputs of a layer, its learning rate is the one given


class Descent:
    """One training: the layers, their optimiser, and what they make of prompts now."""

    def __init__(
        self,
        settings: ProjectorSettings,
        spaces: tuple[Space, Space],
        statistics: Mapping[str, np.ndarray],
        device: torch.device,
    ) -> None:
        self.settings, self.target, self.device = settings, spaces[1], device
        fixed = {name: torch.from_numpy(array).to(device) for name, array in statistics.items()}
        layers = initial_layers(settings, *spaces)
        self.layers = {name: layer.to(device).requires_grad_(True) for name, layer in layers.items()}
        self.tensors = self.layers | fixed
        # AdamW moves each weight alike, and an output by as many weights as there are inputs.
        rate = settings.learning_rate
        groups = [
            {"params": [layer], "lr": rate * (min(1.0, INPUTS / len(layer)) if layer.ndim == 2 else 1.0)}
            for layer in self.layers.values()
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]

    def project(self, rows: Tensor) -> Tensor:
        """Rows [..., P, E] as the layers have them now, [..., P', E']."""
        return forward(self.settings, self.target, self.tensors, rows)

    def run(
        self,
        descend: Callable[[int], object],
        score: Callable[[], tuple[float, float]],
        progress: Progress | None = None,
        state: StateFile | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Minimise a loss; keep the layers with the best ``score()``: (value, loss), value first.

        ``descend(step)`` adds the gradient of the loss at a step to those of the layers.

        Returns the layers (float32) and how it went: steps, best_step, value, loss and ``history``, a list of
        [step, value, loss] from before the first step on. With a ``state`` it goes on where that was left,
        and ends with the same bytes; ``descend`` must be a function of its step. Raises InputError where no
        loss was finite.
        """
        settings = self.settings
        at = Standing() if state is None else state.load(self.layers, self.optimizer)
        for step in range(at.step, settings.steps + 1):
            if step % settings.evaluate_every == 0 or step == settings.steps:
                known = bool(at.history) and at.history[-1][0] == step
                if not known:
                    self._evaluate(at, step, score)
                if state is not None and not known and step:
                    state.save(at, self.layers, self.optimizer)
                if step == settings.steps or at.misses >= (settings.patience or math.inf):
                    break
            self._update(descend, step)
            if progress is not None:
                progress(step + 1, settings.steps, f"projector {at.best[0]:.3f}")
        if not at.kept:
            raise InputError(
                f"the projector diverged: no evaluation in {step} steps had a finite loss; use a learning "
                f"rate below {settings.learning_rate}"
            )
        went = {"steps": step, "best_step": at.best_step, "value": at.best[0], "loss": -at.best[1]}
        return at.kept, went | {"history": at.history}

    def _evaluate(self, at: Standing, step: int, score: Callable[[], tuple[float, float]]) -> None:
        """Score the layers as they are now, and keep them if they are the best yet."""
        value, held = score()
        at.step, at.misses = step, at.misses + 1
        at.history.append([step, value, held])
        if math.isfinite(held) and (value, -held) > at.best:
            at.best, at.best_step, at.misses = (value, -held), step, 0
            at.kept = {name: as_array(layer) for name, layer in self.layers.items()}

    def _update(self, descend: Callable[[int], object], step: int) -> None:
        steps = self.settings.steps
        warmup = max(1, round(WARMUP * steps))
        scale = (step + 1) / warmup if step < warmup else (steps - step) / max(1, steps - warmup)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * scale
        self.optimizer.zero_grad(set_to_none=True)
        descend(step)
        torch.nn.utils.clip_grad_norm_(self.layers.values(), self.settings.clip)
        self.optimizer.step()
