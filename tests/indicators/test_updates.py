"""Weight differences: values by hand, what a factorisation must not change, modules of one side, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import indicators
from indicators import InvalidInput, updates

NAMES = ("update_cosine", "update_euclidean", "update_subspace")
each = pytest.mark.parametrize("name", NAMES)


def update(seed: int, ranks: dict[str, int] | None = None, out: int = 7, width: int = 5) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    ranks = ranks or {"q": 2, "v": 3}
    return {name: (rng.normal(size=(r, width)), rng.normal(size=(out, r))) for name, r in ranks.items()}


def value(name: str, source: Any, target: Any) -> float:
    return indicators.get(name).function(source, target)


def dense(item: dict[str, Any]) -> np.ndarray:
    return np.concatenate([(b @ a).ravel() for a, b in item.values()])


def test_values_by_hand() -> None:
    # W of q: [[2, 0], [0, 0]] and [[3, 4], [0, 0]]; of v: [[1, 0], [0, 1]] and [[0, 0], [0, 2]].
    source = {"q": ([[1.0, 0.0]], [[2.0], [0.0]]), "v": (np.eye(2), np.eye(2))}
    target = {"q": ([[3.0, 4.0]], [[1.0], [0.0]]), "v": ([[0.0, 2.0]], [[0.0], [1.0]])}
    assert value("update_cosine", source, target) == pytest.approx((6 + 2) / np.sqrt((4 + 2) * (25 + 4)))
    assert value("update_euclidean", source, target) == pytest.approx(1 / (1 + np.sqrt(1 + 16 + 1 + 1)))
    assert value("update_subspace", source, target) == pytest.approx((1 + 1) / 2)
    other = {"q": ([[1.0, 1.0]], [[1.0], [1.0]])}
    assert value("update_subspace", source, other) == pytest.approx(0.5)


@each
def test_the_factorisation_does_not_matter(name: str) -> None:
    one, two = update(1), update(2)
    rng = np.random.default_rng(3)
    other = {}
    for module, (a, b) in one.items():
        mixing = rng.normal(size=(len(a), len(a)))
        other[module] = (mixing @ a, b @ np.linalg.inv(mixing))
    padded = {m: (np.vstack([a, a, 0 * a]), np.hstack([0.3 * b, 0.7 * b, b])) for m, (a, b) in one.items()}
    for same in (other, padded):
        assert value(name, same, two) == pytest.approx(value(name, one, two), abs=1e-11)
        assert value(name, same, one) == pytest.approx(1.0, abs=1e-11)


@each
def test_where_factors_cancel_the_update_is_zero(name: str) -> None:
    a, b = update(1)["q"]
    nothing = {"q": (np.vstack([a, a]), np.hstack([b, -b]))}
    zero = {"q": (0 * a, b)}
    assert value(name, nothing, update(2)) == pytest.approx(value(name, zero, update(2)), nan_ok=True)
    assert value(name, nothing, zero) == pytest.approx(indicators.get(name).zero_value, nan_ok=True, abs=0)


def test_a_module_of_one_side_is_zero_on_the_other() -> None:
    one = update(1, {"q": 2, "k": 1})
    two = update(2, {"q": 2, "v": 3})
    zeros = np.zeros((1, 5)), np.zeros((7, 1))
    full_one, full_two = {**one, "v": zeros}, {"q": two["q"], "k": zeros, "v": two["v"]}
    for name in NAMES:
        assert value(name, one, two) == pytest.approx(value(name, full_one, full_two))
    assert value("update_cosine", one, two) < value("update_cosine", {"q": one["q"]}, {"q": two["q"]})
    assert value("update_subspace", one, two) == value("update_subspace", {"q": one["q"]}, {"q": two["q"]})


def test_no_common_module() -> None:
    one, two = update(1, {"q": 2}), update(2, {"v": 2})
    assert value("update_cosine", one, two) == 0.0
    size = (dense(one) ** 2).sum() + (dense(two) ** 2).sum()
    assert value("update_euclidean", one, two) == pytest.approx(1 / (1 + np.sqrt(size)))
    assert np.isnan(value("update_subspace", one, two))


@pytest.mark.parametrize("shift", [1e-2, 1e-6, 1e-10])
def test_small_distances_keep_their_digits(shift: float) -> None:
    one = update(1)
    near = {m: (np.vstack([a, a[:1]]), np.hstack([b, shift * b[:, :1]])) for m, (a, b) in one.items()}
    moved = np.sqrt(sum(np.linalg.norm(b[:, :1] @ a[:1]) ** 2 for a, b in one.values()))
    found = value("update_euclidean", one, near)
    # 1 / (1 + d) itself is rounded to 1e-16
    assert 1 / found - 1 == pytest.approx(shift * moved, rel=1e-9, abs=3e-15)
    (row,) = indicators.matrix("update_euclidean", [one], [near, update(2), one])
    assert row[0] == found
    assert row[2] == pytest.approx(1.0, abs=1e-13)


def test_ranks_beyond_the_width_of_a_module() -> None:
    one, two = update(1, {"q": 9}), update(2, {"q": 20})
    cosine = dense(one) @ dense(two) / np.linalg.norm(dense(one)) / np.linalg.norm(dense(two))
    assert value("update_cosine", one, two) == pytest.approx(cosine)
    assert 0 < value("update_subspace", one, two) < 1  # five columns of seven


def test_rounding_to_float32_adds_no_directions() -> None:
    a, b = update(1)["q"]
    exact = {"q": (a, b)}
    twice = np.hstack([b, b]).astype(np.float32), np.vstack([a, a * (1 + 1e-7)]).astype(np.float32)
    rounded = {"q": (twice[1], twice[0])}
    other = update(2)
    assert value("update_subspace", rounded, other) == pytest.approx(
        value("update_subspace", exact, {"q": other["q"]}), abs=1e-5
    )


@each
def test_factors_of_extreme_size(name: str) -> None:
    one, two = update(1), update(2)
    plain = value(name, one, two)
    moved = {module: (1e250 * a, 1e-250 * b) for module, (a, b) in one.items()}
    assert value(name, moved, two) == pytest.approx(plain, abs=1e-10)
    if name != "update_euclidean":
        far = {module: (1e200 * a, 1e200 * b) for module, (a, b) in one.items()}
        assert value(name, far, two) == pytest.approx(plain, abs=1e-10)
    else:
        far = {module: (1e200 * a, 1e200 * b) for module, (a, b) in one.items()}
        assert value(name, far, two) == 0.0


@each
def test_whole_numbers_and_lists_are_factors_too(name: str) -> None:
    lists = {"q": ([[1, 0], [0, 2]], [[1, 1], [0, 1], [3, 0]])}
    arrays = {m: (np.array(a, float), np.array(b, float)) for m, (a, b) in lists.items()}
    other = update(4, {"q": 2}, out=3, width=2)
    assert value(name, lists, other) == value(name, arrays, other)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({}, "source update is dict: a mapping from at least one module"),
        ([1], "source update is list: a mapping"),
        (np.ones((2, 2)), r"source update is an array \[2, 2\]: a mapping"),
        ({"q": np.ones((2, 3, 3))}, "source update, 'q' is no tuple of two factors"),
        ({"q": (np.ones((2, 5)),)}, "source update, 'q' is no tuple of two factors"),
        (
            {"q": (np.ones((2, 5)), np.ones((7, 3)))},
            r"'q': A is \[2, 5\] and B is \[7, 3\]: B needs a column",
        ),
        ({"q": (np.ones(5), np.ones((7, 1)))}, r"A of 'q' is \[5\]: a non-empty array \[r, in\]"),
        ({"q": (np.ones((2, 5)), np.ones((0, 2)))}, r"B of 'q' is \[0, 2\]: a non-empty array \[out, r\]"),
        ({"q": (np.ones((2, 5)), np.full((7, 2), np.nan))}, r"B of 'q' holds nan at \[0, 0\]"),
        (
            {"q": (np.ones((2, 6)), np.ones((7, 2)))},
            r"'q' of source update is \[7, 6\] and that of target update is \[7, 5\]: the shapes must agree",
        ),
    ],
)
@each
def test_what_is_no_update(name: str, item: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        value(name, item, update(1))


def test_the_error_says_which_of_several() -> None:
    several = [update(1), update(2), update(3, width=6)]
    with pytest.raises(InvalidInput, match=r"'q' of source update 0 is \[7, 5\] and that of source update 2"):
        indicators.matrix("update_cosine", several)


@each
def test_all_pairs_factorise_each_update_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    plain = updates._thin

    def counted(*factors: Any) -> Any:
        nonlocal calls
        calls += 1
        return plain(*factors)

    monkeypatch.setattr(updates, "_thin", counted)
    many = [update(seed) for seed in range(6)]
    square = indicators.matrix(name, many)
    assert calls == 6 * 2  # two modules each
    oblong = indicators.matrix(name, many, many[:4])
    np.testing.assert_allclose(oblong, square[:, :4], atol=1e-12)
