"""The reference procedures, written again for the benchmarks: what the published code does, and pays.

Wang et al., EMNLP 2022 (Finding Skill Neurons): the whole masked language model with its head over the
vocabulary at every row, eager attention, batches of 16 in data order padded to the longest, every row of
every layer kept to the end of the batch, sums and comparisons on the host. In tuning the model's own weights
get gradients too, which are clipped with the prompt's and never used; ``frozen`` leaves that out. Dropout,
which the published code has on in tuning, is off: the reference would pay for it, and no number could be
compared.

Su et al., NAACL 2022 (On Transferability of Prompt Tuning): the neurons that a prompt stimulates, with every
input padded to 231 rows, every row of every layer stored, and a loop over pairs of prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

Pairs = Sequence[tuple[Sequence[int], int]]
BATCH = 16
PADDED = 231  # rows of every input of Su et al., prompt and text


@contextmanager
def kept_rows(model: Any) -> Iterator[list[list[Tensor]]]:
    """While open, every forward pass appends what leaves each layer's first FFN half, all rows, by layer."""
    kept: list[list[Tensor]] = [[] for _ in model.roberta.encoder.layer]

    def keeping(number: int) -> Any:
        return lambda module, inputs, output: kept[number].append(output)

    handles = [
        layer.intermediate.register_forward_hook(keeping(number))
        for number, layer in enumerate(model.roberta.encoder.layer)
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def batches(data: Pairs, pad: int, length: int | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Token ids [B, T], their mask, labels [B]: 16 at a time in data order, padded to the longest."""
    for start in range(0, len(data), BATCH):
        part = data[start : start + BATCH]
        width = length or max(len(ids) for ids, _ in part)
        ids = torch.tensor([[*tokens, *[pad] * (width - len(tokens))] for tokens, _ in part])
        mask = torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens, _ in part])
        yield ids, mask, torch.tensor([label for _, label in part])


def logits(model: Any, prompt: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """The head over the vocabulary at every row, [B, P + T, V]: prompt rows [P, E] before each text."""
    ids, mask, size = ids.to(prompt.device), mask.to(prompt.device), len(ids)
    text = model.roberta.embeddings.word_embeddings(ids).detach()
    embeds = torch.cat([prompt.expand(size, -1, -1), text], dim=1)
    full = torch.cat([mask.new_ones(size, len(prompt)), mask], dim=1)
    return model(inputs_embeds=embeds, attention_mask=full).logits


def extract(model: Any, prompt: Tensor, train: Pairs, dev: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Wang et al.: baseline over train and Acc over dev, both [L, P, N] float64. The model is eager."""
    config, rows = model.config, len(prompt)
    shape = (config.num_hidden_layers, rows, config.intermediate_size)
    baseline, accuracy = np.zeros(shape), np.zeros(shape)
    with kept_rows(model) as kept, torch.no_grad():
        for data, compared in ((train, False), (dev, True)):
            for ids, mask, labels in batches(data, config.pad_token_id):
                for layer in kept:
                    layer.clear()
                logits(model, prompt, ids, mask)
                wanted = labels.numpy()[:, None, None]
                for number, layer in enumerate(kept):
                    values = layer[0][:, :rows].cpu().numpy()
                    if compared:
                        accuracy[number] += ((values > baseline[number]) == wanted).sum(axis=0)
                    else:
                        baseline[number] += values.sum(axis=0)
            if not compared:
                baseline /= len(train)
    return baseline, accuracy / len(dev)


class Tuning:
    """Wang et al.: Adam on the prompt alone, the loss at the mask row read from the whole head's output."""

    def __init__(self, model: Any, prompt: Tensor, words: Sequence[int], *, frozen: bool = False) -> None:
        self.model, self.words, self.frozen = model, list(words), frozen
        self.mask_row = prompt[:1].clone()
        self.prompt = prompt[1:].clone().requires_grad_(True)
        self.optimizer = torch.optim.Adam([self.prompt], lr=1e-3, eps=1e-6, betas=(0.9, 0.98))

    def step(self, ids: Tensor, mask: Tensor, labels: Tensor) -> float:
        """One update on a batch; the loss before it."""
        self.model.requires_grad_(not self.frozen)
        try:
            rows = torch.cat([self.mask_row, self.prompt])
            found = logits(self.model, rows, ids, mask)[:, 0, self.words]
            loss = torch.nn.functional.cross_entropy(found, labels.to(found.device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_([self.prompt, *self.model.parameters()], 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.model.zero_grad()
        finally:
            self.model.requires_grad_(False)
        return loss.item()


def stimulations(model: Any, prompts: Sequence[Tensor], start: int) -> list[Tensor]:
    """Su et al.: the neurons at the mask row on an empty text, [L, N] a prompt, after storing every row."""
    found = []
    for prompt in prompts:
        with kept_rows(model) as kept, torch.no_grad():
            text = PADDED - len(prompt)
            for ids, mask, _ in batches([([start], 0)], model.config.pad_token_id, text):
                logits(model, prompt, ids, mask)
            stored = torch.stack([torch.cat(layer) for layer in kept])  # [L, 1, 231, N]
        found.append(stored[:, 0, 0].clone())
    return found


def overlaps(stimulated: Sequence[Tensor]) -> np.ndarray:
    """Su et al.: ON of all pairs, one at a time: the cosine of what is on in one and in the other."""
    found = np.empty((len(stimulated), len(stimulated)))
    for i, one in enumerate(stimulated):
        for j, other in enumerate(stimulated):
            a, b = (one > 0).float().flatten(), (other > 0).float().flatten()
            found[i, j] = float(torch.nn.functional.cosine_similarity(a, b, dim=0))
    return found
