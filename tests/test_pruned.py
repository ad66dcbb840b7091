"""Pruned folders: smaller files that load strictly, without pickle and foreign code, as any backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.test_pruning import drawn, made, rows_of
from transferscope import attachment, pruning
from transferscope.errors import BackboneError
from transferscope.measurement import measure_neurons
from transferscope.models import Backbone, load_backbone, wrap
from transferscope.pruned import RECORD, PrunedModel, is_pruned, save_pruned, stored

WEIGHTS = "model.safetensors"


def folded(model_type: str, folder: Path) -> Backbone:
    backbone = made(model_type)
    found = pruning.fold(backbone, *drawn(backbone))
    save_pruned(found.model, folder, {"origin": {"model": "x"}}, tokenizer=found.tokenizer)
    return found


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    folded("bert", tmp_path / "pruned")
    return tmp_path / "pruned"


@pytest.mark.parametrize("model_type", tiny.MODEL_TYPES)
def test_what_is_loaded_is_what_was_saved(model_type: str, tmp_path: Path) -> None:
    saved = folded(model_type, tmp_path)
    loaded = load_backbone(tmp_path, device="cpu")
    assert loaded.fingerprint == saved.fingerprint
    assert loaded.widths == saved.widths
    assert type(loaded.model) is type(saved.model)
    assert type(loaded.model).__module__.startswith("transformers.models.")
    embeds, mask = rows_of(saved)
    assert torch.equal(loaded.hidden(embeds, mask), saved.hidden(embeds, mask))
    base = load_backbone(tmp_path, head="classifier", device="cpu")
    assert torch.equal(base.hidden(embeds, mask), saved.hidden(embeds, mask))
    alone = PrunedModel.from_pretrained(tmp_path)
    assert not alone.training
    assert wrap(alone, saved.tokenizer).fingerprint == saved.fingerprint


@pytest.mark.parametrize("model_type", ["bert", "t5", "gpt2", "llama"])
def test_the_file_is_smaller_by_the_neurons_that_are_gone(model_type: str, tmp_path: Path) -> None:
    saved, whole = folded(model_type, tmp_path / "pruned"), tiny.model(model_type)
    whole.save_pretrained(tmp_path / "whole")
    before, after = (
        sum(t.numel() for t in load_file(tmp_path / f / WEIGHTS).values()) for f in ("whole", "pruned")
    )
    gone = sum(24 - width for width in saved.widths)
    biases = sum(width < 24 for width in saved.widths) * 16 if model_type in ("t5", "llama") else 0
    weights = {"bert": 2 * 16 + 1, "gpt2": 2 * 16 + 1, "t5": 2 * 16, "llama": 3 * 16}[model_type]
    assert before - after == gone * weights - biases
    assert (tmp_path / "pruned" / WEIGHTS).stat().st_size < (tmp_path / "whole" / WEIGHTS).stat().st_size


def test_half_precision_checkpoints_stay_small_and_exact(tmp_path: Path) -> None:
    backbone = made("bert")
    backbone.model.half().save_pretrained(tmp_path / "half")
    backbone.tokenizer.save_pretrained(tmp_path / "half")
    wide = load_backbone(tmp_path / "half", device="cpu")
    assert wide.dtype == torch.float32
    saved = pruning.fold(wide, *drawn(wide))
    save_pruned(saved.model, tmp_path / "pruned", {}, tokenizer=saved.tokenizer)
    kinds = {name: t.dtype for name, t in load_file(tmp_path / "pruned" / WEIGHTS).items()}
    assert [name for name, kind in kinds.items() if kind != torch.float16] == [
        "bert.encoder.layer.1.output.dense.bias"  # what was folded is not of half precision
    ]
    assert (tmp_path / "pruned" / WEIGHTS).stat().st_size < (tmp_path / "half" / WEIGHTS).stat().st_size
    assert load_backbone(tmp_path / "pruned", device="cpu").fingerprint == saved.fingerprint
    again = PrunedModel.from_pretrained(tmp_path / "pruned")
    assert wrap(again, saved.tokenizer).fingerprint == saved.fingerprint


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_stored_loses_nothing(dtype: torch.dtype) -> None:
    values = (1e6 * torch.randn(50)).to(dtype).float()  # beyond what float16 has
    if dtype == torch.float16:
        values = torch.randn(50).to(dtype).float()
    assert stored(values).dtype == dtype
    assert torch.equal(stored(values).float(), values)
    assert stored(values.double()).dtype == torch.float64


def test_dtype_and_attention_are_chosen_as_for_any_model(bert: Path) -> None:
    loaded = load_backbone(bert, device="cpu", dtype="bfloat16", attention="eager")
    assert loaded.dtype == torch.bfloat16
    assert loaded.config._attn_implementation == "eager"
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


def test_a_prompt_can_be_used_and_signatures_say_why_not(bert: Path) -> None:
    loaded = load_backbone(bert, device="cpu")
    attached = attachment.attach(loaded, torch.zeros(2, 16), "mask-first")
    assert attached.rows == 3
    examples = [([2, 7, 3], 0), ([2, 8, 3], 1)]
    with pytest.raises(BackboneError, match=r"\[6, 24\]. It is a pruned model"):
        measure_neurons(loaded, np.zeros((2, 16), np.float32), examples, examples)


def test_a_model_that_is_pruned_everywhere_alike_has_signatures(tmp_path: Path) -> None:
    backbone = made("bert")
    saved = pruning.fold(backbone, *drawn(backbone, from_layer=0))
    save_pruned(saved.model, tmp_path, {}, tokenizer=saved.tokenizer)
    loaded = load_backbone(tmp_path, device="cpu")
    assert loaded.neurons == 6
    examples = [([2, 7 + i, 3], i % 2) for i in range(8)]
    found = measure_neurons(loaded, np.ones((2, 16), np.float32), examples, examples)
    assert found.predictivity.shape == (1, 2, 6)


def test_transformers_alone_refuses_the_folder(bert: Path) -> None:
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        transformers.AutoModelForMaskedLM.from_pretrained(bert)


def test_files_can_be_read_by_others_as_the_configuration(bert: Path) -> None:
    assert {path.stat().st_mode for path in bert.glob("*.safetensors")} == {
        (bert / "config.json").stat().st_mode
    }


def change(folder: Path, name: str = RECORD, **fields: Any) -> None:
    record = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(record | fields))


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([24], "2 layers of"),
        ([24, 25], "2 layers of"),
        ([24, 5], "Could not load|do not fit"),
        ([24, 24], "Could not load|do not fit"),
        ([24, 0], "should be a list of whole numbers"),
        ([24, -6], "should be a list of whole numbers"),
        ([24, True], "should be a list of whole numbers"),
        ([24, 6.0], "should be a list of whole numbers"),
        ("x", "should be a list of whole numbers"),
        ([], "should be a list of whole numbers"),
    ],
)
def test_widths_that_do_not_fit(bert: Path, widths: Any, message: str) -> None:
    change(bert, widths=widths)
    with pytest.raises(BackboneError, match=message):
        load_backbone(bert, device="cpu")


def test_records_that_cannot_be_read(bert: Path) -> None:
    change(bert, format_version=99)
    with pytest.raises(BackboneError, match="format version 99"):
        load_backbone(bert, device="cpu")
    (bert / RECORD).write_text("[1")
    with pytest.raises(BackboneError, match="not valid JSON"):
        load_backbone(bert, device="cpu")
    (bert / RECORD).unlink()
    assert not is_pruned(bert)
    with pytest.raises(BackboneError, match=r"it has no pruned\.json"):
        PrunedModel.from_pretrained(bert)


def test_weights_that_do_not_fit(bert: Path, tmp_path: Path) -> None:
    weights = load_file(bert / WEIGHTS)
    folding = "bert.encoder.layer.1.output.dense"

    def write(changed: dict[str, Any]) -> None:
        save_file(
            {k: v for k, v in (weights | changed).items() if v is not None}, bert / WEIGHTS, {"format": "pt"}
        )

    write({f"{folding}.bias": None})
    for load in (load_backbone, PrunedModel.from_pretrained):
        with pytest.raises(BackboneError, match=r"lacks weights of the model: bert\.encoder\.layer\.1"):
            load(bert)
    write({f"{folding}.extra": torch.zeros(2)})
    with pytest.raises(BackboneError, match=r"do not fit pruned\.json: bert\.encoder\.layer\.1"):
        load_backbone(bert, device="cpu")
    write({f"{folding}.bias": torch.full((16,), torch.nan)})
    with pytest.raises(BackboneError, match=r"NaN or infinite values in bert\.encoder\.layer\.1"):
        load_backbone(bert, device="cpu")
    (bert / WEIGHTS).unlink()
    torch.save(weights, bert / "pytorch_model.bin")
    with pytest.raises(BackboneError, match="Could not load the model"):
        load_backbone(bert, device="cpu")


def test_classes_that_transformers_does_not_have(bert: Path) -> None:
    change(bert, "config.json", architectures=["os"])
    with pytest.raises(BackboneError, match="names the class 'os'"):
        PrunedModel.from_pretrained(bert)
    change(bert, "config.json", architectures=None)
    with pytest.raises(BackboneError, match=r"names the class '\(none\)'"):
        PrunedModel.from_pretrained(bert)


def test_foreign_code_is_not_run(bert: Path) -> None:
    (bert / "evil.py").write_text("raise SystemExit('ran')\n")
    change(bert, "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForMaskedLM": "evil.M"})
    assert load_backbone(bert, device="cpu").widths == (24, 6)
    assert PrunedModel.from_pretrained(bert, trust_remote_code=True).config.model_type == "bert"
