"""One step of tuning a prompt, against the re-stated procedure of Wang et al., in turns over one epoch.

A model of the size of roberta-base with random weights, 128 prompt rows (the mask row among them), texts with
the lengths of SST-2, batches of 16. The reference reads the head over the vocabulary at every row, pads in
data order, and lets the model's own weights have gradients, as its published code does; ``frozen`` is the
same without these. Loss and gradient of the two sides on the same batch are compared in the same run.

    OMP_NUM_THREADS=1 python benchmarks/tuning.py
"""

from __future__ import annotations

import itertools
import json
from statistics import median
from typing import Any

import click
import restated
import torch
import yardsticks
from torch import Tensor

from transferscope import attachment
from transferscope.attachment import Attached
from transferscope.encoding import batches, from_token_ids
from transferscope.loading import attention
from transferscope.models import Backbone
from transferscope.settings import TuningSettings
from transferscope.tuning_run import Setup, TuningRun

BOUNDS = {"ratio": 2.2}
SIDES = ("ours", "reference", "frozen")


class Sides:
    """The three ways of a step, on the same model, examples and first prompt."""

    def __init__(self, backbone: Backbone, rows: int, examples: int) -> None:
        self.backbone = backbone
        self.pairs = yardsticks.texts(examples, backbone.model.config.vocab_size)
        self.data = from_token_ids(self.pairs)
        self.start = yardsticks.prompt_of(backbone, rows)
        self.words = yardsticks.WORDS
        self.run = self._run(self.start[1:].clone().requires_grad_(True))
        self.wang = {
            frozen: restated.Tuning(backbone.model, self.start, self.words, frozen=frozen)
            for frozen in (False, True)
        }
        padded = list(restated.batches(self.pairs, backbone.model.config.pad_token_id))
        self.order = {frozen: itertools.cycle(padded) for frozen in (False, True)}

    def attached(self, prompt: Tensor) -> Attached:
        return Attached(self.backbone, "mask-first", prompt, self.start[:1])

    def _run(self, prompt: Tensor) -> TuningRun:
        readout = attachment.verbalizer(self.backbone, self.words)
        setup = Setup(
            "mask-first",
            "verbalizer",
            2,
            self.words,
            readout,
            self.data,
            self.data,
            self.data,
            "accuracy",
            8192,
        )
        settings = TuningSettings(rows=len(prompt), batch_size=restated.BATCH)
        return TuningRun(self.attached(prompt), setup, settings, 0, [prompt])

    def ours(self) -> None:
        self.run.step_once()

    def reference(self, *, frozen: bool = False) -> None:
        with attention(self.backbone.model, "eager"):
            self.wang[frozen].step(*next(self.order[frozen]))

    def frozen(self) -> None:
        self.reference(frozen=True)

    def differences(self) -> dict[str, float]:
        """Loss, and gradient of the prompt relative to its norm, of the two sides on the first batch."""
        ids, mask, labels = next(restated.batches(self.pairs, self.backbone.model.config.pad_token_id))
        batch = next(batches(self.backbone, self.data, [torch.arange(len(ids)).numpy()]))
        prompts = [self.start[1:].clone().requires_grad_(True) for _ in range(2)]
        ours = self.run.readout.loss(self.attached(prompts[0]), batch)
        with attention(self.backbone.model, "eager"):
            rows = torch.cat([self.start[:1], prompts[1]])
            found = restated.logits(self.backbone.model, rows, ids, mask)[:, 0, list(self.words)]
            theirs = torch.nn.functional.cross_entropy(found, labels.to(found.device))
        a, b = (
            torch.autograd.grad(loss, prompt)[0] for loss, prompt in zip((ours, theirs), prompts, strict=True)
        )
        return {
            "loss": abs(float(ours.detach() - theirs.detach())),
            "gradient": float((a - b).norm() / b.norm()),
        }


def compare(sides: Sides, steps: int) -> dict[str, Any]:
    """Seconds of an epoch's steps on each side, turn by turn, and their ratios."""
    differences = sides.differences()  # warms up, too
    seconds = yardsticks.turns({name: getattr(sides, name) for name in SIDES}, steps)
    total = {name: sum(found) for name, found in seconds.items()}
    return {
        "steps": steps,
        "threads": torch.get_num_threads(),
        "step_seconds": {name: median(found) for name, found in seconds.items()},
        "ratio": total["reference"] / total["ours"],
        "ratio_to_frozen_reference": total["frozen"] / total["ours"],
        "differences": differences,
    }


@click.command()
@click.option("--size", default="base", show_default=True, help="base (roberta-base) or tiny.")
@click.option("--layers", type=int, help="Fewer layers, for a quick look.")
@click.option("--rows", default=128, show_default=True, help="Prompt rows, the mask row counted.")
@click.option("--steps", default=4, show_default=True, help="Of 16 examples each: one epoch of that many.")
@click.option("--memory-of", type=click.Choice(SIDES), help="Run one step of one side, for its peak.")
@click.option("--peaks/--no-peaks", default=True, show_default=True, help="Also the peaks of memory.")
def main(size: str, layers: int | None, rows: int, steps: int, memory_of: str | None, peaks: bool) -> None:
    """Measure, and print one JSON document with the bounds beside the figures."""
    if memory_of is not None:
        backbone = yardsticks.backbone_of(size, layers=layers)
        getattr(Sides(backbone, rows, restated.BATCH), memory_of)()
        click.echo(json.dumps({"peak_bytes": yardsticks.own_peak()}))
        return
    same = ["--size", size, "--rows", str(rows), *([] if layers is None else ["--layers", str(layers)])]
    peak = {side: yardsticks.peak_of(__file__, *same, "--memory-of", side) for side in SIDES if peaks}
    backbone = yardsticks.backbone_of(size, layers=layers)
    found = compare(Sides(backbone, rows, steps * restated.BATCH), steps)
    found |= {"model": backbone.name, "peak_bytes": peak, "bounds": BOUNDS}
    click.echo(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
