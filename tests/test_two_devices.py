"""Layers on two devices that cannot be mixed: each pass gives the numbers of one device."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import second_device
import torch
from test_halving import backbone
from test_halving_passes import PASSES, ROWS, same

from transferscope import encoding
from transferscope.layer_devices import layer_devices

# What goes back through the layers, and what makes a cache, cannot be shown on the device that stands in.
LEFT_OUT = ("gradients", "gradients, drawn labels", "texts of trials together")


def on_two(name: str, kind: str) -> None:
    """A pass on one device and on two: the first or the last layer of each stack on the second one."""
    torch.inference_mode = torch.no_grad  # type: ignore[assignment, misc]
    encoding.counted = lambda mask, ones: mask  # type: ignore[assignment]
    run = PASSES[name][0]
    for place in (0, -1):
        made = backbone(kind)
        made.model.set_attn_implementation("eager")
        expected = run(made)
        stacks = [list(made.base.get_submodule(one.layers).children()) for one in made.architecture.stacks]
        with second_device.moved(made.model, *(layers[place] for layers in stacks)):
            assert set(layer_devices(made)) == {second_device.CPU, second_device.APART}
            same(run(made), expected)


def mixed() -> None:
    """What the device is for."""
    layer = torch.nn.Linear(3, 3)
    with second_device.moved(layer, layer):
        there = layer.weight.detach()
        assert torch.equal(there.cpu() @ torch.ones(3), (there @ torch.ones(3).to(there.device)).cpu())
        with pytest.raises(RuntimeError, match="two devices"):
            there @ torch.ones(3)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[ProcessPoolExecutor]:
    """A process of its own, in which there is a second device."""
    if second_device.SETUP is None:
        pytest.skip("this torch cannot have a device that is written in Python")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


def test_tensors_on_two_devices_do_not_mix(elsewhere: ProcessPoolExecutor) -> None:
    elsewhere.submit(mixed).result()


@pytest.mark.parametrize(("name", "kind"), [row for row in ROWS if row[0] not in LEFT_OUT])
def test_a_pass_on_two_devices(name: str, kind: str, elsewhere: ProcessPoolExecutor) -> None:
    elsewhere.submit(on_two, name, kind).result()
