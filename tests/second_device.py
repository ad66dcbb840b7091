"""A second device where there is none: host memory under another name, with which nothing can be mixed.

Its tensors are wrappers that torch takes to lie elsewhere; an operation on some of them and on others of the
host is an error, as it is between two GPUs. It is registered for the whole process: use it in one of its own.
There is no way back through it, and a model's cache cannot be made on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CPU, APART = torch.device("cpu"), torch.device("privateuseone", 0)
SETUP: Any = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Apart(Tensor):
    """A tensor on the second device; ``inner`` has its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Apart:
        options = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        found = Tensor._make_wrapper_subclass(cls, inner.shape, device=APART, **options)
        found.inner = inner
        return found

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Operations that make a tensor there, or bring one there, have none of its tensors among theirs."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
    apart = [isinstance(one, Apart) for one in tensors]
    mixed = any(apart) and not all(a or one.ndim == 0 for a, one in zip(apart, tensors, strict=True))
    if mixed and func not in COPIES:
        raise RuntimeError(f"{func}: tensors on two devices")
    wanted = kwargs.get("device")
    there = any(apart) if wanted is None else torch.device(wanted).type == APART.type
    if wanted is not None:
        kwargs = {**kwargs, "device": CPU}
    found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    name = func._schema.name
    if name.endswith("_") and not name.endswith("__"):
        return args[0]
    return tree_map(lambda one: Apart(one) if there and isinstance(one, Tensor) else one, found)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Apart) else value


@cache
def _register() -> None:
    SETUP()


def _to(values: Any, device: torch.device) -> Any:
    return tree_map(lambda one: one.to(device) if isinstance(one, Tensor) else one, values)


@contextmanager
def moved(model: nn.Module, *modules: nn.Module) -> Iterator[None]:
    """Modules of a model go to the second device, and each module is brought what it is given."""
    _register()
    there = {part for module in modules for part in module.modules()}
    with _Mode():
        for part in there:
            for name, weight in part._parameters.items():
                if weight is not None:
                    part._parameters[name] = nn.Parameter(weight.detach().to(APART), requires_grad=False)
            part._buffers.update({name: _to(value, APART) for name, value in part._buffers.items()})
        for part in model.modules():
            part.register_forward_pre_hook(_bring(APART if part in there else CPU), with_kwargs=True)
        yield


def _bring(device: torch.device) -> Any:
    return lambda module, args, options: (_to(args, device), _to(options, device))
