"""Linear layers of a frozen model by oneDNN: the stock numbers up to rounding, and only where they may."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tests import tiny
from transferscope import attachment, products
from transferscope.encoding import from_token_ids
from transferscope.measurement import measure
from transferscope.models import Backbone, wrap
from transferscope.products import Products

needs_kernel = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch has no oneDNN products"
)
OWN_LAYERS = ("falcon",)  # of a class of their own


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each product that oneDNN computes."""
    calls: list[int] = []
    stock = products.multiply

    def multiply(*args: Any) -> Any:
        calls.append(1)
        return stock(*args)

    monkeypatch.setattr(products, "multiply", multiply)
    return calls


def layers(kind: type[Any]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(kind(16, 24) if kind is nn.Linear else Conv1D(24, 16)).requires_grad_(False)


@needs_kernel
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_a_product_and_its_gradient_are_the_stock_ones_up_to_rounding(
    kind: type[Any], counted: list[int]
) -> None:
    model, rows = layers(kind), torch.randn(3, 5, 16)
    found = []
    for mode in (Products(model, least=0).faster(), Products(model).stock()):
        entered = rows.clone().requires_grad_(True)
        with mode:
            left = model(entered)
        (slope,) = torch.autograd.grad(left.sin().sum(), entered)
        found.append((left.detach(), slope))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert len(counted) == 2  # one forward, one backward: the other mode is PyTorch's own


@needs_kernel
def test_rows_in_any_order_of_memory(counted: list[int]) -> None:
    model, rows = layers(nn.Linear), torch.randn(5, 3, 16).transpose(0, 1)
    with Products(model, least=0).faster(), torch.inference_mode():
        torch.testing.assert_close(model(rows), model(rows.contiguous()), rtol=1e-5, atol=1e-6)
    assert len(counted) == 2


@needs_kernel
def test_what_is_left_to_pytorch(counted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = layers(nn.Linear)
    rows = torch.randn(4, 16)
    with Products(model).faster():
        model(rows)  # small: a call costs more than it gains
    model.requires_grad_(True)  # whose gradient would be lost
    with Products(model, least=0).faster():
        model(rows)
    for dtype in (torch.float64, torch.bfloat16):
        other = layers(nn.Linear).to(dtype)
        with Products(other, least=0).faster():
            other(rows.to(dtype))
    model.requires_grad_(False)
    kept = Products(model, least=0)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with kept.faster():
        model(rows)
    monkeypatch.undo()
    monkeypatch.setattr(products, "multiply", lambda *args: counted.append(1))
    with kept.stock(), kept.faster():
        model(rows)
    with kept.faster(), kept.stock():
        model(rows)
    with kept.faster(), torch.autocast("cpu", torch.bfloat16):
        assert model(rows).dtype is torch.bfloat16
    model[0].forward = model[0].forward  # as accelerate does
    with Products(model, least=0).faster():
        model(rows)
    assert counted == []


@needs_kernel
def test_the_model_is_as_before_also_after_an_error_and_when_opened_twice(counted: list[int]) -> None:
    model, rows = layers(nn.Linear), torch.randn(4, 16)
    kept = Products(model, least=0)
    with pytest.raises(ZeroDivisionError), kept.faster():
        raise ZeroDivisionError
    with kept.faster():
        with kept.faster():
            model(rows)
        model(rows)
    assert len(counted) == 2
    model(rows)
    assert len(counted) == 2
    assert "forward" not in model[0].__dict__


@needs_kernel
@pytest.mark.parametrize("model_type", tiny.ALL)
def test_hidden_states_and_gradients_of_every_family(model_type: str, counted: list[int]) -> None:
    plain = replace(wrap(tiny.model(model_type)), products=None)
    embeds = torch.randn(3, 9, plain.embedding_size, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3, [1] * 4 + [0] * 5])
    found = []
    for backbone in (plain, replace(plain, products=Products(plain.model, least=0))):
        entered = embeds.clone().requires_grad_(True)
        hidden = backbone.hidden(entered, mask)
        at_first = hidden[:, 0]
        (slope,) = torch.autograd.grad(at_first.square().sum(), entered)
        found.append((at_first.detach(), slope))
        with torch.inference_mode():
            torch.testing.assert_close(backbone.hidden(embeds, mask)[:, 0], at_first, rtol=1e-5, atol=1e-5)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert (len(counted) >= 3 * plain.layers) != (model_type in OWN_LAYERS)


@needs_kernel
def test_a_measurement_takes_it_save_in_compat_mode(counted: list[int]) -> None:
    plain = replace(wrap(tiny.model("bert")), products=None)
    faster = replace(plain, products=Products(plain.model, least=0))
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(3, plain.embedding_size, generator=generator)
    data = from_token_ids(
        [(torch.randint(5, 90, (size,), generator=generator).tolist(), size % 2) for size in range(2, 14)]
    )
    blank = from_token_ids([([2], 0)])

    def measured(backbone: Backbone, *, compat: bool) -> Any:
        return measure(
            attachment.attach_rows(backbone, rows, "prefix"), data, data, blank=blank, compat=compat
        )

    one, other = (measured(each, compat=False) for each in (plain, faster))
    assert counted
    np.testing.assert_allclose(one.baseline, other.baseline, atol=1e-6)
    np.testing.assert_allclose(one.stimulation, other.stimulation, atol=1e-6)
    assert np.abs(one.accuracy - other.accuracy).mean() < 0.01
    del counted[:]
    one, other = (measured(each, compat=True) for each in (plain, faster))
    # The empty text is read as always.
    calls = len(counted)
    np.testing.assert_array_equal(one.baseline, other.baseline)
    np.testing.assert_array_equal(one.accuracy, other.accuracy)
    del counted[:]
    measured(plain, compat=True)
    assert calls == len(counted) == 0


def test_it_is_chosen_by_the_maker_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    model = layers(nn.Linear)
    for slower in (False, True):
        monkeypatch.setattr(products, "mkl_is_slower", lambda slower=slower: slower)
        assert (Products.of(model) is not None) == (slower and hasattr(torch.ops.mkldnn, "_linear_pointwise"))
    monkeypatch.setattr(products, "mkl_is_slower", lambda: True)
    for unfit in (layers(nn.Linear).to("meta"), layers(nn.Linear).double(), nn.Sequential(nn.Identity())):
        assert Products.of(unfit) is None
    monkeypatch.undo()
    for machine, cpuinfo, expected in (
        ("x86_64", "processor: 0\nvendor_id\t: AuthenticAMD\n", True),
        ("x86_64", "processor: 0\nvendor_id\t: GenuineIntel\nmodel name: no AuthenticAMD\n", False),
        ("aarch64", "CPU implementer: 0x41\n", False),
    ):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        monkeypatch.setattr(Path, "read_text", lambda path, cpuinfo=cpuinfo: cpuinfo)
        products.mkl_is_slower.cache_clear()
        assert products.mkl_is_slower() == (expected and torch.backends.mkldnn.is_available())
    products.mkl_is_slower.cache_clear()
