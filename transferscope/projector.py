"""A projector: a map from the prompts of one backbone to the prompts of another, and its file.

Source: Su et al., NAACL 2022, the section on transfer across models, and the authors' code
(thunlp/Prompt-Transferability 1.0, ``tools/projector.py`` and ``tools/train_tool_cross.py``). As there: two
linear layers with an activation between them (tanh; leaky ReLU in other runs of theirs), a layer norm over
each projected row, the whole prompt flattened into one vector, 768 hidden units, AdamW at 0.005 without
weight decay. What departs: inputs and outputs are centred by coordinate and scaled by one number (stored with
the projector), the learning rate of a layer falls with its number of inputs, warms up and decays, and a
linear kind and projection by token (which their code has too, without a layer norm) are offered beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from transferscope import store
from transferscope.errors import InputError, PromptError, StoreError
from transferscope.prompts import SoftPrompt
from transferscope.settings import Strict
from transferscope.templates import TEMPLATES

MAX_PARAMETERS = 2**30  # four gigabytes of float32, and three times as much to train
TWO_LAYERS = {"weight1", "bias1", "weight2", "bias2"}
LAYERS = {
    "linear": ({"weight", "bias"}, {"down", "up", "bias"}),
    "two-layer": (TWO_LAYERS, TWO_LAYERS | {"gain", "shift"}),
}
STATISTICS = {"input.mean", "input.scale", "output.mean", "output.scale"}
Objective = Literal["distance", "task"]


class ProjectorSettings(Strict):
    """What kind of projector, and how it is trained.

    ``flatten``: the whole prompt is one vector [P*E]; otherwise each row is projected alone, by the same map.
    ``hidden``, ``activation`` and ``layer_norm`` are of the two-layer kind. ``validation`` is the share that
    chooses the checkpoint: of the training tasks (distance) or of each task's train split (task).
    ``patience``: evaluations without a better one before training stops; None: never before ``steps``.
    """

    kind: Literal["linear", "two-layer"] = "two-layer"
    flatten: bool = True
    hidden: int = Field(768, ge=1)
    activation: Literal["tanh", "leaky-relu"] = "tanh"
    layer_norm: bool = True
    learning_rate: float = Field(0.005, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    steps: int = Field(1000, ge=1)
    batch_size: int = Field(32, ge=1)
    evaluate_every: int = Field(50, ge=1)
    patience: int | None = Field(10, ge=1)
    validation: float = Field(0.2, gt=0, lt=1)
    clip: float = Field(1.0, gt=0)
    seed: int = Field(0, ge=0)


@dataclass(frozen=True)
class Space:
    """Where prompts live: P rows of width E."""

    rows: int
    width: int

    @property
    def size(self) -> int:
        """Coordinates of a flattened prompt."""
        return self.rows * self.width


@dataclass(frozen=True)
class Projector:
    """A fitted map from prompts [P, E] of a source backbone to prompts [P', E'] of a target backbone.

    ``arrays`` (float32) are its layers and the statistics of inputs and outputs; ``template`` is the target
    backbone's; ``trained_on`` are the tasks that it has seen. ``provenance`` names the models, with their
    fingerprints where known, and says how training went.
    """

    settings: ProjectorSettings
    source: Space
    target: Space
    arrays: Mapping[str, np.ndarray]
    template: str
    trained_on: tuple[str, ...]
    objective: Objective
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of what it computes."""
        return store.fingerprint(
            "projector", self.settings.model_dump(), asdict(self.source), asdict(self.target),
            dict(self.arrays), self.template,
        )  # fmt: skip

    def project(self, prompt: SoftPrompt, *, template: str | None = None) -> SoftPrompt:
        """The prompt for the target backbone, [P', E'] float32. A classifier head does not go along.

        ``provenance["held_out"]`` says that the prompt's task was not trained on. Raises PromptError where
        the prompt's rows, width or backbone are not what the projector was fitted on.
        """
        self._check(prompt)
        tensors = {name: torch.from_numpy(array) for name, array in self.arrays.items()}
        rows = torch.from_numpy(np.array(prompt.rows, dtype=np.float32))
        with torch.no_grad():
            projected = forward(self.settings, self.target, tensors, rows).numpy()
        if not np.isfinite(projected).all():
            raise PromptError(f"projecting the prompt of {prompt.task!r} gives NaN or infinite values")
        return SoftPrompt(
            rows=projected,
            task=prompt.task,
            seed=prompt.seed,
            template=template or self.template,
            provenance=self._provenance(prompt),
        )

    def _check(self, prompt: SoftPrompt) -> None:
        rows, width = prompt.rows.shape if prompt.rows.ndim == 2 else (-1, -1)
        if width != self.source.width:
            raise PromptError(
                f"the prompt of {prompt.task!r} has rows of shape {prompt.rows.shape}; this projector takes "
                f"rows {self.source.width} wide"
            )
        if self.settings.flatten and rows != self.source.rows:
            raise PromptError(
                f"the prompt of {prompt.task!r} has {rows} rows; this projector takes whole prompts of "
                f"{self.source.rows} rows (one that projects by token takes any number)"
            )
        known = self.provenance.get("source_model_fingerprint")
        given = prompt.provenance.get("model_fingerprint")
        if known and given and known != given:
            raise PromptError(
                f"the prompt of {prompt.task!r} was tuned on {prompt.provenance.get('model')!r}, not on the "
                f"backbone that this projector was fitted on, {self.provenance.get('source_model')!r}"
            )

    def _provenance(self, prompt: SoftPrompt) -> dict[str, Any]:
        about, given = self.provenance, prompt.provenance
        return {
            "model": about.get("target_model", ""),
            "model_fingerprint": about.get("target_model_fingerprint"),
            "layers": about.get("target_layers", 1),
            "attention_heads": about.get("target_attention_heads", 1),
            "projected_from": given.get("model") or about.get("source_model", ""),
            "source_prompt": prompt.fingerprint,
            "projector": self.fingerprint,
            "objective": self.objective,
            "trained_on": list(self.trained_on),
            "held_out": prompt.task not in self.trained_on,
            "task_type": given.get("task_type"),
            "words": None,
        }


def forward(
    settings: ProjectorSettings, target: Space, tensors: Mapping[str, Tensor], rows: Tensor
) -> Tensor:
    """Rows [..., P, E] through a projector's layers, [..., P', E']: which layers, ``tensors`` say.

    Linear: x W + b (W may be two factors). Two layers: LN(act(x W1 + b1) W2 + b2), the norm over a row.
    """
    x = (rows - tensors["input.mean"]) / tensors["input.scale"]
    if settings.flatten:
        x = x.flatten(-2)
    if "weight" in tensors:
        y = x @ tensors["weight"] + tensors["bias"]
    elif "down" in tensors:
        y = x @ tensors["down"] @ tensors["up"] + tensors["bias"]
    else:
        inner = x @ tensors["weight1"] + tensors["bias1"]
        inner = torch.tanh(inner) if settings.activation == "tanh" else torch.nn.functional.leaky_relu(inner)
        y = inner @ tensors["weight2"] + tensors["bias2"]
    if settings.flatten:
        y = y.unflatten(-1, (target.rows, target.width))
    if "gain" in tensors:
        y = torch.nn.functional.layer_norm(y, (target.width,), tensors["gain"], tensors["shift"])
    return y * tensors["output.scale"] + tensors["output.mean"]


def initial_layers(settings: ProjectorSettings, source: Space, target: Space) -> dict[str, Tensor]:
    """Layers to train, float32: uniform within 1/sqrt(inputs) from ``settings.seed``, biases zero.

    Raises InputError where they would not fit in memory.
    """
    inputs, outputs = _sizes(settings, source, target)
    widths = [inputs, settings.hidden, outputs] if settings.kind == "two-layer" else [inputs, outputs]
    count = sum(a * b for a, b in pairwise(widths))
    if count > MAX_PARAMETERS:
        raise InputError(
            f"a {settings.kind} projector from {inputs} to {outputs} coordinates has {count:,} weights, more "
            f"than {MAX_PARAMETERS:,}: use kind 'two-layer' with fewer hidden units, or project by token"
        )
    generator = torch.Generator().manual_seed(settings.seed)

    def weight(rows: int, columns: int) -> Tensor:
        return (torch.rand(rows, columns, generator=generator) * 2 - 1) / rows**0.5

    if settings.kind == "linear":
        return {"weight": weight(inputs, outputs), "bias": torch.zeros(outputs)}
    layers = {
        "weight1": weight(inputs, settings.hidden),
        "bias1": torch.zeros(settings.hidden),
        "weight2": weight(settings.hidden, outputs),
        "bias2": torch.zeros(outputs),
    }
    if settings.layer_norm:
        layers |= {"gain": torch.ones(target.width), "shift": torch.zeros(target.width)}
    return layers


def _sizes(settings: ProjectorSettings, source: Space, target: Space) -> tuple[int, int]:
    return (source.size, target.size) if settings.flatten else (source.width, target.width)


def save_projector(projector: Projector, path: store.AnyPath) -> store.Place:
    """Write one safetensors file: the arrays, and everything else as its metadata."""
    known = {
        "kind": "projector",
        "settings": projector.settings.model_dump(),
        "source": asdict(projector.source),
        "target": asdict(projector.target),
        "template": projector.template,
        "trained_on": list(projector.trained_on),
        "objective": projector.objective,
        "provenance": dict(projector.provenance),
    }
    store.save_arrays(path, projector.arrays, known)
    return store.place(path)


def load_projector(path: store.AnyPath) -> Projector:
    """Read what `save_projector` wrote; shapes, dtypes and finiteness are checked.

    Raises StudyError if the file is not there, StoreError if it is damaged or not a projector.
    """
    arrays, known = store.load_arrays(path)
    try:
        if known["kind"] != "projector" or known["template"] not in TEMPLATES:
            raise ValueError(f"kind {known['kind']!r}, template {known['template']!r}")
        if known["objective"] not in ("distance", "task") or not isinstance(known["provenance"], dict):
            raise ValueError(f"objective {known['objective']!r}")
        projector = Projector(
            settings=ProjectorSettings.model_validate(known["settings"]),
            source=_space(known["source"]),
            target=_space(known["target"]),
            arrays=arrays,
            template=known["template"],
            trained_on=tuple(map(str, known["trained_on"])),
            objective=known["objective"],
            provenance=known["provenance"],
        )
        _check_arrays(projector)
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise StoreError(f"{str(path)!r} is not a projector that can be used ({reason})") from None
    return projector


def _space(value: Mapping[str, Any]) -> Space:
    rows, width = value["rows"], value["width"]
    if type(rows) is not int or type(width) is not int or rows < 1 or width < 1:
        raise ValueError(f"space {value!r}")
    return Space(rows, width)


def _check_arrays(projector: Projector) -> None:
    """Raises ValueError where the arrays are not those of the settings."""
    arrays, settings = projector.arrays, projector.settings
    if arrays.keys() - STATISTICS not in LAYERS[settings.kind] or not arrays.keys() >= STATISTICS:
        raise ValueError(f"arrays {', '.join(sorted(arrays))} of a {settings.kind} projector")
    inputs, outputs = _sizes(settings, projector.source, projector.target)
    inner = arrays["down"].shape[-1] if "down" in arrays else settings.hidden
    shapes = {
        "weight": (inputs, outputs), "bias": (outputs,), "down": (inputs, inner), "up": (inner, outputs),
        "weight1": (inputs, inner), "bias1": (inner,), "weight2": (inner, outputs), "bias2": (outputs,),
        "gain": (projector.target.width,), "shift": (projector.target.width,),
        "input.scale": (), "output.scale": (), "input.mean": _mean_shape(settings, projector.source),
        "output.mean": _mean_shape(settings, projector.target),
    }  # fmt: skip
    for name, array in arrays.items():
        if array.dtype != np.float32 or array.shape != shapes[name] or not np.isfinite(array).all():
            raise ValueError(
                f"{name} should be finite float32 {shapes[name]}, found {array.dtype} {array.shape}"
            )
    if arrays["input.scale"] <= 0:
        raise ValueError("input.scale should be positive")


def _mean_shape(settings: ProjectorSettings, space: Space) -> tuple[int, ...]:
    return (space.rows, space.width) if settings.flatten else (space.width,)
