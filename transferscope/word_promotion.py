"""Which words of the vocabulary a neuron promotes, read off its output vector.

Source: Geva et al., EMNLP 2021 (Transformer feed-forward layers are key-value memories) and EMNLP 2022
(Transformer feed-forward layers build predictions by promoting concepts in the vocabulary space).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transferscope.models import Backbone

WORDS = 10
CHUNK = 256  # neurons whose vocabularies are computed at once

Neuron = tuple[int, int]  # layer, number in the layer


@dataclass(frozen=True)
class Word:
    """A token of the vocabulary and the dot product of its output embedding with the neuron's vector."""

    word: str
    value: float


def output_vectors(backbone: Backbone, neurons: Sequence[Neuron]) -> Tensor:
    """What each neuron adds to the residual stream for an activation of 1: W_down[:, n], [k, D] float32."""
    downs = [module for _, _, module in backbone.down_projections()]
    found = []
    for layer, neuron in neurons:
        weight = downs[layer].get_parameter("weight")
        # GPT-2's layers are stored transposed, [N, D]; a linear layer is [D, N].
        found.append((weight[:, neuron] if hasattr(downs[layer], "in_features") else weight[neuron]).float())
    return torch.stack(found).detach()


def promoted_words(
    backbone: Backbone, neurons: Sequence[Neuron], count: int = WORDS
) -> list[tuple[Word, ...]]:
    """For each neuron the tokens whose output embedding has the largest dot product with its output vector.

    The plain reading of Geva et al.: E . W_down[:, n], without the head's transform, norm and bias. Where the
    output embedding is not D wide, what the vector adds to the head's logits: head(W_down[:, n]) - head(0),
    through the transform. Special tokens are left out. Without a language-model head or a tokenizer: nothing.
    """
    if not backbone.has_lm_head or backbone.tokenizer is None or count < 1:
        return [()] * len(neurons)
    tokenizer, vectors = backbone.tokenizer, output_vectors(backbone, neurons)
    table = _output_table(backbone)
    if vectors.shape[1] != backbone.readout_size:  # OPT-350m projects what the head reads
        return [()] * len(neurons)
    known = min(len(tokenizer), len(table))
    special = [token for token in tokenizer.all_special_ids if token < known]
    found: list[tuple[Word, ...]] = []
    with torch.inference_mode():
        for some in vectors.split(CHUNK):
            if table.shape[1] == some.shape[1]:
                scores = some @ table.float().T
            else:
                scores = backbone.vocabulary_logits(some) - backbone.vocabulary_logits(
                    torch.zeros_like(some[:1])
                )
            scores = scores[:, :known]
            scores[:, special] = -torch.inf
            best = scores.topk(min(count, known - len(set(special))), dim=1)
            for values, ids in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                names = tokenizer.convert_ids_to_tokens(ids)
                found.append(tuple(Word(str(n), float(v)) for n, v in zip(names, values, strict=True)))
    return found


def _output_table(backbone: Backbone) -> Tensor:
    """The output embedding [V, E] of a model with a language-model head."""
    path = backbone.architecture.output
    module = backbone.model.get_submodule(path) if path else backbone.model.get_output_embeddings()
    table: Tensor = module.weight.detach()
    return table
