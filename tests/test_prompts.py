"""Prompt folders: round trips with ourselves and with peft, and every way a folder can be wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from tests import tiny
from transferscope.errors import PromptError
from transferscope.prompts import (
    CONFIG,
    HEAD,
    KEY,
    RECORD,
    WEIGHTS,
    Head,
    SoftPrompt,
    find_prompts,
    load_prompt,
    save_prompt,
)

ROWS = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
# peft asks a property of the model that transformers has renamed
PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good folder, to be spoilt."""
    return save_prompt(SoftPrompt(ROWS, "sst2"), tmp_path / "sst2")


def weights(folder: Path, tensor: torch.Tensor, name: str = KEY) -> Path:
    save_file({name: tensor.contiguous()}, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize("head", [None, Head(np.eye(3, 16, dtype=np.float32), np.ones(3, np.float32))])
def test_round_trip(tmp_path: Path, head: Head | None) -> None:
    prompt = SoftPrompt(ROWS, "sst2", 7, "mask-first", head, {"model": "m", "scores": {"dev": 0.5}})
    read = load_prompt(save_prompt(prompt, tmp_path / "a", model="other"))
    assert np.array_equal(read.rows, ROWS)
    assert read.rows.dtype == np.float32
    assert (read.task, read.seed, read.template, read.provenance) == (
        "sst2",
        7,
        "mask-first",
        prompt.provenance,
    )
    assert (read.head is None) == (head is None)
    if head is not None and read.head is not None:
        assert np.array_equal(read.head.weight, head.weight)
        assert np.array_equal(read.head.bias, head.bias)
    assert read.fingerprint == prompt.fingerprint


def test_fingerprint_follows_what_enters_the_model() -> None:
    plain = SoftPrompt(ROWS, "a")
    head = Head(np.eye(2, 16, dtype=np.float32), np.zeros(2, np.float32))
    other = Head(head.weight, head.bias + 1)
    different = [SoftPrompt(ROWS + 1, "a"), SoftPrompt(ROWS, "a", 0, "suffix")]
    different += [SoftPrompt(ROWS, "a", head=head), SoftPrompt(ROWS, "a", head=other)]
    assert len({prompt.fingerprint for prompt in [plain, *different]}) == 5
    assert SoftPrompt(ROWS, "b", 3, provenance={"x": 1}).fingerprint == plain.fingerprint


def test_a_prompt_saved_over_one_with_a_head_has_none(tmp_path: Path) -> None:
    head = Head(np.eye(2, 16, dtype=np.float32), np.zeros(2, np.float32))
    save_prompt(SoftPrompt(ROWS, "a", head=head), tmp_path)
    assert load_prompt(save_prompt(SoftPrompt(ROWS, "a"), tmp_path)).head is None


@PEFT
@pytest.mark.parametrize(
    ("model_type", "kind"),
    [("bert", "encoder"), ("gpt2", "decoder"), ("llama", "decoder"), ("t5", "encoder-decoder")],
)
def test_peft_loads_what_we_save(tmp_path: Path, model_type: str, kind: str) -> None:
    from peft import PeftModel

    save_prompt(SoftPrompt(ROWS, "sst2"), tmp_path, model="some/model", kind=kind)
    loaded = PeftModel.from_pretrained(tiny.model(model_type), tmp_path)
    assert np.array_equal(loaded.get_prompt(1)[0].detach().numpy(), ROWS)
    assert loaded.active_peft_config.base_model_name_or_path == "some/model"


@PEFT
@pytest.mark.parametrize("method", ["PromptTuningConfig", "PromptEncoderConfig"])
@pytest.mark.parametrize(
    ("model_type", "task_type"),
    [("bert", "FEATURE_EXTRACTION"), ("llama", "CAUSAL_LM"), ("t5", "SEQ_2_SEQ_LM")],
)
def test_we_load_what_peft_saves(tmp_path: Path, method: str, model_type: str, task_type: str) -> None:
    import peft

    config = getattr(peft, method)(task_type=task_type, num_virtual_tokens=5)
    made = peft.get_peft_model(tiny.model(model_type), config)
    made.save_pretrained(tmp_path / "mnli")
    read = load_prompt(tmp_path / "mnli")
    # For an encoder-decoder peft saves 10 rows, and its forward pass uses the first 5.
    assert len(load_file(tmp_path / "mnli" / WEIGHTS)[KEY]) == (10 if model_type == "t5" else 5)
    assert np.array_equal(read.rows, made.get_prompt(1)[0, :5].detach().numpy())
    assert (read.task, read.seed, read.template, read.head) == ("mnli", 0, "prefix", None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_adapters_of_any_float_dtype_load(folder: Path, dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(ROWS).to(dtype)
    read = load_prompt(weights(folder, tensor))
    assert read.rows.dtype == np.float32
    assert np.array_equal(read.rows, tensor.float().numpy())


def test_other_tensors_beside_the_prompt_are_left_alone(folder: Path) -> None:
    # modules_to_save and P-tuning's encoder may stand there, in dtypes that numpy does not have
    odd = torch.zeros(2, dtype=torch.float8_e4m3fn)
    save_file({KEY: torch.from_numpy(ROWS), "classifier.weight": odd}, folder / WEIGHTS)
    assert np.array_equal(load_prompt(folder).rows, ROWS)


def test_a_folder_is_named_by_its_own_name_also_from_inside(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / RECORD).unlink()
    monkeypatch.chdir(folder)
    assert load_prompt(".").task == "sst2"


def test_find_prompts_goes_down_some_levels_in_order(tmp_path: Path) -> None:
    places = ["b/1", "b/0", "a", "b/x/y", "b/x/y/z"]
    for place in places:
        save_prompt(SoftPrompt(ROWS, place), tmp_path / place)

    def found(*starts: str, depth: int = 3) -> list[str]:
        paths = find_prompts([tmp_path / start for start in starts], depth)
        return [path.relative_to(tmp_path).as_posix() for path in paths]

    assert found(".") == ["a", "b/0", "b/1", "b/x/y"]
    assert found(".", depth=1) == ["a"]
    assert found(".", depth=4) == ["a", "b/0", "b/1", "b/x/y", "b/x/y/z"]
    assert found("b/1") == ["b/1"]
    # the order of the folders given, and nothing twice
    assert found("b", "a", "b/0", "./a/../a") == ["b/0", "b/1", "b/x/y", "b/x/y/z", "a"]


def test_find_prompts_where_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"no folder '.*nowhere'"):
        find_prompts([tmp_path / "nowhere"])
    with pytest.raises(PromptError, match=rf"no {CONFIG} in .* or 3 levels below"):
        find_prompts([tmp_path])


def refused(folder: Path, message: str) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        load_prompt(folder)
    assert str(folder.name) in str(caught.value)


def test_missing_files(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", f"no {CONFIG} in .*: not a PEFT adapter folder")
    (folder / WEIGHTS).unlink()
    refused(folder, f"no {WEIGHTS} in .*sst2'$")
    (folder / "adapter_model.bin").write_bytes(b"never read")
    refused(folder, r"adapter_model\.bin \(pickle\) is not read: .*safe_serialization=True")


@pytest.mark.parametrize("file", [CONFIG, RECORD])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[]", "should hold a JSON object, found list"),
        (b"null", "should hold a JSON object, found NoneType"),
    ],
)
def test_files_that_are_no_json_objects(folder: Path, file: str, content: bytes, message: str) -> None:
    (folder / file).write_bytes(content)
    refused(folder, rf"{file}.*{message}")


@pytest.mark.parametrize("kind", ["LORA", None, ["PROMPT_TUNING"], 3])
def test_other_adapters_are_refused(folder: Path, kind: Any) -> None:
    edit(folder / CONFIG, peft_type=kind)
    refused(folder, r"adapter of type .*; soft prompts are read from PROMPT_TUNING and P_TUNING folders")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_virtual_tokens", "4"),
        ("num_virtual_tokens", True),
        ("num_virtual_tokens", 4.0),
        ("num_virtual_tokens", -4),
        ("num_virtual_tokens", 0),
        ("num_virtual_tokens", [4]),
        ("num_transformer_submodules", "x"),
        ("num_transformer_submodules", -1),
    ],
)
def test_hostile_numbers_in_the_config(folder: Path, name: str, value: Any) -> None:
    edit(folder / CONFIG, **{name: value})
    refused(folder, rf"{name} should be a whole number of at least 1, found ")


@pytest.mark.parametrize(("tokens", "submodules"), [(5, 1), (10**30, 1), (3, 2), (10**15, 10**15)])
def test_a_config_that_does_not_fit_the_rows(folder: Path, tokens: int, submodules: int) -> None:
    edit(folder / CONFIG, num_virtual_tokens=tokens, num_transformer_submodules=submodules)
    refused(folder, rf"4 rows, but {CONFIG} says num_virtual_tokens {tokens}")


def test_a_config_without_numbers_is_taken_from_the_rows(folder: Path) -> None:
    edit(folder / CONFIG, num_virtual_tokens=None, num_transformer_submodules=None)
    assert load_prompt(folder).rows.shape == (4, 16)


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        (torch.zeros(4), r"F32 \(4,\)"),
        (torch.zeros(1, 4, 16), r"F32 \(1, 4, 16\)"),
        (torch.zeros(4, 16, dtype=torch.int64), r"I64 \(4, 16\)"),
        (torch.zeros(4, 16, dtype=torch.bool), "BOOL"),
        (torch.zeros(4, 16, dtype=torch.float8_e4m3fn), "F8_E4M3"),
        (torch.zeros(0, 16), r"F32 \(0, 16\)"),
        (torch.zeros(4, 0), r"F32 \(4, 0\)"),
    ],
)
def test_rows_of_another_shape_or_dtype(folder: Path, tensor: torch.Tensor, found: str) -> None:
    refused(weights(folder, tensor), rf"{KEY} should be floats of shape \[rows, width\], found {found}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite(folder: Path, dtype: torch.dtype, value: float) -> None:
    tensor = torch.zeros(4, 16, dtype=dtype)
    tensor[2, 3] = value
    refused(weights(folder, tensor), "has NaN or infinite values")


def test_rows_beyond_float32(folder: Path) -> None:
    refused(weights(folder, torch.full((4, 16), 1e200, dtype=torch.float64)), "has NaN or infinite values")


def test_another_key_and_damaged_files(folder: Path) -> None:
    refused(weights(folder, torch.zeros(4, 16), "prompt"), rf"no tensor '{KEY}'; found prompt")
    whole = (folder / WEIGHTS).read_bytes()
    for damaged in (b"", b"PK\x03\x04 pickle", whole[:-8], b"\xff" * 8 + whole[8:]):
        (folder / WEIGHTS).write_bytes(damaged)
        refused(folder, "cannot be read as safetensors")


@pytest.mark.parametrize("fields", [{"seed": "x"}, {"seed": [1]}, {"provenance": [1]}, {"provenance": "x"}])
def test_a_record_of_other_types(folder: Path, fields: dict[str, Any]) -> None:
    edit(folder / RECORD, **fields)
    refused(folder, "seed should be a whole number and provenance an object")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "not found"),
        ({"weight": torch.zeros(2, 16)}, "bias"),
        (
            {"weight": torch.zeros(2, 16), "bias": torch.zeros(3)},
            r"found float32 \(2, 16\) and float32 \(3,\)",
        ),
        ({"weight": torch.zeros(2), "bias": torch.zeros(2)}, "should hold finite floats"),
        ({"weight": torch.zeros(2, 16), "bias": torch.zeros(2, dtype=torch.int64)}, "int64"),
        ({"weight": torch.zeros(2, 16), "bias": torch.tensor([0, torch.nan])}, "should hold finite floats"),
        ({"weight": torch.zeros(2, 16, dtype=torch.bfloat16), "bias": torch.zeros(2)}, "cannot be read"),
    ],
)
def test_a_head_that_cannot_be_used(folder: Path, arrays: dict[str, torch.Tensor], message: str) -> None:
    edit(folder / RECORD, head="classifier")
    if arrays:
        save_file(arrays, folder / HEAD)
    refused(folder, rf"{HEAD}.*{message}")


def test_reading_prompts_imports_neither_torch_nor_transformers(folder: Path) -> None:
    weights(folder, torch.from_numpy(ROWS).to(torch.bfloat16))
    code = (
        "import sys; from transferscope.prompts import load_prompt, find_prompts; "
        "print(load_prompt(find_prompts([sys.argv[1]])[0]).rows.shape); "
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout == "(4, 16)\n[]\n"
