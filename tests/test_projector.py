"""A projector: its layers against a slow loop, its checks, its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from transferscope import store
from transferscope.errors import InputError, PromptError, StoreError, StudyError
from transferscope.projector import (
    Projector,
    ProjectorSettings,
    Space,
    forward,
    initial_layers,
    load_projector,
    save_projector,
)
from transferscope.prompts import SoftPrompt, load_prompt, save_prompt

SOURCE, TARGET = Space(3, 4), Space(2, 5)


def make(source: Space = SOURCE, target: Space = TARGET, **options: Any) -> Projector:
    settings = ProjectorSettings(**{"hidden": 6, **options})
    rng = np.random.default_rng(0)
    spaces = {"input": source, "output": target}
    means = {
        f"{name}.mean": rng.normal(
            size=(space.rows, space.width) if settings.flatten else space.width
        ).astype(np.float32)
        for name, space in spaces.items()
    }
    scales = {"input.scale": np.array(2.0, np.float32), "output.scale": np.array(0.5, np.float32)}
    layers = {name: layer.numpy() + 0.1 for name, layer in initial_layers(settings, source, target).items()}
    about = {"source_model": "a", "source_model_fingerprint": "fa", "target_model": "b"}
    return Projector(
        settings, source, target, means | scales | layers, "mask-first", ("seen",), "distance", about
    )


def prompt(rows: int = 3, width: int = 4, task: str = "new", **provenance: Any) -> SoftPrompt:
    values = np.random.default_rng(1).normal(size=(rows, width)).astype(np.float32)
    return SoftPrompt(values, task, seed=7, provenance={"model": "a", **provenance})


def slow(projector: Projector, rows: np.ndarray) -> np.ndarray:
    """Two layers, one coordinate at a time, in float64."""
    arrays = {name: array.astype(np.float64) for name, array in projector.arrays.items()}
    x = (rows - arrays["input.mean"]) / arrays["input.scale"]
    pieces = [x.reshape(-1)] if projector.settings.flatten else list(x)
    projected = []
    for piece in pieces:
        hidden = []
        for j in range(arrays["weight1"].shape[1]):
            total = arrays["bias1"][j]
            for i, value in enumerate(piece):
                total += value * arrays["weight1"][i, j]
            leaky = total if total > 0 else 0.01 * total
            hidden.append(np.tanh(total) if projector.settings.activation == "tanh" else leaky)
        out = []
        for k in range(arrays["weight2"].shape[1]):
            out.append(arrays["bias2"][k] + sum(h * arrays["weight2"][j, k] for j, h in enumerate(hidden)))
        projected += out
    y = np.array(projected).reshape(-1, projector.target.width)
    if projector.settings.layer_norm:
        for row in y:
            row[:] = (row - row.mean()) / np.sqrt(row.var() + 1e-5) * arrays["gain"] + arrays["shift"]
    return y * arrays["output.scale"] + arrays["output.mean"]


@pytest.mark.parametrize("activation", ["tanh", "leaky-relu"])
@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("flatten", [True, False])
def test_two_layers_are_the_papers(activation: str, layer_norm: bool, flatten: bool) -> None:
    target = TARGET if flatten else Space(3, 5)
    projector = make(target=target, activation=activation, layer_norm=layer_norm, flatten=flatten)
    given = prompt()
    found = projector.project(given).rows
    assert found.dtype == np.float32
    assert found.shape == (target.rows, target.width)
    np.testing.assert_allclose(found, slow(projector, given.rows), rtol=1e-5, atol=1e-5)


def test_factors_are_the_product() -> None:
    rng = np.random.default_rng(2)
    whole = make(kind="linear")
    down, up = rng.normal(size=(12, 3)).astype(np.float32), rng.normal(size=(3, 10)).astype(np.float32)
    others = {name: array for name, array in whole.arrays.items() if name != "weight"}
    product = replace(whole, arrays=others | {"weight": down @ up})
    factored = replace(whole, arrays=others | {"down": down, "up": up})
    np.testing.assert_allclose(
        factored.project(prompt()).rows, product.project(prompt()).rows, rtol=1e-4, atol=1e-5
    )


def test_several_prompts_at_once_are_each_alone() -> None:
    projector = make()
    tensors = {name: torch.from_numpy(array) for name, array in projector.arrays.items()}
    rows = torch.randn(4, 3, 4)
    together = forward(projector.settings, TARGET, tensors, rows)
    for one, alone in zip(together, rows, strict=True):
        torch.testing.assert_close(one, forward(projector.settings, TARGET, tensors, alone))


def test_what_is_projected_says_where_it_comes_from() -> None:
    projector, given = make(), prompt(task="seen", model_fingerprint="fa", task_type="qa")
    found = projector.project(given)
    assert (found.task, found.seed, found.template, found.head) == ("seen", 7, "mask-first", None)
    about = found.provenance
    assert about["model"] == "b"
    assert about["projected_from"] == "a"
    assert about["source_prompt"] == given.fingerprint
    assert about["projector"] == projector.fingerprint
    assert about["trained_on"] == ["seen"]
    assert about["held_out"] is False
    assert about["task_type"] == "qa"
    assert projector.project(prompt(task="new")).provenance["held_out"] is True
    assert projector.project(given, template="prefix").template == "prefix"


def test_a_projected_prompt_is_a_peft_folder(tmp_path: Path) -> None:
    found = make().project(prompt())
    back = load_prompt(save_prompt(found, tmp_path / "p"))
    np.testing.assert_array_equal(back.rows, found.rows)
    assert back.provenance["held_out"] is True
    assert back.template == "mask-first"


@pytest.mark.parametrize(
    ("given", "options", "complaint"),
    [
        (prompt(width=5), {}, "takes rows 4 wide"),
        (prompt(rows=2), {}, "whole prompts of 3 rows"),
        (prompt(width=5), {"flatten": False}, "takes rows 4 wide"),
        (prompt(model_fingerprint="other"), {}, "not on the backbone that this projector was fitted on, 'a'"),
        (SoftPrompt(np.full((3, 4), np.inf, np.float32), "x"), {}, "NaN or infinite"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(
    given: SoftPrompt, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(PromptError, match=complaint):
        make(**options).project(given)


def test_by_token_any_number_of_rows() -> None:
    projector = make(target=Space(3, 5), flatten=False)
    given = prompt(rows=8)
    whole = projector.project(given).rows
    assert whole.shape == (8, 5)
    first = projector.project(replace(given, rows=given.rows[:1])).rows
    np.testing.assert_allclose(first, whole[:1], rtol=1e-5, atol=1e-6)


def test_layers_start_from_the_seed() -> None:
    settings = ProjectorSettings(hidden=6)
    one, same = (initial_layers(settings, SOURCE, TARGET) for _ in range(2))
    other = initial_layers(ProjectorSettings(hidden=6, seed=1), SOURCE, TARGET)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["weight1"], other["weight1"])
    assert float(one["weight1"].abs().max()) <= 12**-0.5
    with pytest.raises(InputError, match="project by token"):
        initial_layers(ProjectorSettings(kind="linear"), Space(100, 768), Space(100, 1024))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "deep"},
        {"hidden": 0},
        {"activation": "relu"},
        {"learning_rate": 0},
        {"steps": 0},
        {"validation": 1},
        {"seed": -1},
        {"hiden": 3},
    ],
)
def test_settings_refuse_what_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ProjectorSettings(**wrong)


@pytest.mark.parametrize("options", [{}, {"layer_norm": False}, {"kind": "linear"}])
def test_a_file_has_it_bit_for_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    projector = make(**options)
    file = save_projector(projector, tmp_path / "p.safetensors")
    back = load_projector(file)
    assert (back.settings, back.source, back.target) == (projector.settings, SOURCE, TARGET)
    assert (back.template, back.trained_on, back.objective) == ("mask-first", ("seen",), "distance")
    assert back.provenance == projector.provenance
    assert back.fingerprint == projector.fingerprint
    for name, array in projector.arrays.items():
        assert back.arrays[name].tobytes() == array.tobytes()
    assert back.project(prompt()).rows.tobytes() == projector.project(prompt()).rows.tobytes()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    file = save_projector(make(), tmp_path / "p.safetensors")
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:-4] + b"\0\1\2\3"):
        file.write_bytes(damaged)
        with pytest.raises(StoreError):
            load_projector(file)
    with pytest.raises(StudyError, match="not found"):
        load_projector(tmp_path / "none.safetensors")


def _metadata(projector: Projector) -> dict[str, Any]:
    return {
        "kind": "projector",
        "settings": projector.settings.model_dump(),
        "source": {"rows": 3, "width": 4},
        "target": {"rows": 2, "width": 5},
        "template": "mask-first",
        "trained_on": ["seen"],
        "objective": "distance",
        "provenance": {},
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "signature"},
        {"template": "infix"},
        {"objective": "both"},
        {"provenance": 3},
        {"settings": {"kind": "deep"}},
        {"settings": None},
        {"source": {"rows": 3}},
        {"source": {"rows": 3, "width": 9}},
        {"source": {"rows": True, "width": 4}},
        {"trained_on": 5},
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    projector = make()
    file = tmp_path / "p.safetensors"
    store.save_arrays(file, projector.arrays, _metadata(projector))
    assert load_projector(file).trained_on == ("seen",)
    store.save_arrays(file, projector.arrays, _metadata(projector) | wrong)
    with pytest.raises(StoreError, match="is not a projector that can be used"):
        load_projector(file)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("weight1", np.zeros((12, 7), np.float32)),
        ("weight1", np.zeros((12, 6), np.float64)),
        ("weight1", np.full((12, 6), np.nan, np.float32)),
        ("input.scale", np.array(0, np.float32)),
        ("output.mean", np.zeros(5, np.float32)),
        ("weight", np.zeros((12, 10), np.float32)),
        ("bias2", None),
        ("input.mean", None),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, name: str, array: np.ndarray | None) -> None:
    projector = make()
    arrays = {key: value for key, value in projector.arrays.items() if key != name}
    file = tmp_path / "p.safetensors"
    store.save_arrays(file, arrays | ({} if array is None else {name: array}), _metadata(projector))
    with pytest.raises(StoreError, match="is not a projector that can be used"):
        load_projector(file)
