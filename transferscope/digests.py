"""What a model and a tokenizer are, as hashes of their content, not of folder, file format or device."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from transferscope.placement import named_tensors
from transferscope.quantization import kind_of, stored_tensors


def weights_digest(model: nn.Module) -> str:
    """A sha256 over exact checksums of all parameters: any changed bit shows, at the cost of one pass.

    The bits of each parameter are read as integers and summed along rows and along columns, modulo
    2**64. Integer sums do not depend on their order, hence neither on the device. Poolers are left out: they
    are not used here, and transformers fills one with random numbers where a checkpoint has none. Of a
    quantised model the scales and tables count too.
    """
    digest = hashlib.sha256()
    quantised = kind_of(model) is not None
    for name, parameter in stored_tensors(model) if quantised else named_tensors(model):
        if "pooler" in name.split("."):
            continue
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        table = _as_integers(parameter.detach().reshape(-1, parameter.shape[-1] if parameter.dim() else 1))
        for axis in (0, 1):
            digest.update(table.sum(axis, dtype=torch.int64).cpu().numpy().tobytes())
    return digest.hexdigest()


def _as_integers(table: Tensor) -> Tensor:
    """The bits of [rows, columns] as integers: of 64 bits where rows divide into them, ten times faster."""
    size, table = table.element_size(), table.contiguous()
    if table.shape[1] * size % 8:
        return table.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size])
    aligned = table if table.storage_offset() * size % 8 == 0 else table.clone()
    return aligned.view(torch.int64)


def tokenizer_digest(tokenizer: Any) -> str:
    """A sha256 over vocabulary and processing; "none" without a tokenizer."""
    if tokenizer is None:
        return "none"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    # a call with padding or truncation leaves these two set in the tokenizer
    content = {key: value for key, value in content.items() if key not in ("padding", "truncation")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
