"""Similarities of representations: golden values, laws that define them, layers, and degenerate cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import indicators
from indicators import InvalidInput
from indicators.cka import Linear, inner, unbiased
from indicators.geometry import u_centred
from tests.reference import REFERENCE
from tests.reference_representations import REPRESENTATIONS

Shared = Callable[..., Path]
Array = np.ndarray

NAMES = sorted(set(REPRESENTATIONS) - {"relative_prompt"})
OF_EXAMPLES = sorted(set(NAMES) - {"activation_mean_cosine"})
CCA = ("cca_mean", "pwcca", "svcca")
GOLDEN = {
    "cka_linear": ("cka_linear biased (ecco cka_lib)", 1.0),
    "cka_linear_debiased": ("cka_linear debiased", 1.0),
    "cka_rbf": ("cka rbf 0.5", 1.0),
    "cca_mean": ("cca mean (svcca, thr .98)", 1.0),
    "rsa": ("rsa pearson-RDM spearman*100 X vs X2 (parc)", 100.0),
    "dds": ("dds cosine debiased*100 (parc)", 100.0),
}
PWCCA = "pwcca(X2,X) (google/svcca)"


def value(name: str, source: Array, target: Array, **options: object) -> float:
    return indicators.get(name).function(source, target, **options)


def pair(seed: int = 0, examples: int = 30, width: int = 5, other: int = 3) -> tuple[Array, Array]:
    """Two views [S, D1] and [S, D2] of the same hidden causes."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(examples, 2))
    x, y = (causes @ rng.normal(size=(2, d)) + rng.normal(size=(examples, d)) for d in (width, other))
    return x + 1.0, y - 2.0


def golden(shared: Shared) -> tuple[dict[str, float], Array, Array]:
    values = json.loads(shared("golden", "indicators", "golden.json").read_text())
    with np.load(shared("golden", "indicators", "fixture.npz")) as arrays:
        return values, arrays["X"], arrays["X2"]


@pytest.mark.parametrize("name", GOLDEN)
def test_public_implementations(name: str, shared: Shared) -> None:
    values, x, y = golden(shared)
    key, unit = GOLDEN[name]
    assert value(name, x, y) == pytest.approx(values[key] / unit, abs=1e-6)
    assert value(name, y, x) == pytest.approx(values[key] / unit, abs=1e-6)


def published_pwcca(x: Array, y: Array) -> float:
    """The public code's procedure: canonical directions not whitened, neurons' means added to them."""

    def root(matrix: Array) -> Array:
        values, vectors = np.linalg.eigh(np.linalg.pinv(matrix))
        return vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T

    width, means = x.shape[1], x.mean(axis=0)
    joint = np.cov(x.T, y.T)
    u, rho, _ = np.linalg.svd(
        root(joint[:width, :width]) @ joint[:width, width:] @ root(joint[width:, width:])
    )
    basis, _ = np.linalg.qr((x - means) @ u + means)
    weights = np.abs(basis.T @ x).sum(axis=1)
    return float(weights @ rho / weights.sum())


def test_the_public_pwcca_depends_on_the_order_of_the_neurons_and_this_one_does_not(shared: Shared) -> None:
    values, x, y = golden(shared)
    assert published_pwcca(y, x) == pytest.approx(values[PWCCA], abs=1e-6)
    assert value("pwcca", y, x, form="published") == pytest.approx(values[PWCCA], abs=1e-6)
    assert 0 < value("pwcca", x, y, form="published") < 1  # where their code fails
    assert abs(published_pwcca(y[:, ::-1], x) - published_pwcca(y, x)) > 5e-3
    assert abs(published_pwcca(y + 3.0, x) - published_pwcca(y, x)) > 1e-3
    assert value("pwcca", y[:, ::-1], x) == pytest.approx(value("pwcca", y, x), abs=1e-10)
    assert value("pwcca", y + 3.0, x) == pytest.approx(value("pwcca", y, x), abs=1e-10)
    assert value("pwcca", y, x) == pytest.approx(REPRESENTATIONS["pwcca"](y, x), abs=1e-10)
    assert value("pwcca", y, x) == pytest.approx(values[PWCCA], abs=0.03)


@pytest.mark.parametrize("name", OF_EXAMPLES)
@pytest.mark.parametrize(("width", "other"), [(5, 3), (2, 6), (1, 1)])
def test_widths_may_differ(name: str, width: int, other: int) -> None:
    x, y = pair(1, 16, width, other)
    # One feature has no correlation across features: RSA is undefined.
    assert value(name, x, y) == pytest.approx(REFERENCE[name](x, y), abs=1e-10, nan_ok=True)


@pytest.mark.parametrize("name", ["cka_linear", "cka_linear_debiased", "cka_rbf", "procrustes", "rsa", "dds"])
def test_more_dimensions_than_examples(name: str) -> None:
    for width, other in (9, 12), (20, 3), (7, 7):
        x, y = pair(2, 7, width, other)
        assert value(name, x, y) == pytest.approx(REFERENCE[name](x, y), abs=1e-10)


@pytest.mark.parametrize("name", ["cka_linear", "cka_linear_debiased", "procrustes"])
def test_features_and_gram_matrices_give_the_same(name: str) -> None:
    """Columns of zeros change no value, but push the computation to the form for D >= S."""
    x, y = pair(3)
    wide, other = (np.hstack([side, np.zeros((30, 40))]) for side in (x, y))
    assert value(name, wide, other) == pytest.approx(value(name, x, y), abs=1e-12)
    assert value(name, wide, y) == pytest.approx(value(name, x, y), abs=1e-12)


def test_the_form_is_chosen_by_the_widths() -> None:
    x, y = (Linear(side - side.mean(axis=0)) for side in pair(3))
    inner(x, y)
    assert "gram" not in vars(x)
    wide, other = (Linear(side - side.mean(axis=0)) for side in pair(3, 6, 8, 7))
    by_features = float(((wide.columns.T @ other.columns) ** 2).sum())
    assert inner(wide, other) == pytest.approx(by_features, rel=1e-12)
    assert "gram" in vars(wide)


def test_the_two_forms_of_the_unbiased_estimate_agree() -> None:
    x, y = (Linear(side - side.mean(axis=0)) for side in pair(4))
    by_kernels = float((u_centred(x.gram) * u_centred(y.gram)).sum())
    assert unbiased(x, y) == pytest.approx(by_kernels, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_averaged(name: str) -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 3, 16, 4))
    y[1] += x[1]
    each = [value(name, a, b) for a, b in zip(x, y, strict=True)]
    assert value(name, x, y) == pytest.approx(np.mean(each), abs=1e-12)
    assert value(name, list(x), list(y), layer=1) == pytest.approx(each[1], abs=1e-12)
    assert value(name, x, y) == pytest.approx(REFERENCE[name](x, y), abs=1e-10)
    matrix = indicators.matrix(name, [x, y], layer=1)
    np.testing.assert_allclose(
        matrix, [[value(name, a[1], b[1]) for b in (x, y)] for a in (x, y)], atol=1e-12
    )


@pytest.mark.parametrize("name", NAMES)
def test_layers_that_do_not_fit_are_refused(name: str) -> None:
    x = np.random.default_rng(6).normal(size=(3, 12, 4))
    for layer in (3, -1, True):
        with pytest.raises(InvalidInput, match=rf"layer={layer} is asked for: there are the layers 0\.\.2"):
            value(name, x, x, layer=layer)
    with pytest.raises(InvalidInput, match=r"\[3, 12, 4\].*\[2, 12, 4\].*must agree"):
        value(name, x, x[:2])
    with pytest.raises(InvalidInput, match="different lengths"):
        value(name, [x[0].tolist(), x[1, :5].tolist()], x)


@pytest.mark.parametrize("name", OF_EXAMPLES)
def test_a_constant_layer_is_left_out(name: str) -> None:
    x, y = np.random.default_rng(7).normal(size=(2, 2, 16, 4))
    plain = value(name, x[0], y[0])
    x[1] = 0.1  # no binary fraction: its mean is not exactly it
    assert value(name, x, y) == plain
    assert np.isnan(value(name, x[1], y[1]))
    assert np.isnan(value(name, x[1], x[1]))
    assert "NaN" in indicators.get(name).degenerate


@pytest.mark.parametrize("name", OF_EXAMPLES)
def test_duplicated_constant_and_collinear_features(name: str) -> None:
    x, y = pair(8)
    odd = np.hstack([x, x[:, :1], np.full((30, 1), 0.1), x[:, 1:2] - 2 * x[:, 2:3]])
    result = value(name, odd, y)
    low, high = indicators.get(name).bounds
    assert low <= result <= high
    if name == "cca_mean":  # the space is the same
        assert result == pytest.approx(value(name, x, y), abs=1e-10)
        assert value(name, odd.astype(np.float32), y) == pytest.approx(result, abs=1e-5)


@pytest.mark.parametrize("name", OF_EXAMPLES)
def test_duplicated_examples_are_finite(name: str) -> None:
    x, y = (np.repeat(side, 2, axis=0) for side in pair(9, 12))
    assert np.isfinite(value(name, x, y))
    same = {"cka_linear", "cka_rbf", "procrustes", "cca_mean", "svcca", "pwcca"}  # means over all pairs
    assert (abs(value(name, x, y) - value(name, *pair(9, 12))) < 1e-10) == (name in same)


@pytest.mark.parametrize("name", OF_EXAMPLES)
def test_a_shift_of_all_examples_is_no_matter(name: str) -> None:
    x, y = pair(10)
    assert value(name, x + np.arange(5), y - 7.0) == pytest.approx(value(name, x, y), abs=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_invariance_under_maps_of_the_features(name: str) -> None:
    """Rotations, separate scales, any invertible map: which of them changes nothing tells these apart."""
    x, y = pair(11, other=5)
    rng = np.random.default_rng(12)
    maps = {
        "rotation": np.linalg.qr(rng.normal(size=(5, 5)))[0],
        "scales": np.diag([1.0, 10.0, 0.1, 3.0, 0.5]),
        "invertible": rng.normal(size=(5, 5)),
    }
    unchanged = {kind for kind, by in maps.items() if abs(value(name, x @ by, y) - value(name, x, y)) < 1e-9}
    expected = {
        "cca_mean": set(maps),
        "pwcca": set(),  # the weights are sums of absolute values over the features
        "rsa": {"scales"},
        "dds": {"scales"},
        "activation_mean_cosine": set(),
    }
    assert unchanged == expected.get(name, {"rotation"})


def test_few_examples_bias_cka_and_not_its_debiased_form() -> None:
    rng = np.random.default_rng(13)
    draws = rng.normal(size=(60, 2, 10, 80))
    plain = np.array([value("cka_linear", x, y) for x, y in draws])
    debiased = np.array([value("cka_linear_debiased", x, y) for x, y in draws])
    assert plain.min() > 0.8
    assert abs(debiased.mean()) < 4 * debiased.std() / np.sqrt(60)


def test_debiased_measures_are_undefined_where_all_examples_are_alike() -> None:
    apart, one = np.eye(6), np.zeros((6, 4))
    one[2, 1] = 5.0
    other = np.random.default_rng(14).normal(size=(6, 4))
    for x in (apart, one):
        assert np.isnan(value("cka_linear_debiased", x, other))
    assert np.isnan(value("dds", apart, other))
    assert np.isnan(value("rsa", apart, other))
    assert value("cka_linear", apart, other) > 0


def test_rbf_bandwidth() -> None:
    x, y = pair(15)
    for fraction in (0.2, 1.0, 3.0):
        loop = REPRESENTATIONS["cka_rbf"](x, y, fraction=fraction)
        assert value("cka_rbf", x, y, fraction=fraction) == pytest.approx(loop, abs=1e-10)
    # A wide kernel is linear.
    assert value("cka_rbf", x, y, fraction=1e3) == pytest.approx(value("cka_linear", x, y), abs=1e-5)
    assert np.isnan(value("cka_rbf", np.r_[np.zeros((25, 5)), x[:5]], y))
    for fraction in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(InvalidInput, match=f"fraction={fraction}"):
            value("cka_rbf", x, y, fraction=fraction)


def test_rsa_is_spearman_of_the_distances() -> None:
    x, y = pair(16, 20)
    upper = np.triu_indices(20, 1)
    raw = stats.spearmanr((1 - np.corrcoef(x))[upper], (1 - np.corrcoef(y))[upper]).statistic
    assert value("rsa", x, y, standardise=False) == pytest.approx(raw, abs=1e-12)
    assert value("rsa", x, y) != pytest.approx(raw, abs=1e-3)
    assert value("rsa", x, y, standardise=False) == pytest.approx(
        REPRESENTATIONS["rsa"](x, y, standardise=False), abs=1e-10
    )


def test_dds_of_features_as_they_are() -> None:
    x, y = pair(17, 20)
    loop = REPRESENTATIONS["dds"](x, y, standardise=False)
    assert value("dds", x, y, standardise=False) == pytest.approx(loop, abs=1e-10)
    assert value("dds", x, y) != pytest.approx(loop, abs=1e-3)


@pytest.mark.parametrize("name", CCA)
def test_as_many_dimensions_as_examples_are_refused(name: str) -> None:
    x, y = pair(18, 8, 7, 2)
    with pytest.raises(InvalidInput, match=r"7 dimensions of a representation of 8 examples.*are 1"):
        value(name, x, y, **({"variance": 1.0} if name == "svcca" else {}))
    assert value(name, x[:, :6], y) < 1


def test_svcca_keeps_the_variance_that_is_asked_for() -> None:
    x, y = pair(19)
    noisy = np.hstack([x, 1e-3 * np.random.default_rng(20).normal(size=(30, 10))])
    assert value("svcca", noisy, y) == pytest.approx(value("svcca", x, y), abs=1e-4)
    assert value("svcca", noisy, y, variance=1.0) == pytest.approx(value("cca_mean", noisy, y), abs=1e-10)
    assert value("svcca", noisy, y, variance=1.0) > value("svcca", x, y) + 0.02
    for variance in (0.5, 0.9):
        loop = REPRESENTATIONS["svcca"](x, y, variance=variance)
        assert value("svcca", x, y, variance=variance) == pytest.approx(loop, abs=1e-10)
    for variance in (0.0, 1.1, np.nan):
        with pytest.raises(InvalidInput, match=f"variance={variance}"):
            value("svcca", x, y, variance=variance)


def test_pwcca_weights() -> None:
    x, y = pair(21)
    by_source, by_target = value("pwcca", x, y), value("pwcca", x, y, weights="target")
    assert by_target == value("pwcca", y, x)
    assert by_source != pytest.approx(by_target, abs=1e-3)
    both = value("pwcca", x, y, weights="both")
    assert both == pytest.approx((by_source + by_target) / 2, abs=1e-12)
    assert both == pytest.approx(value("pwcca", y, x, weights="both"), abs=1e-12)
    with pytest.raises(InvalidInput, match="weights='wide'"):
        value("pwcca", x, y, weights="wide")


def test_procrustes_is_what_the_best_rotation_leaves() -> None:
    x, y = pair(22, other=5)
    a, b = ((side - side.mean(axis=0)) / np.linalg.norm(side - side.mean(axis=0)) for side in (x, y))
    left, _, right = np.linalg.svd(b.T @ a)
    best = ((a - b @ left @ right) ** 2).sum()
    assert value("procrustes", x, y) == pytest.approx(best / 2, abs=1e-12)
    assert not indicators.get("procrustes").higher_is_closer


@pytest.mark.parametrize(
    ("name", "least"), [("rsa", 3), ("dds", 4), ("cka_linear_debiased", 4), ("cka_linear", 2)]
)
def test_too_few_examples_are_refused(name: str, least: int) -> None:
    x, y = pair(23, 8)
    with pytest.raises(InvalidInput, match=rf"hold {least - 1} examples.*at least {least} are needed"):
        value(name, x[: least - 1], y[: least - 1])
    value(name, x[:least], y[:least])


def test_activation_means_less_a_baseline() -> None:
    rng = np.random.default_rng(24)
    shared_mean = 50 * rng.normal(size=(3, 1, 6))
    x, y, plain = (shared_mean + rng.normal(size=(3, n, 6)) for n in (20, 15, 10))
    x[..., 0] += 4.0
    y[..., 0] -= 4.0
    assert value("activation_mean_cosine", x, y) > 0.9
    expected = REPRESENTATIONS["activation_mean_cosine"](
        (x.mean(axis=1) - plain.mean(axis=1))[:, None], (y.mean(axis=1) - plain.mean(axis=1))[:, None]
    )
    got = value("activation_mean_cosine", x, y, baseline=plain)
    assert got == pytest.approx(expected, abs=1e-12)
    assert got < -0.5
    matrix = indicators.matrix("activation_mean_cosine", [x, y], baseline=plain)
    assert matrix[0, 1] == pytest.approx(got, abs=1e-12)
    assert value("activation_mean_cosine", x, y, baseline=x) == 0.0
    with pytest.raises(InvalidInput, match=r"baseline representation holds nan"):
        value("activation_mean_cosine", x, y, baseline=np.full((3, 2, 6), np.nan))
    with pytest.raises(InvalidInput, match="must agree"):
        value("activation_mean_cosine", x, y, baseline=plain[..., :5])
    with pytest.raises(InvalidInput, match=r"is \[2, 10, 6\] and .* \[3, 20, 6\].*must agree"):
        value("activation_mean_cosine", x, y, baseline=plain[:2])


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_of_a_large_mean(name: str) -> None:
    """Hidden states lie far from the origin: the centre is taken in float64."""
    x, y = pair(25, other=5)
    near = value(name, (x + 100).astype(np.float32), (y + 100).astype(np.float32))
    assert near == pytest.approx(value(name, x + 100, y + 100), abs=1e-4)
