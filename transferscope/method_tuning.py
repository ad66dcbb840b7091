"""Tuning a task by another method than a prompt, on frozen FFN weights, and the record of what was tuned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transferscope import attachment, methods, store
from transferscope.attachment import Attached
from transferscope.errors import InputError, PromptError, StoreError, StudyError
from transferscope.methods import Sizes
from transferscope.models import Backbone
from transferscope.prompts import Head
from transferscope.settings import TuningSettings
from transferscope.tasks import Task
from transferscope.tuning_run import STATE, Progress, TuningRun, prepare

ARRAYS, RECORD = "adapter.safetensors", "transferscope.json"
OF_ADAPTER, OF_HEAD = "adapter.", "head."  # what the names of the arrays in the file start with


@dataclass(frozen=True)
class TunedMethod:
    """What a method learned on a task.

    ``arrays`` float32 by name are the tensors that it trained (of bitfit the biases themselves); ``head`` is
    the classifier tuned with them, None for a verbalizer; ``template`` says where the label is read.
    """

    method: str
    task: str
    seed: int
    template: str
    arrays: Mapping[str, np.ndarray]
    sizes: Sizes = field(default_factory=Sizes)
    head: Head | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """A digest of what enters the model."""
        head = [] if self.head is None else [self.head.weight, self.head.bias]
        return store.fingerprint(self.method, dict(self.arrays), asdict(self.sizes), self.template, head)

    @property
    def parameters(self) -> int:
        """How many numbers were trained, the head's not counted."""
        return sum(array.size for array in self.arrays.values())


def tune_method(
    backbone: Backbone,
    task: Task,
    method: str,
    *,
    settings: TuningSettings | None = None,
    sizes: Sizes | None = None,
    seed: int = 0,
    template: str | None = None,
    head: str = "verbalizer",
    max_length: int | None = None,
    token_budget: int = 8192,
    folder: store.Place | None = None,
    progress: Progress | None = None,
) -> TunedMethod:
    """Tune a task with ``method`` (a row of `transferscope.methods`); the FFN weights get no gradient.

    There are no prompt rows: under ``mask-first`` the mask row alone stands before the text. Batches, the
    schedule, the choice of the checkpoint, ``provenance["scores"]`` and going on from ``folder`` are as in
    `transferscope.tuning.tune`. Afterwards the backbone is bit for bit what it was. ``settings`` None: the
    defaults with the method's own learning rate. Raises InputError for an unknown method, BackboneError for
    one that does not fit.
    """
    row, sizes = methods.get(method), sizes or Sizes()
    if task.kind == "generation":
        raise InputError(f"task {task.name!r} is a generation task; methods are tuned on classes alone")
    settings = settings or settings_of(method, TuningSettings())
    setup = prepare(
        backbone,
        task,
        settings,
        template=template,
        head=head,
        max_length=max_length,
        token_budget=token_budget,
        seed=seed,
        rows=row.places(sizes),
    )
    inputs = store.fingerprint(
        backbone.fingerprint, task.fingerprint, settings.model_dump(), asdict(sizes), seed, setup.template,
        head, max_length, method,
    )  # fmt: skip
    with methods.opened(backbone, method, sizes=sizes, seed=seed) as tensors:
        attached = without_rows(backbone, setup.template)
        run = TuningRun(attached, setup, settings, seed, list(tensors.values()))
        return _trained(run, task, method, sizes, list(tensors), folder, inputs, progress)


def _trained(
    run: TuningRun,
    task: Task,
    method: str,
    sizes: Sizes,
    names: Sequence[str],
    folder: store.Place | None,
    inputs: str,
    progress: Progress | None,
) -> TunedMethod:
    """Run to the end, from the state in a folder if there is one; the tensors by name, then a head's."""
    state = None if folder is None else store.place(folder) / STATE
    if state is not None:
        run.load(state, inputs)
    run.run(f"{task.name} {method}", state, inputs, progress)
    arrays, provenance = run.finish(task)
    if state is not None:
        state.unlink(missing_ok=True)
    return TunedMethod(
        method=method,
        task=task.name,
        seed=run.seed,
        template=run.setup.template,
        arrays=dict(zip(names, arrays, strict=False)),
        sizes=sizes,
        head=Head(*arrays[len(names) :]) if run.setup.readout is None else None,
        provenance=provenance | {"parameters": sum(array.size for array in arrays[: len(names)])},
    )


def settings_of(method: str, base: TuningSettings, learning_rate: float | None = None) -> TuningSettings:
    """A prompt's tuning settings for a method: its own learning rate (or the one given), all else alike."""
    return base.model_copy(update={"learning_rate": learning_rate or methods.get(method).learning_rate})


def without_rows(backbone: Backbone, template: str) -> Attached:
    """Nothing attached: no prompt row, the mask row alone where the template has one."""
    nothing = torch.zeros(0, backbone.embedding_size, device=backbone.device)
    return attachment.attach(backbone, nothing, template)


@contextmanager
def tuned_with(backbone: Backbone, tuned: TunedMethod) -> Iterator[Attached]:
    """The backbone as a method tuned it, while the block runs; afterwards it is bit for bit what it was.

    What it yields is used as an attached prompt is. Raises PromptError where the tuned tensors are not those
    that the method has on this backbone.
    """
    with methods.opened(backbone, tuned.method, sizes=tuned.sizes, seed=tuned.seed) as tensors:
        _check(backbone, tuned, tensors)
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.requires_grad_(False)
                tensor.copy_(torch.from_numpy(np.array(tuned.arrays[name], dtype=np.float32)))
        yield without_rows(backbone, tuned.template)


def _check(backbone: Backbone, tuned: TunedMethod, tensors: Mapping[str, Tensor]) -> None:
    about = f"the {tuned.method} of {tuned.task!r} (seed {tuned.seed})"
    if set(tuned.arrays) != set(tensors):
        odd = sorted(set(tuned.arrays) ^ set(tensors))
        raise PromptError(
            f"{about} does not fit {backbone.name!r}: {len(odd)} tensors are on one side alone, such as "
            f"{odd[0]!r}"
        )
    for name, tensor in tensors.items():
        array = tuned.arrays[name]
        if array.shape != tuple(tensor.shape) or not np.isfinite(array).all():
            raise PromptError(
                f"{about}: {name} should be finite numbers {list(tensor.shape)}, found {list(array.shape)}"
            )


def save_tuned(tuned: TunedMethod, folder: store.AnyPath) -> store.Place:
    """Write ``adapter.safetensors``, then ``transferscope.json``, with which the folder is whole."""
    folder = store.place(folder)
    arrays = {OF_ADAPTER + name: array for name, array in tuned.arrays.items()}
    if tuned.head is not None:
        arrays |= {OF_HEAD + "weight": tuned.head.weight, OF_HEAD + "bias": tuned.head.bias}
    record = {
        "format": store.FORMAT_VERSION,
        "method": tuned.method,
        "task": tuned.task,
        "seed": tuned.seed,
        "template": tuned.template,
        "sizes": asdict(tuned.sizes),
        "provenance": dict(tuned.provenance),
    }
    store.save_arrays(folder / ARRAYS, arrays, {})
    store.write_json(folder / RECORD, record)
    return folder


def load_tuned(folder: store.AnyPath) -> TunedMethod:
    """Read what `save_tuned` wrote. Raises StudyError: not there; StoreError: damaged, or something else."""
    folder = store.place(folder)
    if not (folder / RECORD).is_file():
        raise StudyError(f"no tuned method in {str(folder)!r}: no {RECORD}")
    record = store.read_json(folder / RECORD)
    arrays, _ = store.load_arrays(folder / ARRAYS)
    try:
        heads = {name.removeprefix(OF_HEAD): a for name, a in arrays.items() if name.startswith(OF_HEAD)}
        found = TunedMethod(
            method=str(record["method"]),
            task=str(record["task"]),
            seed=int(record["seed"]),
            template=str(record["template"]),
            arrays={
                name.removeprefix(OF_ADAPTER): array
                for name, array in arrays.items()
                if name.startswith(OF_ADAPTER)
            },
            sizes=Sizes(**{name: int(value) for name, value in record["sizes"].items()}),
            head=Head(heads["weight"], heads["bias"]) if heads else None,
            provenance=dict(record["provenance"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{str(folder)!r} does not hold a tuned method: {error}") from None
    if not all(array.dtype.kind == "f" for array in arrays.values()) or not found.arrays:
        raise StoreError(f"{str(folder)!r} does not hold a tuned method: its arrays should be floats")
    return found
