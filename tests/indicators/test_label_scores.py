"""Label scores: values of public implementations, and what those have wrong, on the case where it shows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import indicators
from indicators import InvalidInput
from indicators.label_mixture import mixture_posterior, principal

Shared = Callable[..., Path]

GOLDEN = {
    "leep (thuml LEEP.py)": ("leep", "P", "y"),
    "leep (parc)": ("leep", "P", "y"),
    "nce (thuml NCE.py, argmax P)": ("nce", "P", "y"),
    "hscore (tllib)": ("h_score", "X", "y"),
    "hscore_reg (tllib)": ("h_score_shrinkage", "X", "y"),
    "transrate eps=1e-4 (tllib)": ("transrate_classes", "X", "y"),
    "gbc diagonal (transcribed)": ("gbc", "X", "y"),
}


def value(name: str, *given: Any, **options: Any) -> float:
    return indicators.get(name).function(*given, **options)


@pytest.fixture(scope="module")
def golden(shared: Shared) -> dict[str, Any]:
    return json.loads(shared("golden", "indicators", "golden.json").read_text())


@pytest.fixture(scope="module")
def data(shared: Shared) -> dict[str, np.ndarray]:
    with np.load(shared("golden", "indicators", "fixture.npz")) as arrays:
        return {name: arrays[name] for name in ("X", "y", "yr", "P")}


def task(seed: int, count: int = 100, width: int = 8, number: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Features [count, width] that say something of `number` balanced classes."""
    rng = np.random.default_rng([60, seed])
    labels = np.arange(count) % number
    return rng.normal(size=(number, width))[labels] + rng.normal(size=(count, width)), labels


@pytest.mark.parametrize("key", GOLDEN)
def test_public_implementations(key: str, golden: dict[str, Any], data: dict[str, np.ndarray]) -> None:
    name, *given = GOLDEN[key]
    assert value(name, *(data[array] for array in given)) == pytest.approx(golden[key], abs=1e-6)


def test_public_implementations_with_options(golden: dict[str, Any], data: dict[str, np.ndarray]) -> None:
    X, y = data["X"], data["y"]
    assert 100 * value("knn_loo", X, y) == pytest.approx(golden["knn1 l2 % (parc)"], abs=1e-6)
    expected = golden["sfda (TencentARC, mean p)"]
    assert value("sfda", X, y, average="probability") == pytest.approx(expected, abs=1e-6)


# Second moments.


def test_h_score_is_a_matrix_product(data: dict[str, np.ndarray]) -> None:
    X, y = data["X"], data["y"]
    means = np.stack([X[y == k].mean(axis=0) for k in y])
    product = np.linalg.inv(np.cov(X.T)) * np.cov(means.T)
    by_entries = float(np.trace(product))
    assert abs(by_entries - value("h_score", X, y)) > 0.1


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e8])
def test_collinear_features_count_once(offset: float) -> None:
    """Also far from 0, where the rounding of a large mean is a direction of its own."""
    features, labels = task(2)
    wide = np.hstack([features, features @ np.random.default_rng(66).normal(size=(8, 12))]) + offset
    plain = value("h_score", features, labels)
    assert value("h_score", wide, labels) == pytest.approx(plain, abs=1e-6)
    noisy = wide + 1e-3 * np.random.default_rng(67).normal(size=wide.shape)
    assert value("h_score", noisy, labels) > plain + 0.05


def test_h_score_says_nothing_with_few_examples_and_its_shrinkage_form_does() -> None:
    rng = np.random.default_rng(67)
    labels = np.arange(40) % 4
    for signal in (0.0, 1.0):
        features = signal * rng.normal(size=(4, 100))[labels] + rng.normal(size=(40, 100))
        assert value("h_score", features, labels) == pytest.approx(3.0, abs=1e-9)
        shrunk = value("h_score_shrinkage", features, labels)
        assert (shrunk > 1.5) == (signal > 0)


def test_shrinkage_is_that_of_scikit_learn() -> None:
    from sklearn.covariance import LedoitWolf

    for seed, (count, width) in enumerate([(60, 5), (20, 40)]):
        features, labels = task(seed, count, width)
        fitted = LedoitWolf().fit(features)
        means = np.stack([features[labels == k].mean(axis=0) for k in labels])
        between = (1 - fitted.shrinkage_) * np.cov(means.T)
        expected = np.trace(np.linalg.inv(fitted.covariance_) @ between)
        assert value("h_score_shrinkage", features, labels) == pytest.approx(expected, abs=1e-9)


def test_transrate_weights_classes_by_their_examples() -> None:
    """With 1/K for each class the value can fall below 0, and below that of shuffled labels."""
    features, labels = task(3, count=400)
    assert value("transrate", features, labels) == pytest.approx(
        value("transrate_classes", features, labels), abs=1e-12
    )
    rng = np.random.default_rng(68)
    rare = np.where(np.arange(200) < 190, 0, 1)
    spread = rng.normal(size=(200, 4)) * np.where(rare == 0, 1.0, 10.0)[:, None]
    assert value("transrate_classes", spread, rare) < 0 < value("transrate", spread, rare)
    shuffled = [value("transrate_classes", spread, rng.permutation(rare)) for _ in range(5)]
    assert value("transrate_classes", spread, rare) < min(shuffled)


def test_transrate_of_a_missing_class_id() -> None:
    """Public code divides by the size of class 1, which no example has."""
    features, labels = task(4, number=2)
    for name in ("transrate", "transrate_classes"):
        assert value(name, features, 2 * labels) == value(name, features, labels)
        with pytest.raises(InvalidInput, match="eps=0: a positive number"):
            value(name, features, labels, eps=0)


# Gaussians.


def test_gbc_of_two_normal_densities() -> None:
    """The Bhattacharyya coefficient is the integral of sqrt(p q): of two classes, twice and negative."""
    from scipy.integrate import quad

    a, b = np.array([-1.0, 0.0, 0.5, 2.0]), np.array([1.0, 4.0, 7.0])
    p, q = stats.norm(a.mean(), a.std()), stats.norm(b.mean(), b.std())
    overlap = quad(lambda x: math.sqrt(p.pdf(x) * q.pdf(x)), -20, 30)[0]
    features = np.concatenate([a, b])[:, None]
    for name in ("gbc", "gbc_spherical"):
        assert value(name, features, [0] * 4 + [1] * 3) == pytest.approx(-2 * overlap, abs=1e-8)


def test_spherical_gbc_multiplies_the_logarithm_by_the_dimensions(
    golden: dict[str, Any], data: dict[str, np.ndarray]
) -> None:
    X, y = data["X"], data["y"]
    parts = [X[y == k] for k in range(3)]
    variances = [part.var(axis=0).mean() for part in parts]
    sums = {1: 0.0, 16: 0.0}
    for factor in sums:
        for i in range(3):
            for j in range(3):
                middle = (variances[i] + variances[j]) / 2
                apart = ((parts[i].mean(axis=0) - parts[j].mean(axis=0)) ** 2).sum() / middle / 8
                unlike = math.log(middle / math.sqrt(variances[i] * variances[j])) / 2
                sums[factor] -= math.exp(-apart - factor * unlike) if i != j else 0.0
    coded = golden["gbc spherical AS CODED (log term not multiplied by D)"]
    assert sums[1] == pytest.approx(coded, abs=1e-6)
    assert value("gbc_spherical", X, y) == pytest.approx(sums[16], abs=1e-12)
    assert abs(value("gbc_spherical", X, y) - coded) > 1e-3
    # Equal means, different variances: in many dimensions such classes hardly overlap.
    rng = np.random.default_rng(69)
    labels = np.arange(400) % 2
    features = rng.normal(size=(400, 100)) * np.where(labels == 0, 1.0, 2.0)[:, None]
    assert value("gbc_spherical", features, labels) > -0.01
    assert value("gbc_spherical", features, labels) == pytest.approx(value("gbc", features, labels), abs=0.01)


def test_gbc_at_any_scale() -> None:
    """With a floor of 1e-4 for every variance, small features have no distance left."""
    features, labels = task(5)
    assert value("gbc", 1e-4 * features, labels) == pytest.approx(value("gbc", features, labels), abs=1e-12)
    small = [1e-4 * features[labels == k] for k in range(4)]
    floored = [np.maximum(part.var(axis=0), 1e-4) for part in small]
    apart = ((small[0].mean(axis=0) - small[1].mean(axis=0)) ** 2 / floored[0]).sum() / 8
    assert math.exp(-apart) > 0.99


def test_sfda_leaves_the_features_as_they_are_and_has_the_logarithm(data: dict[str, np.ndarray]) -> None:
    X, y = data["X"].copy(), data["y"]
    logs, mean = value("sfda", X, y), value("sfda", X, y, average="probability")
    np.testing.assert_array_equal(X, data["X"])
    assert logs < math.log(mean) - 0.01
    with pytest.raises(InvalidInput, match="average='mean': allowed are 'log', 'probability'"):
        value("sfda", X, y, average="mean")


def test_sfda_of_classes_that_do_not_vary() -> None:
    labels = np.arange(12) % 3
    assert value("sfda", np.eye(3)[labels], labels) == pytest.approx(0.0, abs=1e-6)
    assert value("sfda", np.eye(4)[:3], [0, 1, 2]) == pytest.approx(0.0, abs=1e-6)


# Neighbours and pairs.


def test_knn_excludes_an_example_by_its_index() -> None:
    """Public code drops the nearest row: of two duplicates it may keep the example itself."""
    features = np.repeat(np.random.default_rng(70).normal(size=(30, 3)), 2, axis=0)
    labels = np.arange(60) % 2  # each pair of duplicates has both labels
    assert value("knn_loo", features, labels) == 0.0
    distances = np.sqrt(((features[:, None] - features[None]) ** 2).sum(axis=2))
    by_column = labels[np.argsort(distances, axis=1, kind="stable")[:, 1]]
    assert (by_column == labels).mean() == 0.5


def test_knn_votes_do_not_depend_on_the_names_of_classes() -> None:
    """By the smallest label of a tie, what wins is decided by the names."""
    features = np.array([[0.0], [1.0], [-1.0], [10.0], [11.0], [9.0]])
    labels = np.array([0, 0, 1, 1, 1, 0])
    renamed = value("knn_loo", features, 1 - labels, k=2)
    assert value("knn_loo", features, labels, k=2) == renamed
    assert value("knn_loo", [[0.0], [1.0], [-1.0]], [0, 0, 1], k=2) == pytest.approx((0.5 + 0.5 + 0) / 3)


def test_knn_agrees_with_scikit_learn_where_nothing_is_tied() -> None:
    from sklearn.model_selection import LeaveOneOut, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    features, labels = task(6, count=60, number=2)
    for k in (1, 3, 5):
        expected = cross_val_score(KNeighborsClassifier(k), features, labels, cv=LeaveOneOut()).mean()
        assert value("knn_loo", features, labels, k=k) == pytest.approx(expected, abs=1e-12)
    everyone = value("knn_loo", features, labels, k=1000)
    assert everyone == value("knn_loo", features, labels, k=59) == 0.0
    with pytest.raises(InvalidInput, match="k=0: at least one"):
        value("knn_loo", features, labels, k=0)


def test_knn_of_far_off_features() -> None:
    features, labels = task(7)
    assert value("knn_loo", features + 1e6, labels) == value("knn_loo", features, labels)


def test_knn_and_parc_in_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = task(8)
    plain = [value(name, features, labels) for name in ("knn_loo", "parc")]
    monkeypatch.setattr("indicators.label_neighbours.BLOCK", 7)
    again = [value(name, features, labels) for name in ("knn_loo", "parc")]
    assert again == pytest.approx(plain, abs=1e-9)


def test_parc_ranks_equal_label_distances_as_equal(
    golden: dict[str, Any], data: dict[str, np.ndarray]
) -> None:
    """Two examples of one class are at 0 or, by rounding, at 2e-16: ranked apart in the public code."""
    X, y = data["X"], data["y"]
    pairs = np.triu_indices(len(y), 1)
    left = (1 - np.corrcoef((X - X.mean(axis=0)) / X.std(axis=0)))[pairs]
    right = (1 - np.corrcoef(np.eye(3)[y]))[pairs]
    assert len(np.unique(right)) == 3
    coded = 100 * stats.spearmanr(left, right).statistic
    assert coded == pytest.approx(golden["parc no-pca (dbolya/parc)"], abs=1e-6)
    assert value("parc", X, y, ties="published") == pytest.approx(coded, abs=1e-6)
    expected = 100 * stats.spearmanr(left, y[pairs[0]] != y[pairs[1]]).statistic
    assert value("parc", X, y) == pytest.approx(expected, abs=1e-9)
    assert abs(expected - coded) > 0.1


def test_parc_of_ties_and_of_one_dimension() -> None:
    labels = np.arange(12) % 3
    assert value("parc", np.eye(3)[labels], labels) == pytest.approx(100.0, abs=1e-9)
    assert value("parc", np.arange(12.0)[:, None], labels) == 0.0  # no correlation of single numbers


# A probe and a mixture.


def test_probe_of_noise_is_at_chance() -> None:
    """Leaving one out of the means too tells its class: what is left has fewer of it."""
    rng = np.random.default_rng(71)
    labels = np.arange(60) % 2
    fair, naive = [], []
    for _ in range(20):
        features = rng.normal(size=(60, 5))
        fair.append(value("linear_probe_cv", features, labels, strengths=(100.0,)))
        right = 0
        for i in range(60):
            rest = np.arange(60) != i
            x, y = features[rest], labels[rest].astype(float)
            moved = x - x.mean(axis=0)
            weights = np.linalg.solve(moved.T @ moved + 6000 * np.eye(5), moved.T @ (y - y.mean()))
            guess = y.mean() + (features[i] - x.mean(axis=0)) @ weights
            right += int((guess > 0.5) == labels[i])
        naive.append(right / 60)
    assert abs(np.mean(fair) - 0.5) < 0.05
    assert np.mean(naive) < 0.35


def test_probe_takes_the_strength_of_least_error() -> None:
    features, labels = task(9, count=40, width=30, number=2)
    each = {
        strength: value("linear_probe_cv", features, labels, strengths=(strength,))
        for strength in (1e-4, 1.0, 1e3)
    }
    assert value("linear_probe_cv", features, labels, strengths=tuple(each)) in each.values()
    assert value("linear_probe_cv", features, labels) > 0.6
    with pytest.raises(InvalidInput, match=r"strengths=\(0\.0,\): at least one positive"):
        value("linear_probe_cv", features, labels, strengths=(0.0,))


def test_nleep_has_the_logarithm(golden: dict[str, Any], data: dict[str, np.ndarray]) -> None:
    """The same mixture as the public code's gives its number without the logarithm, and another with it."""
    X, y = data["X"], data["y"]
    theta = mixture_posterior(principal(X), 15, seed=0)
    joint = np.eye(3)[y].T @ theta
    expected = (theta @ (joint / joint.sum(axis=0)).T)[np.arange(len(y)), y]
    key = "nleep (TencentARC: NO log, PCA .8, GMM 5C, np seed 0)"
    assert expected.mean() == pytest.approx(golden[key], abs=1e-6)
    assert value("leep", theta, y) == pytest.approx(np.log(expected).mean(), abs=1e-12)
    assert value("leep", theta, y) < math.log(expected.mean()) - 0.01


@pytest.mark.parametrize(("count", "width", "components"), [(200, 4, 6), (40, 7, 12), (30, 1, 2)])
def test_the_mixture_is_that_of_scikit_learn(count: int, width: int, components: int) -> None:
    from sklearn.mixture import GaussianMixture

    scores, _ = task(10, count, width)
    fitted = GaussianMixture(components, random_state=3).fit(scores)
    theta = mixture_posterior(scores, components, seed=3)
    np.testing.assert_allclose(theta, fitted.predict_proba(scores), atol=1e-9)


def test_principal_components_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    features, _ = task(11, count=50, width=20)
    for energy in (0.3, 0.8, 0.99):
        expected = PCA(energy, svd_solver="full").fit_transform(features)
        np.testing.assert_allclose(np.abs(principal(features, energy)), np.abs(expected), atol=1e-9)
    assert principal(features, 0.99, most=3).shape == (50, 3)
    assert principal(np.ones((4, 3))).tolist() == [[0.0]] * 4


def test_nleep_with_fewer_examples_than_gaussians() -> None:
    """Public code asks for 5 K components and stops."""
    features, labels = task(12, count=12)
    assert value("nleep", features, labels) == pytest.approx(0.0, abs=1e-6)
    assert value("nleep", np.repeat(features[:3], 8, axis=0), np.arange(24) % 4) < -0.1
    assert value("nleep", features, labels, per_class=1, seed=1) < 0
    for options in ({"per_class": 0}, {"most": 0}, {"energy": 0.0}, {"energy": 1.5}):
        with pytest.raises(InvalidInput, match=r"at least 1, at least 1, and in \(0, 1\]"):
            value("nleep", features, labels, **options)
