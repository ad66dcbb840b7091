"""Seconds of one value of each indicator at the sizes of roberta-base, on one core.

    OMP_NUM_THREADS=1 python benchmarks/seconds.py                 # print
    OMP_NUM_THREADS=1 python benchmarks/seconds.py --write         # and keep them for `transferscope list`

Sizes: prompts [100, 768]; neurons [12, 3072]; label scores of 5,000 examples, 768 features, 10 classes;
representations and texts of 1,000 examples; LoRA of rank 8 on 24 modules of 768 x 768.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

import indicators
from indicators import Indicator
from transferscope import store

FILE = Path(__file__).resolve().parents[1] / "transferscope" / "indicator_seconds.csv"
S, D, K, TEXTS = 5000, 768, 10, 1000
NEURONS, PROMPT = (12, 3072), (100, 768)
LABEL_SCORE_BOUND = {"parc": 30.0, "knn_loo": 30.0}  # seconds; 5 for all other scores


def _features(rng: np.random.Generator, rows: int = S) -> np.ndarray:
    """Features that tell the classes of `_labels` a little."""
    centres = rng.normal(size=(K, D))
    return (0.3 * centres[np.arange(rows) % K] + rng.normal(size=(rows, D))).astype(np.float32)


def _labels(rng: np.random.Generator, rows: int = S) -> np.ndarray:
    return np.arange(rows) % K


def _probabilities(rng: np.random.Generator) -> np.ndarray:
    return rng.dirichlet(np.ones(K), size=S)


def _update(rng: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {f"{i}.q": (rng.normal(size=(8, D)), rng.normal(size=(D, 8))) for i in range(24)}


NEEDS: dict[str, Callable[[np.random.Generator], Any]] = {
    "prompt": lambda rng: rng.normal(size=PROMPT).astype(np.float32),
    "anchors": lambda rng: rng.normal(size=(TEXTS, D)),
    "stimulation": lambda rng: rng.random(NEURONS) < 0.3,
    "predictivity": lambda rng: 0.5 + rng.integers(0, 200, (1, *NEURONS)) / 400,
    "update": _update,
    "features": _features,
    "labels": _labels,
    "probabilities": _probabilities,
    "logits": lambda rng: rng.normal(size=(S, K)),
    "representation": lambda rng: _features(rng, TEXTS),
    "inputs": lambda rng: _features(rng, TEXTS),
    "vocabulary": lambda rng: rng.choice(50_000, 20_000, replace=False),
    "prompt_fisher": lambda rng: rng.random(PROMPT),
    "ffn_fisher": lambda rng: rng.random(NEURONS),
    "firing": lambda rng: rng.random(NEURONS),
    "lape_mask": lambda rng: rng.random(NEURONS) < 0.05,
    "mean_difference": lambda rng: rng.random(NEURONS),
    "point_biserial": lambda rng: rng.random(NEURONS),
    "auroc": lambda rng: rng.random(NEURONS),
    "attribution": lambda rng: rng.random(NEURONS),
}


def _task(record: Indicator, rng: np.random.Generator) -> list[Any]:
    texts = {"labels": lambda rng: _labels(rng, TEXTS)} if "inputs" in record.needs else {}
    return [(texts.get(need) or NEEDS[need])(rng) for need in record.needs]


def seconds(record: Indicator, repeats: int = 3) -> float:
    """The least of some runs of one value."""
    rng = np.random.default_rng(0)
    source = _task(record, rng)
    if record.convention == "score":
        arguments = source
    else:
        target = _task(record, rng)
        arguments = [array for pair in zip(source, target, strict=True) for array in pair]
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        record.function(*arguments)
        times.append(time.perf_counter() - start)
        if len(times) > 1 and times[-1] > 2:  # what disturbs short ones does not disturb long ones
            break
    return min(times)


@click.command()
@click.option("--write", is_flag=True, help=f"Keep them in {FILE.name}.")
@click.option("--only", multiple=True, help="Only these indicators.")
def main(write: bool, only: tuple[str, ...]) -> None:
    """Measure, and print name,seconds,bound as CSV."""
    every = [*indicators.records(), *(indicators.get(r.example or "") for r in indicators.parametric())]
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(["name", "seconds", "bound"])
    for record in every:
        if not only or record.name in only:
            bound = LABEL_SCORE_BOUND.get(record.name, 5.0) if record.convention == "score" else ""
            writer.writerow([record.template or record.name, f"{seconds(record):.2g}", bound])
    click.echo(page.getvalue().rstrip())
    if write:
        store.write_text(FILE, page.getvalue())


if __name__ == "__main__":
    main()
