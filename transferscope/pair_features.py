"""A target's data under a source's prompt: hidden states at the readout row, and the label words' logits.

What label scores and similarities of representations read. The data are of the target's train split alone:
transfer is measured on dev, and an indicator must not have seen it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from transferscope import attachment, store
from transferscope.attachment import Readout
from transferscope.encoding import Encoded, encode, room
from transferscope.errors import StoreError
from transferscope.evaluation import Prepared, prepared
from transferscope.layer_sums import WORK
from transferscope.models import Backbone
from transferscope.prompts import SoftPrompt
from transferscope.readouts import head_words
from transferscope.tasks import Example, Task, stratified
from transferscope.templates import Batch

EXAMPLES = 500
ARRAYS = ("features", "labels", "probabilities", "logits", "source_logits", "layers")


@dataclass(frozen=True)
class PairFeatures:
    """S examples of a target under one prompt of a source, in the order of the target's train split.

    ``features`` [S, D] float32: the last hidden state at the readout row. ``labels`` [S] int64: the target's
    class ids; None for a generation task. ``logits`` and ``probabilities`` [S, K] float32: of the target's
    label words, through the LM head at the same rows; None where there are no words or no head.
    ``source_logits`` [S, Z] float32: of the source's own label words or classifier; None where the source has
    none. ``layers`` [L, S, D] float32: the readout row after each layer of its stack, the last one as in
    ``features``; None unless asked for.
    """

    features: np.ndarray
    labels: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    logits: np.ndarray | None = None
    source_logits: np.ndarray | None = None
    layers: np.ndarray | None = None

    def get(self, need: str, *, head: Literal["source", "target"] = "target") -> np.ndarray | None:
        """What an indicator calls by this name; None where it is not there.

        "representation" are the layers where they are there, else the features; "probabilities" and "logits"
        are of the target's label words or of the source's own ``head``.
        """
        if need == "representation":
            return self.features if self.layers is None else self.layers
        if head == "source" and need == "logits":
            return self.source_logits
        if head == "source" and need == "probabilities":
            return None if self.source_logits is None else softmax(self.source_logits)
        return getattr(self, need) if need in ARRAYS else None


def sample(task: Task, examples: int = EXAMPLES, seed: int = 0) -> tuple[Example, ...]:
    """At most so many examples of a task's train split, drawn by class, in the order of the split.

    One draw is part of a larger one of the same seed. References of a generation task are left out: what is
    read of it is the input alone.
    """
    chosen = task.train
    if len(chosen) > examples:
        labels = np.array([example.label for example in chosen])
        chosen = tuple(chosen[i] for i in stratified(labels, examples, np.random.default_rng(seed)))
    return tuple(replace(example, references=()) for example in chosen)


def class_readout(backbone: Backbone, task: Task) -> Readout | None:
    """A task's label words through the LM head; None where there are none. Raises TemplateError."""
    if task.kind == "generation" or task.words is None or not backbone.has_lm_head:
        return None
    return attachment.verbalizer(backbone, head_words(backbone, task))


def source_readout(backbone: Backbone, prompt: SoftPrompt, source: Task | None) -> Readout | None:
    """The head that a prompt was tuned with: its classifier, or its task's label words; None: not known."""
    if prompt.head is not None:
        return attachment.classifier(backbone, prompt.head)
    return None if source is None else class_readout(backbone, source)


class Extractor:
    """One target's sample, tokenised once and put in batches once for each number of prompt rows."""

    def __init__(
        self,
        backbone: Backbone,
        target: Task,
        *,
        examples: int = EXAMPLES,
        max_length: int | None = None,
        token_budget: int = 8192,
        seed: int = 0,
    ) -> None:
        """``examples`` and ``seed``: see `sample`. Raises TemplateError for an unusable label word."""
        self.backbone, self.target = backbone, target
        self.max_length, self.token_budget = max_length, token_budget
        self.readout = class_readout(backbone, target)
        self._sample = sample(target, examples, seed)
        self._encoded: dict[int | None, Encoded] = {}
        self._prepared: dict[int, Prepared] = {}

    def extract(
        self, prompt: SoftPrompt, *, layers: bool = False, head: Readout | None = None
    ) -> PairFeatures:
        """The sample under a prompt: one forward pass a batch gives all.

        ``head`` is the source's own (see `source_readout`). Raises PromptError, TaskError.
        """
        attached = attachment.attach(self.backbone, prompt)
        data = self.batches(attached.rows)
        readouts = {"logits": self.readout, "source_logits": head}
        with torch.inference_mode(), _layer_rows(self.backbone, layers) as (begin, kept):

            def step(batch: Batch) -> dict[str, Tensor]:
                placed = attached.place(batch)
                begin(placed.readout)
                rows = attached.forward(placed)
                found = {"features": rows.float()}
                for name, readout in readouts.items():
                    if readout is not None:
                        found[name] = readout.logits(rows).float()
                if layers:
                    found["layers"] = torch.stack([*kept, rows.float()], dim=1)  # [B, L, D]
                return found

            found = self.backbone.fitting.over(WORK, data.batches, step, beside=attached.rows)
        order = np.concatenate(data.groups)
        arrays = {name: _ordered([one[name] for one in found], order) for name in found[0]}
        logits, deep = arrays.get("logits"), arrays.get("layers")
        return PairFeatures(
            arrays["features"],
            data.data.labels if self.target.kind == "classification" else None,
            None if logits is None else softmax(logits),
            logits,
            arrays.get("source_logits"),
            None if deep is None else np.ascontiguousarray(deep.transpose(1, 0, 2)),  # [L, S, D]
        )

    def batches(self, rows: int) -> Prepared:
        """The sample in batches for prompts of P rows (the mask row counted)."""
        if rows not in self._prepared:
            limit = room(self.backbone, rows, self.max_length)
            if limit not in self._encoded:
                self._encoded[limit] = encode(
                    self.backbone, self._sample, prompt_rows=rows, max_length=self.max_length
                )
            self._prepared[rows] = prepared(
                self.backbone, self._encoded[limit], prompt_rows=rows, token_budget=self.token_budget
            )
        return self._prepared[rows]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities [S, K] of logits [S, K], float32."""
    wide = torch.from_numpy(logits.astype(np.float64))
    return np.asarray(torch.softmax(wide, dim=1).numpy().astype(np.float32))


def _ordered(parts: list[Tensor], order: np.ndarray) -> np.ndarray:
    """Batches joined on the host, in the order of the split."""
    joined = torch.cat(parts).cpu().numpy()
    placed = np.empty_like(joined)
    placed[order] = joined
    return placed


@contextmanager
def _layer_rows(backbone: Backbone, wanted: bool) -> Iterator[tuple[Callable[[Tensor], None], list[Tensor]]]:
    """While open, a forward pass keeps the readout rows [B, D] after each layer but the last.

    Yields what is to be called with the readout rows [B] before each pass, and the list that the pass fills.
    The last layer is left out because what is read of it is the model's last hidden state, behind the final
    norm where there is one, as in the stock model's `output_hidden_states`.
    """
    kept: list[Tensor] = []
    now: list[Tensor] = []

    def begin(readout: Tensor) -> None:
        kept.clear()
        now[:] = [readout]

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        rows = hidden[torch.arange(len(hidden), device=hidden.device), now[0].to(hidden.device)]
        kept.append(rows.float().to(now[0].device))

    stack = backbone.architecture.stacks[-1]  # the readout's: an encoder-decoder has its decoder last
    modules = list(backbone.base.get_submodule(stack.layers).children())[:-1] if wanted else []
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield begin, kept
    finally:
        for handle in handles:
            handle.remove()


def save_features(found: PairFeatures, path: store.AnyPath, provenance: Mapping[str, Any]) -> None:
    """Write one pair's arrays as safetensors, atomically; what they were made from goes beside them."""
    arrays = {name: getattr(found, name) for name in ARRAYS if getattr(found, name) is not None}
    store.save_arrays(path, arrays, dict(provenance))


def load_features(path: store.AnyPath) -> tuple[PairFeatures, dict[str, Any]]:
    """One pair's arrays and what they were made from.

    Raises StudyError where there is no file, StoreError where it is damaged or of something else.
    """
    arrays, provenance = store.load_arrays(path)
    features = arrays.get("features")
    if features is None or features.ndim != 2 or not set(arrays) <= set(ARRAYS):
        found = ", ".join(f"{name} {list(array.shape)}" for name, array in sorted(arrays.items()))
        raise StoreError(f"{path} does not hold the features [S, D] of a pair; found {found or 'nothing'}")
    for name, array in arrays.items():
        if array.shape[1 if name == "layers" else 0] != len(features):
            raise StoreError(f"{path}: {name} {list(array.shape)} does not fit {len(features)} examples")
    return PairFeatures(**arrays), provenance
