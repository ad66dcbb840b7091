"""Backbone: a frozen pre-trained transformer seen through its row of the table of architectures; loading one.

float32 is the default on every device, and nothing here switches TF32 on (PyTorch leaves it off for matrix
products).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from transferscope.adjustments import adjust
from transferscope.architectures import Architecture, Stack, resolve
from transferscope.checkpoints import read_checkpoint
from transferscope.digests import tokenizer_digest, weights_digest
from transferscope.errors import BackboneError
from transferscope.fingerprints import fingerprint
from transferscope.halving import Fitting
from transferscope.heads import LMHead, head_of
from transferscope.loading import NO_HEAD, check, choose_device
from transferscope.masks import all_ones
from transferscope.placement import DeviceMap, place_of, placing
from transferscope.products import Products
from transferscope.pruned import inputs
from transferscope.quantization import keep_layout, kind_of, quantizing

HEADS = ("verbalizer", "classifier")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTIONS = ("sdpa", "eager")

# What saving and loading again may change in a configuration without changing the network.
_VOLATILE = {"transformers_version", "dtype", "torch_dtype", "architectures", "use_cache"}


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen model, its tokenizer and its row of the table. Made by `load_backbone` or `wrap`.

    Shapes: B batch, T rows of the input, E width of the input embeddings (mostly D), D hidden size, K label
    words, L layers over all stacks, N neurons a layer.
    """

    model: Any
    tokenizer: Any
    architecture: Architecture
    name: str
    revision: str | None = None
    autocast: torch.dtype | None = None  # what matrix products are rounded to; None: the model's own dtype
    fitting: Fitting = field(default_factory=Fitting)
    products: Products | None = None  # kernels in place of the stock ones, if there are better here

    def at(self, autocast: torch.dtype | None) -> Backbone:
        """The same model in memory, its forward passes under autocast to this dtype (None: without)."""
        found = replace(self, autocast=autocast)
        if "fingerprint" in self.__dict__:  # of the weights, which are the same: not read again
            found.__dict__["fingerprint"] = self.fingerprint
        return found

    def rounding(self) -> AbstractContextManager[Any]:
        """While open, matrix products on this model's device are rounded as ``autocast`` says.

        Without it they are in the model's own dtype, also where the caller's code runs under autocast; and on
        a CPU by the faster of PyTorch's kernels (see `products`).
        """
        kind = self.device.type
        if self.autocast is None and not torch.is_autocast_enabled(kind):
            return nullcontext() if self.products is None else self.products.faster()
        return torch.autocast(kind, self.autocast, enabled=self.autocast is not None)

    @property
    def base(self) -> Any:
        """The model without its language-model head (T5 keeps the two in one: then the model itself)."""
        return self.model.base_model

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the inputs go: to the embeddings. With a device map, layers may lie elsewhere."""
        return place_of(self.model.get_input_embeddings())

    @property
    def dtype(self) -> torch.dtype:
        return self.model.get_input_embeddings().weight.dtype

    @property
    def quantization(self) -> str | None:
        """How the weights are quantised ("8bit", "4bit", another method), if they are."""
        return kind_of(self.model)

    @property
    def has_lm_head(self) -> bool:
        return self.model.get_output_embeddings() is not None

    @property
    def layers(self) -> int:
        """L, over all stacks (T5: encoder and decoder)."""
        return len(self._layers)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """The number of neurons of each layer, [L]; they differ in a pruned model."""
        return tuple(inputs(module) for _, _, module in self.down_projections())

    @cached_property
    def neurons(self) -> int:
        """N, the same in each layer.

        Raises:
            BackboneError: the layers differ (a pruned model).
        """
        widths = set(self.widths)
        if len(widths) != 1:
            raise BackboneError(
                f"The layers of {self.name!r} have different numbers of neurons: {sorted(widths)}. It is a "
                "pruned model: prompts can be tuned and measured on it, signatures cannot be extracted."
            )
        return widths.pop()

    @property
    def hidden_size(self) -> int:
        """D."""
        return int(self.config.hidden_size)

    @property
    def readout_size(self) -> int:
        """The width of the last hidden state: D, save in OPT models that project it."""
        return int(getattr(self.config, self.architecture.readout_width or "hidden_size"))

    @property
    def embedding_size(self) -> int:
        """E, the width of a prompt row; differs from D in ALBERT and in small ELECTRA and OPT models."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def embeddings(self) -> Tensor:
        """The rows that `embed` gives for all tokens, [V, E], no copy where they are the table as stored.

        They are not in BART and Gemma, which multiply what they look up.
        """
        table = self.model.get_input_embeddings()
        if type(table) is nn.Embedding and not table.weight.is_meta:
            return table.weight.detach()
        return self.embed(torch.arange(len(table.weight), device=self.device)).detach()

    @property
    def max_positions(self) -> int | None:
        """How many rows fit, prompt and text together; None where positions are relative without a limit."""
        limit = getattr(self.config, "max_position_embeddings", None)
        if limit is None:
            return None
        return int(limit) - (self.config.pad_token_id + 1 if self.architecture.padded_positions else 0)

    @property
    def pad_id(self) -> int:
        """The id to fill up batches with (the mask hides it): the padding token's, else eos, else 0."""
        eos = self.config.eos_token_id
        tokenizer_pad = getattr(self.tokenizer, "pad_token_id", None)
        candidates = (tokenizer_pad, self.config.pad_token_id, eos[0] if isinstance(eos, list) else eos, 0)
        return int(next(token for token in candidates if token is not None))

    @property
    def uses_token_types(self) -> bool:
        """Does the model tell the two texts of a pair apart by token types?"""
        return self.architecture.kind == "encoder" and getattr(self.config, "type_vocab_size", 0) > 1

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits over configuration, weights and tokenizer; independent of folder and device.

        The weights enter through checksums of their bits (see `weights_digest`), so the dtype matters.
        """
        config = {
            key: value
            for key, value in self.config.to_dict().items()
            if key not in _VOLATILE and not key.startswith("_")
        }
        parts = (
            json.dumps(config, sort_keys=True, default=str),
            weights_digest(self.model),
            tokenizer_digest(self.tokenizer),
        )
        return fingerprint(*parts)

    @cached_property
    def _layers(self) -> list[tuple[Stack, nn.Module]]:
        found = []
        for stack in self.architecture.stacks:
            found += [(stack, layer) for layer in self._submodule(self.base, stack.layers).children()]
        return found

    def down_projections(self) -> list[tuple[Stack, int, nn.Module]]:
        """(stack, layer 0..L-1 over all stacks, down projection); what enters the module: the N neurons."""
        return [
            (stack, number, self._submodule(layer, stack.down))
            for number, (stack, layer) in enumerate(self._layers)
        ]

    def gates(self) -> list[nn.Module | None]:
        """For each of the L layers the linear whose output > 0 means "active"; None where it is not gated.

        Of a joint linear it is the stack's `gate_part` of the output.
        """
        return [self._submodule(layer, stack.gate) if stack.gate else None for stack, layer in self._layers]

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [B, T] -> input embeddings [B, T, E]."""
        return self.model.get_input_embeddings()(ids)

    def hidden(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        decoder_embeds: Tensor | None = None,
    ) -> Tensor:
        """The base model's last hidden state, without the language-model head.

        Args:
            inputs_embeds: [B, T, E]. attention_mask: [B, T], 1 for what counts. Padding stands on the
                right; a decoder gives the same numbers where it stands on the left.
            token_type_ids: [B, T], ignored by models that have none.
            decoder_embeds: encoder-decoder models only, [B, Td, E]; default the decoder's start token.

        Returns:
            [B, T, D]; for an encoder-decoder model the decoder's, [B, Td, D]. D is `readout_size` here. On
            the device of the inputs.
        """
        inputs_embeds = inputs_embeds.to(self.dtype)  # prompts are float32, the model need not be
        if self.architecture.kind == "encoder-decoder":
            with self.rounding():
                return self._encode_decode(inputs_embeds, attention_mask, decoder_embeds)
        options: dict[str, Any] = {"use_cache": False} if self.architecture.kind == "decoder" else {}
        if token_type_ids is not None and self.uses_token_types:
            options["token_type_ids"] = token_type_ids
        if self.architecture.counts_columns:
            before = (attention_mask.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)  # padding on the left
            columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
            options["position_ids"] = (columns - before).clamp(min=0)
        with self.rounding():
            hidden = self.base(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **options)[0]
        return hidden.to(self.device)

    def decoder_start(self, batch: int) -> Tensor:
        """The embedding of the token that decoding starts from, [batch, 1, E] (encoder-decoder models)."""
        start = self.config.decoder_start_token_id
        start = self.pad_id if start is None else start
        return self.embed(torch.full((batch, 1), start, device=self.device))

    def label_logits(self, hidden_rows: Tensor, word_ids: Tensor) -> Tensor:
        """The language-model head at some rows, for some words only: what the full model's logits are there.

        Args:
            hidden_rows: last hidden states [B, D]; gradients pass through to them. word_ids: int64 [K].

        Returns:
            float32 [B, K].

        Raises:
            BackboneError: the model has no language-model head.
        """
        return self._head.label_logits(hidden_rows.to(self.dtype), word_ids)

    def vocabulary_logits(self, hidden_rows: Tensor) -> Tensor:
        """`label_logits` for every word: [B, D] -> float32 [B, V], computed in the model's dtype."""
        with self.rounding():
            return self._head.vocabulary_logits(hidden_rows.to(self.dtype))

    def _encode_decode(self, inputs: Tensor, mask: Tensor, decoder_embeds: Tensor | None) -> Tensor:
        encoded = self.base.get_encoder()(inputs_embeds=inputs, attention_mask=mask)[0]
        if decoder_embeds is None:
            decoder_embeds = self.decoder_start(len(inputs))
        return self.base.get_decoder()(
            inputs_embeds=decoder_embeds,
            attention_mask=all_ones(decoder_embeds),  # without one, BART makes one and asks what is in it
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            use_cache=False,
        )[0].to(self.device)

    @cached_property
    def _head(self) -> LMHead:
        if not self.has_lm_head:
            raise BackboneError(NO_HEAD.format(name=self.name))
        return head_of(self.model, self.architecture, lambda path: self._submodule(self.model, path))

    def _submodule(self, root: nn.Module, path: str) -> nn.Module:
        try:
            return root.get_submodule(path)
        except AttributeError as error:
            raise BackboneError(
                f"The row {self.architecture.model_type!r} of the table of architectures does not fit "
                f"{self.name!r}: no module {path!r} in {type(root).__name__} ({error})."
            ) from None


def wrap(
    model: Any, tokenizer: Any = None, name: str = "in memory", *, revision: str | None = None
) -> Backbone:
    """A backbone from a model that is already in memory, with or without a language-model head.

    The model is frozen and put in eval mode in place; ALBERT and OPT are also adjusted (see `adjustments`),
    which changes nothing of what they compute. `tokenizer` may be None where only ids and rows are used.

    Raises:
        ArchitectureError: its model type has no row. BackboneError: its row does not fit it.
    """
    architecture = resolve(model.config)
    model.requires_grad_(False).eval()
    for module in model.modules():
        if getattr(module, "chunk_size_feed_forward", 0):
            module.chunk_size_feed_forward = 0  # saves memory only, and a hook would see pieces of the rows
    keep_layout(model)
    if architecture.adjust is not None:
        adjust(model.base_model, architecture.adjust)
    backbone = Backbone(model, tokenizer, architecture, name, revision, products=Products.of(model))
    _ = backbone.widths  # a row that does not fit shows here, not in the middle of a run
    return backbone


def load_backbone(
    name_or_path: str | os.PathLike[str],
    *,
    head: Literal["verbalizer", "classifier"] = "verbalizer",
    device: str = "auto",
    dtype: str = "float32",
    revision: str | None = None,
    attention: str = "sdpa",
    trust_remote_code: bool = False,
    device_map: DeviceMap | None = None,
    max_memory: Mapping[Any, Any] | None = None,
    quantization: str | None = None,
) -> Backbone:
    """Load a model and its tokenizer from a folder or the Hugging Face hub, frozen and quietly.

    Args:
        head: "verbalizer" needs the language-model head; "classifier" loads the base model only.
        device: "auto" takes cuda, then mps, then cpu; or a torch device such as "cuda:1".
        dtype: "float32", "bfloat16" or "float16".
        attention: "sdpa" (models that do not support it take "eager") or "eager".
        revision: branch, tag or commit on the hub. trust_remote_code: run code that a hub model brings.
        device_map: "auto", "balanced" or a mapping of modules to devices, in place of a device: layers on
            several devices, or offloaded ("cpu", "disk"); through accelerate. max_memory: by device.
        quantization: "8bit" or "4bit", through bitsandbytes; see `transferscope.quantization`.

    Raises:
        ArchitectureError: no row for its model type.
        BackboneError: not found, no language-model head, incomplete weights, no such device or option.
    """
    check("head", head, HEADS)
    check("dtype", dtype, DTYPES)
    check("attention", attention, ATTENTIONS)
    spread = placing(device, device_map, max_memory)
    place = None if spread else choose_device(device)
    options = {"dtype": DTYPES[dtype]} | spread | quantizing(quantization, DTYPES[dtype], place)
    if attention == "eager":  # unsaid, transformers takes sdpa where the model supports it, else eager
        options["attn_implementation"] = attention
    name = os.fspath(name_or_path)
    found = read_checkpoint(name, head, revision=revision, trust_remote_code=trust_remote_code, **options)
    placed = found.model if place is None or quantization else found.model.to(place)
    return wrap(placed, found.tokenizer, name, revision=found.revision)
