"""Ranking: order, intervals over trials, ties, baselines, notes, and PEFT folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import indicators
from transferscope import comparison, trials
from transferscope.comparison import IndicatorMatrix
from transferscope.errors import IndicatorInputError, InputError, PromptError, SignatureError
from transferscope.prompts import RECORD, SoftPrompt, save_prompt
from transferscope.ranking import Ranking, rank, rank_prompts, rank_values
from transferscope.signatures import Signature
from transferscope.transfer import TransferMatrix

LAYERS, NEURONS, WIDTH = 2, 12, 8


def signature(task: str, angle: float, noise: float = 0.0, trials: int = 3, **changes: Any) -> Signature:
    """A task whose prompts point `angle` away from the first axis, with noise between trials."""
    rng = np.random.default_rng(sum(map(ord, task)))
    direction = np.zeros(WIDTH)
    direction[:2] = np.cos(angle), np.sin(angle)
    prompts = direction + noise * rng.normal(size=(trials, 3, WIDTH))
    stimulation = rng.normal(size=(trials, LAYERS, NEURONS)).astype(np.float32)
    made = Signature(
        task=task,
        seeds=tuple(range(trials)),
        model="fingerprint",
        prompts=prompts.astype(np.float32),
        stimulation=stimulation,
        active=stimulation > 0,
        predictivity=rng.uniform(0.5, 1, size=(trials, 1, LAYERS, NEURONS)),
        provenance={"model": "tiny", "scores": [{"dev": 0.6 + angle / 10}] * trials},
    )
    return replace(made, **changes)


def several(noise: float = 0.0, trials: int = 3, **angles: float) -> dict[str, Signature]:
    angles = angles or {"target": 0.0, "near": 0.2, "far": 1.2, "middle": 0.7}
    return {task: signature(task, angle, noise, trials) for task, angle in angles.items()}


def order(found: Ranking) -> list[str]:
    return [source.source for source in found.sources]


def test_sources_are_ordered_by_score_and_the_target_is_not_among_them() -> None:
    found = rank("target", several())
    assert order(found) == ["near", "middle", "far"]
    assert [source.rank for source in found.sources] == [1, 2, 3]
    assert found.sources[0].score == pytest.approx(np.cos(0.2), abs=1e-6)
    assert (found.target, found.model, found.indicator) == ("target", "tiny", "prompt_cosine_mean_token")


@pytest.mark.parametrize("name", ["prompt_euclidean_concat", "on", "skill_on", "predictivity_spearman"])
def test_scores_are_those_of_the_matrix(name: str) -> None:
    signatures = several(noise=0.1)
    found = rank("target", signatures, indicator=name)
    (matrix,) = comparison.compare(list(signatures.values()), [name])
    for source in found.sources:
        cell = matrix.values[matrix.tasks.index(source.source), matrix.tasks.index("target")]
        assert source.score == pytest.approx(cell)


def test_equal_scores_stay_in_the_order_given() -> None:
    same = several(target=0.0, one=0.5, two=0.5, best=0.1)
    same["two"] = replace(same["one"], task="two")
    assert order(rank("target", same)) == ["best", "one", "two"]
    same = {name: same[name] for name in ("two", "target", "one", "best")}
    assert order(rank("target", same)) == ["best", "two", "one"]


def test_far_sources_do_not_tie_and_near_ones_do() -> None:
    clear = rank("target", several(noise=0.02, trials=6))
    assert [source.ties_with_best for source in clear.sources] == [True, False, False]
    signatures = several(noise=0.3, trials=6, target=0.0, one=0.5, two=0.5, far=3.0)
    assert {s.source: s.ties_with_best for s in rank("target", signatures).sources}["far"] is False
    assert all(s.ties_with_best for s in rank("target", signatures).sources[:2])


def test_intervals_hold_the_score_and_narrow_with_less_noise() -> None:
    def widths(noise: float, indicator: str) -> list[float]:
        found = rank("target", several(noise=noise, trials=4), indicator=indicator)
        for source in found.sources:
            assert source.low is not None
            assert source.high is not None
            assert source.low <= source.score <= source.high
        return [(s.high or 0) - (s.low or 0) for s in found.sources]

    assert max(widths(0.02, "prompt_cosine_mean_token")) < min(widths(0.5, "prompt_cosine_mean_token"))
    assert min(widths(0.02, "predictivity_spearman")) > 0


def test_the_bootstrap_is_the_plain_one_done_slowly() -> None:
    signatures = several(noise=0.3)
    target, source = (comparison.from_signature(signatures[name]) for name in ("target", "near"))
    for name in ("prompt_cosine_mean_token", "predictivity_spearman"):
        record = indicators.get(name)
        (fast,) = trials.resampled(record, [source], target, seed=5, resamples=20)
        rng = np.random.default_rng(5)
        of_target, of_source = rng.integers(3, size=(20, 3)), rng.integers(3, size=(20, 3))
        need = record.needs[0]
        for b in range(20):
            left, right = (
                [m.inputs[need][i] for i in d[b]] for m, d in ((source, of_source), (target, of_target))
            )
            if need == "prompt":
                expected = np.mean([record.function(x, y) for x in left for y in right])
            else:
                expected = record.function(np.mean(left, axis=0), np.mean(right, axis=0))
            assert fast[b] == pytest.approx(expected)


def test_an_indicator_without_a_fast_form_gives_the_same_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    signatures = several(noise=0.3)
    target, source = (comparison.from_signature(signatures[name]) for name in ("target", "near"))
    record = indicators.get("skill_jaccard")
    fast = trials.resampled(record, [source], target, seed=0, resamples=30)
    slow = trials.resampled(replace(record, pairwise=None), [source], target, seed=0, resamples=30)
    np.testing.assert_allclose(slow, fast)


def test_one_trial_everywhere_has_no_interval_and_says_so() -> None:
    found = rank("target", several(trials=1))
    assert all((s.low, s.high, s.ties_with_best) == (None, None, None) for s in found.sources)
    assert any("one trial cannot tell sources apart" in note and "more seeds" in note for note in found.notes)


def test_one_trial_on_one_side_leaves_that_side_fixed() -> None:
    signatures = several(noise=0.3)
    signatures["near"] = signature("near", 0.2, 0.3, trials=1)
    signatures["target"] = signature("target", 0.0, 0.3, trials=1)
    found = {source.source: source for source in rank("target", signatures).sources}
    assert found["near"].low is None
    assert found["far"].low is not None
    assert found["far"].ties_with_best is not None


def test_same_seed_same_ranking() -> None:
    signatures = several(noise=0.3)
    assert rank("target", signatures, seed=1) == rank("target", signatures, seed=1)
    assert rank("target", signatures, seed=1) != rank("target", signatures, seed=2)


def test_without_prompt_rows_the_neurons_decide_and_the_note_says_why() -> None:
    signatures = several()
    signatures["far"] = replace(signatures["far"], prompts=np.zeros((3, 0, WIDTH), np.float32))
    found = rank("target", signatures)
    assert found.indicator == "on"
    assert "not every source has prompt rows" in found.notes[0]


def test_prompts_of_different_lengths_are_ranked_by_default() -> None:
    signatures = several()
    signatures["far"] = replace(signatures["far"], prompts=np.ones((3, 7, WIDTH), np.float32))
    assert rank("target", signatures).indicator == "prompt_cosine_mean_token"


def test_baselines() -> None:
    tasks = ("target", "near", "far", "middle")
    values = np.array(
        [[0.9, 0.1, 0.1, 0.1], [0.5, 0.8, 0.2, 0.3], [0.7, 0.3, 0.8, 0.6], [0.6, 0.3, 0.4, 0.8]]
    )
    transfer = TransferMatrix("zero-shot", tasks, tasks, values, values[None])
    types = {"target": "x", "near": "y", "far": "x", "middle": "x"}
    sizes = {"near": 5, "far": 10, "middle": 20}
    found = rank("target", several(), transfer=transfer, types=types, sizes=sizes)
    assert {s.source: s.measured for s in found.sources} == {"near": 0.5, "middle": 0.6, "far": 0.7}
    assert {s.source: s.type for s in found.sources} == {"near": "y", "middle": "x", "far": "x"}
    by_name = {baseline.name: baseline for baseline in found.baselines}
    assert by_name["random"].chance == pytest.approx(1 / 3)
    assert by_name["random"].measured == pytest.approx(0.6)
    assert by_name["same_type"].best == ("far", "middle")
    assert by_name["same_type"].measured == pytest.approx(0.65)
    assert by_name["own_performance"].order == ("far", "middle", "near")
    # relative to the targets' own .8 each: near (.2, .3), far (.3, .6), middle (.3, .4)
    assert by_name["mean_transfer"].order == ("far", "middle", "near")
    assert by_name["data_size"].best == ("middle",)
    assert any("Best measured: far, 0.7000" in note for note in found.notes)


def test_baselines_that_cannot_be_computed_are_named() -> None:
    found = rank("target", several())
    assert [baseline.name for baseline in found.baselines] == ["random", "own_performance"]
    (note,) = [note for note in found.notes if note.startswith("Baselines left out")]
    assert "same_type (the type of every task is needed)" in note
    assert "mean_transfer" in note
    assert any("no transfer to this target was measured" in note for note in found.notes)


def test_errors_are_clear() -> None:
    with pytest.raises(InputError, match=r"no signature of the target 'tarqet'. Did you mean 'target'\?"):
        rank("tarqet", several())
    with pytest.raises(InputError, match="no source for 'target'"):
        rank("target", several(target=0.0))
    lacking = several()
    lacking["far"] = replace(lacking["far"], predictivity=None)
    with pytest.raises(IndicatorInputError, match="'far' has no predictivity"):
        rank("target", lacking, indicator="skill_jaccard")
    with pytest.raises(
        SignatureError, match="'target' is of the backbone 'fingerprint' and 'far' of 'other'"
    ):
        rank("target", {**several(), "far": signature("far", 1.0, model="other")})


def write(
    folder: Path, angle: float, task: str, seed: int = 0, width: int = WIDTH, recorded: bool = True
) -> Path:
    rows = np.zeros((3, width), np.float32)
    rows[:, 0], rows[:, 1] = np.cos(angle), np.sin(angle)
    save_prompt(
        SoftPrompt(rows, task, seed, provenance={"model": "hub/tiny", "scores": {"dev": angle}}), folder
    )
    if not recorded:
        (folder / RECORD).unlink()
    return folder


def test_a_folder_of_peft_prompts(tmp_path: Path) -> None:
    target = write(tmp_path / "target", 0.0, "target", recorded=False)
    for name, angle in {"far": 1.2, "near": 0.2}.items():
        write(tmp_path / "pool" / name, angle, name, recorded=False)
    found = rank_prompts(target, [tmp_path], types={"target": "x", "near": "x", "far": "y"})
    assert order(found) == ["near", "far"]  # the target lies in the folder too and is left out
    assert found.model == "hub/tiny"
    assert {b.name: b.best for b in found.baselines}["same_type"] == ("near",)
    assert any("one trial" in note.lower() for note in found.notes)


def test_seeds_of_a_study_are_trials_and_the_target_s_other_seeds_no_sources(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(tmp_path / f"target/{seed}", 0.0 + seed / 10, "target", seed)
        write(tmp_path / f"near/{seed}", 0.3 + seed / 10, "near", seed)
        write(tmp_path / f"far/{seed}", 1.3 + seed / 10, "far", seed)
    whole = rank_prompts(tmp_path / "target", [tmp_path])
    assert order(whole) == ["near", "far"]
    assert whole.sources[1].ties_with_best is False
    part = rank_prompts(tmp_path / "target/0", [tmp_path])
    assert order(part) == ["near", "far"]
    assert any("target/1 is a prompt of the target itself" in note for note in part.notes)


def test_a_stranger_with_the_target_s_name_is_a_source(tmp_path: Path) -> None:
    target = write(tmp_path / "ann" / "final", 0.0, "final", recorded=False)
    stranger = write(tmp_path / "bob" / "final", 0.5, "final", recorded=False)
    assert order(rank_prompts(target, [tmp_path / "bob"])) == [str(stranger)]


def test_prompt_folders_that_cannot_be_ranked(tmp_path: Path) -> None:
    target = write(tmp_path / "target", 0.0, "target")
    with pytest.raises(PromptError, match=r"no prompts in .* beside the target's own"):
        rank_prompts(target, [target])
    write(tmp_path / "pool" / "wide", 0.1, "wide", width=WIDTH + 1)
    with pytest.raises(SignatureError, match="'target' is 8 wide and that of 'wide' 9"):
        rank_prompts(target, [tmp_path / "pool"])
    with pytest.raises(PromptError, match=r"several tasks \(target, wide\): name the folder of one target"):
        rank_prompts(tmp_path, [tmp_path / "pool"])
    write(tmp_path / "other" / "a", 0.1, "a")
    with pytest.raises(IndicatorInputError, match="'on' needs stimulation, and 'target' has no stimulation"):
        rank_prompts(target, [tmp_path / "other"], indicator="on")


def table(values: list[list[float]], name: str = "on") -> IndicatorMatrix:
    return IndicatorMatrix(name, ("a", "b", "c"), np.array(values))


def test_values_from_a_table_are_ranked_by_the_targets_column() -> None:
    matrix = table([[1.0, 0.2, 0.9], [0.5, 1.0, 0.3], [0.7, np.nan, 1.0]])
    ranking = rank_values("a", [matrix], types={"a": "x", "b": "x", "c": "y"})
    assert [(source.source, source.score) for source in ranking.sources] == [("c", 0.7), ("b", 0.5)]
    assert all(source.low is None and source.ties_with_best is None for source in ranking.sources)
    same = next(baseline for baseline in ranking.baselines if baseline.name == "same_type")
    assert same.best == ("b",)
    assert [source.source for source in rank_values("b", [matrix]).sources] == ["a"]  # c has no value


def test_values_from_a_table_name_what_is_wrong() -> None:
    one, other = table([[1.0] * 3] * 3), table([[1.0] * 3] * 3, "on_raw")
    with pytest.raises(InputError, match=r"no indicator 'onn' in the table. Did you mean 'on'"):
        rank_values("a", [one, other], indicator="onn")
    with pytest.raises(InputError, match="several indicators: name one"):
        rank_values("a", [one, other])
    with pytest.raises(InputError, match="no target 'd'"):
        rank_values("d", [one])
