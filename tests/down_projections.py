"""Where the down projections and gates of each tiny model are, by hand: {} is the layer in its stack."""

from __future__ import annotations

BERT = ["encoder.layer.{}.output.dense"]
T5 = ["encoder.block.{}.layer.1.DenseReluDense.{}", "decoder.block.{}.layer.2.DenseReluDense.{}"]
DOWN = {
    "distilbert": ["transformer.layer.{}.ffn.lin2"],
    "t5": [stack.format("{}", "wo") for stack in T5],
    "t5-gated": [stack.format("{}", "wo") for stack in T5],
    "gpt2": ["h.{}.mlp.c_proj"],
    "albert": ["encoder.albert_layer_groups.{}.albert_layers.0.ffn_output"],
    "modernbert": ["layers.{}.mlp.Wo"],
    "mt5": [stack.format("{}", "wo") for stack in T5],
    "bart": ["encoder.layers.{}.fc2", "decoder.layers.{}.fc2"],
    "gpt_neox": ["layers.{}.mlp.dense_4h_to_h"],
    "opt": ["decoder.layers.{}.fc2"],
    "opt-projected": ["decoder.layers.{}.fc2"],
    "bloom": ["h.{}.mlp.dense_4h_to_h"],
    "falcon": ["h.{}.mlp.dense_4h_to_h"],
    "mixtral": ["layers.{}.mlp.experts.down"],
}
LLAMAS = (*("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "olmo2", "granite", "smollm3"),)
DOWN |= {name: ["layers.{}.mlp.down_proj"] for name in (*LLAMAS, "phi3")}
GATES = {name: [stack.format("{}", "wi_0") for stack in T5] for name in ("t5-gated", "mt5")}
GATES |= {name: ["layers.{}.mlp.gate_proj"] for name in LLAMAS}
GATES["mixtral"] = ["layers.{}.mlp.experts.gate"]
JOINT = {"phi3": ["layers.{}.mlp.gate_up_proj"], "modernbert": ["layers.{}.mlp.Wi"]}  # the first half
GATES |= JOINT
