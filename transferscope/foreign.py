"""Prompts of other tools: which format a file or folder has is found out from what it holds.

Foreign files are untrusted. No pickled object is built (`weights_only`), compressed torch files are refused,
and dtype, shape, size and finiteness are checked before rows are handed on. A new format is one row in
READERS.
"""

from __future__ import annotations

import json
import math
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transferscope.errors import PromptError, suggest
from transferscope.prompts import CONFIG, KEY, TASK_TYPES, WEIGHTS

MAX_NUMBERS = 2**26  # of one prompt: 256 MiB of float32
MAX_BYTES = 4 * 2**30  # of one file
BIN = "adapter_model.bin"
# The last part of a tensor's name, in files with several: PEFT, OpenPrompt's SoftTemplate, Skill-Neuron.
NAMES = (KEY, "soft_embeds", "prompt")
COLS, ROWS = "prefix_task_cols", "prefix_task_rows"
PEFT_TYPES = ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING")
NO_ROWS = {
    "PREFIX_TUNING": "keys and values for each layer",
    "CPT": "changes of the rows of a given text",
    "LORA": "changes of weight matrices",
    "IA3": "factors for activations",
}


@dataclass(frozen=True)
class ForeignPrompt:
    """What a file holds: rows [P, E] float32, the format, and what else it tells (empty where it does not).

    `template` is where its tool puts the rows, `model` the backbone that the file names, and `kind` what sort
    of model that is (encoder, decoder, encoder-decoder).
    """

    rows: np.ndarray
    format: str
    template: str = "prefix"
    model: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Choice:
    """What the user says about a file with several tensors or several tasks."""

    key: str | None = None
    task_id: int | None = None


@dataclass(frozen=True)
class Reader:
    """One format: its name, what it is, whether a path (with its first bytes) is of it, how it is read."""

    name: str
    what: str
    fits: Callable[[Path, bytes], bool]
    read: Callable[[Path, Choice], ForeignPrompt]


def read_rows(path: Path | str, *, key: str | None = None, task_id: int | None = None) -> np.ndarray:
    """The rows [P, E] float32 of one foreign prompt: `read_prompt`, without what else it tells."""
    return read_prompt(path, key=key, task_id=task_id).rows


def read_prompt(path: Path | str, *, key: str | None = None, task_id: int | None = None) -> ForeignPrompt:
    """One foreign prompt, in any format of READERS.

    `key` names the tensor where a file has several; `task_id` the task of a multitask prompt (PEFT). Raises
    PromptError, which lists what was found.
    """
    path = Path(path)
    if path.is_file() and (path.parent / CONFIG).is_file() and path.name in (WEIGHTS, BIN):
        path = path.parent  # the configuration beside it says how to read it
    if not path.exists():
        raise PromptError(f"no file or folder {str(path)!r}")
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise PromptError(f"{str(path)!r} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read")
    start = _start(path)
    for reader in READERS:
        if reader.fits(path, start):
            if task_id is not None and reader.name != "peft":
                raise PromptError(
                    f"{str(path)!r} is {reader.name}: only a multitask prompt of PEFT has a task id"
                )
            return reader.read(path, Choice(key, task_id))
    formats = "; ".join(f"{reader.name}: {reader.what}" for reader in READERS)
    found = f"a folder of {_listed(path)}" if path.is_dir() else f"a file that starts with {start[:8]!r}"
    raise PromptError(
        f"{str(path)!r} is no prompt in a format that is read; found {found}. Read are {formats}"
    )


def _start(path: Path) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(16)


def _listed(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") or "nothing"


def checked_rows(value: np.ndarray, where: str) -> np.ndarray:
    """An array as rows [P, E] float32, leading dimensions of one dropped. Raises PromptError."""
    shape = _two(value.shape)
    if shape is None or value.dtype.kind != "f":
        raise PromptError(
            f"{where} should be floats of shape [rows, width], found {value.dtype} {list(value.shape)}"
        )
    if math.prod(shape) > MAX_NUMBERS:
        raise PromptError(f"{where} has {math.prod(shape)} numbers; a prompt has at most {MAX_NUMBERS}")
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused below
        rows = np.array(value.reshape(shape), dtype=np.float32, order="C")
    if not np.isfinite(rows).all():
        raise PromptError(f"{where} has NaN or infinite values")
    return rows


def _two(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """[P, E] of [1, .., 1, P, E]; None if it has more to it, or is empty."""
    if len(shape) < 2 or 0 in shape or any(size != 1 for size in shape[:-2]):
        return None
    return shape[-2], shape[-1]


def _read_npy(path: Path, choice: Choice) -> ForeignPrompt:
    if choice.key is not None:
        raise PromptError(f"{str(path)!r} is npy: an array has no key, found {choice.key!r}")
    try:
        # Mapped, so that shape and dtype are checked before anything is read.
        array = np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise PromptError(f"{str(path)!r} cannot be read as a numpy array: {_line(error)}") from None
    return ForeignPrompt(checked_rows(array, repr(str(path))), "npy")


@dataclass(frozen=True)
class Contents:
    """The tensors of a file: name -> (dtype, shape, whether floats), how to get one; what else is there."""

    tensors: Mapping[str, tuple[str, tuple[int, ...], bool]]
    get: Callable[[str], Any]
    others: frozenset[str] = frozenset()

    def __str__(self) -> str:
        parts = [
            f"{name or 'one tensor'} {kind} {list(shape)}" for name, (kind, shape, _) in self.tensors.items()
        ]
        parts += [f"{name} (no tensor)" for name in sorted(self.others)]
        return (
            ", ".join(parts[:12]) + (f" and {len(parts) - 12} more" if len(parts) > 12 else "") or "nothing"
        )


def _rows(contents: Contents, name: str, where: str) -> np.ndarray:
    import torch

    label = f"{where}: {name}" if name else where
    kind, shape, floats = contents.tensors[name]
    if _two(shape) is None or not floats or math.prod(shape) > MAX_NUMBERS:
        raise PromptError(
            f"{label} should be floats of shape [rows, width] and at most {MAX_NUMBERS} numbers, "
            f"found {kind} {list(shape)}"
        )
    return checked_rows(contents.get(name).detach().to(torch.float32).numpy(), label)


def _safetensors(path: Path) -> Contents:
    from safetensors import SafetensorError, safe_open

    def get(name: str) -> Any:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)

    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in sorted(file.keys())}
            tensors = {
                name: (part.get_dtype(), tuple(part.get_shape()), part.get_dtype().startswith(("F", "BF")))
                for name, part in slices.items()
            }
    except (SafetensorError, OSError, ValueError) as error:
        raise PromptError(f"{str(path)!r} cannot be read as safetensors: {_line(error)}") from None
    return Contents(tensors, get)


def _torch(path: Path) -> Contents:
    """What a torch file holds: one tensor (named ""), or those of nested mappings under dotted names."""
    import torch

    tensors: dict[str, Any] = {}
    others: set[str] = set()
    seen: set[int] = set()

    def walk(name: str, item: Any, depth: int) -> None:
        if isinstance(item, torch.Tensor) and item.layout is torch.strided and item.device.type == "cpu":
            tensors[name] = item
        elif isinstance(item, Mapping) and depth < 3 and id(item) not in seen:
            seen.add(id(item))
            for part, inner in item.items():
                walk(f"{name}.{part}" if depth else str(part), inner, depth + 1)
        else:
            others.add(name or type(item).__name__)

    walk("", _load(path), 0)
    known = {
        name: (str(t.dtype).removeprefix("torch."), tuple(t.shape), t.is_floating_point())
        for name, t in sorted(tensors.items())
    }
    return Contents(known, tensors.__getitem__, frozenset(others))


def _load(path: Path) -> Any:
    """What torch makes of a file without building a single object that is not plain data."""
    import torch

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                packed = [
                    one.filename for one in archive.infolist() if one.compress_type != zipfile.ZIP_STORED
                ]
            if packed:  # torch never compresses; a small file could unpack to any size
                raise ValueError(f"a compressed zip archive ({packed[0]}), which torch does not write")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old storages, which is what old files have
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise PromptError(f"{str(path)!r} cannot be read as a torch file: {_refused(error)}") from None


def _refused(error: Exception) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named:
        return f"it holds a pickled object ({named[1]}), and only tensors are read; nothing was executed"
    return _line(error)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _chosen(contents: Contents, key: str | None, where: str) -> str:
    """The name of the tensor that is the prompt. Raises PromptError, which lists what there is."""
    if key is not None:
        if key not in contents.tensors:
            raise PromptError(f"{where} has no tensor {key!r}. {suggest(key, contents.tensors)}")
        return key
    if (
        any("mlp_head" in name or "lstm_head" in name for name in contents.tensors)
        and KEY not in contents.tensors
    ):
        raise PromptError(
            f"{where} holds the encoder of P-tuning, not the rows that it makes: save it with peft's "
            f"save_pretrained, which writes {KEY}"
        )
    fitting = [name for name, (_, shape, floats) in contents.tensors.items() if floats and _two(shape)]
    named = [name for name in fitting if name.rpartition(".")[2] in NAMES] or fitting
    if any(name.endswith("soft_embedding.weight") for name in named):
        raise PromptError(
            f"{where} is of a template whose soft tokens stand between words (OpenPrompt's MixedTemplate): "
            f"they are not rows of a prompt before the text; found {contents}"
        )
    if len(named) != 1:
        found = f"{len(named)} that could be one" if named else "none"
        raise PromptError(
            f"{where}: expected one prompt [rows, width], found {found}: {contents}. Name it with key"
        )
    return named[0]


def _read_safetensors(path: Path, choice: Choice) -> ForeignPrompt:
    contents = _safetensors(path)
    if COLS in contents.tensors:
        raise PromptError(f"{str(path)!r} is a multitask prompt of PEFT: give its folder, with {CONFIG}")
    return ForeignPrompt(
        _rows(contents, _chosen(contents, choice.key, repr(str(path))), str(path)), "safetensors"
    )


def _read_torch(path: Path, choice: Choice) -> ForeignPrompt:
    contents = _torch(path)
    name = _chosen(contents, choice.key, repr(str(path)))
    rows = _rows(contents, name, str(path))
    if name.rpartition(".")[2] == "soft_embeds":
        return ForeignPrompt(rows, "openprompt")
    if name == "prompt" and ("pos" in contents.others or "pos" in contents.tensors):
        # Skill-Neuron keeps the mask row, which stands first, out of `prompt`; `pos` are the label words.
        return ForeignPrompt(rows, "skill-neuron", "mask-first")
    return ForeignPrompt(rows, "torch")


def _read_peft(folder: Path, choice: Choice) -> ForeignPrompt:
    """A PEFT folder; of two sets of rows for an encoder-decoder PEFT uses the first, and so do we."""
    config = _peft_config(folder)
    file = next((folder / name for name in (WEIGHTS, BIN) if (folder / name).is_file()), None)
    if file is None:
        raise PromptError(f"no {WEIGHTS} or {BIN} in {str(folder)!r}; found {_listed(folder)}")
    contents = _safetensors(file) if file.name == WEIGHTS else _torch(file)
    rows = _rows(
        contents,
        _chosen(contents, choice.key or KEY if KEY in contents.tensors else None, repr(str(file))),
        str(file),
    )
    if config["peft_type"] == "MULTITASK_PROMPT_TUNING":
        rows = _multitask(contents, rows, choice.task_id, str(file))
    elif choice.task_id is not None:
        raise PromptError(
            f"{str(folder)!r} is {config['peft_type']}: only a multitask prompt of PEFT has a task id"
        )
    tokens = config.get("num_virtual_tokens", len(rows))
    if not isinstance(tokens, int) or tokens < 1 or len(rows) not in (tokens, 2 * tokens):
        raise PromptError(f"{str(file)!r}: {len(rows)} rows, but {CONFIG} says num_virtual_tokens {tokens!r}")
    kind = next((kind for kind, task in TASK_TYPES.items() if task == config.get("task_type")), "")
    model = config.get("base_model_name_or_path")
    return ForeignPrompt(rows[:tokens], "peft", "prefix", model if isinstance(model, str) else "", kind)


def _peft_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PromptError(f"{str(folder / CONFIG)!r} cannot be read as JSON: {_line(error)}") from None
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind not in PEFT_TYPES:
        why = (
            f", which holds {NO_ROWS[kind]}, no prompt rows"
            if isinstance(kind, str) and kind in NO_ROWS
            else ""
        )
        raise PromptError(
            f"{str(folder)!r} is a PEFT adapter of type {kind!r}{why}; prompts are read from "
            f"{', '.join(PEFT_TYPES)}"
        )
    return config


def _multitask(contents: Contents, shared: np.ndarray, task_id: int | None, where: str) -> np.ndarray:
    """The effective prompt of one task: shared [P, E] * (cols[task] [P, r] @ rows[task] [r, E]).

    As PEFT's MultitaskPromptEmbedding.forward (Wang et al., ICLR 2023, eq. 1, there with rank 1).
    """
    missing = [name for name in (COLS, ROWS) if name not in contents.tensors]
    if missing:
        raise PromptError(f"{where}: a multitask prompt without {' and '.join(missing)}; found {contents}")
    shapes = [contents.tensors[name][1] for name in (COLS, ROWS)]
    (cols, rows), (p, e) = shapes, shared.shape
    if len(cols) != 3 or rows[:1] + rows[2:] != (cols[0], e) or cols[1:] != (p, rows[1]):
        raise PromptError(
            f"{where}: {COLS} {list(cols)} and {ROWS} {list(rows)} do not fit prompt rows {[p, e]}: expected "
            "[tasks, rows, rank] and [tasks, rank, width]"
        )
    if task_id is None and cols[0] == 1:
        task_id = 0
    if task_id is None or not 0 <= task_id < cols[0]:
        raise PromptError(
            f"{where} is a prompt for {cols[0]} tasks: task id 0 to {cols[0] - 1}, found {task_id}"
        )
    left, right = (contents.get(name)[task_id].detach().float().numpy() for name in (COLS, ROWS))
    return checked_rows(shared * (left @ right), f"{where}: the prompt of task {task_id}")


def _is_torch(path: Path, start: bytes) -> bool:
    return start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05")


def _is_safetensors(path: Path, start: bytes) -> bool:
    size = int.from_bytes(start[:8], "little")
    return len(start) > 8 and start[8:9] == b"{" and 2 <= size <= path.stat().st_size - 8


READERS = (
    Reader(
        "peft",
        "a folder of prompt tuning, P-tuning or multitask prompt tuning",
        lambda p, s: (p / CONFIG).is_file(),
        _read_peft,
    ),
    Reader("npy", "a numpy array [rows, width] (SPoT)", lambda p, s: s[:6] == b"\x93NUMPY", _read_npy),
    Reader("safetensors", "a file with one prompt", _is_safetensors, _read_safetensors),
    Reader(
        "torch", "a tensor, or a mapping with one prompt (Skill-Neuron, OpenPrompt)", _is_torch, _read_torch
    ),
)
