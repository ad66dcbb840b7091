"""Reduced precision: flips counted by hand, weights that come back, and what is never touched."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from by_hand import examples, task

import transferscope
from transferscope import attachment, precision
from transferscope.activations import Probe
from transferscope.attachment import Attached
from transferscope.encoding import Encoded, buckets, collate, encode
from transferscope.errors import BackboneError, InputError
from transferscope.measurement import measure, stimulate
from transferscope.models import wrap
from transferscope.precision import EXAMPLES, FlipRate, flip_rate, remarks, tf32, upcast, warnings
from transferscope.prompts import SoftPrompt
from transferscope.signatures import extract

HOOKED = [
    ("bert", "mask-first"),
    ("distilbert", "prefix"),
    ("gpt2", "suffix"),
    ("llama", "prefix"),
    ("t5-gated", "prefix"),
    ("gemma2", "suffix"),
    ("modernbert", "mask-first"),
    ("bart", "prefix"),
    ("mixtral", "suffix"),
]


def setting(model_type: str, template: str) -> tuple[Attached, Encoded, Encoded]:
    backbone = wrap(tiny.model(model_type), tiny.tokenizer(tiny.tokenizer_kind(model_type)))
    rows = torch.randn(3, backbone.embedding_size, generator=torch.Generator().manual_seed(1)) / 2
    attached = attachment.attach(backbone, rows, template)
    train, dev = (encode(backbone, examples(count, count), prompt_rows=attached.rows) for count in (80, 70))
    return attached, train, dev


def neurons(attached: Attached, data: Encoded, picks: np.ndarray) -> list[np.ndarray]:
    """The probed rows [S, P', N] of each layer by raw hooks, one batch after another, as they come."""
    probe, few = Probe.of(attached), data.take(np.sort(picks))
    seen: list[list[np.ndarray]] = [[] for _ in attached.backbone.down_projections()]
    for group in buckets(few, prompt_rows=attached.rows, token_budget=8192):
        placed = attached.place(collate(attached.backbone, few, group))
        handles = [
            module.register_forward_pre_hook(
                lambda _, given, layer=layer, placed=placed: seen[layer].append(
                    probe.pick(layer, given[0].float(), placed).numpy()
                )
            )
            for _, layer, module in attached.backbone.down_projections()
        ]
        with torch.inference_mode():
            attached.forward(placed)
        for handle in handles:
            handle.remove()
    return [np.concatenate(parts) for parts in seen]


def flips_by_hand(attached: Attached, train: Encoded, dev: Encoded) -> tuple[list[int], list[int]]:
    """Flips and comparisons by layer: plain numpy on whole arrays; NaN where an expert has no neurons."""
    draws = [np.random.default_rng(0).permutation(len(data))[:EXAMPLES] for data in (train, dev)]
    fired, there, varies = [], [], []
    for autocast in (None, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast is not None):
            under = replace(attached, backbone=attached.backbone.at(autocast))
            of_train, of_dev = (neurons(under, d, i) for d, i in zip((train, dev), draws, strict=True))
        wide = [layer.astype(np.float64) for layer in of_train]
        counts = [(~np.isnan(layer)).sum(axis=0) for layer in wide]
        sums = [np.nansum(layer, axis=0) / n.clip(1) for layer, n in zip(wide, counts, strict=True)]
        squares = [np.nansum((layer - mean) ** 2, axis=0) for layer, mean in zip(wide, sums, strict=True)]
        fired.append([layer > mean for layer, mean in zip(of_dev, sums, strict=True)])
        there.append([~np.isnan(layer) for layer in of_dev])
        varies.append([(s >= 1e-10 * n) & (n >= EXAMPLES / 4) for s, n in zip(squares, counts, strict=True)])
    flips, comparisons = [], []
    for a, b, in_a, in_b, on in zip(*fired, *there, varies[0], strict=True):
        flips.append(int((((a != b) | (in_a != in_b)) & on).sum()))
        comparisons.append(int(((in_a | in_b) & on).sum()))
    return flips, comparisons


@pytest.mark.parametrize(("model_type", "template"), HOOKED)
def test_flips_are_those_of_raw_hooks(model_type: str, template: str) -> None:
    attached, train, dev = setting(model_type, template)
    found = flip_rate(attached, train, dev)
    flips, comparisons = flips_by_hand(attached, train, dev)
    assert sum(flips) > 0  # the test is of something
    assert found.comparisons == sum(comparisons)
    # A mean summed in another order may move past a value: one comparison in some ten thousand.
    assert found.rate * found.comparisons == pytest.approx(sum(flips), abs=2)
    expected = [flip / count if count else None for flip, count in zip(flips, comparisons, strict=True)]
    for layer, rate in zip(found.layers, expected, strict=True):
        assert (layer is None) == (rate is None)
        assert layer is None or layer == pytest.approx(rate, abs=2 / 64)
    assert (found.dtype, found.examples, found.seed) == ("bfloat16", EXAMPLES, 0)


def test_the_same_precision_flips_nothing_and_another_draw_another_share() -> None:
    attached, train, dev = setting("bert", "mask-first")
    entered: list[bool] = []

    class Around:
        def __enter__(self) -> None:
            entered.append(True)

        def __exit__(self, *_: Any) -> None:
            entered.append(False)

    same = flip_rate(attached, train, dev, autocast=None, around=Around)
    assert (same.rate, same.dtype, entered) == (0.0, "float32", [True, False])
    one, other = (flip_rate(attached, train, dev, seed=seed) for seed in (0, 1))
    assert flip_rate(attached, train, dev) == one != other
    assert flip_rate(attached, train, dev, examples=10**6).examples == len(dev)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_type", ["bert", "llama", "t5"])
def test_a_model_loaded_in_reduced_precision_is_compared_with_its_own_weights(
    model_type: str, dtype: torch.dtype
) -> None:
    model = tiny.model(model_type).to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    backbone = wrap(model, tiny.tokenizer(tiny.tokenizer_kind(model_type)))
    attached = attachment.attach(backbone, 0.5 * torch.ones(3, 16))
    train, dev = (encode(backbone, examples(n, n), prompt_rows=attached.rows) for n in (40, 30))
    found = flip_rate(attached, train, dev)
    assert found.dtype == str(dtype).removeprefix("torch.")
    assert 0 < found.rate < 0.5
    after = model.state_dict()
    assert all(after[name].dtype == value.dtype for name, value in before.items())
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_upcast_goes_back_also_after_an_error_and_leaves_float32_alone() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)).requires_grad_(False)
    model[0].bfloat16()
    model.register_buffer("table", torch.full((2,), 0.1))  # as the positions of rotary models: float32
    model.register_buffer("count", torch.ones(2, dtype=torch.int64))
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def inside() -> None:
        with upcast(model):
            assert {p.dtype for p in model.parameters()} == {torch.float32}
            assert torch.equal(model[0].weight, before["0.weight"].float())
            assert model.get_buffer("count").dtype == torch.int64
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        inside()
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [after[name].dtype for name in before] == [value.dtype for value in before.values()]


def test_what_cannot_be_compared_is_refused() -> None:
    attached, train, dev = setting("bert", "mask-first")
    with pytest.raises(InputError, match="float32 on both sides"):
        flip_rate(attached, train, dev, autocast=None)
    with pytest.raises(InputError, match="found 80 of train and 0 of dev"):
        flip_rate(attached, train, dev.take([]))


def test_neurons_are_never_measured_under_autocast() -> None:
    attached, train, dev = setting("bert", "mask-first")
    under = replace(attached, backbone=attached.backbone.at(torch.bfloat16))
    with pytest.raises(BackboneError, match="not measured under autocast"):
        measure(under, train, dev)
    with pytest.raises(BackboneError, match="not measured under autocast"):
        stimulate(under)
    # Nor where the caller's own code is under autocast.
    plain = measure(attached, train, dev)
    with torch.autocast("cpu", torch.bfloat16):
        inside = measure(attached, train, dev)
    np.testing.assert_array_equal(plain.baseline, inside.baseline)
    np.testing.assert_array_equal(plain.accuracy, inside.accuracy)


def test_the_same_model_at_another_precision_keeps_its_fingerprint() -> None:
    backbone = wrap(tiny.model("bert"), tiny.tokenizer("bert"))
    reduced = backbone.at(torch.bfloat16)
    assert reduced.model is backbone.model
    assert reduced.fingerprint == backbone.fingerprint == reduced.at(None).fingerprint
    assert "fingerprint" in backbone.at(torch.bfloat16).__dict__  # not computed again
    names = [precision.of_backbone(one) for one in (backbone, reduced)]
    assert names == ["float32", "bfloat16"]


# What a signature says.


def made(model: Any) -> Any:
    backbone = wrap(model, tiny.tokenizer("bert"))
    rows = 0.3 * np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
    return extract(backbone, task(), [SoftPrompt(rows, "t", 0, "mask-first")])


def test_a_signature_says_what_it_was_computed_in() -> None:
    plain = made(tiny.model("bert")).provenance
    assert plain["precision"] == {"dtype": "float32", "tf32": False}
    assert remarks(plain) == []
    assert precision.flips_of(plain) is None
    reduced = made(tiny.model("bert").bfloat16()).provenance
    flips = reduced["precision"]["flips"]
    assert reduced["precision"]["dtype"] == flips["dtype"] == "bfloat16"
    assert (flips["examples"], len(flips["layers"])) == (15, 2)
    (line,) = remarks(reduced)
    assert f"rounding flips {flips['rate']:.2%} of the comparisons" in line
    assert "(probe of 15 examples)" in line


def test_weights_that_do_not_fit_in_float32_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> FlipRate:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(precision, "flip_rate", full)
    found = made(tiny.model("bert").bfloat16()).provenance
    assert precision.flips_of(found) is None
    assert "flips not measured: there is no memory" in remarks(found)[0]


def test_many_flips_are_warned_of() -> None:
    record = {"rate": 0.02, "examples": 64}
    provenance = {"precision": {"dtype": "bfloat16", "tf32": False, "flips": record}}
    assert remarks(provenance)[0].endswith("more than 1%: use float32")
    assert warnings({"a": 0.02, "b": None, "c": 0.01, "d": 0.3}) == [
        "reduced precision flips more than 1% of the comparisons behind predictivity, so skill neurons are "
        "not those of float32: a (2.0%), d (30.0%)"
    ]
    assert warnings({"a": 0.01}) == []


# TF32.


@pytest.fixture
def with_tf32() -> Any:
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


def test_tf32_is_left_as_it_was() -> None:
    def switches() -> list[Any]:
        matmul = torch.backends.cuda.matmul
        return [matmul.fp32_precision, matmul.allow_tf32, torch.get_float32_matmul_precision()]

    before = switches()
    assert made(tiny.model("bert").bfloat16()).provenance["precision"]["tf32"] is False
    assert switches() == before
    assert not tf32()


def test_no_code_of_ours_switches_tf32() -> None:
    for file in Path(transferscope.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            targets = node.targets if isinstance(node, ast.Assign) else []
            names = [target.attr for target in targets if isinstance(target, ast.Attribute)]
            assert not {"allow_tf32", "fp32_precision"}.intersection(names), file
            assert not isinstance(node, ast.Attribute) or node.attr != "set_float32_matmul_precision", file


def test_tf32_of_the_caller_is_recorded_and_said(with_tf32: None) -> None:
    found = made(tiny.model("bert")).provenance
    assert found["precision"] == {"dtype": "float32", "tf32": True}
    assert "TF32 is on in this process" in remarks(found)[0]


def test_tf32_is_read_by_older_names(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older:
        allow_tf32 = True

    monkeypatch.setattr(torch.backends.cuda, "matmul", Older())
    assert tf32()
