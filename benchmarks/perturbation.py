"""A perturbation study against as many plain evaluations of the same task under the same prompt.

Both run over batches that are there, under one prompt: ours edits neurons in each evaluation, plans which,
and keeps every value in a file; the reference evaluates the prompt as it is, so many times. In turns.

    python benchmarks/perturbation.py --mode noise --rows all
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import click
import numpy as np
import torch
from commands import numbers, printing_json  # the files beside this one
from material import backbone_of, task_of

from transferscope.evaluation import evaluate
from transferscope.models import Backbone
from transferscope.perturbation import Subject
from transferscope.perturbation_plan import RATES, PerturbationSettings, Ranking, plan
from transferscope.perturbing import KeptUnits, Value
from transferscope.prompts import SoftPrompt
from transferscope.store import Study

ROWS = 16


def subject_of(
    backbone: Backbone, settings: PerturbationSettings, examples: int
) -> tuple[Subject, Ranking, SoftPrompt]:
    """A random prompt on a random task, with predictivities that are random, too; all warm."""
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 0.05, (ROWS, backbone.embedding_size)).astype(np.float32)
    prompt = SoftPrompt(rows, "task", 0, "mask-first")
    values = rng.random((1, backbone.layers, backbone.neurons))
    level = rng.normal(0, 0.1, (1, backbone.layers, ROWS + 1, backbone.neurons)).astype(np.float32)
    subject = Subject(backbone, task_of(backbone, examples), [prompt], settings, baseline=level)
    evaluate(subject.attached[0], subject.readouts[0], subject.dev)
    return subject, Ranking("task", values, values[0]), prompt


def compare(
    backbone: Backbone, settings: PerturbationSettings, examples: int, turns: int | None = None
) -> dict[str, Any]:
    """Time of every unit of a study (or of the first ``turns``), each next to one plain evaluation."""
    own, plain = in_turns(*subject_of(backbone, settings, examples), settings, turns)
    clock, processor = own.sum(axis=0) / plain.sum(axis=0)
    return {
        "model": backbone.name,
        "mode": settings.mode,
        "rows": settings.rows,
        "examples": examples,
        "evaluations": len(own),
        "threads": torch.get_num_threads(),
        "plain_seconds": float(plain[:, 0].sum()),
        "study_seconds": float(own[:, 0].sum()),
        "ratio": float(clock),
        "processor_ratio": float(processor),
        "median_ratio": float(np.median(own[:, 0] / plain[:, 0])),
    }


def in_turns(
    subject: Subject, ranking: Ranking, prompt: SoftPrompt, settings: PerturbationSettings, turns: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds [U, 2] of U units, and of a plain evaluation next to each.

    On the clock, and of the processor, which other processes of a busy machine are no part of.
    """
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        kept = KeptUnits(Study(folder), "task", "how", {})
        units = plan(ranking, [prompt], settings)

        def ours_next() -> bool:
            """Plan, score and keep the next unit that is not there; False: there is none."""
            start = now()
            unit = next((unit for unit in units if kept.get(unit) is None), None)
            if unit is None:
                return False
            score = subject.score(unit)
            kept.add(unit, Value(score.value, score.loss, unit.neurons))
            ours.append(since(start))
            return True

        def theirs_next() -> None:
            start = now()
            evaluate(subject.attached[0], subject.readouts[0], subject.dev)
            theirs.append(since(start))

        while turns is None or len(ours) < turns:
            if len(ours) % 2:  # neither of the two is always the first of a turn
                theirs_next()
            if not ours_next():
                break
            if len(theirs) < len(ours):
                theirs_next()
        kept.write()
    return np.array(ours), np.array(theirs[: len(ours)])


def now() -> tuple[float, float]:
    """The clock and the processor's time."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    """What has passed of both."""
    clock, processor = now()
    return clock - start[0], processor - start[1]


@printing_json
@click.option("--model", help="A model's folder or hub id; default: a random BERT.")
@numbers(layers=6, hidden=384, examples=200, draws=5)
@click.option("--mode", type=click.Choice(["noise", "zero", "mean"]), default="noise", show_default=True)
@click.option("--rows", type=click.Choice(["prompt", "all"]), default="all", show_default=True)
@click.option("--turns", type=int, help="At most so many evaluations; default: the whole study.")
def main(
    model: str | None, layers: int, hidden: int, examples: int, draws: int, mode: str, rows: str,
    turns: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Measure, and print one JSON document."""
    settings = PerturbationSettings(mode, rows=rows, draws=draws, rates=RATES)
    return compare(backbone_of(model, layers, hidden), settings, examples, turns)


if __name__ == "__main__":
    main()
