"""How transformers' loaders are called: quietly, from a folder or the hub, with each failure as one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants as hub_constants
from huggingface_hub import utils as hub_utils
from transformers.utils import logging as hf_logging

from transferscope.errors import BackboneError, suggest

NO_HEAD = "{name!r} has no language-model head; use head: classifier"
LM_CLASSES = {
    "encoder": "AutoModelForMaskedLM",
    "decoder": "AutoModelForCausalLM",
    "encoder-decoder": "AutoModelForSeq2SeqLM",
}


def check(what: str, value: str, allowed: Iterable[str]) -> None:
    """Raises BackboneError for an option's value that is not allowed."""
    if value not in allowed:
        raise BackboneError(f"{what} is {value!r}. {suggest(str(value), allowed)}")


def choose_device(name: str) -> torch.device:
    """The device by name; "auto" takes cuda, then mps, then cpu. Raises BackboneError if it is not usable."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        allowed = suggest(name, ("auto", "cpu", "cuda", "cuda:1", "mps"))
        raise BackboneError(f"device {name!r} is not the name of a device. {allowed}") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BackboneError(f"device {name!r} cannot be used here: {first_line(error)}") from None
    return device


def find_source(name: str) -> str:
    """The folder, or the hub id; what can only be a folder must be there."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise BackboneError(f"The model folder {name!r} has no config.json.")
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise BackboneError(f"There is no model folder {name!r}.")
    return name


def ask(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a loader of transformers; what goes wrong becomes one line."""
    try:
        return function(*args, **kwargs)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        offline = " (offline mode is on)" if hub_constants.HF_HUB_OFFLINE else ""
        where = (
            ""
            if Path(name).expanduser().is_dir()
            else f"There is no such folder, and the hub did not serve it{offline}. "
        )
        raise BackboneError(f"Could not load the model {name!r}. {where}{first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type if it has none."""
    return str(error).strip().split("\n")[0] or type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """No messages and progress bars of transformers and the hub client; what was set before is restored."""
    verbosity, hub_verbosity = hf_logging.get_verbosity(), hub_utils.logging.get_verbosity()
    bars, hub_bars = hf_logging.is_progress_bar_enabled(), not hub_utils.are_progress_bars_disabled()
    hf_logging.set_verbosity_error()
    hub_utils.logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        hub_utils.logging.set_verbosity(hub_verbosity)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an environment variable may forbid bars; then they stay off
            if bars:
                hf_logging.enable_progress_bar()
            if not hub_bars:
                hub_utils.disable_progress_bars()


def refuse_random_weights(name: str, model: Any, missing: set[str], saved_from: list[str]) -> None:
    """What a checkpoint lacks, transformers fills with random numbers; here that is an error.

    Where the head is tied to the input embeddings nothing is missing; then the class that was saved tells.
    """
    keys = sorted(key for key in missing if "pooler" not in key.split("."))
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    body = [key for key in keys if key.startswith(prefix) and not key.startswith("lm_head.")]
    if body:
        raise BackboneError(f"The checkpoint {name!r} lacks weights of the model: {_some(body)}.")
    if keys:
        raise BackboneError(f"{NO_HEAD.format(name=name)} (the checkpoint lacks {_some(keys)}).")
    bare = [saved for saved in saved_from if saved.endswith("Model") and "Head" not in saved]
    if model.get_output_embeddings() is not None and bare and len(bare) == len(saved_from):
        raise BackboneError(f"{NO_HEAD.format(name=name)} (it was saved from {_some(bare)}).")


def refuse_empty_tokenizer(name: str, tokenizer: Any) -> None:
    """Without its files transformers makes up a tokenizer that knows the special tokens only."""
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) < 2:
        raise BackboneError(f"{name!r} has a model but no tokenizer files (tokenizer.json or a vocabulary).")


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@contextmanager
def attention(model: Any, implementation: str) -> Iterator[None]:
    """Run a Hugging Face model with another attention implementation ("eager" or "sdpa") for a while.

    Raises:
        BackboneError: the model does not support it.
    """
    before = model.config._attn_implementation
    if implementation == before:
        yield
        return
    try:
        try:
            with quiet():
                model.set_attn_implementation(implementation)
        except (ValueError, ImportError) as error:
            raise BackboneError(f"attention {implementation!r}: {first_line(error)}") from error
        if model.config._attn_implementation != implementation:
            raise BackboneError(f"{type(model).__name__} has no attention implementation {implementation!r}.")
        yield
    finally:
        if model.config._attn_implementation != before:
            model.set_attn_implementation(before)
