"""What evidence says of a ranking: against hand computation; choosing, marks, unlike tasks, and silence."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from transferscope.comparison import IndicatorMatrix
from transferscope.ranking import rank_values
from transferscope.recommendation import MINIMUM, about, applied, by_place, weigh, why
from transferscope.transfer import TransferMatrix


def world(tasks: int, seed: int = 0, noise: float = 0.3) -> tuple[IndicatorMatrix, TransferMatrix]:
    """Measured values, and an indicator that is these values with noise."""
    rng = np.random.default_rng(seed)
    names = tuple(f"t{i}" for i in range(tasks))
    values = rng.uniform(0.3, 1, (tasks, tasks))
    matrix = IndicatorMatrix("on", names, values + rng.normal(0, noise, values.shape))
    return matrix, TransferMatrix("zero-shot", names, names, values, values[None])


def test_agreement_and_places_by_hand() -> None:
    matrix, transfer = world(8)
    found = weigh("t3", [matrix], transfer, default="on")
    assert found is not None
    assert found.targets == tuple(f"t{i}" for i in range(8) if i != 3)
    rho, gaps = [], []
    for t in range(8):
        if t == 3:
            continue
        others = [s for s in range(8) if s != t]
        x, y = matrix.values[others, t], transfer.values[others, t]
        rho.append(spearmanr(x, y).statistic)
        placed = y[np.argsort(-x)]
        gaps.append(placed[0] - placed[1:])
    assert found.agreement.mean == pytest.approx(np.mean(rho))
    assert found.agreement.n == 7
    for estimate, expected in zip(found.behind, np.mean(gaps, axis=0), strict=True):
        assert estimate is not None
        assert estimate.mean == pytest.approx(expected)


def test_the_target_itself_plays_no_part() -> None:
    matrix, transfer = world(8)
    values = transfer.values.copy()
    values[:, 3] = 0.0
    changed = TransferMatrix("zero-shot", transfer.sources, transfer.targets, values, values[None])
    assert weigh("t3", [matrix], transfer, default="on") == weigh("t3", [matrix], changed, default="on")


def test_ties_share_their_mean() -> None:
    x, y = np.array([1.0, 2.0, 2.0, 0.0]), np.array([0.1, 0.5, 0.9, 0.3])
    assert by_place(x, y) == pytest.approx([0.7, 0.7, 0.1, 0.3])


def test_another_indicator_is_taken_only_beyond_doubt() -> None:
    noise, transfer = world(16, noise=30.0)
    good = IndicatorMatrix("good", noise.tasks, world(16, noise=0.02)[0].values)
    chosen = weigh("t0", [noise, good], transfer, default="on", choose=True)
    assert chosen is not None
    assert (chosen.indicator, chosen.chosen_over) == ("good", "on")
    assert "beyond doubt" in why(chosen)
    asked = weigh("t0", [noise, good], transfer, default="on")
    assert asked is not None
    assert (asked.indicator, asked.chosen_over) == ("on", None)


def test_the_best_of_many_by_luck_is_not_taken() -> None:
    """Twenty indicators that say nothing: the luckiest is not chosen in more than one world of twenty."""
    taken = 0
    for seed in range(40):
        noise, transfer = world(12, seed=seed, noise=30.0)
        rng = np.random.default_rng(1000 + seed)
        others = [IndicatorMatrix(f"i{i}", noise.tasks, rng.random((12, 12))) for i in range(20)]
        found = weigh("t0", [noise, *others], transfer, default="on", choose=True)
        assert found is not None
        taken += found.chosen_over is not None
    assert taken <= 4  # 5 % of 40 is 2; five or more come with a chance of one in twenty


def test_chance_is_called_chance() -> None:
    """An indicator that knows types and nothing else: good over all sources, useless among unlike ones."""
    rng = np.random.default_rng(2)
    names = tuple(f"t{i}" for i in range(12))
    types = {name: "ab"[i % 2] for i, name in enumerate(names)}
    same = np.array([[types[s] == types[t] for t in names] for s in names])
    values = same * 0.4 + rng.uniform(0.3, 0.5, (12, 12))
    transfer = TransferMatrix("zero-shot", names, names, values, values[None])
    matrix = IndicatorMatrix("on", names, same + rng.uniform(0, 0.5, (12, 12)))
    found = weigh("t0", [matrix], transfer, types=types, default="on")
    assert found is not None
    assert found.agreement.low > 0
    assert found.unlike is not None
    assert found.unlike.low <= 0
    first, second = about(found)
    assert "cannot be told from a random order" not in first
    assert "no better than chance can be shown" in second
    alien = weigh("t0", [matrix], transfer, types={**types, "t0": "new"}, default="on")
    assert alien is not None
    assert "No measured target is of the target's type, new" in about(alien)[1]
    nothing = IndicatorMatrix("on", names, rng.random((12, 12)))
    lost = weigh("t0", [nothing], transfer, types=types, default="on")
    assert lost is not None
    assert "cannot be told from a random order" in about(lost)[0]


def test_marks_follow_the_gaps() -> None:
    """The first is always best by far, and all others are alike: they are told apart from it, all of them."""
    names = tuple(f"t{i}" for i in range(9))
    rng = np.random.default_rng(0)
    score = rng.random((9, 9))
    values = np.full((9, 9), 0.5) + rng.normal(0, 0.01, (9, 9))
    for t in range(9):
        others = [s for s in range(9) if s != t]
        values[max(others, key=lambda s, t=t: score[s, t]), t] = 0.9  # type: ignore[misc]
    transfer = TransferMatrix("zero-shot", names, names, values, values[None])
    matrix = IndicatorMatrix("on", names, score)
    ranking = rank_values("t0", [matrix], transfer=transfer)
    assert [source.tied_by_evidence for source in ranking.sources] == [None, *[False] * 7]
    noise = IndicatorMatrix("on", names, rng.random((9, 9)))
    tied = rank_values("t0", [noise], transfer=transfer)
    assert sum(source.tied_by_evidence or False for source in tied.sources) >= 5
    assert any("does not tell these from the first" in note for note in tied.notes)


def test_too_little_evidence_is_none() -> None:
    matrix, transfer = world(MINIMUM)
    assert weigh("t0", [matrix], transfer, default="on") is None
    assert weigh("t0", [matrix], None, default="on") is None
    ranking = rank_values("t0", [matrix], transfer=transfer)
    assert {source.tied_by_evidence for source in ranking.sources} == {None}
    assert applied(ranking, None) == ranking


def test_the_order_by_type_first_is_what_is_judged() -> None:
    rng = np.random.default_rng(4)
    names = tuple(f"t{i}" for i in range(10))
    types = {name: "ab"[i % 2] for i, name in enumerate(names)}
    same = np.array([[types[s] == types[t] for t in names] for s in names])
    values = same * 0.4 + rng.uniform(0.3, 0.5, (10, 10))
    transfer = TransferMatrix("zero-shot", names, names, values, values[None])
    matrix = IndicatorMatrix("on", names, rng.random((10, 10)))
    plain = weigh("t0", [matrix], transfer, types=types, default="on")
    sorted_ = weigh("t0", [matrix], transfer, types=types, default="on", prefer_same_type=True)
    assert plain is not None
    assert sorted_ is not None
    assert sorted_.agreement.mean > plain.agreement.mean + 0.3
