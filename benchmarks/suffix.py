"""Prompts behind the same texts (`suffix`): texts read once, against one pass over text and prompt for each.

Both score the same prompts on the same batches of one target, in turns in one process. Rows are counted as
they enter the first layer, padding included.

    python benchmarks/suffix.py --prompts 16 --rows 16 --examples 200 --repeats 3
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import torch
import transformers
from commands import numbers, printing_json  # the file beside this one

from transferscope import text_cache
from transferscope.attachment import Attached, attach, verbalizer
from transferscope.encoding import from_token_ids, prepared
from transferscope.evaluation import Evaluation, Prepared, evaluate, evaluate_several
from transferscope.models import Backbone, load_backbone, wrap

VOCABULARY = 1000
Works = dict[str, Callable[[], list[Evaluation]]]


def backbone_of(model: str | None, layers: int, hidden: int) -> Backbone:
    """The named model, or a random Llama of this size."""
    if model is not None:
        return load_backbone(model)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=hidden // 32,
        intermediate_size=8 * hidden // 3, max_position_embeddings=256, initializer_range=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    return wrap(transformers.LlamaForCausalLM(config), None, f"random Llama {layers} x {hidden}")


def target(backbone: Backbone, examples: int, rows: int, token_budget: int, seed: int = 0) -> Prepared:
    """Texts of 8 to 64 tokens, two classes, in batches."""
    rng, vocabulary = np.random.default_rng(seed), backbone.config.vocab_size
    lengths = rng.integers(8, 65, size=examples)
    data = from_token_ids([(rng.integers(3, vocabulary, size), i % 2) for i, size in enumerate(lengths)])
    return prepared(backbone, data, prompt_rows=rows, token_budget=token_budget)


def in_turns(
    backbone: Backbone, works: Works, repeats: int
) -> tuple[dict[str, float], dict[str, int], dict[str, list[Evaluation]]]:
    """Of each work: least seconds of a turn, rows in the first layer over all turns, and the last result."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    counted: dict[str, int] = dict.fromkeys(works, 0)
    found: dict[str, list[Evaluation]] = {}
    now = ""

    def count(module: Any, inputs: Any) -> None:
        counted[now] += inputs[0].shape[:-1].numel()

    handle = backbone.down_projections()[0][2].register_forward_pre_hook(count)
    try:
        for _ in range(repeats + 1):
            for now, work in works.items():
                start = time.perf_counter()
                found[now] = work()
                seconds[now].append(time.perf_counter() - start)
    finally:
        handle.remove()
    return {name: min(times[1:]) for name, times in seconds.items()}, counted, found  # the first one warms up


def compare(
    backbone: Backbone, prompts: int, rows: int, examples: int, repeats: int, token_budget: int = 8192
) -> dict[str, Any]:
    """Times in turns, their ratio (the least of each), rows through the model, how far logits differ."""
    data = target(backbone, examples, rows, token_budget)
    noise = torch.Generator().manual_seed(0)
    several: list[Attached] = []
    for _ in range(prompts):
        values = torch.randn(rows, backbone.embedding_size, generator=noise)
        several.append(attach(backbone, 0.05 * values.to(backbone.device), "suffix"))
    readout = verbalizer(backbone, [5, 9])
    works: Works = {
        "plain": lambda: [evaluate(one, readout, data) for one in several],
        "shared": lambda: evaluate_several(several, readout, data),
    }
    best, counted, found = in_turns(backbone, works, repeats)
    logits = {name: np.stack([np.asarray(one.logits) for one in scores]) for name, scores in found.items()}
    text = text_cache.read(backbone, data.batches[0])
    kept = sum(part.nbytes for layer in text.cache.layers for part in (layer.keys, layer.values))
    return {
        "model": backbone.name,
        "device": str(backbone.device),
        "threads": torch.get_num_threads(),
        "prompts": prompts,
        "prompt_rows": rows,
        "examples": examples,
        "mean_tokens": float(data.data.lengths.mean()),
        "plain_seconds": best["plain"],
        "shared_seconds": best["shared"],
        "ratio": best["shared"] / best["plain"],
        "row_ratio": counted["shared"] / counted["plain"],
        "rows": {name: total // (repeats + 1) for name, total in counted.items()},
        "kept_megabytes_of_the_largest_batch": kept / 1e6,
        "largest_difference_of_logits": float(np.abs(logits["plain"] - logits["shared"]).max()),
    }


@printing_json
@click.option("--model", help="A causal model's folder or hub id; default: a random Llama.")
@numbers(layers=4, hidden=192, prompts=16, rows=16, examples=100, repeats=3, token_budget=8192)
def main(model: str | None, layers: int, hidden: int, **how: int) -> dict[str, Any]:
    """Measure, and print one JSON document."""
    return compare(backbone_of(model, layers, hidden), **how)


if __name__ == "__main__":
    main()
