"""A library of many signatures of 36,864 neurons: one query, and all pairs, each in a process of its own.

Peak memory is that of the whole process (its maximum resident set), mapped files included. Beside the seconds
of all pairs stands the time that the machine's own float32 matrix product would take for the same half.

    python benchmarks/many_tasks.py                  # 10,000 tasks
    python benchmarks/many_tasks.py --tasks 2000     # a quick look
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from commands import printing_json  # the file beside this one

from transferscope import packed
from transferscope.library import Library
from transferscope.signatures import Signature

LAYERS, NEURONS, ROWS, WIDTH = 12, 3072, 4, 768
FAMILIES = 20  # of tasks that are alike
INDICATORS = ("on", "skill_overlap", "prompt_cosine_mean_token")
# seconds and bytes that may be taken; they are for 10,000 tasks, all pairs on two cores
BOUNDS = {"query": (1.0, 2 << 30), "pairs": (120.0, 2 << 30)}


def signatures(count: int) -> Iterator[Signature]:
    """Random signatures in families: a neuron is as its family's in about two cases of three."""
    rng = np.random.default_rng(0)
    families = rng.random((FAMILIES, LAYERS, NEURONS)) < 0.3
    for number in range(count):
        own = rng.random((LAYERS, NEURONS), dtype=np.float32)
        active = np.where(own < 0.67, families[number % FAMILIES], own > 0.9)[None]
        yield Signature(
            task=f"task{number:06d}",
            seeds=(0,),
            model="random",
            prompts=rng.normal(size=(1, ROWS, WIDTH)).astype(np.float32),
            stimulation=np.where(active, 1.0, -1.0).astype(np.float32),
            active=active,
            predictivity=0.5 + rng.integers(0, 200, (1, 1, LAYERS, NEURONS)) / 400,
            provenance={"type": f"family{number % FAMILIES}"},
        )


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def query(folder: Path) -> dict[str, Any]:
    """Seconds of opening, and of the top 10 by each indicator, the first of which reads the files."""
    opening, library = timed(lambda: Library.open(folder))
    found: dict[str, Any] = {"seconds_open": opening}
    for name in INDICATORS:
        found[f"seconds_{name}"], nearest = timed(lambda name=name: library.query("task000001", 10, name))
        if name == "on":
            found["of_its_family"] = sum(match.type == "family1" for match in nearest.matches)
    return found


def pairs(folder: Path, kernel: str, indicator: str) -> dict[str, Any]:
    """Seconds of all pairs, written to a file, beside those of as many operations in one matrix product."""
    library = Library.open(folder)
    out = folder / "pairs.npy"
    before = time.process_time()
    seconds, found = timed(lambda: library.all_pairs(indicator, out=out, kernel=kernel))
    # The sum over threads: what the work costs on a machine that does other work, too.
    cpu = time.process_time() - before
    result = {"indicator": indicator, "kernel": found.kernel, "seconds": seconds, "cpu_seconds": cpu}
    if indicator == "on":
        flops = float(len(library)) ** 2 * LAYERS * NEURONS  # two a cell, half of the pairs
        result["product_seconds"] = flops / peak()
        result["product_share"] = result["product_seconds"] / seconds
    return result


def peak(rows: int = 2048, cells: int = 8192) -> float:
    """Operations a second of a float32 matrix product of the size that all pairs are made of."""
    a, b = (np.random.default_rng(0).random((rows, cells), dtype=np.float32) for _ in range(2))
    return 2.0 * rows * rows * cells / min(timed(lambda: a @ b.T)[0] for _ in range(3))


def alone(stage: str, folder: Path, kernel: str = "gemm", indicator: str = "on") -> dict[str, Any]:
    """A stage in a process of its own."""
    command = [sys.executable, __file__, "--stage", stage, "--folder", str(folder)]
    command += ["--kernel", kernel, "--indicator", indicator]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return result


def run(tasks: int, folder: Path) -> dict[str, Any]:
    """Make a library, and measure."""
    adding, _ = timed(lambda: Library(folder).add(signatures(tasks)))
    stored = sum(path.stat().st_size for path in folder.rglob("*.npy"))
    result: dict[str, Any] = {"tasks": tasks, "neurons": LAYERS * NEURONS, "seconds_add": adding}
    result |= {"bytes_stored": stored, "query": alone("query", folder)}
    result["pairs"] = [alone("pairs", folder, kernel) for kernel in packed.kernels()]
    result["pairs"].append(alone("pairs", folder, "gemm", "prompt_cosine_mean_token"))
    seconds = {
        "query": result["query"]["seconds_on"],
        "pairs": min(one["seconds"] for one in result["pairs"][:-1]),
    }
    memory = {
        "query": result["query"]["peak_bytes"],
        "pairs": max(one["peak_bytes"] for one in result["pairs"]),
    }
    result["bounds"] = {
        stage: {
            "seconds": seconds[stage],
            "at_most": most,
            "peak_bytes": memory[stage],
            "at_most_bytes": room,
        }
        for stage, (most, room) in BOUNDS.items()
    }
    return result


@printing_json
@click.option("--tasks", default=10_000, show_default=True)
@click.option("--stage", type=click.Choice(["query", "pairs"]), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
@click.option("--kernel", default="gemm", hidden=True)
@click.option("--indicator", default="on", hidden=True)
def main(tasks: int, stage: str | None, folder: Path | None, kernel: str, indicator: str) -> dict[str, Any]:
    """Measure, and print one JSON document with the bounds beside the figures."""
    if stage is None or folder is None:
        with tempfile.TemporaryDirectory() as made:
            found = run(tasks, Path(made) / "library")
    else:
        found = query(folder) if stage == "query" else pairs(folder, kernel, indicator)
        found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


if __name__ == "__main__":
    main()
