"""Models in shards, on several devices, and offloaded: the same numbers, each statistic where its layer is.

There is one device here. What several would do is shown with weights offloaded to the disk by accelerate,
which go through the same hooks, and with groups of layers that are kept apart on one device.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from by_hand import task

from transferscope import attachment, placement
from transferscope.activations import FireCounts, Moments
from transferscope.attachment import initial_rows
from transferscope.encoding import encode
from transferscope.errors import BackboneError
from transferscope.evaluation import evaluate
from transferscope.layer_devices import ByDevice, layer_devices
from transferscope.measurement import NeuronMeasurement, measure
from transferscope.models import Backbone, load_backbone
from transferscope.readouts import readout_for
from transferscope.settings import TuningSettings
from transferscope.tuning import tune

CPU = torch.device("cpu")
# The second layer and what is behind it on the disk; of gpt2 also the embeddings, with the head tied to them.
MAPS: dict[str, dict[str, int | str]] = {
    "bert": {
        "bert.embeddings": "cpu",
        "bert.encoder.layer.0": "cpu",
        "bert.encoder.layer.1": "disk",
        "cls": "disk",
    },
    "gpt2": {
        "transformer.wte": "disk",
        "transformer.wpe": "cpu",
        "transformer.h": "cpu",
        "transformer.ln_f": "disk",
        "lm_head": "disk",
    },
    "llama": {"model": "disk", "lm_head": "cpu"},
    "t5": {"shared": "cpu", "encoder": "disk", "decoder": "cpu", "lm_head": "cpu"},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a tiny model in several shards, and its tokenizer."""
    root = tmp_path_factory.mktemp("models")

    def folder(model_type: str) -> Path:
        path = root / model_type
        if not path.is_dir():
            tiny.model(model_type).save_pretrained(path, max_shard_size="6KB")
            tiny.tokenizer(tiny.tokenizer_kind(model_type)).save_pretrained(path)
        return path

    return folder


def measured(backbone: Backbone) -> tuple[NeuronMeasurement, np.ndarray, np.ndarray]:
    """Neurons, scores, and a prompt tuned for two steps."""
    some = task()
    rows = initial_rows(backbone, 3, init="random", seed=1)
    attached = attachment.attach(backbone, rows, "prefix")
    train, dev = (encode(backbone, split, prompt_rows=attached.rows) for split in (some.train, some.dev))
    logits = evaluate(attached, readout_for(backbone, some), dev).logits
    assert logits is not None
    settings = TuningSettings(rows=2, steps=2, evaluate_every=2, batch_size=8)
    tuned = tune(backbone, some, settings=settings, template="prefix")
    return measure(attached, train, dev), logits, tuned.rows


def alike(found: Any, expected: Any) -> None:
    for name in ("baseline", "subtask_accuracy", "stimulation", "active", "defined", "features"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(expected[0], name))
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[2], expected[2])


@pytest.mark.parametrize("model_type", MAPS)
def test_offloaded_is_the_same_model(model_type: str, saved: Callable[[str], Path]) -> None:
    path = saved(model_type)
    assert (path / "model.safetensors.index.json").is_file()
    assert len(list(path.glob("*.safetensors"))) > 2
    plain = load_backbone(path, device="cpu")
    spread = load_backbone(path, device_map=MAPS[model_type])
    assert any(parameter.is_meta for parameter in spread.model.parameters())
    assert spread.fingerprint == plain.fingerprint
    assert (spread.device, layer_devices(spread)) == (CPU, (CPU,) * plain.layers)
    torch.testing.assert_close(spread.embeddings, plain.embeddings, rtol=0, atol=0)
    alike(measured(spread), measured(plain))


@pytest.mark.parametrize("device_map", ["auto", "balanced", {"": "cpu"}])
def test_a_map_that_leaves_all_on_one_device(device_map: Any, saved: Callable[[str], Path]) -> None:
    plain = load_backbone(saved("bert"), device="cpu")
    if torch.cuda.is_available() and isinstance(device_map, str):
        pytest.skip("the map takes the GPUs here")
    spread = load_backbone(saved("bert"), device_map=device_map)
    assert spread.fingerprint == plain.fingerprint
    alike(measured(spread), measured(plain))


def test_memory_limits_the_map(saved: Callable[[str], Path]) -> None:
    spread = load_backbone(saved("llama"), device_map="auto", max_memory={"cpu": 25_000})
    assert set(spread.model.hf_device_map.values()) == {"cpu", "disk"}
    assert spread.fingerprint == load_backbone(saved("llama"), device="cpu").fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device_map": "balancd"}, "Did you mean 'balanced'"),
        ({"device_map": "auto", "device": "cpu"}, "device 'cpu' and a device_map"),
        ({"max_memory": {0: "1GB"}}, "goes with a device_map"),
        ({"device_map": {"": "cudda"}}, "not the name of a device"),
    ],
)
def test_errors(options: dict[str, Any], message: str, saved: Callable[[str], Path]) -> None:
    with pytest.raises(BackboneError, match=message):
        load_backbone(saved("bert"), **options)


def test_without_accelerate(saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match=r"pip install 'transferscope\[big\]'"):
        load_backbone(saved("bert"), device_map="auto")


@pytest.mark.parametrize("model_type", ["bert", "t5", "gpt2", "mixtral"])
def test_layers_kept_apart_give_the_same_numbers(
    model_type: str, saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(saved(model_type), device="cpu")
    expected = measured(backbone)
    # Two names of one device: layers in turn, so that the groups are put back in order.
    names = (torch.device("cpu", 0), torch.device("cpu"))
    monkeypatch.setattr(
        "transferscope.layer_devices.layer_devices",
        lambda one: tuple(names[i % 2] for i in range(one.layers)),
    )
    alike(measured(backbone), expected)


def test_groups_are_merged_in_the_order_of_layers() -> None:
    devices = [torch.device("cpu", 0), CPU, torch.device("cpu", 0), CPU, CPU]
    values, labels = torch.randn(12, 5, 3, 4), torch.arange(12) % 2
    whole = Moments.zeros(2, (5, 3, 4), CPU)
    apart = ByDevice.make(devices, lambda layers, device: Moments.zeros(2, (layers, 3, 4), device))
    assert apart.places == ((0, 2), (1, 3, 4))
    for layer in range(5):
        for into in (whole, apart):
            into.add(layer, values[:, layer], labels)
    merged = apart.merged()
    for name in ("counts", "sums", "squares", "seen"):
        assert torch.equal(getattr(merged, name), getattr(whole, name)), name
    fires, firing = FireCounts.above(whole.mean, 2), apart.map(lambda one: FireCounts.above(one.mean, 2))
    for layer in range(5):
        for counts in (fires, firing):
            counts.add(layer, values[:, layer], labels)
    for name in ("counts", "fires", "thresholds"):
        assert torch.equal(getattr(firing.merged(), name), getattr(fires, name)), name


def test_one_group_is_not_copied() -> None:
    one = ByDevice.make([CPU] * 3, lambda layers, device: Moments.zeros(2, (layers, 1, 4), device))
    assert one.merged() is one.parts[0]
