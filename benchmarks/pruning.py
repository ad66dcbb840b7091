"""Speed of a pruned 12-layer, 768-wide BERT against the unpruned one, in turns, beside the FLOP limit.

    OMP_NUM_THREADS=2 python benchmarks/pruning.py

The weights are random: the time of a forward pass does not depend on them. The ratio of two passes in turn
is what is measured, so that a busy machine disturbs both; its median and quartiles are printed.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
import numpy as np
import torch
import transformers
from commands import numbers, printing_json  # the file beside this one

from transferscope import pruning, pruning_speed
from transferscope.models import Backbone, wrap

BOUND = 1.6


def backbone_of(layers: int, hidden: int, seed: int = 0) -> Backbone:
    """A BERT of random weights with four neurons for each hidden unit."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=max(1, hidden // 64),
        intermediate_size=4 * hidden,
    )
    return wrap(transformers.BertModel(config, add_pooling_layer=False), name="random BERT")


def compare(
    backbone: Backbone, *, keep: float, from_layer: int, batches: tuple[int, ...], rows: int, seed: int = 0
) -> dict[str, Any]:
    """Prune by random predictivities, and time both models at each batch size."""
    rng = np.random.default_rng(seed)
    shape = (backbone.layers, backbone.neurons)
    kept = pruning.choose(backbone, rng.random((1, *shape)), keep=keep, from_layer=from_layer)
    pruned = pruning.fold(backbone, kept, rng.normal(scale=0.1, size=shape))
    found = pruning_speed.measure_speed(backbone, pruned, batches=batches, rows=rows, seed=seed)
    before, after = pruning_speed.size(backbone), pruning_speed.size(pruned)
    return {
        "threads": torch.get_num_threads(),
        "keep": keep,
        "from_layer": from_layer,
        "parameters": [before.parameters, after.parameters],
        "bound": BOUND,
        "speeds": [asdict(one) for one in found],
    }


@printing_json
@click.option("--batch", "batches", multiple=True, type=int, default=(32,), show_default=True)
@numbers(rows=128, keep=0.02, from_layer=3, layers=12, hidden=768, threads=2)
def main(layers: int, hidden: int, threads: int, **how: Any) -> dict[str, Any]:
    """Print one JSON document."""
    torch.set_num_threads(threads)
    return compare(backbone_of(layers, hidden), **how)


if __name__ == "__main__":
    main()
