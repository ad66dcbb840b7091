"""Signatures: what is kept of the measurements of several trials, on disk too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from by_hand import task

from indicators.predictivity import skill_mask
from transferscope import attachment
from transferscope.comparison import compare_materials, from_signature
from transferscope.encoding import encode
from transferscope.errors import (
    PromptError,
    SignatureError,
    StoreError,
    StudyError,
    TaskError,
)
from transferscope.models import wrap
from transferscope.prompts import Head, SoftPrompt
from transferscope.signatures import (
    Signature,
    extract,
    extract_without_data,
    load_signature,
    measure,
    save_signature,
)
from transferscope.task_spec import Subtask

# Signatures over trials.


def prompts(seeds: Sequence[int], rows: int = 2, width: int = 16, **fields: Any) -> list[SoftPrompt]:
    made = []
    for seed in seeds:
        values = 0.3 * np.random.default_rng(seed).standard_normal((rows, width))
        scores = {"scores": {"dev": seed / 10}}
        made.append(
            SoftPrompt(
                values.astype(np.float32),
                "t",
                seed,
                **({"template": "mask-first", "provenance": scores} | fields),
            )
        )
    return made


@pytest.fixture(scope="module")
def backbone() -> Any:
    return wrap(tiny.model("bert"), tiny.tokenizer("bert"), "tiny")


@pytest.mark.parametrize("classes", [2, 3])
def test_extract_is_one_measurement_a_prompt_in_their_order(backbone: Any, classes: int) -> None:
    data = task(classes=classes, type="sentiment")
    several = prompts([5, 2, 9])
    steps: list[tuple[int, int, str]] = []
    signature = extract(backbone, data, several, progress=lambda *what: steps.append(what))
    assert signature.seeds == (5, 2, 9)
    assert steps == [(1, 3, "t seed 5"), (2, 3, "t seed 2"), (3, 3, "t seed 9")]
    assert (signature.task, signature.model) == ("t", backbone.fingerprint)
    subtasks = 1 if classes == 2 else 3
    assert signature.predictivity is not None
    assert signature.baseline is not None
    assert signature.features is not None
    assert signature.predictivity.shape == (3, subtasks, 2, 24)
    assert signature.baseline.shape == (3, 2, 3, 24)
    assert signature.features.shape == (3, classes, 16)
    for trial, prompt in enumerate(several):
        attached = attachment.attach(backbone, prompt)
        one = measure(attached, *(encode(backbone, s, prompt_rows=3) for s in (data.train, data.dev)))
        np.testing.assert_array_equal(signature.prompts[trial], prompt.rows)
        np.testing.assert_array_equal(signature.predictivity[trial], one.predictivity)
        np.testing.assert_array_equal(signature.stimulation[trial], one.stimulation)
        np.testing.assert_array_equal(signature.active[trial], one.active)
        np.testing.assert_array_equal(signature.features[trial], one.features)
    assert signature.provenance["scores"] == [{"dev": 0.5}, {"dev": 0.2}, {"dev": 0.9}]
    assert signature.provenance["prompts"] == [prompt.fingerprint for prompt in several]
    assert (signature.provenance["type"], signature.provenance["active_means"]) == ("sentiment", "value > 0")


def test_subtasks_go_from_the_task_into_the_signature(backbone: Any) -> None:
    given = Subtask((2,), (0,), "2 against 0"), Subtask((1,), (0, 2), "1 against 0 or 2")
    others = {"a": task(classes=3, subtasks=given), "b": task(classes=3), "c": task()}
    made = {
        name: extract(backbone, replace(data, name=name), prompts([0, 1])) for name, data in others.items()
    }
    sizes = {name: one.subtask_predictivity.shape[0] for name, one in made.items()}
    assert sizes == {"a": 2, "b": 3, "c": 1}
    assert made["a"].provenance["subtasks"] == [
        {"name": "2 against 0", "positive": ["class 2"], "negative": ["class 0"]},
        {"name": "1 against 0 or 2", "positive": ["class 1"], "negative": ["class 0", "class 2"]},
    ]
    assert [one["name"] for one in made["b"].provenance["subtasks"]] == [
        f"class {k} against the rest" for k in range(3)
    ]
    assert made["c"].provenance["subtasks"] == [
        {"name": "class 1 against class 0", "positive": ["class 1"], "negative": ["class 0"]}
    ]
    # The same number of each subtask, united: 6 of 24 in each of two layers.
    each = [skill_mask(one, 0.25) for one in made["a"].subtask_predictivity]
    assert [mask.sum(axis=1).tolist() for mask in each] == [[6, 6], [6, 6]]
    np.testing.assert_array_equal(made["a"].skill_mask(0.25), each[0] | each[1])
    # Every indicator of signatures takes tasks with other numbers of subtasks.
    matrices = compare_materials([from_signature(one) for one in made.values()])
    known = {matrix.indicator: matrix for matrix in matrices}
    assert {"skill_jaccard", "predictivity_spearman"} <= set(known)
    assert all(
        np.isfinite(matrix.values).all()
        for matrix in (known["skill_jaccard"], known["predictivity_spearman"])
    )


def test_a_gated_model_says_what_active_means() -> None:
    llama = wrap(tiny.model("llama"), tiny.tokenizer("causal"))
    signature = extract(llama, task(), prompts([0], template="suffix"))
    assert signature.provenance["active_means"] == "gate > 0"


def test_means_are_over_the_trials_where_a_cell_is_defined() -> None:
    nan = np.nan
    trials = np.array([[[[0.5, 0.7, nan]], [[0.9, nan, nan]]], [[[0.7, nan, nan]], [[0.5, 0.6, nan]]]])
    empty = np.zeros((2, 1, 3))
    signature = Signature("t", (0, 1), "m", empty, empty, empty > 0, trials)
    np.testing.assert_allclose(signature.subtask_predictivity, [[[0.6, 0.7, nan]], [[0.7, 0.6, nan]]])
    np.testing.assert_allclose(signature.mean_predictivity, [[0.65, 0.65, nan]])
    # One neuron of each subtask, united.
    np.testing.assert_array_equal(signature.skill_mask(0.34), [[True, True, False]])


def test_a_model_with_no_language_model_head(backbone: Any) -> None:
    headless = wrap(tiny.model("bert", head=False), tiny.tokenizer("bert"), "headless")
    assert not headless.has_lm_head
    head = Head(np.ones((2, 16), np.float32), np.zeros(2, np.float32))
    signature = extract(headless, replace(task(), words=None), prompts([0, 1], head=head))
    assert signature.predictivity is not None
    assert np.isfinite(signature.predictivity).all()
    assert signature.skill_mask(0.25).sum(axis=1).tolist() == [6, 6]


def test_without_data_there_are_rows_and_stimulation(backbone: Any) -> None:
    several = prompts([3, 4])
    signature, whole = (
        extract_without_data(backbone, "t", several),
        extract(backbone, task(), several),
    )
    assert (signature.predictivity, signature.baseline, signature.features) == (None, None, None)
    for name in ("prompts", "stimulation", "active"):
        np.testing.assert_array_equal(getattr(signature, name), getattr(whole, name))
    assert (signature.seeds, signature.model) == (whole.seeds, whole.model)
    for needs in (lambda: signature.mean_predictivity, lambda: signature.skill_mask(0.1)):
        with pytest.raises(SignatureError, match="'t' has no predictivity"):
            needs()


def test_what_extract_refuses(backbone: Any) -> None:
    data = task()
    with pytest.raises(SignatureError, match="no prompts for 't'"):
        extract(backbone, data, [])
    with pytest.raises(SignatureError, match=r"differ in shape or template: .*\(2, 16\).*\(3, 16\)"):
        extract(backbone, data, [*prompts([0]), *prompts([1], rows=3)])
    with pytest.raises(SignatureError, match=r"mask-first.*prefix"):
        extract_without_data(backbone, "t", [*prompts([0]), *prompts([1], template="prefix")])
    with pytest.raises(PromptError, match="16 wide"):
        extract(backbone, data, prompts([0], width=15))
    one_class = replace(data, dev=tuple(e for e in data.dev if e.label == 0))
    with pytest.raises(TaskError, match=r"dev has \[8, 0\] examples"):
        extract(backbone, one_class, prompts([0]))
    with pytest.raises(TaskError, match="no room for text"):
        extract(backbone, data, prompts([0], rows=61))


# On disk.


@pytest.mark.parametrize("with_data", [True, False])
def test_saved_and_loaded_is_the_same(backbone: Any, tmp_path: Path, with_data: bool) -> None:
    several = prompts([5, 2])
    made = (
        extract(backbone, task(classes=3), several)
        if with_data
        else extract_without_data(backbone, "t", several)
    )
    if with_data:
        made.predictivity[0, 0, 0, 0] = np.nan  # type: ignore[index]
    file = tmp_path / "signatures" / "t.safetensors"
    save_signature(made, file, fingerprint="abc")
    read = load_signature(file)
    assert (read.task, read.seeds, read.model) == (made.task, made.seeds, made.model)
    assert dict(read.provenance) == dict(made.provenance)
    for name in ("prompts", "stimulation", "active", "predictivity", "baseline", "features"):
        one, other = getattr(made, name), getattr(read, name)
        data_only = name in ("predictivity", "baseline", "features")
        assert (one is None) == (other is None) == (not with_data and data_only)
        if one is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    first = file.read_bytes()
    save_signature(read, file, fingerprint="abc")
    assert file.read_bytes() == first


def test_a_damaged_file_is_refused(backbone: Any, tmp_path: Path) -> None:
    file = tmp_path / "t.safetensors"
    with pytest.raises(StudyError, match="not found"):
        load_signature(file)
    save_signature(extract_without_data(backbone, "t", prompts([0])), file)
    whole = file.read_bytes()
    for damaged in (whole[:-7], b"no", whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"t\.safetensors"):
            load_signature(file)


def test_other_arrays_are_not_a_signature(tmp_path: Path) -> None:
    from transferscope import store

    file = tmp_path / "t.safetensors"
    for meta in ({}, {"task": "t", "seeds": [0], "model": "m", "provenance": {}}):
        store.save_arrays(file, {"prompts": np.ones((1, 2, 3), np.float32)}, meta)
        with pytest.raises(StoreError, match="is not a signature"):
            load_signature(file)
