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
    stack, and ``decoder`` those of a decoder behind an encoder; ``last`` are the last down projection's
    weights. ``weights`` are bytes, and ``token`` those of a token's keys and values, in a decoder alone.
    """

    layers: int
    neurons: int
    hidden: int
    embedding: int
    gated: bool
    number: int
    body: int
    decoder: int
    last: int
    weights: int
    token: int

    @classmethod
    def of(cls, backbone: Backbone, quantization: str | None = None) -> Sizes:
        """Of a backbone, with or without weights."""
        stacks = [stack for stack, _, _ in backbone.down_projections()]
        both = backbone.architecture.kind == "encoder-decoder"
        base = backbone.base
        embedding = {id(p) for m in base.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        used = _used_of_experts(backbone)
        last: Any = backbone.down_projections()[-1][2]
        experts = backbone.architecture.experts

        def count(module: Any, least: int = 0) -> int:
            passed = (p for p in module.parameters() if id(p) not in embedding and p.ndim >= least)
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
            last=int(count(last.of_experts) * _down_share(last)) if experts else count(last, least=2),
            weights=_weights(backbone, quantization),
            token=_token_bytes(backbone),
        )

    def flops(
        self, examples: int, width: int, decoder_width: int = 1, *, before: int = 0, to_end: bool = True
    ) -> float:
        """Of one forward pass of a batch: two a parameter and row, and attention; without the head.

        ``before``: how many columns attention finds in a cache. Not ``to_end``: without the last down
        projection.
        """
        rows, written = examples * width, examples * decoder_width * bool(self.decoder)
        attention = 4.0 * self.layers * self.hidden * rows * (before + width)
        left_out = 0.0 if to_end else 2.0 * self.last * (written or rows)
        return 2.0 * self.body * rows + 2.0 * self.decoder * written + attention - left_out

    def reading(self, rows: int) -> int:
        """Bytes of activations of a batch of so many rows while it is only read: those of one layer."""
        return rows * self.number * (6 * self.hidden + (3 if self.gated else 2) * self.neurons)

    def tuning(self, rows: int) -> int:
        """Bytes kept of a batch for the way back. Weights are frozen, so inputs of linear layers are not."""
        return rows * self.number * self.layers * (9 * self.hidden + (4 if self.gated else 2) * self.neurons)

    def beside_texts(self, texts: int, rows: int) -> int:
        """Bytes of one batch's keys and values, and of the copy, one layer's, that prompt rows join."""
        return texts * self.token + (texts + rows) * self.token // self.layers

    def tuning_beside_texts(self, texts: int, rows: int) -> int:
        """Bytes where texts are read first: their keys and values, and all that is kept for the way back.

        That is of the prompt's rows alone, and in each layer the keys and values that they join.
        """
        back = self.tuning(rows) + (texts + rows) * self.token
        return texts * self.token + max(self.reading(texts), back)

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


def _down_share(down: Any) -> float:
    """The share of a layer's experts' parameters that is in their down projections."""
    return down.of_experts.down_proj.numel() / sum(p.numel() for p in down.of_experts.parameters())


def _token_bytes(backbone: Backbone) -> int:
    """Bytes of a token's keys and values in all layers of a decoder, as its cache has them; 0 elsewhere."""
    if backbone.architecture.kind != "decoder":
        return 0
    config = backbone.config
    heads = int(config.num_attention_heads)
    kept = getattr(config, "num_key_value_heads", None) or heads
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        kept = 1  # Falcon, which otherwise repeats grouped heads before it keeps them
    width = getattr(config, "head_dim", None) or backbone.hidden_size // heads
    return 2 * backbone.layers * int(kept) * int(width) * backbone.dtype.itemsize


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
