"""How the cost of extraction grows: twice the examples, twice the tasks, twice the trials.

Each turn measures a base size and its double one after the other; the figure is the median of the ratios of
their times, which may be 2, and NOISE more. The bytes of tensors alive at once are counted, not sampled:
twice the examples, trials or tasks may not add to them.

    OMP_NUM_THREADS=1 python benchmarks/growth.py
"""

from __future__ import annotations

from statistics import median
from typing import Any

import click
import torch
import yardsticks
from commands import printing_json  # the files beside this one

from transferscope import attachment
from transferscope.encoding import from_token_ids
from transferscope.measurement import measure
from transferscope.models import Backbone

NOISE = 0.15  # of the ratio: what two runs of the same work differ by on a shared machine
BASE = {"examples": 32, "tasks": 1, "trials": 1}


def extraction(backbone: Backbone, rows: int, *, examples: int, tasks: int, trials: int) -> None:
    """Measure the neurons of some trials on some tasks, as a study does: one after another."""
    blank = from_token_ids([([0], 0)])
    vocabulary = backbone.model.config.vocab_size
    for task in range(tasks):
        # The longest text comes first: padding then does not depend on what was drawn.
        longest = ([0, *[4] * 76, 2], 0)
        train, dev = (
            from_token_ids([longest, *yardsticks.texts(examples, vocabulary, 2 * task + split)[1:]])
            for split in range(2)
        )
        for trial in range(trials):
            prompt = yardsticks.prompt_of(backbone, rows, trial)
            measure(attachment.attach_rows(backbone, prompt, "mask-first"), train, dev, blank=blank)


def doubled(backbone: Backbone, rows: int, what: str, base: dict[str, int], repeats: int) -> dict[str, Any]:
    """The ratio of times at twice the base size of ``what`` to those at the base size, and of bytes."""
    sizes = {"base": base, "double": {**base, what: 2 * base[what]}}
    works = {name: lambda size=size: extraction(backbone, rows, **size) for name, size in sizes.items()}
    peaks = {}
    for name, work in works.items():  # warms up, too
        with yardsticks.LiveTensors() as live:
            work()
        peaks[name] = live.peak
    seconds = yardsticks.turns(works, repeats)
    return {
        "doubled": what,
        "base": base[what],
        "seconds": {name: median(found) for name, found in seconds.items()},
        "ratio": yardsticks.median_ratio(seconds["double"], seconds["base"]),
        "peak_bytes_of_tensors": peaks,
    }


@printing_json
@click.option("--size", default="base", show_default=True, help="base (layers of roberta-base) or tiny.")
@click.option("--layers", default=2, show_default=True)
@click.option("--rows", default=128, show_default=True, help="Prompt rows, the mask row counted.")
@click.option("--examples", default=BASE["examples"], show_default=True, help="Of each split, to start from.")
@click.option("--repeats", default=3, show_default=True)
def main(size: str, layers: int, rows: int, examples: int, repeats: int) -> dict[str, Any]:
    """Measure, and print one JSON document with the bound beside the figures."""
    backbone, base = yardsticks.backbone_of(size, layers=layers), {**BASE, "examples": examples}
    found = [doubled(backbone, rows, what, base, repeats) for what in BASE]
    document = {"model": backbone.name, "layers": layers, "prompt_rows": rows, "bound": 2 * (1 + NOISE)}
    return {**document, "threads": torch.get_num_threads(), "growth": found}


if __name__ == "__main__":
    main()
