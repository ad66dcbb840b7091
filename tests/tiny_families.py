"""Configurations of tiny models of the families that came after the first ones, and what differs in them."""

from __future__ import annotations

from typing import Any

DEPTH, HIDDEN, HEADS, FFN = 2, 16, 2, 24  # of every model, but for what stands at the end

# Of the names that most families share; tests/tiny.py has them too.
_CORE = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": FFN,
    "max_position_embeddings": 64,
}
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
BERT = _CORE | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pad_token_id": 0}
LLAMA = _CORE | _IDS | {"num_key_value_heads": 1}
T5 = {
    "d_model": HIDDEN,
    "d_kv": 8,
    "d_ff": FFN,
    "num_layers": DEPTH,
    "num_decoder_layers": DEPTH + 1,
    "num_heads": HEADS,
    "dropout_rate": 0.0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "relative_attention_num_buckets": 8,
}
_OPT = _IDS | {
    "hidden_size": HIDDEN,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "ffn_dim": FFN,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "activation_function": "gelu",  # a relu would leave few neurons on
    "word_embed_proj_dim": HIDDEN,
}
_GEMMA = LLAMA | {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0}
_GEMMA_LAYERS = ["sliding_attention", "full_attention"]

# model type (or variant) -> (kind of tokenizer, family, class with a head, configuration)
CONFIGS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "mpnet": (
        "roberta",
        "MPNet",
        "ForMaskedLM",
        BERT | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    ),
    "albert": (
        "bert",
        "Albert",
        "ForMaskedLM",
        BERT | {"embedding_size": 12, "num_hidden_layers": 3, "type_vocab_size": 2, "bos_token_id": 2},
    ),
    "modernbert": (
        "bert",
        "ModernBert",
        "ForMaskedLM",
        _CORE
        | {
            "local_attention": 6,  # the second layer sees three rows to each side
            "pad_token_id": 0,
            "cls_token_id": 2,
            "bos_token_id": 2,
            "sep_token_id": 3,
            "eos_token_id": 3,
        },
    ),
    "mt5": ("t5", "MT5", "ForConditionalGeneration", T5),
    "bart": (
        "roberta",
        "Bart",
        "ForConditionalGeneration",
        {
            "d_model": HIDDEN,
            "encoder_layers": DEPTH,
            "decoder_layers": DEPTH + 1,
            "encoder_attention_heads": HEADS,
            "decoder_attention_heads": HEADS,
            "encoder_ffn_dim": FFN,
            "decoder_ffn_dim": FFN,
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
        {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
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
        | {"hidden_size": HIDDEN, "n_layer": DEPTH, "n_head": HEADS}
        | {"hidden_dropout": 0.0, "attention_dropout": 0.0},
    ),
    "falcon": (
        "causal",
        "Falcon",
        "ForCausalLM",
        _IDS
        | {"hidden_size": HIDDEN, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
        | {"ffn_hidden_size": FFN, "max_position_embeddings": 64},
    ),
    "mistral": ("causal", "Mistral", "ForCausalLM", LLAMA | {"sliding_window": 6, "head_dim": 8}),
    "qwen2": ("causal", "Qwen2", "ForCausalLM", LLAMA),
    "qwen3": ("causal", "Qwen3", "ForCausalLM", LLAMA | {"head_dim": 8}),
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
    "olmo2": ("causal", "Olmo2", "ForCausalLM", LLAMA),
    "granite": (
        "causal",
        "Granite",
        "ForCausalLM",
        LLAMA
        | {"embedding_multiplier": 3.0, "logits_scaling": 2.0}
        | {"residual_multiplier": 0.7, "attention_multiplier": 0.4},
    ),
    "smollm3": ("causal", "SmolLM3", "ForCausalLM", LLAMA | {"no_rope_layers": [1, 0]}),
    "mixtral": (
        "causal",
        "Mixtral",
        "ForCausalLM",
        LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "phi3": ("causal", "Phi3", "ForCausalLM", LLAMA | {"resid_pdrop": 0.0, "embd_pdrop": 0.0}),
}
CONFIG_CLASSES = {"gemma3_text": "Gemma3TextConfig"}
BASE_CLASSES = {"gemma3_text": "Gemma3TextModel"}

# what differs from 2 layers (an encoder-decoder: 2 and 3), 24 neurons, width 16 and 64 positions
LAYERS = {"albert": 3}
NEURONS = {"bloom": 64, "mixtral": 4 * FFN}  # four times the hidden size, always; of four experts
EMBEDDING_SIZES = {"albert": 12, "opt-projected": 12}
READOUT_SIZES = {"opt-projected": 12}
POSITIONS = {"mpnet": 62, "mt5": None, "bloom": None}
