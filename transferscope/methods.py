"""Methods beside prompts that tune a task while the FFN weights stay frozen: one row of a table each.

bitfit   all biases of the model without its head, trained in place (Ben Zaken et al., ACL 2022). peft has no
         clean way: LoraConfig(bias="all") brings low-rank factors too, and BEFT adds biases to linear layers
         alone, with none for layer norms.
lora     low-rank changes of attention's query and value (Hu et al., ICLR 2022), by peft, in place
adapter  a bottleneck behind every FFN (Pfeiffer et al., EACL 2021); peft has no bottleneck adapters, so
         forward hooks hold them
prefix   keys and values in front of every layer's own (Li and Liang, ACL 2021), made by peft

Biases of the FFN are trained by bitfit; the weights of its matrices are trained by none of them.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transferscope.errors import BackboneError, InputError, suggest
from transferscope.halving import is_out_of_memory
from transferscope.models import Backbone

Tensors = dict[str, Tensor]
Opener = Callable[[Backbone, "Sizes", int], AbstractContextManager[Tensors]]

# Query and value where peft has no row for a model type that our table of architectures has.
LORA_TARGETS = {"distilbert": ["q_lin", "v_lin"], "mixtral": ["q_proj", "v_proj"]}
FREE = "lora or adapter"  # the methods that fit every architecture
TASK_TYPES = {"encoder": "FEATURE_EXTRACTION", "decoder": "CAUSAL_LM"}


@dataclass(frozen=True)
class Sizes:
    """How large the methods are: rank and alpha of LoRA, units of a bottleneck, rows of a prefix."""

    rank: int = 8
    alpha: int = 16
    bottleneck: int = 16
    prefix: int = 16


@dataclass(frozen=True)
class Method:
    """One row of the table.

    ``open(backbone, sizes, seed)`` puts the method into the backbone while its block runs and yields the
    tensors that are trained, by name, at their start (drawn with the seed where they are random). When the
    block ends, also when it raises, the backbone is what it was, bit for bit. ``learning_rate`` is what a
    tuning takes where nothing else is said. ``places(sizes)``: how many positions the method takes from the
    text.
    """

    name: str
    description: str
    learning_rate: float
    open: Opener
    places: Callable[[Sizes], int] = lambda sizes: 0


_TABLE: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Add a row; a name that is there already is replaced."""
    _TABLE[method.name] = method
    return method


def names() -> tuple[str, ...]:
    """The methods that are known."""
    return tuple(_TABLE)


def get(name: str) -> Method:
    """The row of a method. Raises InputError with the nearest name."""
    if name not in _TABLE:
        raise InputError(f"unknown method {name!r}. {suggest(name, _TABLE)}")
    return _TABLE[name]


@contextmanager
def opened(backbone: Backbone, name: str, *, sizes: Sizes | None = None, seed: int = 0) -> Iterator[Tensors]:
    """A method in the backbone while the block runs: its tensors by name, leaves that require gradients.

    Raises InputError for an unknown method, BackboneError where the method does not fit the architecture.
    """
    method = get(name)
    _ = backbone.fingerprint  # it is remembered, so it must be that of the backbone alone
    with method.open(backbone, sizes or Sizes(), seed) as tensors:
        if not tensors:
            raise BackboneError(f"method {name!r} finds nothing to train in {backbone.name!r}")
        for tensor in tensors.values():
            tensor.requires_grad_(True)
        yield tensors


@contextmanager
def _bitfit(backbone: Backbone, sizes: Sizes, seed: int) -> Iterator[Tensors]:
    """The biases themselves; their values are put back at the end."""
    if backbone.dtype != torch.float32:
        raise BackboneError(
            f"bitfit trains the biases of {backbone.name!r} in place, and small steps get lost in "
            f"{backbone.dtype}: load it with dtype float32, or use {FREE}"
        )
    biases = {
        name: parameter
        for name, parameter in backbone.base.named_parameters()
        if name.rpartition(".")[2] == "bias"
    }
    if not biases:
        raise BackboneError(
            f"{backbone.name!r} ({backbone.architecture.model_type}) has no biases, so bitfit has nothing to "
            f"train. Use {FREE}."
        )
    kept = {name: bias.detach().clone() for name, bias in biases.items()}
    try:
        yield dict(biases)
    finally:
        for name, bias in biases.items():
            bias.requires_grad_(False)
            bias.grad = None
            bias.data.copy_(kept[name])


@contextmanager
def _lora(backbone: Backbone, sizes: Sizes, seed: int) -> Iterator[Tensors]:
    """Factors on query and value, injected by peft and taken out again."""
    from peft import LoraConfig, LoraModel

    kind = backbone.architecture.model_type
    config = LoraConfig(
        r=sizes.rank,
        lora_alpha=sizes.alpha,
        lora_dropout=0.0,
        target_modules=LORA_TARGETS.get(kind),
        fan_in_fan_out=kind == "gpt2",  # its Conv1D keeps weights the other way round
    )
    tuner: Any = None
    try:
        with _drawn(backbone, seed):
            try:
                tuner = LoraModel(backbone.base, config, "default")
            except ValueError as error:
                raise BackboneError(
                    f"peft cannot put LoRA into the attention of {backbone.name!r} ({kind}): {error}"
                ) from None
        backbone.model.eval()
        tensors = {name: p for name, p in backbone.base.named_parameters() if ".lora_" in name}
        _refuse_ffn(backbone, tuner)
        yield tensors
    finally:
        if tuner is not None:
            tuner.unload()


def _refuse_ffn(backbone: Backbone, tuner: Any) -> None:
    """BackboneError if peft's choice of modules reaches into an FFN, whose weights have to stay frozen."""
    changed = [*(down for _, _, down in backbone.down_projections()), *filter(None, backbone.gates())]
    if any(hasattr(module, "lora_A") for module in changed):
        raise BackboneError(f"peft puts LoRA into the FFN of {backbone.name!r}, which has to stay frozen")


@contextmanager
def _adapter(backbone: Backbone, sizes: Sizes, seed: int) -> Iterator[Tensors]:
    """y + U gelu(D y + d) + u behind each down projection; U and u start at zero, so nothing changes."""
    width, device = backbone.hidden_size, backbone.device
    generator = torch.Generator().manual_seed(seed)
    tensors: Tensors = {}
    handles: list[Any] = []
    try:
        for _, layer, module in backbone.down_projections():
            down = torch.randn(sizes.bottleneck, width, generator=generator) / width**0.5
            parts = {
                "down.weight": down.to(device),
                "down.bias": torch.zeros(sizes.bottleneck, device=device),
                "up.weight": torch.zeros(width, sizes.bottleneck, device=device),
                "up.bias": torch.zeros(width, device=device),
            }
            tensors |= {f"layer.{layer}.{name}": part for name, part in parts.items()}
            handles.append(module.register_forward_hook(_bottleneck(parts)))
        yield tensors
    finally:
        for handle in handles:
            handle.remove()


def _bottleneck(parts: Tensors) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    linear, gelu = nn.functional.linear, nn.functional.gelu

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        inner = gelu(linear(output.float(), parts["down.weight"], parts["down.bias"]))
        return output + linear(inner, parts["up.weight"], parts["up.bias"]).to(output.dtype)

    return hook


@contextmanager
def _prefix(backbone: Backbone, sizes: Sizes, seed: int) -> Iterator[Tensors]:
    """peft's prefix encoder; a hook gives its keys and values, and a longer mask, to each forward pass."""
    from peft import PrefixTuningConfig, get_peft_model

    base, kind = backbone.base, backbone.architecture.kind
    if kind == "encoder-decoder" or "past_key_values" not in inspect.signature(base.forward).parameters:
        raise BackboneError(
            f"prefix tuning does not fit {backbone.name!r} ({backbone.architecture.model_type}): it needs a "
            "single stack whose attention takes keys and values from outside (bert, roberta, xlm-roberta, "
            f"electra, gpt2, llama). Use {FREE}."
        )
    config = PrefixTuningConfig(task_type=TASK_TYPES[kind], num_virtual_tokens=sizes.prefix)
    with _drawn(backbone, seed):
        wrapped: Any = get_peft_model(backbone.model if kind == "decoder" else base, config)
    encoder = wrapped.prompt_encoder["default"].to(backbone.device)

    def extend(module: nn.Module, inputs: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = options["attention_mask"]
        ones = mask.new_ones(len(mask), sizes.prefix)
        longer = {"attention_mask": torch.cat([ones, mask], dim=1)}
        return inputs, options | longer | {"past_key_values": wrapped.get_prompt(len(mask))}

    handle = base.register_forward_pre_hook(extend, with_kwargs=True)
    try:
        _refuse_other_shapes(backbone)
        yield dict(encoder.named_parameters())
    finally:
        handle.remove()


def _refuse_other_shapes(backbone: Backbone) -> None:
    """BackboneError where attention keeps keys in another shape than peft, as one for all heads (falcon)."""
    row = torch.zeros(1, 1, dtype=torch.long, device=backbone.device)
    try:
        with torch.no_grad():
            backbone.base(input_ids=row, attention_mask=torch.ones_like(row))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise BackboneError(
            f"prefix tuning does not fit {backbone.name!r} ({backbone.architecture.model_type}): its "
            f"attention keeps keys and values in another shape than peft's prefixes ({error}). Use {FREE}."
        ) from None


@contextmanager
def _drawn(backbone: Backbone, seed: int) -> Iterator[None]:
    """The global generators from a seed and then as they were: peft draws its start from them."""
    devices = [backbone.device] if backbone.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of tied embeddings, which none of these touch
        torch.manual_seed(seed)
        yield


register(Method("bitfit", "all biases of the model without its head", 5e-3, _bitfit))
register(Method("lora", "low-rank changes of attention's query and value", 5e-3, _lora))
register(Method("adapter", "a bottleneck behind every FFN", 2e-3, _adapter))
register(
    Method(
        "prefix",
        "keys and values in front of every layer's own",
        1e-2,
        _prefix,
        lambda sizes: sizes.prefix,
    )
)
