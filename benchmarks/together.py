"""R prompts of a task tuned in one batch, against R separate tunings, in turns.

`compare` measures single updates (one of each trial: together, then trial by trial) and, with ``whole``,
whole tunings, encoding and evaluations included. `rates` gives the updates per second for 1 to R trials at
once: what there is to gain where one trial's batch leaves the device idle.

    python benchmarks/together.py --trials 5 --turns 10
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
import numpy as np
import torch
from material import backbone_of, words_of  # the file beside this one

from transferscope.models import Backbone
from transferscope.settings import TuningSettings
from transferscope.tasks import Example, Task
from transferscope.tuning import begin, tune
from transferscope.tuning_run import TuningRun, prepare_seeds
from transferscope.tuning_together import step_together, tune_together


def task_of(backbone: Backbone, examples: int, seed: int = 0) -> Task:
    """Texts of 4 to 50 words of the model's vocabulary, most of them short, two classes."""
    rng = np.random.default_rng(seed)
    words = words_of(backbone)
    sizes = np.clip(rng.gamma(2.0, 10.0, examples).astype(int), 4, 50)
    texts = [" ".join(rng.choice(words, size=size)) for size in sizes]
    split = tuple(Example(text, None, i % 2) for i, text in enumerate(texts))
    return Task("task", split, split[: examples // 10], ("a", "b"), (words[0], words[1]))


def runs_of(backbone: Backbone, task: Task, settings: TuningSettings, trials: int) -> list[TuningRun]:
    """Tunings at their first step, of seeds 0 to R - 1."""
    setups = prepare_seeds(backbone, task, settings, range(trials))
    return [begin(backbone, task, setup, settings, seed).run for seed, setup in enumerate(setups)]


def compare(
    backbone: Backbone, task: Task, settings: TuningSettings, trials: int, turns: int, *, whole: bool = False
) -> dict[str, Any]:
    """Times of both in turns, medians, and the median of the turns' ratios (together by separate)."""
    seeds = range(trials)

    def alone() -> None:
        for run in singles:
            run.step_once()

    if whole:
        both: tuple[Callable[[], Any], Callable[[], Any]] = (
            lambda: tune_together(backbone, task, seeds=seeds, settings=settings),
            lambda: [tune(backbone, task, seed=seed, settings=settings) for seed in seeds],
        )
    else:
        joint, singles = (runs_of(backbone, task, settings, trials) for _ in range(2))
        both = (lambda: step_together(joint), alone)
    together, separate = _in_turns(both, turns, backbone.device)
    clock, processor = np.median(together / separate, axis=0).tolist()
    return {
        "model": backbone.name,
        "device": str(backbone.device),
        "threads": torch.get_num_threads(),
        "what": f"tunings of {settings.steps} steps" if whole else "updates",
        "trials": trials,
        "batch_size": settings.batch_size,
        "turns": turns,
        "separate_seconds": float(np.median(separate[:, 0])),
        "together_seconds": float(np.median(together[:, 0])),
        "ratio": clock,
        "processor_ratio": processor,
    }


def _in_turns(
    both: Sequence[Callable[[], Any]], turns: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds [turns, 2] of each, on the clock and of the processor; they take turns to begin."""
    times: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    for turn in range(turns + 1):
        for which in (0, 1) if turn % 2 else (1, 0):
            _wait(device)
            clock, processor = time.perf_counter(), time.process_time()
            both[which]()
            _wait(device)
            times[which].append((time.perf_counter() - clock, time.process_time() - processor))
    return np.array(times[0][1:]), np.array(times[1][1:])  # the first turn warms up


def rates(
    backbone: Backbone, task: Task, settings: TuningSettings, trials: Iterable[int], updates: int = 20
) -> list[dict[str, float]]:
    """Updates per second, counted over all trials, for each number of trials at once, and the gain over one.

    One trial is stepped as it is in a tuning of its own. ``updates`` of each are timed, after three.
    """
    found: list[dict[str, float]] = []
    for several in trials:
        runs = runs_of(backbone, task, settings, several)

        def step(runs: list[TuningRun] = runs) -> None:
            if len(runs) == 1:
                runs[0].step_once()
            else:
                step_together(runs)

        for _ in range(3):
            step()
        _wait(backbone.device)
        start = time.perf_counter()
        for _ in range(updates):
            step()
        _wait(backbone.device)
        rate = several * updates / (time.perf_counter() - start)
        found.append({"trials": several, "updates_per_second": rate})
    return [row | {"gain": row["updates_per_second"] / found[0]["updates_per_second"]} for row in found]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@click.command()
@click.option("--model", help="A model's folder or hub id; default: a random BERT.")
@click.option("--layers", default=6, show_default=True)
@click.option("--hidden", default=384, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--trials", default=5, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--examples", default=2000, show_default=True)
@click.option("--turns", default=10, show_default=True)
@click.option("--whole", type=int, help="Compare whole tunings of so many steps, not single updates.")
@click.option("--rates", "rated", is_flag=True, help="Updates per second for 1 to --trials trials at once.")
def main(
    model: str | None, layers: int, hidden: int, device: str, trials: int, batch_size: int, examples: int,
    turns: int, whole: int | None, rated: bool,
) -> None:  # fmt: skip
    """Measure, and print one JSON document."""
    backbone = backbone_of(model, layers, hidden, device)
    task = task_of(backbone, examples)
    settings = TuningSettings(steps=whole or 1000, evaluate_every=whole or 1000, batch_size=batch_size)
    found: Any = (
        rates(backbone, task, settings, range(1, trials + 1), turns)
        if rated
        else compare(backbone, task, settings, trials, turns, whole=whole is not None)
    )
    click.echo(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
