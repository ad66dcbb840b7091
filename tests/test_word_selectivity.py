"""Word selectivity against a slow loop written like its formula; promoted words against plain products."""

from __future__ import annotations

from typing import Any

import numpy as np
import tiny
import torch

from transferscope import word_selectivity as words
from transferscope.activations import capture
from transferscope.encoding import Encoded, encode
from transferscope.models import Backbone, wrap
from transferscope.tasks import Example

NAMES = ["movie", "film", "plot", "the", "a", "was"]


def small(model_type: str = "bert", **options: Any) -> Backbone:
    tokenizer = tiny.tokenizer(tiny.tokenizer_kind(model_type))
    return wrap(tiny.model(model_type, **options), tokenizer, model_type)


def texts(backbone: Backbone, count: int = 30) -> Encoded:
    rng = np.random.default_rng(3)
    examples = [Example(" ".join(rng.choice(NAMES, rng.integers(2, 7))), None, 0) for _ in range(count)]
    return encode(backbone, examples, prompt_rows=0)


def tokens(backbone: Backbone, data: Encoded) -> list[tuple[int, np.ndarray]]:
    """(token id, activations [L, N]) of each token that is no special one, one text at a time."""
    found: list[tuple[int, np.ndarray]] = []
    special = set(backbone.tokenizer.all_special_ids)
    layers: dict[int, np.ndarray] = {}

    def keep(layer: int, values: torch.Tensor, gate: torch.Tensor | None) -> None:
        layers[layer] = values[0].numpy().astype(float)

    for ids in data.ids:
        row = torch.from_numpy(ids)[None]
        with torch.inference_mode(), capture(backbone, keep):
            backbone.hidden(backbone.embed(row), torch.ones_like(row), torch.zeros_like(row))
        for place, token in enumerate(ids):
            if int(token) not in special:
                found.append((int(token), np.stack([layers[i][place] for i in range(len(layers))])))
    return found


def test_special_tokens_are_no_words() -> None:
    backbone = small()
    data = texts(backbone)
    counted = words.frequent_words(backbone, data, 1, 100)
    assert set(counted) == {int(i) for i in backbone.tokenizer.convert_tokens_to_ids(NAMES)}
    assert list(counted.values()) == sorted(counted.values(), reverse=True)
