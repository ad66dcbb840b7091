"""A model of random weights and a task of random texts, for the benchmarks whose figures are ratios."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers

import transferscope.demo
from transferscope.models import Backbone, load_backbone, wrap
from transferscope.tasks import Example, Task


def task_of(
    backbone: Backbone, examples: int, *, shortest: int = 8, longest: int = 60, seed: int = 0
) -> Task:
    """Texts of so many words of the model's vocabulary, two classes; dev has all, train the first eight."""
    rng = np.random.default_rng(seed)
    words = words_of(backbone)
    texts = [" ".join(rng.choice(words, size=rng.integers(8, 61))) for _ in range(examples)]
    split = tuple(Example(text, None, i % 2) for i, text in enumerate(texts))
    return Task("task", split[:8], split, ("a", "b"), (words[0], words[1]))


def words_of(backbone: Backbone) -> list[str]:
    """The tokens that are words."""
    return [word for word in backbone.tokenizer.get_vocab() if word.isalpha()]


def backbone_of(model: str | None, layers: int, hidden: int, device: str = "cpu") -> Backbone:
    """The named model, or a random BERT of this size with the demo model's tokenizer."""
    if model is not None:
        return load_backbone(model, device=device)
    folder = Path(transferscope.demo.__file__).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 32), intermediate_size=4 * hidden, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(0)
    built = transformers.BertForMaskedLM(config).to(device)
    return wrap(built, tokenizer, f"random BERT {layers} x {hidden}")
