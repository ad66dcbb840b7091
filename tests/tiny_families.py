"""Configurations of tiny models of the families that came after the first ones, and what differs in them."""

from __future__ import annotations

from typing import Any

# the same sizes as in tests/tiny.py
_LAYERS, _HIDDEN, _HEADS, _FFN = 2, 16, 2, 24

_BERT = {
    "hidden_size": _HIDDEN,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "intermediate_size": _FFN,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 0,
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
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_LLAMA = _IDS | {
    "hidden_size": _HIDDEN,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": 1,
    "intermediate_size": _FFN,
    "max_position_embeddings": 64,
}
_OPT = _IDS | {
    "hidden_size": _HIDDEN,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "ffn_dim": _FFN,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "activation_function": "gelu",  # a relu would leave few neurons on
    "word_embed_proj_dim": _HIDDEN,
}
_GEMMA = _LLAMA | {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0}
_GEMMA_LAYERS = ["sliding_attention", "full_attention"]

# model type (or variant) -> (kind of tokenizer, family, class with a head, configuration)
CONFIGS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "mpnet": (
        "roberta",
        "MPNet",
        "ForMaskedLM",
        _BERT | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    ),
    "albert": (
        "bert",
        "Albert",
        "ForMaskedLM",
        _BERT | {"embedding_size": 12, "num_hidden_layers": 3, "type_vocab_size": 2, "bos_token_id": 2},
    ),
    "modernbert": (
        "bert",
        "ModernBert",
        "ForMaskedLM",
        {
            "hidden_size": _HIDDEN,
            "num_hidden_layers": _LAYERS,
            "num_attention_heads": _HEADS,
            "intermediate_size": _FFN,
            "max_position_embeddings": 64,
            "local_attention": 6,  # the second layer sees three rows to each side
            "pad_token_id": 0,
            "cls_token_id": 2,
            "bos_token_id": 2,
            "sep_token_id": 3,
            "eos_token_id": 3,
        },
    ),
    "mt5": ("t5", "MT5", "ForConditionalGeneration", _T5),
    "bart": (
        "roberta",
        "Bart",
        "ForConditionalGeneration",
        {
            "d_model": _HIDDEN,
            "encoder_layers": _LAYERS,
            "decoder_layers": _LAYERS + 1,
            "encoder_attention_heads": _HEADS,
            "decoder_attention_heads": _HEADS,
            "encoder_ffn_dim": _FFN,
            "decoder_ffn_dim": _FFN,
            "max_position_embeddings": 64,
            "scale_embedding": True,
            "dropout": 0.0,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": None,
        },
    ),
    "gpt_neox": (
        "causal",
        "GPTNeoX",
        "ForCausalLM",
        {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"}
        | {"hidden_dropout": 0.0, "attention_dropout": 0.0},
    ),
    "opt": ("causal", "OPT", "ForCausalLM", _OPT),
    "opt-projected": (
        "causal",
        "OPT",
        "ForCausalLM",
        _OPT | {"word_embed_proj_dim": 12, "do_layer_norm_before": False},
    ),
    "bloom": (
        "causal",
        "Bloom",
        "ForCausalLM",
        _IDS
        | {"hidden_size": _HIDDEN, "n_layer": _LAYERS, "n_head": _HEADS}
        | {"hidden_dropout": 0.0, "attention_dropout": 0.0},
    ),
    "falcon": (
        "causal",
        "Falcon",
        "ForCausalLM",
        _IDS
        | {"hidden_size": _HIDDEN, "num_hidden_layers": _LAYERS, "num_attention_heads": _HEADS}
        | {"ffn_hidden_size": _FFN, "max_position_embeddings": 64},
    ),
    "mistral": ("causal", "Mistral", "ForCausalLM", _LLAMA | {"sliding_window": 6, "head_dim": 8}),
    "qwen2": ("causal", "Qwen2", "ForCausalLM", _LLAMA),
    "qwen3": ("causal", "Qwen3", "ForCausalLM", _LLAMA | {"head_dim": 8}),
    "gemma2": (
        "causal",
        "Gemma2",
        "ForCausalLM",
        _GEMMA | {"sliding_window": 6, "layer_types": _GEMMA_LAYERS},
    ),
    "gemma3_text": (
        "causal",
        "Gemma3",
        "ForCausalLM",
        _GEMMA | {"sliding_window": 6, "layer_types": _GEMMA_LAYERS},
    ),
    "olmo2": ("causal", "Olmo2", "ForCausalLM", _LLAMA),
    "granite": (
        "causal",
        "Granite",
        "ForCausalLM",
        _LLAMA
        | {"embedding_multiplier": 3.0, "logits_scaling": 2.0}
        | {"residual_multiplier": 0.7, "attention_multiplier": 0.4},
    ),
    "smollm3": ("causal", "SmolLM3", "ForCausalLM", _LLAMA | {"no_rope_layers": [1, 0]}),
    "mixtral": (
        "causal",
        "Mixtral",
        "ForCausalLM",
        _LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "phi3": ("causal", "Phi3", "ForCausalLM", _LLAMA | {"resid_pdrop": 0.0, "embd_pdrop": 0.0}),
}
CONFIG_CLASSES = {"gemma3_text": "Gemma3TextConfig"}
BASE_CLASSES = {"gemma3_text": "Gemma3TextModel"}

# what differs from 2 layers (an encoder-decoder: 2 and 3), 24 neurons, width 16 and 64 positions
LAYERS = {"albert": 3}
NEURONS = {"bloom": 64, "mixtral": 4 * _FFN}  # four times the hidden size, always; of four experts
EMBEDDING_SIZES = {"albert": 12, "opt-projected": 12}
READOUT_SIZES = {"opt-projected": 12}
POSITIONS = {"mpnet": 62, "mt5": None, "bloom": None}
