"""Pruned models on disk: a stock transformers model with narrower feed-forward layers, each its own width."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from transferscope import store
from transferscope.architectures import Architecture, Stack, resolve
from transferscope.errors import BackboneError, StoreError
from transferscope.loading import ask, quiet, refuse_random_weights

RECORD = "pruned.json"


@dataclass(frozen=True)
class Block:
    """The feed-forward block of one layer, its linears dotted from the base model.

    ``ups`` make the N neurons (two where the block is gated), ``down`` reads them.
    """

    stack: Stack
    place: int  # in its stack, from 0
    ups: tuple[str, ...]
    down: str


class PrunedModel:
    """Loads a pruned folder, as transformers' Auto classes load theirs. Not instantiated.

    The folder is what `save_pretrained` writes for the stock model (``config.json`` still has the width of
    the original, ``model.safetensors``), and ``pruned.json`` with the FFN width of each layer. Every layer
    that is narrower than the original has a down projection with a bias, also where the original has none.

        model = PrunedModel.from_pretrained("pruned-sst2")

    What comes back is of the stock class (``BertForMaskedLM``, ...), so whatever works with that works with
    it; only its linears have other sizes. No pickle is read and no foreign code is run.
    """

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], *, auto: Any = None, **options: Any) -> Any:
        """The model of a folder that `save_pruned` wrote, in eval mode.

        Args:
            auto: an Auto class of transformers (AutoModelForMaskedLM, ...); default: the class that was
                saved. options: dtype, attn_implementation, output_loading_info and so on.

        Raises:
            BackboneError: no pruned model there, widths or weights that do not fit, NaN or infinite weights.
        """
        name = os.fspath(folder)
        config = ask(name, transformers.AutoConfig.from_pretrained, name, trust_remote_code=False)
        widths = read_widths(folder)
        stock = _saved_class(name, config) if auto is None else _class_of(name, auto, config)
        wanted = bool(options.pop("output_loading_info", False))
        for fixed in ("trust_remote_code", "use_safetensors", "revision"):
            options.pop(fixed, None)
        with quiet():
            model, info = ask(
                name,
                _narrow_class(stock, widths, name).from_pretrained,
                name,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
        model.__class__ = stock
        _refuse_wrong_weights(name, model, info, config, strict=auto is None)
        return (model.eval(), info) if wanted else model.eval()


def is_pruned(source: str | os.PathLike[str]) -> bool:
    """Whether this is a folder with a pruned model."""
    return (Path(source).expanduser() / RECORD).is_file()


def save_pruned(model: Any, folder: Path | str, record: Mapping[str, Any], *, tokenizer: Any = None) -> None:
    """Write a pruned model (and its tokenizer) as a folder; ``pruned.json`` is written last.

    ``record`` says what it was made from, and goes there beside the widths. Tensors are stored as `stored`
    has it.
    """
    folder = Path(folder)
    state: dict[str, Tensor] = {}
    seen: dict[Any, Tensor] = {}
    for name, tensor in model.state_dict().items():
        where = (tensor.data_ptr(), tensor.shape, tensor.stride())  # tied weights stay one tensor
        if where not in seen:
            seen[where] = stored(tensor)
        state[name] = seen[where]
    with quiet():
        model.save_pretrained(folder, state_dict=state)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    mode = (folder / "config.json").stat().st_mode  # safetensors makes files that only their owner can read
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)
    store.write_json(folder / RECORD, {"widths": widths_of(model), **record}, versioned=True)


def stored(tensor: Tensor) -> Tensor:
    """The tensor as it is written: in half precision where that holds every value exactly.

    A checkpoint in half precision, loaded in float32, so keeps its size; loading gives the same bits.
    """
    if tensor.dtype != torch.float32:
        return tensor
    halves = (tensor.to(dtype) for dtype in (torch.float16, torch.bfloat16))
    return next((half for half in halves if torch.equal(half.float(), tensor)), tensor)


def read_widths(folder: str | os.PathLike[str]) -> tuple[int, ...]:
    """The FFN width of each layer of a pruned folder. Raises BackboneError."""
    path = Path(folder).expanduser() / RECORD
    if not path.is_file():
        raise BackboneError(f"{os.fspath(folder)!r} is not a pruned model: it has no {RECORD}.")
    try:
        record = store.read_json(path)
    except StoreError as error:
        raise BackboneError(str(error)) from None
    widths = record.get("widths") if isinstance(record, dict) else None
    whole = isinstance(widths, list) and all(type(width) is int and width > 0 for width in widths)
    if not whole or not widths:
        raise BackboneError(
            f"{path}: widths should be a list of whole numbers, one a layer; found {widths!r:.80}."
        )
    return tuple(widths)


def widths_of(model: Any, architecture: Architecture | None = None) -> tuple[int, ...]:
    """The number of neurons of each layer, over all stacks. Raises BackboneError: the row does not fit."""
    base, row = model.base_model, architecture or resolve(model.config)
    return tuple(inputs(module_at(base, f"{place}.{stack.down}")) for stack, _, place in _layers(base, row))


def blocks(model: Any, architecture: Architecture | None = None) -> list[Block]:
    """The feed-forward blocks of all L layers, in their order.

    The row of the table names the down projection and the gate. The others are found: a layer's modules are
    in the order of their registration, and the linears that make the neurons are the last ones with N
    outputs before the down projection. Raises BackboneError where there are none, and where layers share
    them, one joint linear makes gate and value, or they belong to experts.
    """
    base, row = model.base_model, architecture or resolve(model.config)
    why = "its layers share one feed-forward block" if row.adjust == "unshare" else None
    if row.experts:
        why = "its neurons belong to experts, whose weights lie in one tensor"
    if any(stack.gate_part != "whole" for stack in row.stacks):
        why = "one joint linear makes gate and value of its neurons"
    if why:
        raise BackboneError(f"A model of type {row.model_type!r} cannot be pruned: {why}.")
    return [_block(base, stack, number, place) for stack, number, place in _layers(base, row)]


def _block(base: nn.Module, stack: Stack, number: int, place: str) -> Block:
    layer, down = module_at(base, place), module_at(base, f"{place}.{stack.down}")
    before = []
    for name, module in layer.named_modules():
        if module is down:
            break
        if isinstance(module, nn.Linear | Conv1D) and outputs(module) == inputs(down):
            before.append(name)
    wanted = 2 if stack.gate else 1
    found = before[-wanted:]
    if len(found) < wanted or (stack.gate and stack.gate not in found):
        raise BackboneError(
            f"{place}.{stack.down} has {inputs(down)} inputs, and {wanted} linear layers that make them were "
            f"looked for before it; found {', '.join(before) or 'none'}. This model cannot be pruned."
        )
    return Block(stack, number, tuple(f"{place}.{name}" for name in found), f"{place}.{stack.down}")


def _layers(base: nn.Module, row: Architecture) -> list[tuple[Stack, int, str]]:
    """(stack, number in it, dotted name) of every layer."""
    return [
        (stack, number, f"{stack.layers}.{name}")
        for stack in row.stacks
        for number, (name, _) in enumerate(module_at(base, stack.layers).named_children())
    ]


def module_at(base: nn.Module, path: str) -> nn.Module:
    """A submodule by its dotted name. Raises BackboneError."""
    try:
        return base.get_submodule(path)
    except AttributeError as error:
        raise BackboneError(f"There is no module {path!r} in {type(base).__name__} ({error}).") from None


def inputs(linear: nn.Module) -> int:
    """The number of inputs of a linear layer, also of GPT-2's transposed one. Raises BackboneError."""
    if hasattr(linear, "in_features"):
        return int(cast(int, linear.in_features))
    if hasattr(linear, "nx"):
        return int(cast(int, linear.nx))
    raise BackboneError(f"A down projection must be a linear layer; found {type(linear).__name__}.")


def outputs(linear: nn.Module) -> int:
    """The number of outputs of a linear layer, also of GPT-2's transposed one."""
    return int(cast(int, linear.nf if isinstance(linear, Conv1D) else linear.out_features))


def resized(linear: nn.Module, n_in: int, n_out: int, *, bias: bool) -> nn.Module:
    """An empty linear layer of the same kind with other sizes, on the same device and of the same dtype."""
    weight = cast(Tensor, linear.weight)
    if isinstance(linear, Conv1D):
        with weight.device:
            return Conv1D(n_out, n_in).to(weight.dtype)
    return nn.Linear(n_in, n_out, bias=bias, device=weight.device, dtype=weight.dtype)


def replace_module(base: nn.Module, path: str, module: nn.Module) -> None:
    """Put another module in the place of one, by its dotted name."""
    parent, _, name = path.rpartition(".")
    setattr(base.get_submodule(parent), name, module)


def _narrow_class(stock: Any, widths: Sequence[int], name: str) -> Any:
    """A subclass that makes its layers narrower when it is built, so that the stock loader loads it."""

    def build(self: Any, config: Any, *args: Any, **options: Any) -> None:
        stock.__init__(self, config, *args, **options)
        _shrink(self, widths, name)

    return type(stock.__name__, (stock,), {"__init__": build, "__module__": stock.__module__})


def _shrink(model: Any, widths: Sequence[int], name: str) -> None:
    """Replace the linears of each layer by empty ones for so many neurons."""
    base, whole = model.base_model, widths_of(model)
    if len(widths) != len(whole) or any(new > old for new, old in zip(widths, whole, strict=True)):
        raise BackboneError(
            f"{name!r}: {RECORD} has widths {list(widths)}, and config.json is of {len(whole)} layers of "
            f"{sorted(set(whole))} neurons."
        )
    for block, new, old in zip(blocks(model), widths, whole, strict=True):
        if new == old:
            continue
        for path in block.ups:
            up = module_at(base, path)
            replace_module(
                base, path, resized(up, inputs(up), new, bias=getattr(up, "bias", None) is not None)
            )
        down = module_at(base, block.down)
        replace_module(base, block.down, resized(down, new, outputs(down), bias=True))


def _saved_class(name: str, config: Any) -> Any:
    found = (config.architectures or ["(none)"])[0]
    stock = getattr(transformers, str(found), None)
    if not (isinstance(stock, type) and issubclass(stock, transformers.PreTrainedModel)):
        raise BackboneError(
            f"{name!r}: config.json names the class {found!r}, which transformers does not have."
        )
    return stock


def _class_of(name: str, auto: Any, config: Any) -> Any:
    """The class that an Auto class takes for a configuration."""
    with torch.device("meta"), quiet():
        return type(ask(name, auto.from_config, config))


def _refuse_wrong_weights(
    name: str, model: Any, info: Mapping[str, Any], config: Any, *, strict: bool
) -> None:
    mismatched = [key[0] if isinstance(key, tuple) else key for key in info.get("mismatched_keys") or ()]
    parts = [part for block in blocks(model) for part in (*block.ups, block.down)]
    # The head's keys are left over where only the base model is wanted; those of the blocks never are.
    left = [key for key in info["unexpected_keys"] if any(f"{part}." in f"{key}" for part in parts)]
    if mismatched or left:
        raise BackboneError(
            f"{name!r}: its weights do not fit {RECORD}: {', '.join([*mismatched, *left][:3])}."
        )
    if strict:
        refuse_random_weights(name, model, set(info["missing_keys"]), config.architectures or [])
    wild = [key for key, value in model.named_parameters() if not bool(torch.isfinite(value).all())]
    if wild:
        raise BackboneError(f"{name!r}: NaN or infinite values in {', '.join(wild[:3])}.")
