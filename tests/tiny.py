"""Tiny random models and word-level tokenizers, for each row of the table of architectures, built offline."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests import tiny_families

_LAYERS, _HIDDEN, _HEADS, _FFN, VOCAB = 2, 16, 2, 24, 96

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

# model type (or variant) -> (kind of tokenizer, configuration beside the common one)
_BERT = {
    "hidden_size": _HIDDEN,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "intermediate_size": _FFN,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
_ROBERTA = _BERT | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
_DEBERTA = _BERT | {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 8,
    "max_relative_positions": 16,
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_T5 = {
    "d_model": _HIDDEN,
    "d_kv": 8,
    "d_ff": _FFN,
    "num_layers": _LAYERS,
    "num_decoder_layers": _LAYERS + 1,
    "num_heads": _HEADS,
    "dropout_rate": 0.0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "relative_attention_num_buckets": 8,
}
_CONFIGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("bert", "Bert", _BERT),
    "roberta": ("roberta", "Roberta", _ROBERTA),
    "xlm-roberta": ("roberta", "XLMRoberta", _ROBERTA),
    "distilbert": (
        "bert",
        "DistilBert",
        {
            "dim": _HIDDEN,
            "n_layers": _LAYERS,
            "n_heads": _HEADS,
            "hidden_dim": _FFN,
            "max_position_embeddings": 64,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        },
    ),
    "electra": ("bert", "Electra", _BERT | {"embedding_size": 12}),
    "deberta-v2": ("bert", "DebertaV2", _DEBERTA),
    "deberta-v2-new-head": ("bert", "DebertaV2", _DEBERTA | {"legacy": False}),
    "t5": ("t5", "T5", _T5),
    "t5-gated": ("t5", "T5", _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "gpt2": (
        "causal",
        "GPT2",
        {
            "n_embd": _HIDDEN,
            "n_layer": _LAYERS,
            "n_head": _HEADS,
            "n_inner": _FFN,
            "n_positions": 64,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
    ),
    "llama": (
        "causal",
        "Llama",
        {
            "hidden_size": _HIDDEN,
            "num_hidden_layers": _LAYERS,
            "num_attention_heads": _HEADS,
            "num_key_value_heads": 1,
            "intermediate_size": _FFN,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
    ),
}

MODEL_TYPES = tuple(_CONFIGS)  # these are tried everywhere
FAMILIES = tuple(tiny_families.CONFIGS)  # these where an architecture itself is what is tested
ALL = MODEL_TYPES + FAMILIES
_HEADED = {"bert": "ForMaskedLM", "roberta": "ForMaskedLM", "t5": "ForConditionalGeneration"}
_CAUSAL = {"GPT2": "LMHeadModel", "Llama": "ForCausalLM"}


def _specification(model_type: str) -> tuple[str, str, str, dict[str, Any]]:
    """Kind of tokenizer, family, class with a head, configuration."""
    if model_type in tiny_families.CONFIGS:
        return tiny_families.CONFIGS[model_type]
    kind, family, options = _CONFIGS[model_type]
    return kind, family, _CAUSAL.get(family) or _HEADED[kind], options


def layers(model_type: str) -> tuple[int, ...]:
    """The number of layers of each stack."""
    both = _specification(model_type)[2] == "ForConditionalGeneration"
    return (2, 3) if both else (tiny_families.LAYERS.get(model_type, 2),)


def neurons(model_type: str) -> int:
    return tiny_families.NEURONS.get(model_type, _FFN)


def embedding_size(model_type: str) -> int:
    return 12 if model_type == "electra" else tiny_families.EMBEDDING_SIZES.get(model_type, _HIDDEN)


def readout_size(model_type: str) -> int:
    return tiny_families.READOUT_SIZES.get(model_type, _HIDDEN)


def positions(model_type: str) -> int | None:
    known: dict[str, int | None] = {"roberta": 62, "xlm-roberta": 62, "t5": None, "t5-gated": None}
    return (known | tiny_families.POSITIONS).get(model_type, 64)


def tokenizer_kind(model_type: str) -> str:
    """Which kind of tokenizer (`tokenizer(kind)`) goes with a model type."""
    return _specification(model_type)[0]


def model(model_type: str, *, head: bool = True, seed: int = 0, **overrides: Any) -> Any:
    """A tiny random model in eval mode: 2 layers (T5's decoder 3), hidden size 16, 24 neurons, 96 words.

    `model_type` is a row's, or a variant ("t5-gated", "deberta-v2-new-head", "opt-projected"); other sizes
    are in `tiny_families`. `head=False` gives the base model; `overrides` go to the configuration. Every
    parameter is random, biases and norms too, so that a step left out of a recomputation shows.
    """
    _, family, headed, options = _specification(model_type)
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
