"""Where a model's parts lie: on one device, on several, or offloaded to the host or the disk (accelerate)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from transferscope.errors import BackboneError, suggest
from transferscope.loading import choose_device

MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
DeviceMap = str | Mapping[str, int | str]


def place_of(module: nn.Module) -> torch.device:
    """Where a module computes: where its parameters lie, or where they are brought if they are offloaded."""
    owner = getattr(module, "of_experts", module)  # `expertise.Down` has none of its own
    device = getattr(getattr(owner, "_hf_hook", None), "execution_device", None)
    if device is not None:
        return torch.device(device)
    return next((parameter.device for parameter in owner.parameters()), torch.device("cpu"))


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """A parameter or buffer of a module itself, read from where it is offloaded to if it is."""
    value: Any = getattr(module, name)
    if not isinstance(value, Tensor) or not value.is_meta:
        return value
    stored = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
    if stored is None:  # a model without weights, which is only looked at
        return value
    return torch.as_tensor(stored[name])


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters by name, tied ones once, as on a single device; offloaded ones are read one by one."""
    spread = len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1
    tied = set(getattr(model, "all_tied_weights_keys", None) or {}) if spread else set()
    for name, parameter in model.named_parameters():
        if name not in tied:  # on several devices they are no longer one object
            owner, _, own = name.rpartition(".")
            value = tensor_of(model.get_submodule(owner), own) if parameter.is_meta else parameter
            yield name, value.detach()


def placing(
    device: str, device_map: DeviceMap | None, max_memory: Mapping[Any, Any] | None
) -> dict[str, Any]:
    """The options of `from_pretrained` that spread a model over devices; none where there is one device.

    Raises:
        BackboneError: an unknown map, a device beside a map, no accelerate.
    """
    if device_map is None:
        if max_memory is not None:
            raise BackboneError("max_memory is how much each device may take: it goes with a device_map")
        return {}
    if isinstance(device_map, str) and device_map not in MAPS:
        raise BackboneError(
            f"device_map is {device_map!r}. {suggest(device_map, MAPS)} Or a mapping of modules to devices."
        )
    if device != "auto":
        raise BackboneError(f"device {device!r} and a device_map are both given: only one can say where")
    if find_spec("accelerate") is None:
        raise BackboneError(
            "device_map needs accelerate, which is not installed: pip install 'transferscope[big]'"
        )
    if not isinstance(device_map, str):
        for place in set(device_map.values()):
            if place != "disk":
                choose_device(str(place) if isinstance(place, str) else f"cuda:{place}")
    options: dict[str, Any] = {"device_map": device_map if isinstance(device_map, str) else dict(device_map)}
    return options | ({} if max_memory is None else {"max_memory": dict(max_memory)})
