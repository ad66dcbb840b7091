"""Attention masks that know how many ones they have, so that nobody asks the device, and waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class Counted(Tensor):
    """A mask [B, T] of zeros and ones with the number of its ones, which the host knows from the lengths.

    Models ask ``mask.all()`` or ``mask.sum()`` in each forward pass, to see whether attention needs a mask;
    both are answered from ``ones``, as a bool and an int. Moving and converting the mask keeps the number;
    what any other operation gives is an ordinary tensor, so a part of a mask never has the number of the
    whole.
    """

    ones: int

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        mask, alone = (args[0] if args else None), len(args) == 1 and not kwargs
        with torch._C.DisableTorchFunctionSubclass():
            if isinstance(mask, Counted) and alone and func in (Tensor.all, Tensor.sum):
                return mask.ones == mask.numel() if func is Tensor.all else mask.ones
            found = func(*args, **(kwargs or {}))
            if isinstance(mask, Counted) and isinstance(found, Tensor) and _keeps(func, args, found):
                return counted(found, mask.ones)
            return found


def all_ones(like: Tensor) -> Counted:
    """The mask [B, T] of rows [B, T, D] none of which is padding, int64."""
    size, rows = like.shape[:2]
    return counted(torch.ones(size, rows, dtype=torch.int64, device=like.device), size * rows)


def counted(mask: Tensor, ones: int) -> Counted:
    """A mask with the number of its ones, the same memory."""
    found = mask.as_subclass(Counted)
    found.ones = ones
    return found


def _keeps(func: Callable[..., Any], args: tuple[Any, ...], found: Tensor) -> bool:
    """Whether what an operation gave is the same mask, perhaps elsewhere or of another dtype."""
    if func is not Tensor.__getitem__:
        same = func in (Tensor.to, Tensor.bool, Tensor.contiguous, Tensor.view)
        return same and found.shape == args[0].shape
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    forward = all(isinstance(part, slice) and (part.step or 1) > 0 for part in index)
    return forward and found.shape == args[0].shape
