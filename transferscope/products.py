"""The matrix products of a frozen model's linear layers on a CPU: by oneDNN where MKL is the slower one.

PyTorch computes float32 products by MKL, which is made for Intel's processors. On AMD's the kernels of
oneDNN, which PyTorch brings too and uses for bfloat16, take about a tenth less time (docs/performance.md).
Both round as float32 does; only the order of the sums differs.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

# Operations of a product below which a call costs more than its arithmetic gains.
LEAST = 1 << 24
_OTHER_THAN_INTEL = ("AuthenticAMD", "HygonGenuine")


class Products:
    """Which kernels multiply in a model. ``least``: operations of a product from which on oneDNN takes it.

    Only float32 layers on a CPU whose weights are frozen, and that nothing else has changed (accelerate,
    quantisation, an adapter), are taken. ``torch.backends.mkldnn.enabled = False`` forbids all.
    """

    def __init__(self, model: Any, *, least: int | None = None) -> None:
        # Looked for once: layers that are put in later (an adapter's) keep their own products.
        self._layers = [one for one in model.modules() if type(one) in (nn.Linear, Conv1D)]
        self.least = LEAST if least is None else least
        self._open = self._stock = False

    @classmethod
    def of(cls, model: Any) -> Products | None:
        """Those of a frozen model; None where the stock kernels are the ones to use, as on a GPU."""
        if not mkl_is_slower() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            return None
        found = cls(model)
        return found if any(map(_takes, found._layers)) else None

    def faster(self) -> AbstractContextManager[None]:
        """While open, linear layers of the model multiply by oneDNN; gradients pass to what enters them."""
        if self._open or self._stock or not torch.backends.mkldnn.enabled:
            return nullcontext()
        return self._taken()

    @contextmanager
    def stock(self) -> Iterator[None]:
        """While open, everything is computed as PyTorch does by itself: where numbers must equal others'."""
        before, self._stock = self._stock, True
        try:
            yield
        finally:
            self._stock = before

    @contextmanager
    def _taken(self) -> Iterator[None]:
        # In the instance's own dict: a module's __setattr__ looks through its parameters first.
        taken = [one for one in self._layers if _takes(one)]
        self._open = True
        try:
            for module in taken:
                module.__dict__["forward"] = partial(self._forward, module)
            yield
        finally:
            for module in taken:
                module.__dict__.pop("forward", None)
            self._open = False

    def _forward(self, module: Any, rows: Tensor) -> Tensor:
        # Opened meanwhile: `stock`, and autocast, whose rounding PyTorch does.
        other = self._stock or rows.dtype is not torch.float32 or torch.is_autocast_enabled("cpu")
        if other or 2 * rows.numel() // rows.shape[-1] * module.weight.numel() < self.least:
            return cast(Tensor, type(module).forward(module, rows))
        kept = module.weight  # [D', D]; Conv1D keeps [D, D']
        weight = kept if type(module) is nn.Linear else kept.t()
        if torch.is_grad_enabled() and rows.requires_grad:
            return cast(Tensor, _Product.apply(rows, weight, module.bias))
        return multiply(rows, weight, module.bias)


@cache
def mkl_is_slower() -> bool:
    """Whether this is an x86 processor of another maker than Intel; False where that cannot be told."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        said = platform.processor()  # Windows: "AMD64 Family 25 ..., AuthenticAMD"
    else:
        said = next((line for line in lines if line.startswith("vendor_id")), "")
    return any(name in said for name in _OTHER_THAN_INTEL)


def _takes(layer: Any) -> bool:
    weight, bias = layer.weight, layer.bias
    frozen = not weight.requires_grad and (bias is None or not bias.requires_grad)
    own = "forward" not in layer.__dict__
    return own and frozen and weight.dtype is torch.float32 and weight.device.type == "cpu"


def multiply(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """By oneDNN: ``rows`` [..., D] times ``weight`` [D', D] transposed, plus ``bias`` [D']."""
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


class _Product(torch.autograd.Function):
    """The product with a gradient to the rows alone."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return multiply(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return multiply(slope, weight.t(), None), None, None
