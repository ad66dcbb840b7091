"""The table of architectures: for each model type, where the feed-forward neurons are; one row each.

A row is data: it names module paths, and nothing here touches a model. A new architecture is one
`register(Architecture(...))`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from transferscope.errors import ArchitectureError, suggest

Kind = Literal["encoder", "decoder", "encoder-decoder"]
Rows = Literal["prompt", "readout"]
Part = Literal["whole", "first", "second"]
Adjust = Literal["unshare", "unflatten", "separate"]

_EXAMPLE = """\
from transferscope.architectures import Architecture, Stack, register

register(
    Architecture(
        model_type="{model_type}",
        kind="encoder",  # or "decoder", "encoder-decoder"
        # layers: dotted from model.base_model; down: dotted from one layer to the linear that ends the
        # feed-forward block; gate: to the linear whose output > 0 means "active", if the block is gated
        stacks=(Stack(layers="encoder.layer", down="output.dense", gate=None),),
        # what stands between the last hidden state and the output embedding, dotted from the LM model
        transform=("cls.predictions.transform",),
    )
)"""


@dataclass(frozen=True)
class Stack:
    """One stack of layers, e.g. an encoder.

    layers: the module list, dotted from the base model (`model.base_model`).
    down: the down projection, dotted from one layer; what enters it are the neurons.
    gate: the linear whose output > 0 means "active", dotted from one layer; None where the feed-forward
        block is not gated and a neuron is active when its own value is > 0.
    gate_part: which part of that linear's output is the gate: all of it, or one half where gate and value are
        made by one joint linear.
    rows: which rows are probed in this stack: the prompt's, or only the readout row (decoders of
        encoder-decoder models, which the prompt does not enter).
    """

    layers: str
    down: str
    gate: str | None = None
    rows: Rows = "prompt"
    gate_part: Part = "whole"


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    model_type: the `model_type` of the configuration.
    kind: "encoder", "decoder" (causal) or "encoder-decoder".
    stacks: in the order in which their layers are numbered.
    transform: the language-model head's steps between the last hidden state and the output embedding: a
        module dotted from the LM model; "act:NAME" an activation by name; "act:config.FIELD" the one that
        the configuration names; "scale:config.FLAG" a factor hidden_size ** -0.5 where that flag is true.
    output, output_bias: the output embedding and its bias, dotted from the LM model, where
        `get_output_embeddings()` does not give them.
    logits: what is done to the logits behind the output embedding: "softcap:config.FIELD" (c tanh(x / c) with
        that number c, nothing where it is None) or "divide:config.FIELD".
    when: (field of the configuration, value) that picks this row where a model type has several, or that it
        needs.
    padded_positions: position numbers start after the padding id (RoBERTa), so fewer rows fit.
    readout_width: the field of the configuration with the width of the last hidden state, where that is not
        the hidden size.
    adjust: a change that the model needs before its neurons can be read, by its name in `adjustments`.
    experts: a neuron belongs to one of the layer's experts, and has no value (NaN) in the rows that are not
        sent to that one.
    text_alone: a decoder whose keys and values of a text can be computed before what follows it, with the
        cache of transformers (see `text_cache`). False is always right, and slower for many prompts.
    counts_columns: it numbers positions by column, so padding on the left needs them told.
    """

    model_type: str
    kind: Kind
    stacks: tuple[Stack, ...]
    transform: tuple[str, ...] = ()
    output: str | None = None
    output_bias: str | None = None
    logits: tuple[str, ...] = ()
    when: tuple[str, Any] | None = None
    padded_positions: bool = False
    readout_width: str | None = None
    adjust: Adjust | None = None
    experts: bool = False
    text_alone: bool = False
    counts_columns: bool = False


_POST_NORM = (Stack("encoder.layer", "output.dense"),)  # BERT and those that kept its module names
_ROBERTA_HEAD = ("lm_head.dense", "act:gelu", "lm_head.layer_norm")
_GATED = (Stack("layers", "mlp.down_proj", gate="mlp.gate_proj"),)  # Llama and those that kept its names
_SOFTCAP = ("softcap:config.final_logit_softcapping",)
_T5_SCALE = ("scale:config.scale_decoder_outputs",)


def _t5(gate: str | None) -> tuple[Stack, ...]:
    gated = f"DenseReluDense.{gate}" if gate else None
    return (
        Stack("encoder.block", "layer.1.DenseReluDense.wo", gated and f"layer.1.{gated}"),
        Stack("decoder.block", "layer.2.DenseReluDense.wo", gated and f"layer.2.{gated}", rows="readout"),
    )


# A list, not a dict: a model type may have several rows (`when`), and the newest registered wins.
_TABLE: list[Architecture] = [
    Architecture("bert", "encoder", _POST_NORM, ("cls.predictions.transform",)),
    Architecture("roberta", "encoder", _POST_NORM, _ROBERTA_HEAD, padded_positions=True),
    Architecture("xlm-roberta", "encoder", _POST_NORM, _ROBERTA_HEAD, padded_positions=True),
    Architecture(
        "distilbert",
        "encoder",
        (Stack("transformer.layer", "ffn.lin2"),),
        ("vocab_transform", "act:config.activation", "vocab_layer_norm"),
    ),
    Architecture("electra", "encoder", _POST_NORM, ("generator_predictions",)),
    Architecture("deberta-v2", "encoder", _POST_NORM, ("cls.predictions.transform",), when=("legacy", True)),
    Architecture(
        "deberta-v2",
        "encoder",
        _POST_NORM,
        ("lm_predictions.lm_head.dense", "act:config.hidden_act", "lm_predictions.lm_head.LayerNorm"),
        # get_output_embeddings() answers with lm_head.dense here, which is not the output embedding
        output="deberta.embeddings.word_embeddings",
        output_bias="lm_predictions.lm_head.bias",
        when=("legacy", False),
    ),
    Architecture("mpnet", "encoder", _POST_NORM, _ROBERTA_HEAD, padded_positions=True),
    Architecture(
        "albert",
        "encoder",
        (Stack("encoder.albert_layer_groups", "albert_layers.0.ffn_output"),),
        ("predictions.dense", "act:config.hidden_act", "predictions.LayerNorm"),
        when=("inner_group_num", 1),
        adjust="unshare",
    ),
    Architecture(
        "modernbert",
        "encoder",
        (Stack("layers", "mlp.Wo", gate="mlp.Wi", gate_part="first"),),
        ("head",),
    ),
    Architecture("t5", "encoder-decoder", _t5(None), _T5_SCALE, when=("is_gated_act", False)),
    Architecture("t5", "encoder-decoder", _t5("wi_0"), _T5_SCALE, when=("is_gated_act", True)),
    Architecture("mt5", "encoder-decoder", _t5("wi_0"), when=("is_gated_act", True)),
    Architecture("mt5", "encoder-decoder", _t5(None), when=("is_gated_act", False)),
    Architecture(
        "bart",
        "encoder-decoder",
        (Stack("encoder.layers", "fc2"), Stack("decoder.layers", "fc2", rows="readout")),
        output_bias="final_logits_bias",
    ),
    Architecture("gpt2", "decoder", (Stack("h", "mlp.c_proj"),), text_alone=True, counts_columns=True),
    Architecture("gpt_neox", "decoder", (Stack("layers", "mlp.dense_4h_to_h"),), text_alone=True),
    Architecture(
        "opt",
        "decoder",
        (Stack("decoder.layers", "fc2"),),
        readout_width="word_embed_proj_dim",
        adjust="unflatten",
        text_alone=True,
    ),
    # with slow_but_exact the down projection is computed in slices, without its module
    Architecture(
        "bloom",
        "decoder",
        (Stack("h", "mlp.dense_4h_to_h"),),
        when=("slow_but_exact", False),
        text_alone=True,
    ),
    Architecture("falcon", "decoder", (Stack("h", "mlp.dense_4h_to_h"),), text_alone=True),
    Architecture("llama", "decoder", _GATED, text_alone=True),
    Architecture("mistral", "decoder", _GATED, text_alone=True),
    Architecture("qwen2", "decoder", _GATED, text_alone=True),
    Architecture("qwen3", "decoder", _GATED, text_alone=True),
    Architecture("gemma2", "decoder", _GATED, logits=_SOFTCAP, text_alone=True),
    Architecture("gemma3_text", "decoder", _GATED, logits=_SOFTCAP, text_alone=True),
    Architecture("olmo2", "decoder", _GATED, text_alone=True),
    Architecture("granite", "decoder", _GATED, logits=("divide:config.logits_scaling",), text_alone=True),
    Architecture("smollm3", "decoder", _GATED, text_alone=True),
    Architecture(
        "phi3",
        "decoder",
        (Stack("layers", "mlp.down_proj", gate="mlp.gate_up_proj", gate_part="first"),),
        text_alone=True,
    ),
    Architecture(
        "mixtral",
        "decoder",
        (Stack("layers", "mlp.experts.down", gate="mlp.experts.gate"),),
        adjust="separate",
        experts=True,
        text_alone=True,
    ),
]


def names() -> tuple[str, ...]:
    """The model types that have a row, in the table's order."""
    return tuple(dict.fromkeys(row.model_type for row in _TABLE))


def get(model_type: str) -> Architecture:
    """The (first) row of a model type.

    Raises:
        ArchitectureError: there is none; the text lists those there are and shows how to add one.
    """
    return _rows(model_type)[0]


def resolve(config: Any) -> Architecture:
    """The row for a model's configuration; where a model type has several, the one whose `when` fits.

    Raises:
        ArchitectureError: no row for `config.model_type`, or none of its rows fits this configuration.
    """
    rows = _rows(config.model_type)
    for row in rows:
        if row.when is None or getattr(config, row.when[0], None) == row.when[1]:
            return row
    field = rows[0].when[0] if rows[0].when else ""
    allowed = ", ".join(f"{row.when[0]}={row.when[1]!r}" for row in rows if row.when)
    found = f"{field}={getattr(config, field, None)!r}"
    raise ArchitectureError(
        f"The rows of {config.model_type!r} are for {allowed}; this configuration has {found}."
    )


def register(row: Architecture) -> Architecture:
    """Add a row to the table (in front: it wins over a built-in row of the same model type); returns it.

    Raises:
        ArchitectureError: a kind, a choice of rows, a part or an adjustment that does not exist, or no stack
            at all.
    """
    _check(f"kind of the row {row.model_type!r}", row.kind, get_args(Kind))
    for stack in row.stacks:
        where = f"of the stack {stack.layers!r} of {row.model_type!r}"
        _check(f"rows {where}", stack.rows, get_args(Rows))
        _check(f"gate_part {where}", stack.gate_part, get_args(Part))
    if row.adjust is not None:
        _check(f"adjust of the row {row.model_type!r}", row.adjust, get_args(Adjust))
    if not row.stacks:
        raise ArchitectureError(f"The row {row.model_type!r} has no stack; it needs at least one.")
    if row not in _TABLE:
        _TABLE.insert(0, row)
    return row


def _rows(model_type: str) -> list[Architecture]:
    rows = [row for row in _TABLE if row.model_type == model_type]
    if not rows:
        raise ArchitectureError(
            f"No architecture row for model type {model_type!r}. {suggest(model_type, names())}\n"
            f"To add one (about ten lines, then use the model as usual):\n\n"
            f"{_EXAMPLE.format(model_type=model_type)}"
        )
    return rows


def _check(what: str, value: str, allowed: Iterable[str]) -> None:
    if value not in (options := tuple(allowed)):
        raise ArchitectureError(f"The {what} is {value!r}. {suggest(value, options)}")
