"""Reading a checkpoint: model, tokenizer and configuration, through transformers' loaders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import transformers

from transferscope.architectures import get
from transferscope.loading import (
    LM_CLASSES,
    ask,
    find_source,
    quiet,
    refuse_empty_tokenizer,
    refuse_random_weights,
)
from transferscope.pruned import PrunedModel, is_pruned


@dataclass(frozen=True)
class Checkpoint:
    """A stock model with its tokenizer; ``revision``: the commit that the hub served, or as asked."""

    model: Any
    tokenizer: Any
    revision: str | None


def read_checkpoint(
    name: str, head: str, *, revision: str | None, trust_remote_code: bool, **options: Any
) -> Checkpoint:
    """Read a folder or a hub id, quietly; ``options`` are those of ``from_pretrained``.

    ``head``: "verbalizer" takes the model with its language-model head, "classifier" without. Raises
    ArchitectureError where its model type has no row, BackboneError where something is missing.
    """
    source = find_source(name)
    where: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    with quiet():
        fields, _ = ask(name, transformers.PreTrainedConfig.get_config_dict, source, revision=revision)
        row = get(fields.get("model_type") or "(none in config.json)")
        loader = getattr(transformers, LM_CLASSES[row.kind] if head == "verbalizer" else "AutoModel")
        options |= where | {"output_loading_info": True}
        if is_pruned(source):
            model, info = PrunedModel.from_pretrained(source, auto=loader, **options)
        else:
            model, info = ask(name, loader.from_pretrained, source, **options)
        tokenizer = ask(name, transformers.AutoTokenizer.from_pretrained, source, **where)
    refuse_random_weights(name, model, set(info["missing_keys"]), fields.get("architectures") or [])
    refuse_empty_tokenizer(name, tokenizer)
    return Checkpoint(model, tokenizer, getattr(model.config, "_commit_hash", None) or revision)
