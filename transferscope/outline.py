"""A model without its weights: sizes from its configuration, and what they cost in time and memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

from transferscope.architectures import get
from transferscope.loading import LM_CLASSES, ask, find_source, quiet
from transferscope.models import DTYPES, Backbone, load_backbone, wrap
from transferscope.pruned import is_pruned
from transferscope.settings import ModelSettings

BITS = {"8bit": 8.0, "4bit": 4.5}  # of a quantised weight; in 4 bits each 64 share a scale
MEASURE_SECONDS = 0.2


def outline(name: str, settings: ModelSettings, head: str) -> Backbone:
    """The backbone of these settings on the "meta" device: shapes and tokenizer, no weights and no memory.

    Raises what `load_backbone` raises for an unknown model or model type.
    """
    source = find_source(name)
    if is_pruned(source):  # small, and its sizes are in its weights
        return load_backbone(name, head=head, device="cpu")  # type: ignore[arg-type]
    where: dict[str, Any] = {
        "revision": settings.revision,
        "trust_remote_code": settings.trust_remote_code,
    }
    with quiet(), torch.device("meta"):
        config = ask(name, transformers.AutoConfig.from_pretrained, source, **where)
        loader = getattr(
            transformers, LM_CLASSES[get(config.model_type).kind] if head == "verbalizer" else "AutoModel"
        )
        model = ask(name, loader.from_config, config, dtype=DTYPES[settings.dtype])
        tokenizer = ask(name, transformers.AutoTokenizer.from_pretrained, source, **where)
    return wrap(model, tokenizer, settings.name)


@dataclass(frozen=True)
class Sizes:
    """What costs are made of: L layers, N neurons, D hidden size, E embedding width, the bytes of a number.

    ``body`` are the parameters that each row passes (without embeddings and head), of the encoder or the only
    stack, and ``decoder`` those of a decoder behind an encoder; ``weights`` are bytes.
    """

    layers: int
    neurons: int
    hidden: int
    embedding: int
    gated: bool
    number: int
    body: int
    decoder: int
    weights: int

    @classmethod
    def of(cls, backbone: Backbone, quantization: str | None = None) -> Sizes:
        """Of a backbone, with or without weights."""
        stacks = [stack for stack, _, _ in backbone.down_projections()]
        both = backbone.architecture.kind == "encoder-decoder"
        base = backbone.base
        embedding = {id(p) for m in base.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        used = _used_of_experts(backbone)

        def count(module: Any) -> int:
            passed = (p for p in module.parameters() if id(p) not in embedding)
            return sum(int(p.numel() * used.get(id(p), 1.0)) for p in passed)

        decoder = count(base.get_decoder()) if both else 0
        body = count(base.get_encoder()) if both else count(base)
        return cls(
            layers=backbone.layers,
            neurons=max(backbone.widths),
            hidden=backbone.hidden_size,
            embedding=backbone.embedding_size,
            gated=any(stack.gate is not None for stack in stacks),
            number=backbone.dtype.itemsize,
            body=body,
            decoder=decoder,
            weights=_weights(backbone, quantization),
        )

    def flops(self, examples: int, width: int, decoder_width: int = 1) -> float:
        """Of one forward pass of a batch: two a parameter and row, and attention; without the head."""
        rows, written = examples * width, examples * decoder_width * bool(self.decoder)
        attention = 4.0 * self.layers * self.hidden * rows * width
        return 2.0 * self.body * rows + 2.0 * self.decoder * written + attention

    def reading(self, rows: int) -> int:
        """Bytes of activations of a batch of so many rows while it is only read: those of one layer."""
        return rows * self.number * (6 * self.hidden + (3 if self.gated else 2) * self.neurons)

    def tuning(self, rows: int) -> int:
        """Bytes kept of a batch for the way back. Weights are frozen, so inputs of linear layers are not."""
        return rows * self.number * self.layers * (9 * self.hidden + (4 if self.gated else 2) * self.neurons)

    def optimizer(self, prompt_rows: int) -> int:
        """Bytes of a prompt in tuning: rows, gradient, two moments, and the best until now, float32."""
        return 5 * 4 * prompt_rows * self.embedding


def statistics_bytes(
    classes: int,
    layers: int,
    rows: int,
    neurons: int,
    *,
    subtasks: int = 0,
    wide: int = 8,
    experts: bool = False,
) -> int:
    """Bytes of extraction's statistics: `Moments` and `FireCounts` of the task and of each given subtask.

    ``rows`` are the P probed rows; ``wide`` is the size of a number of the sums (8; 4 on Apple's mps);
    ``experts``: how many examples each cell has is counted, too.
    """
    cells, total = layers * rows * neurons, 0
    for sides in (classes, *[2] * subtasks):
        moments = wide * (sides + sides * cells + cells + layers)
        total += moments + 4 * cells + wide * sides + 4 * sides * cells
        total += (wide + 4) * sides * cells * experts
    return total


def _used_of_experts(backbone: Backbone) -> dict[int, float]:
    """The share of experts that a row is sent to, by the id of the tensors that hold their weights."""
    if not backbone.architecture.experts:
        return {}
    share = backbone.config.num_experts_per_tok / backbone.config.num_experts
    blocks: list[Any] = [down for _, _, down in backbone.down_projections()]
    return {id(weights): share for down in blocks for weights in down.of_experts.parameters()}


def _weights(backbone: Backbone, quantization: str | None) -> int:
    linear = {
        id(module.weight)
        for name, module in backbone.base.named_modules()
        if quantization and isinstance(module, nn.Linear | transformers.pytorch_utils.Conv1D)
    }
    tensors = {id(p): p for p in [*backbone.model.parameters(), *backbone.model.buffers()]}
    return sum(
        int(one.numel() * BITS[str(quantization)] / 8) if key in linear else one.numel() * one.itemsize
        for key, one in tensors.items()
    )


def product_rate(sizes: Sizes, rows: int, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of this machine in a product of an FFN's shape, [rows, D] by [D, N], measured for a moment."""
    left = torch.randn(min(rows, 4096), sizes.hidden, device=device).to(dtype)
    right = torch.randn(sizes.hidden, sizes.neurons, device=device).to(dtype)

    def run(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            product = left @ right
        float(product[0, 0])  # waits for the device
        return time.perf_counter() - start

    run(2)
    times = 4
    while (seconds := run(times)) < MEASURE_SECONDS:
        times *= 2
    return 2.0 * left.shape[0] * sizes.hidden * sizes.neurons * times / seconds
