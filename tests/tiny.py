"""Tiny random models and word-level tokenizers, for each row of the table of architectures, built offline."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests import tiny_families
from tests.tiny_families import DEPTH, FFN, HEADS, HIDDEN

VOCAB = 96

_TEXT = """
great terrible good bad yes no maybe positive negative neutral world sports business science true false
movie film plot actor story music food service price room the a an it was is are not very really quite so
and or but i we they this that of in on for with at one two three red green blue cat dog likes hates sees
big small old new
"""

_SPECIALS = {
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "causal": ["<pad>", "<s>", "</s>", "<unk>"],
    "t5": ["<pad>", "</s>", "<unk>", "<extra_id_0>"],
}

# model type (or variant) -> (kind of tokenizer, family, class with a head, configuration)
_BERT = tiny_families.BERT | {"type_vocab_size": 2}
_ROBERTA = _BERT | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
_DISTILBERT = {
    "dim": HIDDEN,
    "n_layers": DEPTH,
    "n_heads": HEADS,
    "hidden_dim": FFN,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
_DEBERTA = _BERT | {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 8,
    "max_relative_positions": 16,
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_T5_GATED = tiny_families.T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_GPT2 = {
    "n_embd": HIDDEN,
    "n_layer": DEPTH,
    "n_head": HEADS,
    "n_inner": FFN,
    "n_positions": 64,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_CONFIGS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "bert": ("bert", "Bert", "ForMaskedLM", _BERT),
    "roberta": ("roberta", "Roberta", "ForMaskedLM", _ROBERTA),
    "xlm-roberta": ("roberta", "XLMRoberta", "ForMaskedLM", _ROBERTA),
    "distilbert": ("bert", "DistilBert", "ForMaskedLM", _DISTILBERT),
    "electra": ("bert", "Electra", "ForMaskedLM", _BERT | {"embedding_size": 12}),
    "deberta-v2": ("bert", "DebertaV2", "ForMaskedLM", _DEBERTA),
    "deberta-v2-new-head": ("bert", "DebertaV2", "ForMaskedLM", _DEBERTA | {"legacy": False}),
    "t5": ("t5", "T5", "ForConditionalGeneration", tiny_families.T5),
    "t5-gated": ("t5", "T5", "ForConditionalGeneration", _T5_GATED),
    "gpt2": ("causal", "GPT2", "LMHeadModel", _GPT2),
    "llama": ("causal", "Llama", "ForCausalLM", tiny_families.LLAMA),
}

MODEL_TYPES = tuple(_CONFIGS)  # these are tried everywhere
FAMILIES = tuple(tiny_families.CONFIGS)  # these where an architecture itself is what is tested
ALL = MODEL_TYPES + FAMILIES
_SPECIFICATIONS = _CONFIGS | tiny_families.CONFIGS


def layers(model_type: str) -> tuple[int, ...]:
    """The number of layers of each stack."""
    both = _SPECIFICATIONS[model_type][2] == "ForConditionalGeneration"
    return (2, 3) if both else (tiny_families.LAYERS.get(model_type, 2),)


def neurons(model_type: str) -> int:
    return tiny_families.NEURONS.get(model_type, FFN)


def embedding_size(model_type: str) -> int:
    return 12 if model_type == "electra" else tiny_families.EMBEDDING_SIZES.get(model_type, HIDDEN)


def readout_size(model_type: str) -> int:
    return tiny_families.READOUT_SIZES.get(model_type, HIDDEN)


def positions(model_type: str) -> int | None:
    known: dict[str, int | None] = {"roberta": 62, "xlm-roberta": 62, "t5": None, "t5-gated": None}
    return (known | tiny_families.POSITIONS).get(model_type, 64)


def tokenizer_kind(model_type: str) -> str:
    """Which kind of tokenizer (`tokenizer(kind)`) goes with a model type."""
    return _SPECIFICATIONS[model_type][0]


def model(model_type: str, *, head: bool = True, seed: int = 0, **overrides: Any) -> Any:
    """A tiny random model in eval mode: 2 layers (T5's decoder 3), hidden size 16, 24 neurons, 96 words.

    `model_type` is a row's, or a variant ("t5-gated", "deberta-v2-new-head", "opt-projected"); other sizes
    are in `tiny_families`. `head=False` gives the base model; `overrides` go to the configuration. Every
    parameter is random, biases and norms too, so that a step left out of a recomputation shows.
    """
    _, family, headed, options = _SPECIFICATIONS[model_type]
    name = tiny_families.CONFIG_CLASSES.get(model_type, f"{family}Config")
    config = getattr(transformers, name)(**({"vocab_size": VOCAB} | options | overrides))
    base = tiny_families.BASE_CLASSES.get(model_type, f"{family}Model")
    built = getattr(transformers, f"{family}{headed}" if head else base)(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in built.parameters():
            # what starts at one (norm scales) stays near one; the rest gets a size that makes neurons fire
            start = 1.0 if parameter.dim() == 1 and bool((parameter == 1).all()) else 0.0
            parameter.copy_(start + 0.3 * torch.randn(parameter.shape, generator=generator))
        if hasattr(built, "final_logits_bias"):  # BART's, a buffer
            built.final_logits_bias.copy_(torch.randn(1, VOCAB, generator=generator))
    return built.eval()


def tokenizer(kind: str) -> transformers.PreTrainedTokenizerFast:
    """A word-level tokenizer over some seventy everyday words.

    kind "bert": [CLS] a [SEP] b [SEP], token types, [MASK]. "roberta": <s> a </s></s> b </s>, <mask>.
    "causal": <s> a b. "t5": a </s> b </s>.
    """
    specials = _SPECIALS[kind]
    vocabulary = {word: number for number, word in enumerate([*specials, *dict.fromkeys(_TEXT.split())])}
    unknown = next(word for word in specials if "unk" in word.lower())
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    single, pair = {
        "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
        "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
        "causal": ("<s> $A", "<s> $A $B"),
        "t5": ("$A </s>", "$A </s> $B </s>"),
    }[kind]
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(word, vocabulary[word]) for word in specials]
    )
    roles = {
        "bert": {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "pad_token": "[PAD]"},
        "roberta": {
            "bos_token": "<s>",
            "cls_token": "<s>",
            "eos_token": "</s>",
            "sep_token": "</s>",
            "mask_token": "<mask>",
            "pad_token": "<pad>",
        },
        "causal": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
        "t5": {"eos_token": "</s>", "pad_token": "<pad>"},
    }[kind]
    names = (
        ["input_ids", "token_type_ids", "attention_mask"]
        if kind == "bert"
        else ["input_ids", "attention_mask"]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token=unknown, model_input_names=names, model_max_length=64, **roles
    )
