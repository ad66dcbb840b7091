"""Speed-ups, few shots and the choice of a learning rate, on curves made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from transferscope.errors import InputError, TaskError
from transferscope.initialisation import (
    Curve,
    InitRun,
    as_rows,
    compare_starts,
    few_shot,
    steps_to_converge,
    steps_to_reach,
)
from transferscope.tasks import Example, Task

STEPS = (0, 10, 20, 30, 40)
SLOW = Curve(STEPS, (0.5, 0.6, 0.7, 0.79, 0.8))
FAST = Curve(STEPS, (0.78, 0.8, 0.85, 0.85, 0.84))


def run(start: str, rate: float, seed: int, curve: Curve, dev: float, loss: float = 1.0) -> InitRun:
    return InitRun(start, rate, seed, curve, curve.best, loss, dev)


def test_steps_by_hand() -> None:
    assert steps_to_converge(SLOW, 0.0) == 40
    assert steps_to_converge(SLOW, 0.011) == 30
    assert steps_to_converge(FAST, 0.0) == 20
    assert steps_to_reach(FAST, 0.8) == 10
    assert steps_to_reach(SLOW, 0.85) is None
    assert steps_to_reach(FAST, 0.7) == 0


def test_the_two_speed_ups_are_their_definitions() -> None:
    runs = [run("scratch", 0.1, 0, SLOW, 0.8), run("imdb", 0.1, 0, FAST, 0.85)]
    found = compare_starts("sst2", "accuracy", runs, untouched={"imdb": 0.77}, tolerance=0.0, steps=40)
    imdb, scratch = found.starts
    assert (imdb.start, scratch.start) == ("imdb", "scratch")
    assert (scratch.convergence_steps, imdb.convergence_steps) == (40, 20)
    assert imdb.convergence_speedup == 2.0
    # Scratch takes 40 steps to its best, 0.8; imdb is there after 10.
    assert (scratch.comparable_steps, imdb.comparable_steps, imdb.comparable_speedup) == (40, 10, 4.0)
    assert (scratch.convergence_speedup, scratch.comparable_speedup) == (None, None)
    assert (imdb.untouched, scratch.untouched) == (0.77, None)
    assert found.recommended is imdb


def test_a_start_that_never_gets_there_has_no_comparable_speed_up() -> None:
    runs = [run("scratch", 0.1, 0, FAST, 0.85), run("imdb", 0.1, 0, SLOW, 0.8)]
    imdb = compare_starts("sst2", "accuracy", runs).starts[1]
    assert (imdb.comparable_steps, imdb.comparable_speedup) == (None, None)


def test_one_that_is_there_before_its_first_step_is_infinitely_faster() -> None:
    there = Curve(STEPS, (0.9, 0.8, 0.8, 0.8, 0.8))
    imdb = compare_starts(
        "sst2", "accuracy", [run("scratch", 0.1, 0, SLOW, 0.8), run("imdb", 0.1, 0, there, 0.9)]
    ).starts[0]
    assert (imdb.comparable_steps, imdb.comparable_speedup) == (0, float("inf"))


def test_each_start_is_judged_at_its_own_best_rate_chosen_on_validation() -> None:
    bad = Curve(STEPS, (0.1,) * 5)
    runs = [
        run("scratch", 0.1, 0, SLOW, 0.80), run("scratch", 0.01, 0, bad, 0.99),
        run("imdb", 0.1, 0, bad, 0.99), run("imdb", 0.01, 0, FAST, 0.85),
    ]  # fmt: skip
    found = compare_starts("sst2", "accuracy", runs)
    chosen = {start.start: (start.learning_rate, start.dev) for start in found.starts}
    # Values on dev of .99 must not tempt it: dev has no part in the choice.
    assert chosen == {"scratch": (0.1, 0.80), "imdb": (0.01, 0.85)}
    assert all(start.edge for start in found.starts)
    assert any("end of what was tried" in note for note in found.notes)
    inner = [*runs, run("imdb", 0.001, 0, bad, 0.1), run("scratch", 1.0, 0, bad, 0.1)]
    assert not any(start.edge for start in compare_starts("sst2", "accuracy", inner).starts)


def test_the_smaller_loss_decides_between_equal_scores() -> None:
    runs = [
        run("scratch", 0.1, 0, SLOW, 0.8, loss=0.7),
        run("scratch", 0.01, 0, SLOW, 0.7, loss=0.6),
    ]
    assert compare_starts("sst2", "accuracy", runs).recommended.learning_rate == 0.01


def test_seeds_are_averaged_and_ties_are_said() -> None:
    def starts(devs: tuple[float, ...]) -> list[InitRun]:
        plain = [run("scratch", 0.1, r, SLOW, 0.8) for r in range(len(devs))]
        return plain + [run("imdb", 0.1, r, FAST, dev) for r, dev in enumerate(devs)]

    apart = compare_starts("sst2", "accuracy", starts((0.85, 0.86, 0.87)))
    imdb = apart.starts[0]
    assert imdb.dev == pytest.approx(0.86)
    assert imdb.error == pytest.approx(np.std([0.85, 0.86, 0.87], ddof=1) / 3**0.5)
    assert not any("cannot tell" in note for note in apart.notes)
    tied = compare_starts("sst2", "accuracy", starts((0.7, 0.86, 0.9)))
    assert any("cannot tell it from: scratch" in note for note in tied.notes)
    one = compare_starts("sst2", "accuracy", starts((0.86,)))
    assert any(note.startswith("One seed") for note in one.notes)
    assert one.starts[0].error is None


def test_rows_are_the_dev_values_at_the_best_rate() -> None:
    runs = [
        run("scratch", 0.1, 0, SLOW, 0.80), run("scratch", 0.1, 1, SLOW, 0.82),
        run("scratch", 0.01, 0, Curve(STEPS, (0.0,) * 5), 0.1), run("scratch", 0.01, 1, SLOW, 0.1, loss=9.0),
    ]  # fmt: skip
    rows = as_rows(compare_starts("sst2", "accuracy", runs))
    assert [(row["source"], row["seed"], row["value"]) for row in rows] == [
        ("scratch", 0, 0.80), ("scratch", 1, 0.82)
    ]  # fmt: skip


def test_scratch_is_needed() -> None:
    with pytest.raises(InputError, match="no run from 'scratch'"):
        compare_starts("sst2", "accuracy", [run("imdb", 0.1, 0, FAST, 0.8)])


def task(size: int = 80) -> Task:
    split = tuple(Example(f"text {i}", None, i % 2) for i in range(size))
    return Task("t", split, split[:4], ("a", "b"))


def test_few_shots_are_twice_k_by_class_and_by_seed() -> None:
    few = few_shot(task(), 16, seed=0)
    labels = [example.label for example in few.train]
    assert (len(labels), sum(labels)) == (32, 16)
    assert few.dev == task().dev
    assert few_shot(task(), 16, seed=0) == few
    assert few_shot(task(), 16, seed=1) != few


def test_what_few_shots_refuse() -> None:
    with pytest.raises(TaskError, match="64 shots need 128 training examples"):
        few_shot(task(), 64)
    many = replace(task(), labels=("a", "b", "c", "d"))
    with pytest.raises(TaskError, match="3 shots cannot hold its 4 classes"):
        few_shot(many, 3)
