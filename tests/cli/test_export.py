"""transferscope export: a study's prompt as a PEFT folder, safetensors and npy, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from click.testing import CliRunner, Result
from safetensors.numpy import load_file

from transferscope.cli import main
from transferscope.errors import PromptError, StudyError
from transferscope.foreign import read_prompt
from transferscope.importers.exports import export_prompt
from transferscope.prompts import Head, SoftPrompt, load_prompt, save_prompt

ROWS = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)


def call(*args: Any) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Task a has two trials here, b one with a head, c one in a folder of its own, d none."""
    folder = tmp_path / "study"
    for seed in (1, 2):
        prompt = SoftPrompt(ROWS + seed, "a", seed, "prefix", None, {"model": "some/model"})
        save_prompt(prompt, folder / "prompts" / "a" / str(seed), kind="decoder")
    head = Head(np.eye(2, 16, dtype=np.float32), np.zeros(2, np.float32))
    save_prompt(SoftPrompt(ROWS, "b", 0, "mask-first", head), folder / "prompts" / "b" / "0")
    save_prompt(SoftPrompt(ROWS + 9, "c"), folder / "others" / "c")
    (folder / "study.yaml").write_text(
        "model: m\ntasks:\n"
        "  a: {train: a.csv}\n  b: {train: b.csv}\n  c: {prompts: others/c}\n  d: {train: d.csv}\n"
    )
    return folder


@pytest.mark.parametrize("format_", ["peft", "safetensors", "npy"])
def test_round_trip(study: Path, tmp_path: Path, format_: str) -> None:
    out = tmp_path / "out" / "x"
    for _ in range(2):  # over itself
        result = call("export", "a", "--study", study, "--as", format_, "--out", out)
        assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert result.stderr == f"wrote {out}: a, seed 1, 4 rows of 16\n"
    read = read_prompt(out)
    assert np.array_equal(read.rows, ROWS + 1)
    assert read.format == format_


def test_other_tools_read_the_files(study: Path, tmp_path: Path) -> None:
    export_prompt("a", study, tmp_path / "x.npy", "npy", seed=2)
    assert np.array_equal(np.load(tmp_path / "x.npy", allow_pickle=False), ROWS + 2)
    assert not [*tmp_path.glob("x.npy.npy")]
    export_prompt("a", study, tmp_path / "x.safetensors", "safetensors")
    assert np.array_equal(load_file(tmp_path / "x.safetensors")["prompt_embeddings"], ROWS + 1)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_loads_the_folder(study: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    export_prompt("a", study, tmp_path / "x", "peft")
    loaded = PeftModel.from_pretrained(tiny.model("llama"), tmp_path / "x")
    assert np.array_equal(loaded.get_prompt(1)[0].detach().numpy(), ROWS + 1)
    assert loaded.active_peft_config.task_type == "CAUSAL_LM"
    assert loaded.active_peft_config.base_model_name_or_path == "some/model"


def test_a_mask_first_prompt_is_exported_with_a_warning(study: Path, tmp_path: Path) -> None:
    result = call("export", "b", "--study", study, "--as", "peft", "--out", tmp_path / "x")
    assert result.stderr.startswith(
        "note: tuned as mask-first: PEFT and most tools read the rows as a prefix "
        "(the mask row is not among them)\n"
    )
    assert load_prompt(tmp_path / "x").head is not None
    result = call("export", "b", "--study", study, "--as", "npy", "--out", tmp_path / "x.npy")
    assert "note: the classifier tuned with it is not in the file" in result.stderr


def test_a_task_whose_prompts_lie_elsewhere(study: Path, tmp_path: Path) -> None:
    written = export_prompt("c", study / "study.yaml", tmp_path / "c.npy", "npy")
    assert (written.seed, written.rows, written.width, written.notes) == (0, 4, 16, ())
    assert np.array_equal(np.load(tmp_path / "c.npy"), ROWS + 9)


@pytest.mark.parametrize(
    ("task", "options", "why"),
    [
        ("e", {}, r"no task 'e'\. Available: a, b, c, d"),
        ("d", {}, "no prompt of 'd'.*transferscope tune"),
        ("a", {"seed": 0}, r"no prompt of 'a' with seed 0\. Available: 1, 2"),
    ],
)
def test_prompts_that_are_not_there(study: Path, tmp_path: Path, task: str, options: Any, why: str) -> None:
    with pytest.raises(StudyError, match=why):
        export_prompt(task, study, tmp_path / "x", "npy", **options)
    assert not (tmp_path / "x").exists()


def test_what_is_there_is_not_written_over(study: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(PromptError, match="is no PEFT folder"):
        export_prompt("a", study, tmp_path / "mine", "peft")
    with pytest.raises(PromptError, match="is no PEFT folder"):
        export_prompt("a", study, tmp_path / "mine" / "notes.txt", "peft")
    with pytest.raises(PromptError, match="is a folder, and npy makes a file"):
        export_prompt("a", study, tmp_path / "mine", "npy")
    with pytest.raises(PromptError, match=r"no format 'np' .*Did you mean 'npy'"):
        export_prompt("a", study, tmp_path / "x", "np")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_format_that_is_none_is_status_2(study: Path) -> None:
    assert call("export", "a", "--study", study, "--as", "pickle", "--out", "x").exit_code == 2
