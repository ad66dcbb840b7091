"""Extracting a prompt's neurons, against the re-stated procedures of Wang et al. and Su et al., in turns.

A model of the size of roberta-base with random weights, 128 prompt rows (the mask row among them), and texts
with the lengths of SST-2. Wang et al.: baseline over train, comparisons over dev; both sides' numbers are
compared in the same run. Su et al.: what prompts stimulate, and all pairs of them. Peaks of memory are those
of fresh processes, on at most 32 examples of each split: they do not grow with more.

    OMP_NUM_THREADS=1 python benchmarks/extraction.py --examples 32 --repeats 3
"""

from __future__ import annotations

import json
from collections.abc import Callable
from statistics import median
from typing import Any

import click
import numpy as np
import restated
import torch
import yardsticks

import indicators
from transferscope import attachment
from transferscope.encoding import buckets, from_token_ids, in_order
from transferscope.loading import attention
from transferscope.measurement import NeuronMeasurement, measure, stimulate
from transferscope.models import Backbone
from transferscope.streaming import COMPAT_BATCH, CPU_TOKENS

BOUNDS = {"ratio": 2.0, "share_of_peak": 0.8, "peak_bytes": 1.3e9}
FLIPS = 1e-4  # share of the comparisons that another order of summation may move
PROMPTS = 3  # of Su et al.


class Sides:
    """Both sides on the same model, prompt and examples; what each found last."""

    def __init__(self, backbone: Backbone, rows: int, examples: int) -> None:
        self.backbone, self.rows = backbone, rows
        vocabulary = backbone.model.config.vocab_size
        self.train, self.dev = (yardsticks.texts(examples, vocabulary, seed) for seed in (0, 1))
        self.data = from_token_ids(self.train), from_token_ids(self.dev)
        self.prompt = yardsticks.prompt_of(backbone, rows)
        self.blank = from_token_ids([([0], 0)])
        self.found: NeuronMeasurement | None = None
        self.expected: tuple[np.ndarray, np.ndarray] | None = None

    def ours(self) -> None:
        attached = attachment.attach_rows(self.backbone, self.prompt, "mask-first")
        self.found = measure(attached, *self.data, blank=self.blank)

    def reference(self) -> None:
        with attention(self.backbone.model, "eager"):
            self.expected = restated.extract(self.backbone.model, self.prompt, self.train, self.dev)

    def flops(self) -> dict[str, int]:
        """Operations of the matrix products of each side, the padding of its own batches counted."""
        config = self.backbone.model.config
        head = {"head_words": config.vocab_size}
        totals = {"ours": 0, "reference": 0}
        for data, passed in zip(self.data, ("train", "dev"), strict=True):
            ours = buckets(data, prompt_rows=self.rows, token_budget=CPU_TOKENS)
            theirs = in_order(len(data), COMPAT_BATCH)
            totals["ours"] += yardsticks.grouped_flops(config, data, ours, self.rows)
            if passed == "train":  # ends before the last down projection
                rows = sum(len(group) * (self.rows + int(data.lengths[group].max())) for group in ours)
                totals["ours"] -= 2 * rows * config.hidden_size * config.intermediate_size
            for group in theirs:
                rows = self.rows + int(data.lengths[group].max())
                totals["reference"] += yardsticks.forward_flops(
                    config, len(group), rows, head_rows=rows, **head
                )
        return totals

    def differences(self) -> dict[str, float]:
        """How far the two sides' numbers are apart; flips as a share of all comparisons."""
        assert self.found is not None
        assert self.expected is not None
        baseline, accuracy = self.expected
        flips = np.abs(self.found.accuracy - accuracy).sum() / accuracy.size
        either = np.maximum(accuracy, 1 - accuracy)
        expected = np.where(self.found.defined, either, -np.inf).max(axis=1)
        return {
            "baseline": float(np.abs(self.found.baseline - baseline).max()),
            "flips": float(flips),
            "undefined_cells": int((~self.found.defined).sum()),
            "predictivity": float(np.nanmax(np.abs(self.found.predictivity[0] - expected))),
        }


def compare(sides: Sides, repeats: int) -> dict[str, Any]:
    """Medians of turns, shares of the machine's matrix product, and whether the two sides agree."""
    backbone, rates = sides.backbone, []

    def rate() -> None:
        rates.append(yardsticks.product_rate(backbone.model.config, CPU_TOKENS, backbone.device))

    works: dict[str, Callable[[], None]] = {
        "product": rate, "ours": sides.ours, "reference": sides.reference,
    }  # fmt: skip
    seconds, flops = yardsticks.turns(works, repeats), sides.flops()
    share = [flops["ours"] / time / peak for time, peak in zip(seconds["ours"], rates, strict=True)]
    differences = sides.differences()
    return {
        "examples": len(sides.train) + len(sides.dev),
        "prompt_rows": sides.rows,
        "threads": torch.get_num_threads(),
        "ours_seconds": median(seconds["ours"]),
        "reference_seconds": median(seconds["reference"]),
        "ratio": yardsticks.median_ratio(seconds["reference"], seconds["ours"]),
        "flops": flops,
        "product_flops_per_second": median(rates),
        "share_of_peak": median(share),
        "differences": differences,
        "agree": differences["flips"] <= FLIPS,
    }


def stimulated(backbone: Backbone, rows: int, repeats: int) -> dict[str, Any]:
    """Su et al.: what prompts fire on an empty text, and ON of all pairs."""
    prompts = [yardsticks.prompt_of(backbone, rows, seed) for seed in range(PROMPTS)]
    found: dict[str, Any] = {}

    def ours() -> None:
        blank = from_token_ids([([0], 0)])
        attached = [attachment.attach_rows(backbone, prompt, "mask-first") for prompt in prompts]
        values = [stimulate(one, blank)[0] for one in attached]
        found["ours"] = np.asarray(indicators.matrix("on", values))

    def reference() -> None:
        with attention(backbone.model, "eager"):
            found["reference"] = restated.overlaps(restated.stimulations(backbone.model, prompts, 0))

    seconds = yardsticks.turns({"ours": ours, "reference": reference}, repeats)
    return {
        "prompts": PROMPTS,
        "ours_seconds": median(seconds["ours"]),
        "reference_seconds": median(seconds["reference"]),
        "ratio": yardsticks.median_ratio(seconds["reference"], seconds["ours"]),
        "difference": float(np.abs(found["ours"] - found["reference"]).max()),
    }


@click.command()
@click.option("--size", default="base", show_default=True, help="base (roberta-base) or tiny.")
@click.option("--layers", type=int, help="Fewer layers, for a quick look.")
@click.option("--rows", default=128, show_default=True, help="Prompt rows, the mask row counted.")
@click.option("--examples", default=32, show_default=True, help="Of train, and as many of dev.")
@click.option("--repeats", default=3, show_default=True)
@click.option(
    "--memory-of", type=click.Choice(["ours", "reference"]), help="Run one side alone, for its peak."
)
@click.option("--peaks/--no-peaks", default=True, show_default=True, help="Also the peaks of memory.")
@click.option("--su/--no-su", default=True, show_default=True, help="Also the procedure of Su et al.")
def main(
    size: str,
    layers: int | None,
    rows: int,
    examples: int,
    repeats: int,
    memory_of: str | None,
    peaks: bool,
    su: bool,
) -> None:
    """Measure, and print one JSON document with the bounds beside the figures."""
    if memory_of is not None:
        getattr(Sides(yardsticks.backbone_of(size, layers=layers), rows, examples), memory_of)()
        click.echo(json.dumps({"peak_bytes": yardsticks.own_peak()}))
        return
    same = ["--size", size, "--rows", str(rows), "--examples", str(min(examples, 32))]
    same += [] if layers is None else ["--layers", str(layers)]
    sides = ("ours", "reference") if peaks else ()
    peak = {side: yardsticks.peak_of(__file__, *same, "--memory-of", side) for side in sides}
    backbone = yardsticks.backbone_of(size, layers=layers)
    found = compare(Sides(backbone, rows, examples), repeats)
    found |= {"model": backbone.name, "peak_bytes": peak, "bounds": BOUNDS}
    if su:
        found["su"] = stimulated(backbone, rows, repeats)
    click.echo(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
