"""Words and neurons: how selective each neuron's activation is for single words.

Selectivity is measured on the texts alone, without a prompt: it is a property of the pre-trained neuron. The
control asks whether skill neurons are no more than neurons that know one telling word (Wang et al., EMNLP
2022). Suau et al. (2020, "Finding experts in transformer models") score a neuron by the average precision of
its activation as a detector of a word, and Dai et al. (ACL 2022, "Knowledge neurons") by gradients; the
standardised difference here needs sums alone, so texts can be streamed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from transferscope.activations import CONSTANT_SD, wide_dtype
from transferscope.encoding import Encoded, batches, buckets
from transferscope.errors import TaskError
from transferscope.layer_devices import layer_devices
from transferscope.layer_sums import on_host, take_in, zeros
from transferscope.models import Backbone
from transferscope.templates import Batch

MIN_COUNT = 20  # a rarer word's mean is noise, and the best of many such means would always look selective
MAX_WORDS = 500  # the most frequent ones: memory grows with words x neurons


@dataclass(frozen=True)
class WordSelectivity:
    """How selective each neuron is for single words.

    ``scores`` [L, N] float64: of the best word w, (mean over its occurrences - mean over all other tokens) /
    sd over all tokens; NaN where a neuron does not vary or its layer sees no text (decoders of
    encoder-decoder models). ``words`` [L, N] int64: the token id of that word (-1 where NaN). ``counts``: how
    often each word was seen; ``tokens``: how many tokens were counted in all.
    """

    scores: np.ndarray
    words: np.ndarray
    counts: Mapping[int, int] = field(default_factory=dict)
    tokens: int = 0


def word_selectivity(
    backbone: Backbone,
    data: Encoded,
    *,
    min_count: int = MIN_COUNT,
    max_words: int = MAX_WORDS,
    token_budget: int = 8192,
) -> WordSelectivity:
    """One pass over the texts of a split (S examples, special tokens not counted), without a prompt.

    Words are token ids seen at least ``min_count`` times, of these the ``max_words`` most frequent ones (and
    the lower id where equal). Memory is [W, L, N] sums, whatever S is, of each layer where it is. Raises
    TaskError where fewer than two words are that frequent.
    """
    counts = frequent_words(backbone, data, min_count, max_words)
    if len(counts) < 2:
        raise TaskError(
            f"{len(counts)} words occur at least {min_count} times in these texts; word selectivity compares "
            "at least two: use more texts or a lower min_count"
        )
    sums = _Sums(backbone, list(counts))
    groups = buckets(data, prompt_rows=0, token_budget=token_budget)
    take_in(backbone, batches(backbone, data, groups), sums.forward, sums.take)
    scores, best = sums.result()
    ids = np.array(list(counts), dtype=np.int64)
    return WordSelectivity(scores, np.where(np.isnan(scores), -1, ids[best]), counts, sums.tokens)


def frequent_words(backbone: Backbone, data: Encoded, min_count: int, max_words: int) -> dict[int, int]:
    """{token id: how often it stands in the texts}, the most frequent first; special tokens are left out."""
    ids, counts = np.unique(np.concatenate(data.ids), return_counts=True)
    special = _special(backbone)
    known = [
        (int(token), int(count))
        for token, count in zip(ids, counts, strict=True)
        if count >= min_count and token not in special
    ]
    return dict(sorted(known, key=lambda one: (-one[1], one[0]))[:max_words])


def _special(backbone: Backbone) -> set[int]:
    return {int(token) for token in getattr(backbone.tokenizer, "all_special_ids", ())}


class _Sums:
    """What is gathered: of L layers [W, N] sums by word, and of all tokens counts, sums and squares.

    Each of a layer where the layer is. Values are taken as their distance from the first token's, so that
    nothing cancels where a neuron varies little beside its level.
    """

    def __init__(self, backbone: Backbone, words: Sequence[int]) -> None:
        self.backbone, device, neurons = backbone, backbone.device, backbone.neurons
        self.text = [stack.rows == "prompt" for stack, _, _ in backbone.down_projections()]
        self.words = torch.tensor(list(words), device=device)
        self.special = torch.tensor(sorted(_special(backbone)), device=device)
        self.first: list[Tensor | None] = [None] * backbone.layers
        self.by_word = [torch.zeros(len(words), neurons, device=one) for one in layer_devices(backbone)]
        self.counts = torch.zeros(len(words), dtype=wide_dtype(device), device=device)
        self.sums, self.squares = zeros(backbone, neurons), zeros(backbone, neurons)
        self.tokens = 0

    def forward(self, batch: Batch) -> None:
        """The pass of a batch: which of its rows count, which word each is, and how often each was seen."""
        counted = batch.mask.bool() & ~torch.isin(batch.ids, self.special)  # [B, T]
        self._rows = counted.flatten().nonzero()[:, 0]
        ids = batch.ids.flatten()[self._rows]
        self._members = (ids == self.words.unsqueeze(1)).float()  # [W, rows]
        counts = self._members.sum(1).to(self.counts.dtype)
        self.backbone.hidden(self.backbone.embed(batch.ids), batch.mask, batch.types)
        self.counts += counts
        self.tokens += len(ids)

    def take(self, layer: int, values: Tensor, gate: Tensor | None) -> None:
        """Take in one layer: values [B, T, N]."""
        if not self.text[layer] or not len(self._rows):
            return
        chosen, members = self._rows.to(values.device), self._members.to(values.device)
        rows = values.reshape(-1, values.shape[-1])[chosen].float()  # [rows, N]
        first = self.first[layer]
        if first is None:
            first = self.first[layer] = rows[0].clone()
        apart = rows - first
        wide = apart.to(self.sums[layer].dtype)
        by_word, total, squares = members @ apart, wide.sum(0), wide.square().sum(0)
        self.by_word[layer] += by_word
        self.sums[layer] += total
        self.squares[layer] += squares

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores [L, N] and the place of the best word [L, N]."""
        n, scores, best = self.tokens, [], []
        each = zip(self.sums, self.squares, self.by_word, self.text, strict=True)
        for total, squares, by_word, text in each:  # one at a time: the widened sums would not fit twice
            sd = (squares / n - (total / n).square()).clamp_min(0).sqrt()
            own, seen = by_word.to(total.dtype), self.counts[:, None].to(total)  # [W, N], [W, 1]
            # A word that is all there is has no others to stand out from.
            others = (total - own) / (n - seen).clamp_min(1)
            found = ((own / seen.clamp_min(1) - others) / sd).max(dim=0)
            scores.append(torch.where((sd >= CONSTANT_SD) & text, found.values, torch.nan))
            best.append(found.indices.cpu().numpy())
        return on_host(scores), np.stack(best)
