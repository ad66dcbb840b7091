"""Values: those of public implementations, of published prompts, and small cases worked out by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import indicators
from indicators import InvalidInput
from indicators.kernels import average_ranks
from indicators.neurons import on_raw_layers, skill_mask
from tests.reference import REFERENCE

Shared = Callable[..., Path]

GOLDEN = {
    "prompt_cosine_concat": "prompt cos concat",
    "prompt_cosine_average": "prompt cos avg (mean over i,j)",
    "prompt_cosine_mean_token": "prompt cos of token means (SPoT/TPV)",
    "prompt_euclidean_concat": "prompt euc concat 1/(1+||.||)",
    "prompt_euclidean_average": "prompt euc avg 1/(1+mean_ij)",
    "on": "ON binary all",
    "on_layers_9_12": "ON binary layers 9:12",
    "on_jaccard": "ON jaccard",
}
RAW_LAYERS = "ON raw per layer (2.0 neuron_similarity)"
PUBLISHED = {
    "C_concat": "prompt_cosine_concat",
    "C_average": "prompt_cosine_average",
    "E_concat": "prompt_euclidean_concat",
    "E_average": "prompt_euclidean_average",
    "C_meantoken": "prompt_cosine_mean_token",
    "C_position": "prompt_cosine_position",
    "C_maxsim": "prompt_cosine_maxsim",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_public_implementations(name: str, shared: Shared) -> None:
    golden = json.loads(shared("golden", "indicators", "golden.json").read_text())
    with np.load(shared("golden", "indicators", "fixture.npz")) as arrays:
        kind = "prompt" if name.startswith("prompt") else "act"
        source, target = arrays[f"{kind}1"], arrays[f"{kind}2"]
    assert indicators.get(name).function(source, target) == pytest.approx(golden[GOLDEN[name]], abs=1e-6)


def test_public_raw_cosines_by_layer(shared: Shared) -> None:
    expected = json.loads(shared("golden", "indicators", "golden.json").read_text())[RAW_LAYERS]
    with np.load(shared("golden", "indicators", "fixture.npz")) as arrays:
        source, target = arrays["act1"], arrays["act2"]
    np.testing.assert_allclose(on_raw_layers(source, target), expected, atol=1e-6)
    assert indicators.get("on_raw").function(source, target) == pytest.approx(np.mean(expected), abs=1e-6)


@pytest.mark.parametrize("backbone", ["Roberta", "T5Small"])
def test_published_prompts(backbone: str, shared: Shared) -> None:
    with shared("published", "reference_indicators.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["backbone"] == backbone]
    tasks = sorted({row["source"] for row in rows})
    prompts = [published_prompt(task, backbone, shared) for task in tasks]
    matrices = {column: indicators.matrix(name, prompts) for column, name in PUBLISHED.items()}
    place = {task: i for i, task in enumerate(tasks)}
    got = [matrices[row["indicator"]][place[row["source"]], place[row["target"]]] for row in rows]
    np.testing.assert_allclose(got, [float(row["value"]) for row in rows], rtol=0, atol=1e-6)
    assert len(rows) == len(PUBLISHED) * len(tasks) ** 2


def published_prompt(task: str, backbone: str, shared: Shared) -> np.ndarray:
    import torch

    folder = shared("published", "Prompt-Transferability-1.0", "task_prompt_emb", f"{task}Prompt{backbone}")
    tensor = torch.load(folder / "task_prompt", weights_only=True, map_location="cpu")
    return np.asarray(tensor.detach().double().numpy())


@pytest.mark.parametrize("rate", ["0.05", "0.1", "0.2"])
def test_skill_masks_of_the_reference_procedure(rate: str, shared: Shared) -> None:
    with np.load(shared("golden", "skill_neuron", "expected.npz")) as expected:
        mask = skill_mask(expected["predictivity"], float(rate))
        np.testing.assert_array_equal(mask, expected[f"skill_mask_{rate}"].astype(bool))


def test_skill_mask_ties_are_in_stable_order() -> None:
    row = [0.7, 0.9, 0.7, 0.9, 0.7]
    assert skill_mask([row], 0.6).tolist() == [[True, True, False, True, False]]
    assert skill_mask([[0.5] * 5], 0.4).tolist() == [[True, True, False, False, False]]


def test_skill_mask_truncates_and_reaches_both_ends() -> None:
    values = np.arange(20.0).reshape(2, 10) / 20
    assert skill_mask(values, 0.19).sum(axis=1).tolist() == [1, 1]
    assert skill_mask(values, 0.0).sum() == 0
    assert skill_mask(values, 1.0).all()


def test_skill_mask_by_network_takes_the_best_of_all_layers() -> None:
    values = np.arange(20.0).reshape(2, 10) / 20
    assert skill_mask(values, 0.2, by="network").sum(axis=1).tolist() == [0, 4]


def test_skill_mask_unites_the_same_number_of_each_subtask() -> None:
    subtasks = np.zeros((3, 1, 10))
    subtasks[0, 0, [0, 1]] = 0.6
    subtasks[1, 0, [1, 2]] = 0.9
    subtasks[2, 0, [8, 9]] = 0.7
    assert np.flatnonzero(skill_mask(subtasks, 0.2)[0]).tolist() == [0, 1, 2, 8, 9]


def test_undefined_neurons_are_never_skilled() -> None:
    values = np.array([[np.nan, 0.9, np.nan, np.nan, 0.6]])
    assert skill_mask(values, 0.6).tolist() == [[False, True, False, False, True]]
    assert not skill_mask(np.full((2, 5), np.nan), 0.6).any()


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_rates_outside_the_unit_interval_are_refused(rate: float) -> None:
    with pytest.raises(InvalidInput, match="from 0 to 1"):
        skill_mask([[0.5, 0.6]], rate)


def test_options_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"by='neuron': allowed are 'layer', 'network'"):
        skill_mask([[0.5, 0.6]], 0.5, by="neuron")
    with pytest.raises(InvalidInput, match="mask='source': allowed are 'target', 'union'"):
        indicators.get("skill_on").function(*[np.ones((1, 5))] * 4, mask="source")
    with pytest.raises(InvalidInput, match="by='all'"):
        indicators.get("on_raw").function(np.ones((1, 5)), np.ones((1, 5)), by="all")
    with pytest.raises(InvalidInput, match="ridge=0"):
        indicators.get("prompt_cosine_whitened").function(np.ones((1, 5)), np.ones((1, 5)), ridge=0)
    with pytest.raises(InvalidInput, match="pool is empty"):
        indicators.get("prompt_cosine_whitened").function(np.ones((1, 5)), np.ones((1, 5)), pool=[])


def test_gates_as_booleans_are_the_same_as_their_sign() -> None:
    gates, others = np.random.default_rng(0).normal(size=(2, 3, 40))
    for name in ("on", "on_jaccard", "on_layers_0_2"):
        function = indicators.get(name).function
        assert function(gates > 0, others > 0) == function(gates, others)
    assert indicators.get("on").function(gates > 0, others) > 0


def test_exact_zero_is_not_active() -> None:
    assert indicators.get("on").function([[0.0, 1.0]], [[1.0, 1.0]]) == pytest.approx(0.5**0.5, abs=1e-15)


def test_on_raw_over_the_network() -> None:
    a, b = np.random.default_rng(1).normal(size=(2, 3, 40))
    expected = a.ravel() @ b.ravel() / np.linalg.norm(a) / np.linalg.norm(b)
    function = indicators.get("on_raw").function
    assert function(a, b, by="network") == pytest.approx(expected, abs=1e-12)
    assert indicators.matrix("on_raw", [a], [b], by="network")[0, 0] == function(a, b, by="network")
    assert function(a, b) != pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("by", ["layer", "network"])
def test_chance_corrected_overlap_of_random_skills_is_zero(by: str) -> None:
    rng = np.random.default_rng(2)
    tasks = list(rng.random((40, 3, 50)))
    values = indicators.matrix("skill_overlap", tasks[:20], tasks[20:], by=by)
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(values.size)
    assert indicators.matrix("skill_jaccard", tasks[:20], tasks[20:], by=by).mean() > 0.08


def test_overlap_expects_chance_within_the_layers() -> None:
    """All tasks have their skills in the last layer: that is no overlap by layer, and is by network."""
    rng = np.random.default_rng(3)
    tasks = [np.stack([rng.random(50), 1 + rng.random(50)]) for _ in range(20)]
    off = ~np.eye(20, dtype=bool)
    assert abs(indicators.matrix("skill_overlap", tasks)[off].mean()) < 0.05
    assert indicators.matrix("skill_overlap", tasks, by="network")[off].mean() > 0.2


def test_overlap_of_everything_or_nothing_is_zero() -> None:
    values = np.random.default_rng(4).random((2, 10))
    function = indicators.get("skill_overlap").function
    assert function(values, values, rate=1.0) == 0.0
    assert function(values, values, rate=0.0) == 0.0
    assert function(values, 1 - values, rate=0.5) == pytest.approx(-1.0, abs=1e-12)


@pytest.mark.parametrize("mask", ["target", "union"])
def test_skill_on_for_both_masks(mask: str) -> None:
    rng = np.random.default_rng(5)
    tasks = [(rng.normal(size=(3, 30)), rng.random((2, 3, 30))) for _ in range(6)]
    values = indicators.matrix("skill_on", tasks, mask=mask)
    loop = REFERENCE["skill_on"]
    expected = [[loop(a, b, x, y, mask=mask) for b, y in tasks] for a, x in tasks]
    np.testing.assert_allclose(values, expected, atol=1e-12)
    assert np.allclose(values, values.T) == (mask == "union")


def test_whitening_by_a_pool() -> None:
    rng = np.random.default_rng(6)
    few, many = rng.normal(1, 1, size=(4, 3, 20)), rng.normal(1, 1, size=(4, 30, 5))
    for prompts in (few, many):  # fewer tokens than dimensions, and more
        values = indicators.matrix("prompt_cosine_whitened", list(prompts), pool=list(prompts))
        expected = [
            [REFERENCE["prompt_cosine_whitened"](a, b, pool=prompts.tolist()) for b in prompts]
            for a in prompts
        ]
        np.testing.assert_allclose(values, expected, atol=1e-10)
        alone = indicators.get("prompt_cosine_whitened").function(prompts[0], prompts[1], pool=list(prompts))
        assert alone == pytest.approx(values[0, 1], abs=1e-12)


def test_whitening_without_variation_is_the_cosine_of_mean_tokens() -> None:
    a, b = np.random.default_rng(7).normal(size=(2, 1, 8))
    plain = indicators.get("prompt_cosine_mean_token").function(a, b)
    whitened = indicators.get("prompt_cosine_whitened").function
    assert whitened(a, b) == pytest.approx(plain, abs=1e-12)
    assert whitened(np.repeat(a, 7, axis=0), np.repeat(b, 3, axis=0)) == pytest.approx(plain, abs=1e-12)


def test_near_prompts_keep_their_distance() -> None:
    """The expanded square |x|^2 - 2 <x, y> + |y|^2 would lose this difference."""
    a = np.full((2, 300), 1000.0)
    function = indicators.get("prompt_euclidean_average").function
    assert 1 / function(a, a + 1e-6) - 1 == pytest.approx(1e-6 * 300**0.5, rel=1e-4)


def test_ranks_and_correlation_agree_with_scipy() -> None:
    from scipy import stats

    rng = np.random.default_rng(8)
    a, b = rng.integers(0, 7, size=(2, 4, 60)) / 7
    np.testing.assert_array_equal(average_ranks(a[0]), stats.rankdata(a[0]))
    network = indicators.get("predictivity_spearman").function(a, b)
    layers = indicators.get("predictivity_spearman_layers").function(a, b)
    assert network == pytest.approx(stats.spearmanr(a.ravel(), b.ravel()).statistic, abs=1e-12)
    by_layer = [stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert layers == pytest.approx(np.mean(by_layer), abs=1e-12)


@pytest.mark.parametrize("name", ["predictivity_spearman", "predictivity_spearman_layers"])
def test_undefined_neurons_are_left_out_of_correlations(name: str) -> None:
    rng = np.random.default_rng(9)
    tasks = list(rng.random((4, 3, 12)))
    tasks[1][0, 2:4] = np.nan
    tasks[2][1, :] = np.nan
    tasks[3][2, :] = 0.5
    loop = REFERENCE[name]
    expected = [[loop(a, b) for b in tasks] for a in tasks]
    np.testing.assert_allclose(indicators.matrix(name, tasks), expected, atol=1e-12)
    pair = indicators.get(name).function(tasks[1], tasks[2])
    assert pair == pytest.approx(expected[1][2], abs=1e-12)
    assert not np.isnan(expected).any()


@pytest.mark.parametrize("name", ["predictivity_spearman", "predictivity_spearman_layers"])
def test_correlations_of_too_little_are_undefined(name: str) -> None:
    function = indicators.get(name).function
    assert np.isnan(function([[0.5, 0.7]], [[0.6, 0.7]]))
    assert np.isnan(function([[0.5, 0.5, 0.5, 0.5]], [[0.6, 0.7, 0.8, 0.9]]))
    assert np.isnan(function([[0.5, 0.6, np.nan, np.nan]], [[0.6, 0.7, 0.8, 0.9]]))
    assert np.isnan(function(np.full((2, 4), np.nan), np.full((2, 4), 0.7)))


def test_tasks_may_have_other_numbers_of_subtasks() -> None:
    rng = np.random.default_rng(10)
    two, three = rng.random((1, 3, 20)), rng.random((3, 3, 20))
    for name in indicators.names(needs="predictivity"):
        assert np.isfinite(indicators.get(name).function(two, three))
        assert indicators.get(name).function(two[0], three) == indicators.get(name).function(two, three)


def test_a_stimulation_and_a_predictivity_of_other_shapes() -> None:
    with pytest.raises(InvalidInput, match=r"source stimulation or predictivity is \[3, 4\].*is \[3, 5\]"):
        indicators.get("skill_on").function(
            np.ones((3, 4)), np.ones((3, 4)), np.ones((3, 5)), np.ones((3, 5))
        )
