"""Means and deviations of neurons against loops over texts, rows and neurons."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.test_interventions import caught, given, probed, split
from transferscope.encoding import prepared
from transferscope.neuron_levels import levels

CASES = [("bert", "mask-first"), ("llama", "prefix"), ("gpt2", "suffix"), ("t5-gated", "prefix")]


@pytest.mark.parametrize("rows", ["prompt", "all"])
@pytest.mark.parametrize(("name", "template"), CASES)
def test_they_are_those_of_slow_loops(name: str, template: str, rows: str) -> None:
    made, attached, _ = given(name, template)
    data = prepared(made, split(), prompt_rows=attached.rows, token_budget=25)
    assert len(data.batches) > 1
    found = levels(attached, data, rows)
    seen: dict[tuple[int, int], list[np.ndarray]] = {}
    for batch in data.batches:
        with torch.inference_mode(), caught(made) as values:
            attached.forward(attached.place(batch))
        for i, index in enumerate(batch.index):
            length = int(split().lengths[index])
            for layer in range(made.layers):
                at = probed(made, template, layer, length)
                if rows == "all":  # the decoder of an encoder-decoder has its start alone
                    at = [0] if at == [0] else list(range(attached.rows + length))
                for place, row in enumerate(at):
                    key = (layer, place if rows == "prompt" else 0)
                    seen.setdefault(key, []).append(values[layer][i, row].double().numpy())
    for (layer, place), several in seen.items():
        cell = (layer, place) if rows == "prompt" else (layer,)
        np.testing.assert_allclose(found.mean[cell], np.mean(several, axis=0), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found.sd[cell], np.std(several, axis=0), rtol=1e-4, atol=1e-6)
    assert found.sd.shape == found.mean.shape
    assert found.mean.ndim == (3 if rows == "prompt" else 2)
