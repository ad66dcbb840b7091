"""All pairs of many tasks by one call of indicators.matrix, against a nested loop over pairs.

The loop runs over a few of the pairs and is scaled up: it is what one writes first, with numpy inside each
pair. Sizes are those of roberta-base, 12 x 3,072 neurons.

    OMP_NUM_THREADS=1 python benchmarks/all_pairs.py
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
from commands import printing_json  # the file beside this one

import indicators

LAYERS, NEURONS = 12, 3072
PAIRS = 40  # that the loop really computes
# indicator -> how many tasks; seconds and bytes that all pairs may take on one core
BOUNDS = {
    "on": (1000, 3.0, 1 << 30),
    "on_jaccard": (1000, 3.0, 1 << 30),
    "skill_overlap": (1000, 3.0, 1 << 30),
    "predictivity_spearman": (100, 2.0, 1 << 30),
}


def tasks(name: str, count: int) -> list[np.ndarray]:
    """Random stimulations (booleans, as a signature stores them) or predictivities of ``count`` tasks."""
    rng = np.random.default_rng(0)
    if indicators.get(name).needs == ("predictivity",):
        return [0.5 + rng.integers(0, 200, (LAYERS, NEURONS)) / 400 for _ in range(count)]
    return [rng.random((LAYERS, NEURONS)) < 0.3 for _ in range(count)]


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(name: str, count: int) -> dict[str, Any]:
    """Seconds of all pairs at once and of the loop, and what the former adds to the peak of memory."""
    arrays, record = tasks(name, count), indicators.get(name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    at_once = timed(lambda: indicators.matrix(name, arrays))
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    some = np.random.default_rng(1).integers(count, size=(PAIRS, 2))
    loop = timed(lambda: [record.value(arrays[i], arrays[j]) for i, j in some]) * count**2 / PAIRS
    return {
        "indicator": name,
        "tasks": count,
        "neurons": LAYERS * NEURONS,
        "seconds": at_once,
        "loop_seconds": loop,
        "ratio": at_once / loop,
        "peak_bytes_added": added,
    }


@printing_json
@click.option("--scale", default=1.0, show_default=True, help="Share of the tasks, for a quick look.")
def main(scale: float) -> list[dict[str, Any]]:
    """Measure, and print one JSON document with the bounds beside the figures."""
    found = []
    for name, (count, seconds, memory) in BOUNDS.items():
        row = compare(name, max(2, round(count * scale)))
        found.append({**row, "bound_seconds": seconds, "bound_bytes": memory})
    return found


if __name__ == "__main__":
    main()
