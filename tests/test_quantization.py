"""Weights in 8 and 4 bits: loaded, told apart, tuned on, refused where predictivity would mean nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from by_hand import task

from transferscope import attachment, quantization, signatures
from transferscope.attachment import initial_rows
from transferscope.encoding import encode, prepared
from transferscope.errors import BackboneError, SignatureError, StudyError
from transferscope.models import Backbone, load_backbone, wrap
from transferscope.probing import features
from transferscope.quantization import kind_of, refuse_predictivity
from transferscope.settings import parse_settings

SAID = "ignore:MatMul8bitLt.*:UserWarning"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "llama"
    tiny.model("llama", hidden_size=64, intermediate_size=128).save_pretrained(path)
    tiny.tokenizer("causal").save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def quantised(saved: Path) -> Callable[[str], Backbone]:
    pytest.importorskip("bitsandbytes")
    return lambda kind: load_backbone(saved, device="cpu", quantization=kind)


def prompt(backbone: Backbone) -> attachment.Attached:
    return attachment.attach(backbone, initial_rows(backbone, 3, init="random", seed=1), "prefix")


@pytest.mark.filterwarnings(SAID)
@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_a_quantised_model_is_near_the_plain_one_and_has_its_own_fingerprint(
    kind: str, quantised: Callable[[str], Backbone], saved: Path
) -> None:
    plain, made, again = load_backbone(saved, device="cpu"), quantised(kind), quantised(kind)
    assert (made.quantization, plain.quantization) == (kind, None)
    some, both = task(), (plain, made)
    rows = []
    for one in both:
        data = encode(one, some.dev, prompt_rows=3)
        rows.append(features(prompt(one), prepared(one, data, prompt_rows=3)))
    assert 0 < np.abs(rows[0] - rows[1]).mean() < 0.5 * np.abs(rows[0]).mean()
    # Before and behind a pass: a pass must not change what identifies the model.
    assert made.fingerprint == again.fingerprint != plain.fingerprint


@pytest.mark.filterwarnings(SAID)
@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_the_gradient_after_an_evaluation_is_the_one_before(
    kind: str, quantised: Callable[[str], Backbone]
) -> None:
    backbone = quantised(kind)
    embeds = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 5, dtype=torch.int64)

    def gradient() -> torch.Tensor:
        given = embeds.clone().requires_grad_(True)
        backbone.hidden(given, mask)[0, -1, :8].sum().backward()  # type: ignore[no-untyped-call]
        assert given.grad is not None
        return given.grad

    before = gradient()
    with torch.inference_mode():
        backbone.hidden(embeds, mask)
    torch.testing.assert_close(gradient(), before, rtol=1e-4, atol=1e-5)
    assert before[0].abs().max() > 1e-3


@pytest.mark.filterwarnings(SAID)
def test_in_8_bits_a_text_depends_on_the_texts_beside_it(quantised: Callable[[str], Backbone]) -> None:
    """What the refusal says; in 4 bits it does not."""
    one, other = torch.randn(1, 4, 64), torch.randn(1, 4, 64)
    other[0, 0, 3] = 50.0
    moved = {}
    for kind in ("8bit", "4bit"):
        linear = quantised(kind).model.model.layers[0].mlp.up_proj
        with torch.inference_mode():
            moved[kind] = float((linear(one) - linear(torch.cat([one, other]))[:1]).abs().max())
    assert moved["4bit"] < 1e-5
    assert moved["8bit"] > 1e-4


@pytest.mark.filterwarnings(SAID)
@pytest.mark.parametrize(
    ("kind", "allowed", "works"),
    [("8bit", False, False), ("8bit", True, False), ("4bit", False, False), ("4bit", True, True)],
)
def test_predictivity_is_refused(
    kind: str, allowed: bool, works: bool, quantised: Callable[[str], Backbone]
) -> None:
    backbone = quantised(kind)
    train, dev = (encode(backbone, split, prompt_rows=3) for split in (task().train, task().dev))
    if works:
        found = signatures.measure(prompt(backbone), train, dev, quantized=allowed)
        assert np.isfinite(found.predictivity).any()
    else:
        with pytest.raises(SignatureError, match="no predictivity of"):
            signatures.measure(prompt(backbone), train, dev, quantized=allowed)
    assert signatures.stimulate(prompt(backbone))[0].shape == (2, 128)  # needs no threshold


@pytest.mark.parametrize(
    ("kind", "allowed", "message"),
    [
        ("8bit", False, "depend on all texts of a batch"),
        ("8bit", True, "depend on all texts of a batch"),
        ("4bit", False, "another network"),
        ("gptq", False, "another network"),
    ],
)
def test_each_refusal_has_its_reason(kind: str, allowed: bool, message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        refuse_predictivity("m", kind, allowed)


def test_plain_models_and_chosen_4_bits_are_not_refused() -> None:
    refuse_predictivity("m", None, False)
    refuse_predictivity("m", "4bit", True)


def test_a_model_that_was_quantised_by_others_is_known() -> None:
    model = tiny.model("llama")
    assert kind_of(model) is None
    model.config.quantization_config = {"quant_method": "gptq"}
    assert wrap(model).quantization == "gptq"


def test_without_bitsandbytes(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: None if name == "bitsandbytes" else name)
    with pytest.raises(BackboneError, match=r"needs bitsandbytes.*pip install 'transferscope\[quantized\]'"):
        load_backbone(saved, device="cpu", quantization="4bit")


def test_an_unknown_kind(saved: Path) -> None:
    with pytest.raises(BackboneError, match="Did you mean '4bit'"):
        load_backbone(saved, device="cpu", quantization="4bits")


def test_a_study_cannot_ask_for_8_bit_predictivity() -> None:
    tasks: dict[str, Any] = {"a": {"prompts": "somewhere"}}
    raw = {"tasks": tasks, "signatures": {"quantized": True}}
    with pytest.raises(StudyError, match="for quantization: 4bit"):
        parse_settings({"model": {"name": "m", "quantization": "8bit"}, **raw})
    assert parse_settings({"model": {"name": "m", "quantization": "4bit"}, **raw}).signatures.quantized
