"""Racing: the bound against plain loops, what is asked and counted, how often the best source survives."""

from __future__ import annotations

import doctest
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from transferscope import metrics, racing
from transferscope.errors import InputError
from transferscope.racing import RaceResult, outclassed, race, schedule, stratified

Floats = NDArray[np.float64]


def accuracy(sums: Floats) -> Floats:
    return np.asarray(sums[..., 0] / sums[..., 1])


def problem(means: Sequence[float], examples: int, seed: int, alike: float = 0.5) -> Floats:
    """Statistics [N, S, 2] of sources with these accuracies, right and wrong on much the same examples."""
    rng = np.random.default_rng(seed)
    hardness, noise = rng.normal(size=examples), rng.normal(size=(len(means), examples))
    place = np.sqrt(alike) * hardness + np.sqrt(1 - alike) * noise
    limits = np.array([NormalDist().inv_cdf(mean) for mean in means])
    right = (place < limits[:, None]).astype(np.float64)
    return np.stack([right, np.ones_like(right)], axis=2)


class Recorder:
    """A `measure` that looks its answers up and notes every (source, example) that it is asked for."""

    def __init__(self, statistics: Floats) -> None:
        self.statistics = statistics
        self.names = [f"s{i}" for i in range(len(statistics))]
        self.asked: list[tuple[str, int]] = []
        self.rounds: list[tuple[tuple[str, ...], int]] = []

    def __call__(self, names: Sequence[str], positions: NDArray[np.int64]) -> Floats:
        assert positions.dtype == np.int64
        self.asked += [(name, int(position)) for name in names for position in positions]
        self.rounds.append((tuple(names), len(positions)))
        return self.statistics[[self.names.index(name) for name in names]][:, positions]


def run(statistics: Floats, **options: Any) -> tuple[RaceResult, Recorder]:
    measure = Recorder(statistics)
    options = {"value": accuracy, "resamples": 300, **options}
    return race(measure.names, measure, statistics.shape[1], **options), measure


def slow_outclassed(statistics: Floats, value: Any, alpha: float, resamples: int, seed: int) -> list[bool]:
    """The formula of `outclassed`, one resample, pair and example at a time."""
    sources, n, numbers = statistics.shape
    picks = np.random.default_rng(seed).integers(n, size=(resamples, n))

    def of(source: int, examples: Sequence[int]) -> float:
        sums = [sum(float(statistics[source, i, c]) for i in examples) for c in range(numbers)]
        return float(value(np.array(sums)))

    values = [of(s, range(n)) for s in range(sources)]
    draws = [[of(s, pick) for s in range(sources)] for pick in picks.tolist()]
    found = []
    for s in range(sources):
        means = [sum(draw[j] - draw[s] for draw in draws) / resamples for j in range(sources)]
        highest = sorted(max(draw[j] - draw[s] - means[j] for j in range(sources)) for draw in draws)
        bound = highest[int(np.ceil((1 - alpha) * (resamples - 1)))]
        found.append(max(values) - values[s] > max(bound, 1e-12))
    return found


def confusions(means: Sequence[float], examples: int, seed: int) -> Floats:
    """Statistics [N, S, 9] of three classes for the macro F1."""
    rng = np.random.default_rng(seed)
    gold = rng.choice(3, size=examples, p=[0.5, 0.3, 0.2])
    rows = []
    for mean in means:
        predictions = np.where(rng.uniform(size=examples) < mean, gold, rng.integers(3, size=examples))
        rows.append(metrics.MacroF1().statistics(gold, predictions, classes=3))
    return np.stack(rows)


@pytest.mark.parametrize("kind", ["accuracy", "macro_f1"])
def test_the_bound_is_the_plain_one_done_slowly(kind: str) -> None:
    means = [0.9, 0.85, 0.75, 0.7, 0.6, 0.4]
    found = []
    for seed in range(4):
        if kind == "accuracy":
            statistics, value = problem(means, 40, seed), accuracy
        else:
            statistics, value = confusions(means, 40, seed), metrics.MacroF1().value
        fast = outclassed(statistics, value, 0.05, 60, np.random.default_rng(seed)).tolist()
        assert fast == slow_outclassed(statistics, value, 0.05, 60, seed)
        found += fast
    assert 3 <= sum(found) <= len(found) - 5  # both answers occur


def test_the_best_source_survives() -> None:
    """The promise of `level`, on easy, hard and tied problems, with little and much in common."""
    problems = {
        "spread": np.linspace(0.5, 0.9, 8).tolist(),
        "two groups": [0.6] * 4 + [0.79] * 3 + [0.8],
        "nearly tied": [0.79] * 7 + [0.8],
        "all tied": [0.8] * 8,
    }
    for name, means in problems.items():
        lost, shares = 0, []
        for seed in range(120):
            statistics = problem(means, 400, seed, alike=0.5 if seed % 2 else 0.9)
            result, _ = run(statistics, seed=seed)
            lost += "s7" not in result.survivors
            shares.append(result.spent / result.exhaustive)
        assert lost <= 0.05 * 120, name
        if name == "spread":
            assert np.mean(shares) < 0.45
        if name == "all tied":
            assert np.mean(shares) > 0.9


def test_why_the_bound_is_that_of_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The percentile interval of leader - source alone, its level split over the rounds, keeps no promise."""

    def percentile(
        statistics: Floats, value: Any, alpha: float, resamples: int, rng: np.random.Generator
    ) -> NDArray[np.bool_]:
        values = value(statistics.sum(axis=1))
        draws = racing._resampled(statistics, value, resamples, rng)
        return np.asarray(np.quantile(draws[:, [values.argmax()]] - draws, alpha, axis=0) > 1e-12)

    def lost() -> int:
        problems = [problem([0.79] * 11 + [0.8], 250, seed) for seed in range(60)]
        return sum("s11" not in run(one, seed=seed)[0].survivors for seed, one in enumerate(problems))

    assert lost() <= 0.05 * 60
    monkeypatch.setattr(racing, "outclassed", percentile)
    assert lost() > 0.1 * 60


def test_a_clear_winner_costs_a_fraction_and_the_race_stops() -> None:
    result, measure = run(problem([0.95, 0.3, 0.3, 0.3], 1000, seed=0))
    assert result.order[0] == "s0"
    assert result.survivors == ("s0",)
    assert result.examples["s0"] < 200
    assert result.spent < 0.2 * result.exhaustive
    assert result.rounds == len(measure.rounds)
    assert result.values["s0"] == pytest.approx(
        np.mean([measure.statistics[0, position, 0] for name, position in measure.asked if name == "s0"])
    )


def test_identical_sources_are_measured_in_full() -> None:
    statistics = np.repeat(problem([0.7], 300, seed=0), 5, axis=0)
    result, _ = run(statistics)
    assert result.spent == result.exhaustive == 5 * 300
    assert result.survivors == result.order == ("s0", "s1", "s2", "s3", "s4")
    assert set(result.dropped.values()) == {None}
    assert set(result.examples.values()) == {300}
    assert result.values["s3"] == pytest.approx(statistics[3, :, 0].mean())


def test_nothing_is_asked_twice_and_what_was_asked_is_counted() -> None:
    result, measure = run(problem(np.linspace(0.4, 0.9, 6).tolist(), 500, seed=3))
    assert len(measure.asked) == len(set(measure.asked)) == result.spent
    for name in measure.names:
        assert result.examples[name] == sum(asked == name for asked, _ in measure.asked)
    sizes = [number for _, number in measure.rounds]
    assert np.cumsum(sizes).tolist() == schedule(500)[: len(sizes)]


def test_the_order_is_survivors_then_the_last_dropped() -> None:
    result, measure = run(problem(np.linspace(0.3, 0.9, 8).tolist(), 500, seed=1))
    last = result.rounds + 1
    rounds = [result.dropped[name] or last for name in result.order]
    assert len(set(rounds)) > 2
    assert rounds == sorted(rounds, reverse=True)
    for a, b in zip(result.order, result.order[1:], strict=False):
        assert result.dropped[a] != result.dropped[b] or result.values[a] >= result.values[b]
    for name in measure.names:
        seen = schedule(500)[(result.dropped[name] or result.rounds) - 1]
        assert result.examples[name] == seen


@pytest.mark.parametrize("keep", [1, 3])
def test_so_many_are_kept(keep: int) -> None:
    result, _ = run(problem([0.95, 0.75, 0.72, 0.3, 0.3, 0.3], 400, seed=0), keep=keep)
    assert set(result.survivors) == ({"s0", "s1", "s2"} if keep == 3 else {"s0"})
    assert result.spent < result.exhaustive


def test_one_source_alone_sees_the_first_round() -> None:
    result, _ = run(problem([0.8], 400, seed=0))
    assert (result.order, result.spent, result.rounds) == (("s0",), 32, 1)


def test_a_small_split_is_one_round() -> None:
    result, _ = run(problem([0.9, 0.1], 20, seed=0))
    assert result.rounds == 1
    assert result.spent == result.exhaustive == 40
    assert result.order == ("s0", "s1")


def test_a_given_order_is_followed_and_seeds_repeat() -> None:
    statistics = problem([0.8, 0.7, 0.6], 100, seed=0)
    order = np.arange(100)[::-1].copy()
    _, measure = run(statistics, order=order)
    assert [position for name, position in measure.asked if name == "s0"][:32] == list(range(99, 67, -1))
    first, one = run(statistics, seed=4)
    again, two = run(statistics, seed=4)
    assert (first, one.asked) == (again, two.asked)
    assert run(statistics, seed=5)[1].asked != one.asked


def test_resamples_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = problem([0.8, 0.7, 0.6], 50, seed=0)
    whole = racing._resampled(statistics, accuracy, 40, np.random.default_rng(0))
    monkeypatch.setattr(racing, "CELLS", 50 * 7)
    np.testing.assert_array_equal(
        racing._resampled(statistics, accuracy, 40, np.random.default_rng(0)), whole
    )


def test_a_value_that_is_not_defined_drops_nobody() -> None:
    statistics = problem([0.95, 0.05], 40, seed=0)
    assert outclassed(statistics, accuracy, 0.05, 50, np.random.default_rng(0)).tolist() == [False, True]

    def partly(sums: Floats) -> Floats:
        return np.where(sums[..., 0] < 5, np.nan, accuracy(sums))

    assert outclassed(statistics, partly, 0.05, 50, np.random.default_rng(0)).tolist() == [False, False]


def test_progress_is_told() -> None:
    told: list[tuple[int, int, str]] = []
    run(problem([0.95, 0.3], 300, seed=0), progress=lambda *args: told.append(args))
    assert told[0] == (32, 300, told[0][2])
    assert told[-1][2] == "1 of 2 sources left"


def test_a_stratified_order_has_the_shares_of_all_in_every_part() -> None:
    groups = ["rare"] * 20 + ["common"] * 80
    order = stratified(groups, seed=1)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(100))
    for n in (10, 25, 50):
        rare = sum(groups[i] == "rare" for i in order[:n])
        assert abs(rare - 0.2 * n) <= 1
    assert order.tolist() != stratified(groups, seed=2).tolist()
    assert order.tolist() == stratified(groups, seed=1).tolist()


def test_schedules() -> None:
    assert doctest.testmod(racing).attempted > 0
    assert schedule(10) == [10]
    assert schedule(32) == [32]
    assert schedule(100, 10, 1.01) == list(range(10, 101))
    assert schedule(1000, 100, 3) == [100, 300, 900, 1000]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples": 0}, "at least one example: 0 in all"),
        ({"first": 0}, "0 in the first round"),
        ({"growth": 1.0}, "growth 1.0: each round must see more"),
        ({"level": 1.0}, r"level 1.0: a probability between 0 and 1"),
        ({"keep": 0}, "keep 0: at least one source"),
        ({"resamples": 50}, r"50 resamples are too few .* at least 60 are needed"),
        ({"names": []}, "nothing to race"),
        ({"names": ["a", "b", "a"]}, "given twice: a;"),
        ({"order": np.zeros(80, np.int64)}, r"each of 0 .. 79 once"),
        ({"order": np.arange(79)}, r"its shape is \(79,\)"),
        ({"order": np.arange(80.0)}, "its type float64"),
    ],
)
def test_errors_are_clear(changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"names": ["a", "b"], "examples": 80, "value": accuracy, **changes}

    def measure(names: Sequence[str], positions: NDArray[np.int64]) -> Floats:
        raise AssertionError("nothing may be measured")

    with pytest.raises(InputError, match=message):
        race(given.pop("names"), measure, given.pop("examples"), **given)


def test_statistics_are_checked() -> None:
    def run_with(answer: Any) -> None:
        race(["a", "b"], lambda names, positions: answer(len(names), len(positions)), 80, value=accuracy)

    with pytest.raises(InputError, match=r"shape \(2, 32\); sources, examples, numbers are \(2, 32, 'C'\)"):
        run_with(lambda a, n: np.ones((a, n)))
    with pytest.raises(InputError, match=r"shape \(2, 31, 2\)"):
        run_with(lambda a, n: np.ones((a, n - 1, 2)))
    widths = iter((2, 3))  # another number of statistics in the second round
    with pytest.raises(InputError, match=r"shape \(2, 32, 3\); .* numbers are \(2, 32, 2\)"):
        run_with(lambda a, n: np.ones((a, n, next(widths))))
    with pytest.raises(InputError, match="must be finite"):
        run_with(lambda a, n: np.full((a, n, 2), np.nan))
