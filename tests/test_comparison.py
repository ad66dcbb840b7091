"""Comparison: values over trials, direction, what is missing, what does not fit together, long rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import indicators
from transferscope import comparison, ranking
from transferscope.adapters import load_update
from transferscope.cli import main
from transferscope.comparison import IndicatorMatrix, Material, compare, compare_prompts
from transferscope.errors import IndicatorInputError, InputError, SignatureError
from transferscope.prompts import SoftPrompt, save_prompt
from transferscope.signatures import Signature

TRIALS, ROWS, WIDTH, LAYERS, NEURONS = 3, 4, 6, 4, 10


def signature(
    task: str, seed: int = 0, *, trials: int = TRIALS, data: bool = True, **changes: Any
) -> Signature:
    rng = np.random.default_rng(seed)
    stimulation = rng.normal(size=(trials, LAYERS, NEURONS)).astype(np.float32)
    made = Signature(
        task=task,
        seeds=tuple(range(trials)),
        model="fingerprint",
        prompts=rng.normal(size=(trials, ROWS, WIDTH)).astype(np.float32),
        stimulation=stimulation,
        active=stimulation > 0,
        predictivity=rng.uniform(0.5, 1, size=(trials, 1, LAYERS, NEURONS)) if data else None,
        provenance={"model": "tiny", "scores": [{"dev": 0.5 + seed / 10}] * trials},
    )
    return replace(made, **changes)


@pytest.fixture
def three() -> list[Signature]:
    return [signature("a", 1), signature("b", 2), signature("c", 3, trials=1)]


def one(matrices: list[IndicatorMatrix]) -> IndicatorMatrix:
    assert len(matrices) == 1
    return matrices[0]


def test_a_pair_of_tasks_is_the_mean_over_all_pairs_of_trials(three: list[Signature]) -> None:
    values = one(compare(three, ["prompt_cosine_mean_token"])).values
    function = indicators.get("prompt_cosine_mean_token").function
    a, b, c = (s.prompts for s in three)
    assert values[0, 1] == pytest.approx(np.mean([function(x, y) for x in a for y in b]))
    assert values[0, 2] == pytest.approx(np.mean([function(x, c[0]) for x in a]))


def test_a_task_with_itself_is_the_mean_over_different_trials_and_one_trial_is_itself(
    three: list[Signature],
) -> None:
    values = one(compare(three, ["on"])).values
    function = indicators.get("on").function
    a = three[0].active
    pairs = [function(a[i], a[j]) for i in range(TRIALS) for j in range(TRIALS) if i != j]
    assert values[0, 0] == pytest.approx(np.mean(pairs))
    assert values[0, 0] < 1
    assert values[2, 2] == pytest.approx(1)


def test_predictivity_is_averaged_over_trials_first(three: list[Signature]) -> None:
    values = one(compare(three, ["predictivity_spearman"])).values
    a, b = (s.predictivity.mean(axis=0) for s in three[:2] if s.predictivity is not None)
    assert values[0, 1] == pytest.approx(indicators.get("predictivity_spearman").function(a, b))
    assert values[0, 0] == pytest.approx(1)


def test_skill_on_reads_mean_predictivity_and_every_stimulation(three: list[Signature]) -> None:
    values = one(compare(three, ["skill_on"])).values
    function = indicators.get("skill_on").function
    a, b = three[:2]
    assert a.predictivity is not None
    assert b.predictivity is not None
    means = a.predictivity.mean(axis=0), b.predictivity.mean(axis=0)
    expected = np.mean([function(x, y, *means) for x in a.active for y in b.active])
    assert values[0, 1] == pytest.approx(expected)
    assert values[0, 1] != values[1, 0]  # the target's skill neurons


def test_a_gated_network_is_compared_by_its_gates_but_raw_by_its_values() -> None:
    rng = np.random.default_rng(0)
    several = [
        signature(t, s, active=rng.random((TRIALS, LAYERS, NEURONS)) > 0.5) for s, t in enumerate("ab")
    ]
    on, raw = compare(several, ["on", "on_raw"])
    on_function, raw_function = indicators.get("on").function, indicators.get("on_raw").function
    a, b = several
    assert on.values[0, 1] == pytest.approx(np.mean([on_function(x, y) for x in a.active for y in b.active]))
    pairs = [raw_function(x, y) for x in a.stimulation for y in b.stimulation]
    assert raw.values[0, 1] == pytest.approx(np.mean(pairs))


def test_a_distance_is_negated_once(monkeypatch: pytest.MonkeyPatch, three: list[Signature]) -> None:
    plain = one(compare(three, ["on"])).values
    record = replace(indicators.get("on"), higher_is_closer=False)
    monkeypatch.setattr(indicators, "get", lambda name: record)
    np.testing.assert_array_equal(one(compare(three, ["on"])).values, -plain)


def test_by_default_all_that_can_be_computed_with_layer_groups() -> None:
    everything = {m.indicator for m in compare([signature("a", 1), signature("b", 2)])}
    needs = ("prompt", "stimulation", "predictivity")
    assert everything == {*indicators.names(needs=needs), "on_layers_0_3", "on_layers_3_4"}
    without = {m.indicator for m in compare([signature("a", 1), signature("b", 2, data=False)])}
    assert "predictivity_spearman" not in without
    assert {"on", "prompt_cosine_concat"} <= without


def test_by_default_an_indicator_that_needs_equal_rows_is_left_out_where_they_differ() -> None:
    several = [signature("a", 1), signature("b", 2, prompts=np.ones((TRIALS, ROWS + 1, WIDTH), np.float32))]
    found = {m.indicator for m in compare(several)}
    assert "prompt_cosine_mean_token" in found
    assert "prompt_cosine_concat" not in found
    with pytest.raises(IndicatorInputError, match=r"prompt_cosine_concat.*\[4, 6\].*\[5, 6\]"):
        compare(several, ["prompt_cosine_concat"])


def test_a_missing_need_names_the_task_and_the_stage_that_supplies_it() -> None:
    several = [signature("a"), signature("b", data=False)]
    expected = r"'skill_jaccard' needs predictivity, and 'b' has no predictivity: .*extract.*task's data"
    with pytest.raises(IndicatorInputError, match=expected):
        compare(several, ["skill_jaccard"])


def test_an_unknown_indicator_is_answered_with_the_nearest() -> None:
    with pytest.raises(IndicatorInputError, match=r"'on_rwa'.*Did you mean.*'on_raw'"):
        compare([signature("a"), signature("b")], ["on_rwa"])


def test_different_backbones_are_named() -> None:
    with pytest.raises(SignatureError, match="'a' is of the backbone 'fingerprint' and 'b' of 'other'"):
        compare([signature("a"), signature("b", model="other")])


def test_prompts_of_different_widths_are_named() -> None:
    with pytest.raises(SignatureError, match="'a' is 3 wide and that of 'b' 5"):
        compare_prompts({"a": np.ones((2, 3)), "b": np.ones((2, 5))})


@pytest.mark.parametrize(
    ("several", "message"), [([], "nothing to compare"), (["a", "a"], "'a' is given twice")]
)
def test_nothing_and_the_same_task_twice(several: list[str], message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        compare([signature(task) for task in several])


def test_prompts_alone_give_what_their_signatures_give(three: list[Signature]) -> None:
    alone = compare_prompts({s.task: s.prompts for s in three})
    assert {m.indicator for m in alone} == set(indicators.names(needs="prompt"))
    for matrix in alone:
        np.testing.assert_array_equal(matrix.values, one(compare(three, [matrix.indicator])).values)


def test_undefined_cells_are_left_out_of_the_mean_over_trials() -> None:
    mean = comparison.nan_mean([np.array([1.0, np.nan, np.nan]), np.array([3.0, 5.0, np.nan])])
    np.testing.assert_array_equal(mean, [2.0, 5.0, np.nan])


def test_long_rows_there_and_back(three: list[Signature]) -> None:
    matrices = compare(three, ["on", "prompt_cosine_maxsim"])
    rows = [dict(zip(comparison.COLUMNS, row, strict=True)) for row in comparison.to_rows(matrices)]
    assert len(rows) == 18
    for back, matrix in zip(comparison.from_rows(rows), matrices, strict=True):
        assert (back.indicator, back.tasks) == (matrix.indicator, matrix.tasks)
        np.testing.assert_array_equal(back.values, matrix.values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "x"}, "row 1: value is 'x', which is not a number"),
        ({"source": None}, "row 1: no source"),
    ],
)
def test_bad_long_rows(change: dict[str, Any], message: str) -> None:
    row = {"indicator": "on", "source": "a", "target": "b", "value": "1", **change}
    with pytest.raises(InputError, match=message):
        comparison.from_rows([row])
    fine = {"indicator": "on", "source": "a", "target": "b", "value": "1"}
    with pytest.raises(InputError, match="row 2: on of a -> b is given twice"):
        comparison.from_rows([fine, fine])


def test_a_pair_that_is_not_in_the_rows_is_undefined() -> None:
    (matrix,) = comparison.from_rows([{"indicator": "on", "source": "a", "target": "b", "value": "0.5"}])
    np.testing.assert_array_equal(matrix.values, [[np.nan, 0.5], [np.nan, np.nan]])


def prompt_folder(root: Path, where: str, task: str, seed: int = 0, model: str = "hub/tiny") -> Path:
    rows = np.random.default_rng(abs(hash(where)) % 1000).normal(size=(3, 4)).astype(np.float32)
    prompt = SoftPrompt(rows, task, seed, provenance={"model": model, "scores": {"dev": 0.7}})
    return save_prompt(prompt, root / where)


def test_folders_seeds_together_and_strangers_of_one_name_apart(tmp_path: Path) -> None:
    for seed in (0, 1):
        prompt_folder(tmp_path, f"study/sst2/{seed}", "sst2", seed)
    for owner in ("ann", "bob"):
        (prompt_folder(tmp_path, f"{owner}/final", "final") / "transferscope.json").unlink()
    found = {m.task: m for m in comparison.read_folders([tmp_path])}
    assert set(found) == {"sst2", "ann/final", "bob/final"}
    assert found["sst2"].trials == 2
    assert found["sst2"].own == pytest.approx(0.7)


def adapter_folder(root: Path, where: str, seed: int, **config: Any) -> Path:
    """A LoRA adapter of rank 2 as peft writes it, with numbers that lie around those of its first letter."""
    rng, own = np.random.default_rng(ord(Path(where).name[0])), np.random.default_rng(seed)
    folder = root / where
    folder.mkdir(parents=True)
    settings = {"peft_type": "LORA", "base_model_name_or_path": "hub/tiny", "r": 2, "lora_alpha": 4}
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    tensors = {
        f"base_model.model.roberta.encoder.{module}.lora_{factor}.weight": (
            rng.normal(size=shape) + 0.3 * own.normal(size=shape)
        ).astype(np.float32)
        for module in ("q", "v")
        for factor, shape in (("A", (2, 6)), ("B", (5, 2)))
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """Three LoRA adapters: two of one beginning, one of another."""
    for number, name in enumerate(("a-one", "a-two", "b-far")):
        adapter_folder(tmp_path, f"lora/{name}", number)
    return tmp_path / "lora"


def test_lora_folders_are_compared_by_their_weight_differences(lora: Path) -> None:
    found = {m.indicator: m for m in comparison.compare_folders([lora])}
    assert set(found) == set(indicators.names(needs="update"))
    cosine = found["update_cosine"]
    assert cosine.tasks == ("a-one", "a-two", "b-far")
    one, two = (load_update(lora / name).pairs() for name in ("a-one", "a-two"))
    w, v = (np.concatenate([(b @ a).ravel() for a, b in pairs.values()]) for pairs in (one, two))
    assert cosine.values[0, 1] == pytest.approx(w @ v / np.linalg.norm(w) / np.linalg.norm(v), abs=1e-6)
    assert cosine.values[0, 1] > cosine.values[0, 2]
    with pytest.raises(IndicatorInputError, match=r"'a-one' has no prompt: .* or a folder of PEFT prompts"):
        comparison.compare_folders([lora], ["prompt_cosine_concat"])


def test_the_command_compares_and_ranks_lora_folders(lora: Path) -> None:
    run = CliRunner().invoke
    compared = run(
        main, ["compare", "--prompts", str(lora), "--format", "csv", "--indicator", "update_cosine"]
    )
    assert compared.exit_code == 0, compared.output
    lines = compared.stdout.splitlines()
    assert len(lines) == 10
    assert lines[2].startswith("update_cosine,a-one,a-two,0.")
    ranked = run(main, ["rank", str(lora / "a-one"), "--prompts", str(lora), "--format", "json"])
    assert ranked.exit_code == 0, ranked.output
    found = json.loads(ranked.stdout)
    assert (found["target"], found["model"], found["indicator"]) == ("a-one", "hub/tiny", "update_cosine")
    assert [source["source"] for source in found["sources"]] == ["a-two", "b-far"]
    assert "No published measurement of how far it agrees" in found["notes"][0]


def test_seeds_of_one_adapter_stand_together(lora: Path) -> None:
    for seed in (0, 1):
        folder = adapter_folder(lora, f"c/{seed}", seed)
        record = {"task": "c", "seed": seed, "provenance": {"scores": {"dev": 0.6}, "task_type": "nli"}}
        (folder / "transferscope.json").write_text(json.dumps(record))
    found = {material.task: material for material in comparison.read_folders([lora])}
    assert {task: material.trials for task, material in found.items()} == {
        "a-one": 1,
        "a-two": 1,
        "b-far": 1,
        "c": 2,
    }
    assert (found["c"].own, found["c"].type, found["c"].model) == (pytest.approx(0.6), "nli", "hub/tiny")
    assert ranking.rank_prompts(lora / "c", [lora]).sources[0].low is not None


def test_adapters_of_several_kinds_are_told_apart(lora: Path, tmp_path: Path) -> None:
    prompt_folder(tmp_path, "soft/a-one", "a-one")
    ia3 = tmp_path / "ia3" / "z"
    ia3.mkdir(parents=True)
    (ia3 / "adapter_config.json").write_text('{"peft_type": "IA3", "base_model_name_or_path": "hub/tiny"}')
    save_file({"m.ia3_l": np.ones((4, 1), np.float32)}, ia3 / "adapter_model.safetensors")
    message = r"here are 3 \(LORA: .*a-one, .*b-far; soft prompt: .*soft/a-one; IA3: .*ia3/z\)"
    with pytest.raises(SignatureError, match=message):
        comparison.compare_folders([lora, tmp_path / "soft", tmp_path / "ia3"])
    for name in ("d", "e", "f"):
        adapter_folder(lora, name, 0)
    with pytest.raises(SignatureError, match=r"here are 2 \(soft prompt: .*LORA: .* and 2 more"):
        ranking.rank_prompts(tmp_path / "soft" / "a-one", [lora])


def test_adapters_of_other_backbones_are_refused(lora: Path) -> None:
    folder = adapter_folder(lora, "other", 1, base_model_name_or_path="hub/large")
    with pytest.raises(
        SignatureError, match="'a-one' is of the backbone 'hub/tiny' and 'other' of 'hub/large'"
    ):
        comparison.compare_folders([lora])
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}  # no name, but another size
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    wide = {"A": np.ones((1, 8), np.float32), "B": np.ones((5, 1), np.float32)}
    name = "base_model.model.encoder.q.lora_{}.weight"
    save_file({name.format(key): value for key, value in wide.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(IndicatorInputError, match=r"'update_cosine'.*'encoder.q'.* \[5, 6\] .* \[5, 8\]"):
        comparison.compare_folders([lora])


def test_one_model_under_two_names_is_one_model() -> None:
    several = [
        Material(t, {"prompt": [np.ones((2, 3))]}, model=m) for t, m in (("a", "org/Tiny"), ("b", "/x/tiny"))
    ]
    comparison.check_together(several)
    with pytest.raises(SignatureError, match="'org/Tiny' and 'b' of 'org/small'"):
        comparison.check_together([several[0], replace(several[1], model="org/small")])


def test_published_prompts_equal_the_reference(shared: Callable[..., Path]) -> None:
    torch = pytest.importorskip("torch")
    folder = shared("published", "Prompt-Transferability-1.0", "task_prompt_emb")
    prompts = {}
    for file in sorted(folder.glob("*PromptRoberta/task_prompt")):
        tensor = torch.load(file, map_location="cpu", weights_only=True)
        prompts[file.parent.name.removesuffix("PromptRoberta")] = tensor.detach().numpy()
    names = {
        "C_concat": "prompt_cosine_concat",
        "C_average": "prompt_cosine_average",
        "C_meantoken": "prompt_cosine_mean_token",
        "C_position": "prompt_cosine_position",
        "C_maxsim": "prompt_cosine_maxsim",
        "E_concat": "prompt_euclidean_concat",
        "E_average": "prompt_euclidean_average",
    }
    found = {m.indicator: m for m in compare_prompts(prompts, list(names.values()))}
    compared = 0
    with shared("published", "reference_indicators.csv").open() as file:
        for row in csv.DictReader(file):
            if row["backbone"] == "Roberta":
                matrix = found[names[row["indicator"]]]
                value = matrix.values[matrix.tasks.index(row["source"]), matrix.tasks.index(row["target"])]
                assert value == pytest.approx(float(row["value"]), abs=1e-6)
                compared += 1
    assert compared == 7 * 14 * 14
