"""Measuring N sources on a target, against N plain forward passes over the same batches.

The reference is what no measurement can do without: for each prompt and batch, the base model's forward pass
over the prompt's rows and the text's, and the label words' logits at the readout row. Batches are made, and
texts tokenised, before its clock starts; ours tokenises, makes the batches, scores, all inside the clock.

    python benchmarks/transfer.py --sources 8 --examples 400 --repeats 3
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import torch
from commands import numbers, printing_json  # the files beside this one
from material import backbone_of, task_of

from transferscope import transfer, zero_shot
from transferscope.encoding import encode
from transferscope.evaluation import prepared
from transferscope.models import Backbone
from transferscope.prompts import SoftPrompt
from transferscope.tasks import Task

ROWS = 16


def plain(backbone: Backbone, task: Task, prompts: list[SoftPrompt]) -> Callable[[], None]:
    """The reference, on batches that are there already."""
    data = encode(backbone, task.dev, prompt_rows=ROWS + 1)
    batches = prepared(backbone, data, prompt_rows=ROWS + 1).batches
    words = torch.tensor(backbone.tokenizer.convert_tokens_to_ids(list(task.words or ())))
    mask = backbone.embed(torch.tensor([backbone.tokenizer.mask_token_id]))
    rows = [torch.cat([mask, torch.from_numpy(prompt.rows)]) for prompt in prompts]

    def run() -> None:
        with torch.inference_mode():
            for prompt in rows:
                for batch in batches:
                    text = backbone.embed(batch.ids)
                    embeds = torch.cat([prompt.expand(len(text), -1, -1), text], dim=1)
                    full = torch.cat([batch.mask.new_ones(len(text), len(prompt)), batch.mask], dim=1)
                    hidden = backbone.base(inputs_embeds=embeds, attention_mask=full)[0][:, 0]
                    backbone.label_logits(hidden, words).argmax(dim=1)

    return run


def compare(backbone: Backbone, sources: int, examples: int, repeats: int) -> dict[str, Any]:
    """Times in turns, and their ratio: the least of each, which a busy machine disturbs least."""
    task, rng = task_of(backbone, examples), np.random.default_rng(1)
    shape = (ROWS, backbone.embedding_size)
    prompts = [
        SoftPrompt(rng.normal(0, 0.05, shape).astype(np.float32), "s", seed, "mask-first")
        for seed in range(sources)
    ]
    reference = plain(backbone, task, prompts)
    tokenised = 0
    encode_ = zero_shot.encode

    def counting(*args: Any, **options: Any) -> Any:
        nonlocal tokenised
        tokenised += 1
        return encode_(*args, **options)

    zero_shot.encode = counting  # type: ignore[assignment]
    try:
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(repeats + 1):
            for times, work in (
                (theirs, reference),
                (ours, lambda: transfer.column(backbone, {"s": prompts}, task)),
            ):
                start = time.perf_counter()
                work()
                times.append(time.perf_counter() - start)
    finally:
        zero_shot.encode = encode_
    return {
        "model": backbone.name,
        "sources": sources,
        "examples": examples,
        "threads": torch.get_num_threads(),
        "plain_seconds": min(theirs[1:]),  # the first turn warms up
        "measure_seconds": min(ours[1:]),
        "ratio": min(ours[1:]) / min(theirs[1:]),
        "tokenisations_per_measurement": tokenised / (repeats + 1),
    }


@printing_json
@click.option("--model", help="A model's folder or hub id; default: a random BERT.")
@numbers(layers=6, hidden=384, sources=8, examples=400, repeats=3)
def main(model: str | None, layers: int, hidden: int, **how: int) -> dict[str, Any]:
    """Measure, and print one JSON document."""
    return compare(backbone_of(model, layers, hidden), **how)


if __name__ == "__main__":
    main()
