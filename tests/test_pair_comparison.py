"""Pairs by indicators that read targets under sources' prompts: means, directions, what is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import indicators
from transferscope.errors import IndicatorInputError, SignatureError
from transferscope.pair_comparison import compare_pairs
from transferscope.pair_features import PairFeatures, softmax

NAMES = ("a", "b", "c")
SEEDS = 2


def pair(seed: int, *, labels: np.ndarray, source_classes: int = 3) -> PairFeatures:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((len(labels), 2)).astype(np.float32)
    return PairFeatures(
        rng.standard_normal((len(labels), 5)).astype(np.float32),
        labels,
        softmax(logits),
        logits,
        rng.standard_normal((len(labels), source_classes)).astype(np.float32),
    )


@pytest.fixture
def targets() -> dict[str, dict[str, list[PairFeatures]]]:
    """targets[target][source]: two seeds of three sources on three targets of 20 to 22 examples."""
    found: dict[str, dict[str, list[PairFeatures]]] = {}
    for t, target in enumerate(NAMES):
        labels = np.arange(20 + t) % 2
        found[target] = {
            source: [pair(100 * t + 10 * s + seed, labels=labels) for seed in range(SEEDS)]
            for s, source in enumerate(NAMES)
        }
    return found


def test_a_score_is_the_mean_over_seeds(targets: dict[str, dict[str, list[PairFeatures]]]) -> None:
    (matrix,) = compare_pairs(["logme"], targets)
    assert (matrix.indicator, matrix.tasks) == ("logme", NAMES)
    logme = indicators.get("logme").function
    for i, source in enumerate(NAMES):
        for j, target in enumerate(NAMES):
            values = [logme(one.features, one.labels) for one in targets[target][source]]
            assert matrix.values[i, j] == pytest.approx(np.mean(values), abs=1e-12)


def test_a_distance_is_negated_once(targets: dict[str, dict[str, list[PairFeatures]]]) -> None:
    loss, distance = compare_pairs(["zero_shot_loss", "procrustes"], targets)
    one = targets["b"]["a"]
    zero_shot = indicators.get("zero_shot_loss")
    assert not zero_shot.higher_is_closer
    values = [zero_shot.function(each.probabilities, each.labels) for each in one]
    assert loss.values[0, 1] == pytest.approx(-np.mean(values), abs=1e-12)
    sign = 1 if indicators.get("procrustes").higher_is_closer else -1
    raw = [
        indicators.get("procrustes").function(left.features, right.features)
        for left in one
        for right in targets["b"]["b"]
    ]
    assert distance.values[0, 1] == pytest.approx(sign * np.mean(raw), abs=1e-12)


def test_representations_are_of_the_target_s_texts_under_both_prompts(
    targets: dict[str, dict[str, list[PairFeatures]]],
) -> None:
    (matrix,) = compare_pairs(["cka_linear"], targets)
    cka = indicators.get("cka_linear").function
    for i, source in enumerate(NAMES):
        for j, target in enumerate(NAMES):
            values = [
                cka(left.features, right.features)
                for r, left in enumerate(targets[target][source])
                for q, right in enumerate(targets[target][target])
                if source != target or r != q  # a task with itself: different seeds
            ]
            assert matrix.values[i, j] == pytest.approx(np.mean(values), abs=1e-12)
    alone = {"a": {name: several[:1] for name, several in targets["a"].items()}}
    assert compare_pairs(["cka_linear"], alone)[0].values[0, 0] == pytest.approx(1)  # one seed: with itself


def test_layers_are_averaged_where_they_are_there(
    targets: dict[str, dict[str, list[PairFeatures]]],
) -> None:
    rng = np.random.default_rng(0)
    deep = {
        "a": {
            name: [replace(one, layers=rng.standard_normal((3, 20, 5))) for one in several[:1]]
            for name, several in targets["a"].items()
        }
    }
    (matrix,) = compare_pairs(["cka_linear"], deep)
    layers = [deep["a"][name][0].layers for name in ("b", "a")]
    cka = indicators.get("cka_linear").function
    each = [cka(layers[0][layer], layers[1][layer]) for layer in range(3)]  # type: ignore[index]
    assert matrix.values[1, 0] == pytest.approx(np.mean(each), abs=1e-12)


def test_leep_and_nce_read_the_source_s_head_and_others_the_target_s_words(
    targets: dict[str, dict[str, list[PairFeatures]]],
) -> None:
    leep, nce, energy = compare_pairs(["leep", "nce", "etran_energy"], targets)
    one = targets["b"]["a"]
    for matrix in (leep, nce):
        function = indicators.get(matrix.indicator).function
        values = [function(softmax(each.source_logits), each.labels) for each in one]  # type: ignore[arg-type]
        assert matrix.values[0, 1] == pytest.approx(np.mean(values), abs=1e-12)
    values = [indicators.get("etran_energy").function(each.logits) for each in one]
    assert energy.values[0, 1] == pytest.approx(np.mean(values), abs=1e-12)


def test_pairs_that_lack_what_is_read_are_undefined(
    targets: dict[str, dict[str, list[PairFeatures]]],
) -> None:
    targets["b"] = {
        name: [replace(one, labels=None, probabilities=None, logits=None) for one in several]
        for name, several in targets["b"].items()
    }
    targets["c"]["a"] = [replace(one, source_logits=None) for one in targets["c"]["a"]]
    del targets["a"]["c"], targets["c"]["c"]
    logme, leep, cka = compare_pairs(["logme", "leep", "cka_linear"], targets)
    missing = np.isnan(logme.values)
    assert missing.tolist() == [[False, True, False], [False, True, False], [True, True, True]]
    assert np.isnan(leep.values).tolist() == [[False, True, True], [False, True, False], [True, True, True]]
    # without the target's own prompts there is nothing to compare representations with
    assert np.isnan(cka.values).tolist() == [[False, False, True], [False, False, True], [True, False, True]]


def test_what_no_pair_has_is_an_error_that_says_where_it_comes_from(
    targets: dict[str, dict[str, list[PairFeatures]]],
) -> None:
    wordless = {
        target: {
            name: [replace(one, probabilities=None) for one in several] for name, several in sources.items()
        }
        for target, sources in targets.items()
    }
    with pytest.raises(IndicatorInputError, match=r"'a' has no probabilities: .*label words"):
        compare_pairs(["logme", "zero_shot_loss"], wordless)
    texts = {"g": {"a": [replace(targets["a"]["a"][0], labels=None)]}}
    with pytest.raises(IndicatorInputError, match="'g' is a generation task, which has no classes"):
        compare_pairs(["logme"], texts)
    with pytest.raises(SignatureError, match="no task has data"):
        compare_pairs(["logme"], {})


def test_names_and_inputs_are_checked(targets: dict[str, dict[str, list[PairFeatures]]]) -> None:
    with pytest.raises(IndicatorInputError, match="Did you mean 'logme'"):
        compare_pairs(["logm"], targets)
    with pytest.raises(IndicatorInputError, match="'on' needs stimulation: these are of tasks"):
        compare_pairs(["on"], targets)
    broken = replace(targets["b"]["a"][0], features=np.full((21, 5), np.nan))
    targets["b"]["a"] = [broken]
    for name in ("logme", "cka_linear"):
        with pytest.raises(IndicatorInputError, match=f"{name}, a -> b: .*nan"):
            compare_pairs([name], targets)
