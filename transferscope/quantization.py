"""Weights in 8 or 4 bits (bitsandbytes): how they are loaded, what they are, and what is refused of them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import transformers
from torch import Tensor, nn

from transferscope.errors import BackboneError, SignatureError, suggest

KINDS = ("8bit", "4bit")
_PACKING = "support_avx512bf16_for_cpu"  # of bitsandbytes' Linear4bit

# In 8 bits the columns of a product are treated by what the whole batch has in them (LLM.int8: outliers stay
# in 16 bits), so a text's activations depend on the texts beside it.
_OF_THE_BATCH = (
    "its 8-bit products depend on all texts of a batch (outlier columns), so a text has no activations of "
    "its own to compare with a threshold. Prompts can be tuned, measured and compared by what needs no "
    "predictivity; for predictivity load it without quantization, or with quantization: 4bit and signatures: "
    "{quantized: true}"
)
_OF_ANOTHER = (
    "its quantised weights make it another network, whose activations are not those of the model that was "
    "published, and its predictivities cannot be compared with that model's. Where they are wanted all the "
    "same, for this network alone, set signatures: {quantized: true}"
)


def quantizing(kind: str | None, dtype: Any, place: Any) -> dict[str, Any]:
    """The options of `from_pretrained` for a kind of KINDS (None: none); ``place``: the one device, if any.

    Raises:
        BackboneError: an unknown kind, or no bitsandbytes.
    """
    if kind is None:
        return {}
    if kind not in KINDS:
        raise BackboneError(f"quantization is {kind!r}. {suggest(kind, KINDS)}")
    missing = [name for name in ("bitsandbytes", "accelerate") if find_spec(name) is None]
    if missing:
        raise BackboneError(
            f"quantization: {kind} needs {' and '.join(missing)}, which is not installed: "
            "pip install 'transferscope[quantized]'"
        )
    how: dict[str, Any] = (
        {"load_in_8bit": True}
        if kind == "8bit"
        else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    )
    found: dict[str, Any] = {"quantization_config": transformers.BitsAndBytesConfig(**how)}
    return found if place is None else found | {"device_map": {"": place}}


def kind_of(model: Any) -> str | None:
    """How a model's weights are quantised: "8bit", "4bit", another method's name, or None."""
    if getattr(model, "is_loaded_in_8bit", False):
        return "8bit"
    if getattr(model, "is_loaded_in_4bit", False):
        return "4bit"
    return declared(getattr(getattr(model, "config", None), "quantization_config", None))


def declared(config: Any) -> str | None:
    """What a configuration's ``quantization_config`` (a mapping or an object; None: none) says of a model.

    "8bit" and "4bit" where bitsandbytes is to load it so, else the method's name.
    """
    if config is None:
        return None
    fields = config if isinstance(config, dict) else vars(config)
    for kind in KINDS:
        if fields.get(f"load_in_{kind}") or fields.get(f"_load_in_{kind}"):
            return kind
    method = fields.get("quant_method")
    return str(getattr(method, "value", method))


def keep_layout(model: nn.Module) -> None:
    """Keep 4-bit weights as they were loaded.

    On some CPUs the first pass without gradients packs them for a faster product, which has no gradient: a
    prompt tuned after its first evaluation would get none through these layers.
    """
    for module in model.modules():
        if hasattr(module, _PACKING):
            setattr(module, _PACKING, False)


def stored_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a quantised model is, by name: packed weights, scales and tables, and what is not quantised."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor) and name not in tied:
            yield name, value.detach()


def refusal(name: str, kind: str | None, allowed: bool) -> str | None:
    """Why activations of a model of this kind are no ground for predictivity; None where they are.

    ``allowed``: the user wants the predictivity of a 4-bit network for itself.
    """
    if kind is None or (allowed and kind != "8bit"):
        return None
    return f"no predictivity of {name!r}: {_OF_THE_BATCH if kind == '8bit' else _OF_ANOTHER}"


def refuse_predictivity(name: str, kind: str | None, allowed: bool) -> None:
    """Raises SignatureError where there is a `refusal`."""
    if reason := refusal(name, kind, allowed):
        raise SignatureError(reason)
