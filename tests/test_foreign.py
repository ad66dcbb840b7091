"""Prompts of other tools: each format, PEFT's own effective prompt, and files that must not be read."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file

from transferscope.errors import PromptError
from transferscope.foreign import MAX_NUMBERS, checked_rows, read_prompt, read_rows
from transferscope.prompts import CONFIG, WEIGHTS, SoftPrompt, save_prompt

ROWS = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
TENSOR = torch.from_numpy(ROWS)
PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def saved(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def peft_folder(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"peft_type": "PROMPT_TUNING", **config}))
    return folder


OPENPROMPT = {
    "prompt_model.plm.wte.weight": torch.zeros(9, 16),
    "prompt_model.template.raw_embedding.weight": torch.zeros(9, 16),
    "prompt_model.template.soft_embeds": TENSOR,
}
SKILL_NEURON = {"prompt": TENSOR[None], "pos": [22173, 33407]}  # as PromptBaseModel.save has it


@pytest.mark.parametrize(
    ("value", "format_", "template"),
    [
        (TENSOR, "torch", "prefix"),
        (TENSOR.double(), "torch", "prefix"),
        (TENSOR[None, None], "torch", "prefix"),
        (torch.nn.Parameter(TENSOR), "torch", "prefix"),
        (TENSOR.T.contiguous().T, "torch", "prefix"),
        ({"model": TENSOR}, "torch", "prefix"),
        ({"soft_embeds": TENSOR}, "openprompt", "prefix"),
        ({"template.soft_embeds": TENSOR, "step": torch.tensor(3)}, "openprompt", "prefix"),
        (OPENPROMPT, "openprompt", "prefix"),
        ({"state_dict": OPENPROMPT, "epoch": 3}, "openprompt", "prefix"),
        (SKILL_NEURON, "skill-neuron", "mask-first"),
        # as RobertaPrunePrompt.save has it: the whole state, the mask row a parameter of its own
        (
            {**SKILL_NEURON, "mask": torch.zeros(1, 1, 16), "bert.w": torch.zeros(4, 4)},
            "skill-neuron",
            "mask-first",
        ),
    ],
)
def test_torch_files(tmp_path: Path, value: Any, format_: str, template: str) -> None:
    read = read_prompt(saved(tmp_path / "x", value))
    assert np.array_equal(read.rows, ROWS)
    assert read.rows.dtype == np.float32
    assert read.rows.flags.c_contiguous
    assert (read.format, read.template) == (format_, template)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_widened(tmp_path: Path, dtype: torch.dtype) -> None:
    low = TENSOR.to(dtype)
    save_file({"x": low}, tmp_path / "a.safetensors")
    assert np.array_equal(read_rows(tmp_path / "a.safetensors"), low.float().numpy())
    assert np.array_equal(read_rows(saved(tmp_path / "b", low)), low.float().numpy())


def test_torch_files_of_before_the_zip_format(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", TENSOR, _use_new_zipfile_serialization=False)
    assert np.array_equal(read_rows(path), ROWS)


def test_spot_files(tmp_path: Path) -> None:
    assert np.array_equal(read_rows(npy(tmp_path / "a.npy", ROWS)), ROWS)
    assert np.array_equal(read_rows(npy(tmp_path / "b.npy", np.asfortranarray(ROWS.astype(float)))), ROWS)
    os.rename(tmp_path / "a.npy", tmp_path / "prompt")  # the content counts, not the suffix
    assert read_prompt(tmp_path / "prompt").format == "npy"


def test_safetensors_with_one_prompt_and_with_several(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"anything": TENSOR, "bias": torch.zeros(3), "ids": torch.zeros(2, 2, dtype=torch.int64)}, path)
    assert np.array_equal(read_rows(path), ROWS)
    save_file({"a": TENSOR, "b": TENSOR + 1}, path)
    with pytest.raises(PromptError, match=r"found 2 that could be one: a F32 \[5, 16\], b F32 \[5, 16\]"):
        read_rows(path)
    assert np.array_equal(read_rows(path, key="b"), ROWS + 1)
    with pytest.raises(PromptError, match=r"no tensor 'c'\. Available: a, b"):
        read_rows(path, key="c")


@PEFT
@pytest.mark.parametrize("method", ["PromptTuningConfig", "PromptEncoderConfig"])
@pytest.mark.parametrize(("model_type", "task"), [("bert", "FEATURE_EXTRACTION"), ("t5", "SEQ_2_SEQ_LM")])
def test_peft_folders(tmp_path: Path, method: str, model_type: str, task: str) -> None:
    import peft

    made = peft.get_peft_model(
        tiny.model(model_type), getattr(peft, method)(task_type=task, num_virtual_tokens=5)
    )
    made.save_pretrained(tmp_path / "a")
    read = read_prompt(tmp_path / "a")
    assert np.array_equal(read.rows, made.get_prompt(1)[0, :5].detach().numpy())
    assert (read.format, read.kind) == ("peft", "encoder" if model_type == "bert" else "encoder-decoder")
    made.save_pretrained(tmp_path / "b", safe_serialization=False)
    assert (tmp_path / "b" / "adapter_model.bin").is_file()
    assert np.array_equal(read_rows(tmp_path / "b"), read.rows)


@PEFT
@pytest.mark.parametrize(("model_type", "task"), [("llama", "CAUSAL_LM"), ("t5", "SEQ_2_SEQ_LM")])
def test_a_multitask_prompt_is_the_one_that_peft_computes(tmp_path: Path, model_type: str, task: str) -> None:
    import peft

    config = peft.MultitaskPromptTuningConfig(task_type=task, num_virtual_tokens=5, num_tasks=3, num_ranks=2)
    made = peft.get_peft_model(tiny.model(model_type), config)
    encoder = made.prompt_encoder["default"]
    with torch.no_grad():
        encoder.prefix_task_cols.normal_()
        encoder.prefix_task_rows.normal_()
    made.save_pretrained(tmp_path / "m")
    by_peft = [made.get_prompt(1, task_ids=torch.tensor([t]))[0, :5].detach().numpy() for t in range(3)]
    for number, expected in enumerate(by_peft):
        np.testing.assert_allclose(read_rows(tmp_path / "m", task_id=number), expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(by_peft[0], by_peft[1])
    for wrong in (None, 3, -1):
        with pytest.raises(PromptError, match=rf"a prompt for 3 tasks: task id 0 to 2, found {wrong}"):
            read_rows(tmp_path / "m", task_id=wrong)
    with pytest.raises(PromptError, match="multitask prompt"):
        read_rows(_alone(tmp_path / "m" / WEIGHTS, tmp_path / "alone.safetensors"))


def _alone(path: Path, to: Path) -> Path:
    to.write_bytes(path.read_bytes())
    return to


def test_a_weights_file_is_read_as_its_folder_says(tmp_path: Path) -> None:
    folder = peft_folder(
        tmp_path / "a", {"prompt_embeddings": torch.cat([TENSOR, TENSOR])}, num_virtual_tokens=5
    )
    assert np.array_equal(read_rows(folder / WEIGHTS), ROWS)


def test_our_own_folders_are_peft_folders(tmp_path: Path) -> None:
    folder = save_prompt(
        SoftPrompt(ROWS, "a", provenance={"model": "some/model"}), tmp_path / "a", kind="decoder"
    )
    read = read_prompt(folder)
    assert np.array_equal(read.rows, ROWS)
    assert (read.model, read.kind) == ("some/model", "decoder")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("LORA", "holds changes of weight matrices"),
        ("PREFIX_TUNING", "holds keys and values"),
        ("NEW", "prompts are read from PROMPT_TUNING"),
        (["x"], "of type"),
    ],
)
def test_adapters_that_are_no_prompts(tmp_path: Path, kind: Any, why: str) -> None:
    with pytest.raises(PromptError, match=why):
        read_rows(peft_folder(tmp_path / "a", {"prompt_embeddings": TENSOR}, peft_type=kind))


@pytest.mark.parametrize(
    ("tensors", "config", "why"),
    [
        ({"prompt_embeddings": TENSOR}, {"num_virtual_tokens": 4}, "5 rows, but .* num_virtual_tokens 4"),
        ({"prompt_embeddings": TENSOR}, {"num_virtual_tokens": "x"}, "num_virtual_tokens 'x'"),
        ({"other": torch.zeros(3)}, {}, "found none: other F32"),
        (
            {"embedding.weight": TENSOR, "mlp_head.0.weight": TENSOR.clone()},
            {"peft_type": "P_TUNING"},
            "encoder of P-tuning",
        ),
        (
            {"prompt_embeddings": TENSOR},
            {"peft_type": "MULTITASK_PROMPT_TUNING"},
            "without prefix_task_cols and",
        ),
    ],
)
def test_peft_folders_that_do_not_fit(tmp_path: Path, tensors: Any, config: Any, why: str) -> None:
    with pytest.raises(PromptError, match=why):
        read_rows(peft_folder(tmp_path / "a", tensors, **config))


def test_multitask_parts_that_do_not_fit(tmp_path: Path) -> None:
    tensors = {
        "prompt_embeddings": TENSOR,
        "prefix_task_cols": torch.zeros(2, 4, 1),
        "prefix_task_rows": torch.zeros(2, 1, 16),
    }
    with pytest.raises(PromptError, match=r"do not fit prompt rows \[5, 16\]"):
        read_rows(peft_folder(tmp_path / "a", tensors, peft_type="MULTITASK_PROMPT_TUNING"), task_id=0)


class Runs:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_object_is_refused_and_nothing_runs(tmp_path: Path, zipped: bool) -> None:
    trap = tmp_path / "trap"
    path = saved(tmp_path / "x", {"prompt": Runs(trap)}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(PromptError, match=r"pickled object \((posix|nt)\.mkdir\).*nothing was executed"):
        read_rows(path)
    assert not trap.exists()


def test_an_array_of_objects_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    np.save(tmp_path / "x.npy", np.array([Runs(trap)], dtype=object), allow_pickle=True)
    with pytest.raises(PromptError, match="cannot be read as a numpy array"):
        read_rows(tmp_path / "x.npy")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (torch.zeros(3, 4, dtype=torch.int64), "found none: one tensor int64"),
        (torch.zeros(16), r"found none: one tensor float32 \[16\]"),
        (torch.zeros(0, 16), "found none"),
        (torch.zeros(2, 3, 4), "found none"),
        (torch.full((2, 4), float("nan")), "NaN or infinite"),
        (torch.full((2, 4), 1e300, dtype=torch.float64), "NaN or infinite"),
        (torch.zeros(1, 1).expand(2**14, 2**13), f"at most {MAX_NUMBERS} numbers"),
        (torch.zeros(3, 4).to_sparse(), "found none"),
        ([TENSOR], r"found none: list \(no tensor\)"),
        ({"soft_embedding.weight": TENSOR}, "MixedTemplate"),
        ({"a": {"b": {"c": {"d": TENSOR}}}}, "found none"),
    ],
)
def test_what_is_no_prompt(tmp_path: Path, value: Any, why: str) -> None:
    with pytest.raises(PromptError, match=why):
        read_rows(saved(tmp_path / "x", value))


def test_a_mapping_that_holds_itself_ends(tmp_path: Path) -> None:
    loop: dict[str, Any] = {"": None}
    loop[""] = loop
    with pytest.raises(PromptError, match="found none"):
        read_rows(saved(tmp_path / "x", loop))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"PK\x03\x04",
        b"\x80\x02",
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY",
        (9).to_bytes(8, "little") + b"{" * 9,
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(PromptError, match="x'"):
        read_rows(tmp_path / "x")


def test_cut_files(tmp_path: Path) -> None:
    whole = saved(tmp_path / "x", TENSOR).read_bytes()
    for share in (0.2, 0.5, 0.9):
        (tmp_path / "x").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(PromptError, match="cannot be read as a torch file"):
            read_rows(tmp_path / "x")


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(saved(tmp_path / "x", TENSOR)) as whole,
        zipfile.ZipFile(tmp_path / "y", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(PromptError, match="compressed zip archive"):
        read_rows(tmp_path / "y")


def test_unknown_files_and_folders_say_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="no file or folder"):
        read_rows(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("not a prompt")
    with pytest.raises(
        PromptError, match=r"a folder of notes.txt\. Read are peft: .*npy: .*safetensors: .*torch: "
    ):
        read_rows(tmp_path)
    with pytest.raises(PromptError, match="a file that starts with b'not a pr'"):
        read_rows(tmp_path / "notes.txt")


def test_checked_rows_of_other_dtypes() -> None:
    with pytest.raises(PromptError, match=r"x should be floats .* found int64 \[2, 2\]"):
        checked_rows(np.zeros((2, 2), dtype=np.int64), "x")
    with pytest.raises(PromptError, match="found complex128"):
        checked_rows(np.zeros((2, 2), dtype=complex), "x")
