"""Soft prompts as records and as PEFT adapter folders. Numpy only: reading prompts needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from transferscope import store
from transferscope.errors import PromptError, StoreError, StudyError

CONFIG, WEIGHTS, HEAD, RECORD = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "head.safetensors",
    "transferscope.json",
)
KEY = "prompt_embeddings"
READABLE = ("PROMPT_TUNING", "P_TUNING")
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}  # and BF16, which numpy lacks
TASK_TYPES = {"encoder": "FEATURE_EXTRACTION", "decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM"}


@dataclass(frozen=True)
class Head:
    """A linear classifier tuned with a prompt: weight [K, D], bias [K], float32."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class SoftPrompt:
    """A tuned soft prompt.

    ``rows`` [P', E] float32 are the virtual tokens (E: width of the input embeddings); the mask row of
    ``mask-first`` is not among them. ``head`` is the classifier tuned with it, None for a verbalizer.
    ``provenance`` says what it was made from: model, fingerprints, settings, scores.
    """

    rows: np.ndarray
    task: str
    seed: int = 0
    template: str = "prefix"
    head: Head | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """A digest of what enters the model: rows, head and template."""
        head = [] if self.head is None else [self.head.weight, self.head.bias]
        return store.fingerprint(self.rows, self.template, head)


def save_prompt(
    prompt: SoftPrompt, folder: store.AnyPath, *, model: str = "", kind: str = "encoder"
) -> store.Place:
    """Write a PEFT prompt-tuning folder and its record; ``peft`` itself loads it (as ``prefix``)."""
    folder = store.place(folder)
    rows = np.ascontiguousarray(prompt.rows, dtype=np.float32)
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": TASK_TYPES[kind],
        "base_model_name_or_path": model or prompt.provenance.get("model", ""),
        "num_virtual_tokens": rows.shape[0],
        "token_dim": rows.shape[1],
        "num_transformer_submodules": 1,
        "num_attention_heads": prompt.provenance.get("attention_heads", 1),
        "num_layers": prompt.provenance.get("layers", 1),
        "prompt_tuning_init": "RANDOM",
        "inference_mode": True,
    }
    record = {
        "format": store.FORMAT_VERSION,
        "task": prompt.task,
        "seed": prompt.seed,
        "template": prompt.template,
        "head": "verbalizer" if prompt.head is None else "classifier",
        "provenance": dict(prompt.provenance),
    }
    store.save_arrays(folder / WEIGHTS, {KEY: rows}, {})
    if prompt.head is not None:
        store.save_arrays(folder / HEAD, {"weight": prompt.head.weight, "bias": prompt.head.bias}, {})
    store.write_json(folder / CONFIG, config)
    # The record is written last: a folder that has it is whole.
    store.write_json(folder / RECORD, record)
    return folder


def load_prompt(folder: store.AnyPath) -> SoftPrompt:
    """Read a PEFT prompt-tuning (or P-tuning) folder, ours or anybody's.

    The folder is untrusted: only JSON and safetensors are read, and shapes and finiteness are checked. PEFT
    saves two sets of rows for an encoder-decoder and uses the first, before the encoder's input; so do we.
    Raises PromptError.
    """
    folder = store.place(folder)
    config = _config(folder)
    rows = _rows(folder, config)
    record = read_record(folder)
    provenance = dict(record.get("provenance") or {})
    provenance.setdefault("model", config.get("base_model_name_or_path") or "")
    return SoftPrompt(
        rows=rows,
        task=str(record.get("task") or folder.resolve().name),
        seed=record.get("seed") or 0,
        template=str(record.get("template") or "prefix"),
        head=_head(folder / HEAD) if record.get("head") == "classifier" else None,
        provenance=provenance,
    )


def find_prompts(folders: Iterable[store.AnyPath], depth: int = 3) -> list[store.Place]:
    """The adapter folders among ``folders`` and below them, down to ``depth`` levels, sorted, each once."""
    found: dict[store.Place, store.Place] = {}
    for start in map(store.place, folders):
        if not start.is_dir():
            raise PromptError(f"no folder {str(start)!r}: expected a PEFT adapter folder or a folder of them")
        here: list[store.Place] = [
            path.parent for level in range(depth + 1) for path in store.fitting(start, "*/" * level + CONFIG)
        ]
        if not here:
            raise PromptError(
                f"no {CONFIG} in {str(start)!r} or {depth} levels below: not a folder of PEFT adapters"
            )
        for path in here:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def read_config(folder: store.Place) -> dict[str, Any]:
    """The `adapter_config.json` of a PEFT folder, of any type. Raises PromptError."""
    return _json(folder / CONFIG)


def read_record(folder: store.Place) -> dict[str, Any]:
    """Our own record beside a prompt or adapter, {} where there is none. Raises PromptError."""
    record = _json(folder / RECORD) if (folder / RECORD).is_file() else {}
    if not isinstance(record.get("provenance") or {}, dict) or not isinstance(record.get("seed") or 0, int):
        raise PromptError(f"{str(folder / RECORD)!r}: seed should be a whole number and provenance an object")
    return record


def read_tensors(folder: store.Place) -> dict[str, Mapping[str, Any]]:
    """The tensors of a PEFT folder by name, each with dtype, shape and data (bytes). Raises PromptError."""
    path = folder / WEIGHTS
    if not path.is_file():
        hint = ""
        if (folder / "adapter_model.bin").is_file():
            hint = "; adapter_model.bin (pickle) is not read: save it with peft's safe_serialization=True"
        raise PromptError(f"no {WEIGHTS} in {str(folder)!r}{hint}")
    try:
        return dict(deserialize(store.local(path).read_bytes()))
    except StudyError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise PromptError(f"{str(path)!r} cannot be read as safetensors: {error}") from None


def read_floats(tensor: Mapping[str, Any], label: str, axes: str) -> np.ndarray:
    """A tensor of `read_tensors` as float32 with two axes, named for the error. Raises PromptError."""
    dtype, shape = tensor["dtype"], tuple(tensor["shape"])
    if len(shape) != 2 or 0 in shape or dtype not in (*FLOATS, "BF16"):
        raise PromptError(f"{label} should be floats of shape [{axes}], found {dtype} {shape}")
    if dtype == "BF16":  # the upper half of a float32
        rows = (np.frombuffer(tensor["data"], "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused below
            rows = np.frombuffer(tensor["data"], FLOATS[dtype]).astype(np.float32)
    if not np.isfinite(rows).all():
        raise PromptError(f"{label} has NaN or infinite values")
    return rows.reshape(shape)


def _json(path: store.Place) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PromptError(f"no {path.name} in {str(path.parent)!r}: not a PEFT adapter folder") from None
    except StudyError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise PromptError(f"{str(path)!r} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise PromptError(f"{str(path)!r} should hold a JSON object, found {type(value).__name__}")
    return value


def _config(folder: store.Place) -> dict[str, Any]:
    config = read_config(folder)
    if config.get("peft_type") not in READABLE:
        raise PromptError(
            f"{str(folder)!r} is a PEFT adapter of type {config.get('peft_type')!r}; "
            f"soft prompts are read from {' and '.join(READABLE)} folders"
        )
    return config


def _rows(folder: store.Place, config: Mapping[str, Any]) -> np.ndarray:
    path, tensors = folder / WEIGHTS, read_tensors(folder)
    if KEY not in tensors:
        raise PromptError(
            f"{str(path)!r} has no tensor {KEY!r}; found {', '.join(sorted(tensors)) or 'none'}"
        )
    rows = read_floats(tensors[KEY], f"{str(path)!r}: {KEY}", "rows, width")
    tokens = _count(config, "num_virtual_tokens", rows.shape[0], folder)
    if rows.shape[0] not in (tokens, tokens * _count(config, "num_transformer_submodules", 1, folder)):
        raise PromptError(
            f"{str(path)!r}: {rows.shape[0]} rows, but {CONFIG} says num_virtual_tokens {tokens}"
        )
    return rows[:tokens]


def _count(config: Mapping[str, Any], name: str, default: int, folder: store.Place) -> int:
    value = config.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PromptError(
            f"{str(folder / CONFIG)!r}: {name} should be a whole number of at least 1, found {value!r}"
        )
    return value


def _head(path: store.Place) -> Head:
    try:
        arrays, _ = store.load_arrays(path)
        weight, bias = arrays["weight"], arrays["bias"]
    except (StudyError, StoreError, KeyError) as error:
        raise PromptError(f"the classifier head {str(path)!r} cannot be read: {error}") from None
    floats = all(part.dtype.kind == "f" and np.isfinite(part).all() for part in (weight, bias))
    if not floats or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise PromptError(
            f"{str(path)!r} should hold finite floats weight [classes, width] and bias [classes], "
            f"found {weight.dtype} {weight.shape} and {bias.dtype} {bias.shape}"
        )
    return Head(weight.astype(np.float32), bias.astype(np.float32))
