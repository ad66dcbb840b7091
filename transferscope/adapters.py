"""LoRA and IA3 adapters as weight differences, from PEFT folders. Numpy only: reading them needs no torch.

What PEFT adds to the weight matrix of a module (written as [out, in], whatever way round the module keeps it)
is scale * B A with A [r, in] and B [out, r]. scale = alpha / r, or alpha / sqrt(r) with `use_rslora`
(Kalajdzievski 2023); `rank_pattern` and `alpha_pattern` give single modules values of their own.

IA3 multiplies what a module gives, or takes, by a vector l (Liu et al., NeurIPS 2022): its change of the
weights is W times l - 1, which needs the weights. So an IA3 adapter is read as the vectors l - 1, which can
be compared with those of other IA3 adapters and with nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from transferscope import prompts as soft_prompts
from transferscope import store
from transferscope.errors import PromptError
from transferscope.prompts import CONFIG, WEIGHTS, SoftPrompt

KINDS = ("LORA", "IA3")
PREFIX = "base_model.model."  # how PEFT's wrapper calls the model inside it
MAX_BYTES = 4 * 2**30  # of one file

# What a model with a head calls the backbone: `roberta.encoder...` is `encoder...` without one. Two adapters
# of one backbone would else have no module in common.
BACKBONES = (
    "model",
    "transformer",
    "bert",
    "roberta",
    "distilbert",
    "electra",
    "deberta",
    "albert",
    "gpt_neox",
)

# Heads that are new with an adapter: no part of the backbone, so nothing that it differs in.
HEADS = ("classifier", "score", "qa_outputs", "classification_head")

FACTORS = {  # the end of a tensor's name -> which factor it is, and its axes
    ".lora_A.weight": ("A", "r, in"),
    ".lora_B.weight": ("B", "out, r"),
    ".lora_embedding_A": ("A", "r, in"),
    ".lora_embedding_B": ("B", "out, r"),
}

# Options of LoRA with which the weights differ by something else than scale * B A.
OTHER_LORA = {
    "use_dora": "DoRA also scales the weights to magnitudes of its own",
    "lora_bias": "biases are added, too",
    "use_qalora": "inputs are pooled before A",
    "alora_invocation_tokens": "it works from some tokens on, not on all",
    "monteclora_config": "samples are drawn around A",
    "layer_replication": "layers are repeated, so modules have other names",
    "target_parameters": "parameters with more than two axes are changed",
    "trainable_token_indices": "rows of the embeddings are replaced",
    "use_bdlora": "the factors hold blocks",
    "arrow_config": "it chooses between other adapters",
    "kasa_config": "the weights themselves are truncated",
}
# With these the weights themselves are changed when the adapter is made; peft can convert all but the last.
CHANGED_WEIGHTS = ("pissa", "olora", "corda", "lora_ga", "loftq")


class Factors(NamedTuple):
    """The change of one module's weights, scale * up @ down: down (A) [r, in], up (B) [out, r], float32."""

    down: np.ndarray
    up: np.ndarray
    scale: float


@dataclass(frozen=True)
class Update:
    """What an adapter changes in a model: `factors` by module; `kind` is LORA or IA3.

    A vector l - 1 of IA3 is down [1, 1] (a one) and up [n, 1]; ":in" or ":out" behind the module's name says
    whether what the module takes or what it gives is multiplied. `left_out` are the tensors of a new head.
    """

    task: str
    seed: int
    model: str
    kind: str
    factors: Mapping[str, Factors]
    left_out: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""

    def pairs(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """{module: (A [r, in], B [out, r])} float32 with the scale in B, as indicators take an update."""
        return {name: (f.down, np.float32(f.scale) * f.up) for name, f in self.factors.items()}


def load_adapter(folder: store.AnyPath) -> SoftPrompt | Update:
    """A PEFT folder of any type that can be compared. Raises PromptError."""
    kind = soft_prompts.read_config(store.place(folder)).get("peft_type")
    if kind in KINDS:
        return load_update(folder)
    if kind in soft_prompts.READABLE:
        return soft_prompts.load_prompt(folder)
    raise PromptError(
        f"{str(folder)!r} is a PEFT adapter of type {kind!r}; read are soft prompts "
        f"({', '.join(soft_prompts.READABLE)}) and weight differences ({', '.join(KINDS)})"
    )


def load_update(folder: store.AnyPath) -> Update:
    """Read a PEFT folder with a LoRA or IA3 adapter.

    The folder is untrusted: only JSON and safetensors are read; types, shapes and finiteness are checked, and
    every tensor must be understood. Raises PromptError; for an adapter whose change of the weights is not of
    the form above it names what stands in the way.
    """
    folder = store.place(folder)
    config = soft_prompts.read_config(folder)
    kind = config.get("peft_type")
    if kind not in KINDS:
        raise PromptError(
            f"{str(folder)!r} is a PEFT adapter of type {kind!r}; "
            f"weight differences are read from {' and '.join(KINDS)} folders"
        )
    _check_options(config, folder)
    path = folder / WEIGHTS
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise PromptError(f"{str(path)!r} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read")
    tensors = soft_prompts.read_tensors(folder)
    heads = [name for name in tensors if _module(name).partition(".")[0] in HEADS]
    rest = {name: tensor for name, tensor in tensors.items() if name not in heads}
    factors = (_lora if kind == "LORA" else _ia3)(rest, config, str(path))
    if not factors:
        raise PromptError(
            f"{str(path)!r} changes no module; found {', '.join(sorted(tensors)) or 'no tensor'}"
        )
    record = soft_prompts.read_record(folder)
    model = str(config.get("base_model_name_or_path") or "")
    return Update(
        task=str(record.get("task") or folder.resolve().name),
        seed=record.get("seed") or 0,
        model=model,
        kind=kind,
        factors=_of_backbone(factors),
        left_out=tuple(sorted(heads)),
        provenance={"model": model} | (record.get("provenance") or {}),
        where=str(folder),
    )


def _module(name: str) -> str:
    """A tensor's name as it is inside the model that PEFT wrapped."""
    return name.removeprefix(PREFIX)


def _of_backbone(factors: Mapping[str, Factors]) -> dict[str, Factors]:
    """The modules under names that do not depend on the head around the backbone."""
    names = {}
    for name in factors:
        parts = name.split(".")
        while len(parts) > 1 and parts[0] in BACKBONES:
            parts = parts[1:]
        names[name] = ".".join(parts)
    if len(set(names.values())) < len(names):
        return dict(factors)
    return {names[name]: factors[name] for name in factors}


def _check_options(config: Mapping[str, Any], folder: store.Place) -> None:
    """PromptError where the configuration says that weights differ by something else."""
    found = []
    if config.get("peft_type") == "LORA":
        found = [f"{name}: {why}" for name, why in OTHER_LORA.items() if config.get(name)]
        start = config.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(CHANGED_WEIGHTS):
            remedy = "path_initial_model_for_weight_conversion of peft's save_pretrained converts it"
            why = "the weights were changed when it was made"
            found.append(
                f"init_lora_weights {start!r}: {why}" + ("" if start.lower() == "loftq" else f"; {remedy}")
            )
        if config.get("bias") not in (None, "none"):
            found.append(f"bias {config['bias']!r}: biases are saved whole, not as differences")
    saved = config.get("modules_to_save") or []
    whole = [str(name) for name in (saved if isinstance(saved, list) else [saved]) if name not in HEADS]
    if whole:
        found.append(f"modules_to_save {', '.join(whole)}: saved whole, not as differences")
    if found:
        raise PromptError(f"{str(folder)!r} is no plain weight difference: {'; '.join(found)}")


def _lora(tensors: Mapping[str, Any], config: Mapping[str, Any], path: str) -> dict[str, Factors]:
    parts: dict[str, dict[str, np.ndarray]] = {}
    others = []
    for name, tensor in tensors.items():
        end = next((end for end in FACTORS if name.endswith(end)), None)
        if end is None:
            others.append(name)
            continue
        which, axes = FACTORS[end]
        array = soft_prompts.read_floats(tensor, f"{path!r}: {name}", axes)
        if which in parts.setdefault(_module(name).removesuffix(end), {}):
            raise PromptError(f"{path!r} has two factors {which} of {_module(name).removesuffix(end)!r}")
        parts[_module(name).removesuffix(end)][which] = array
    # Frozen weights of adapted embeddings, which peft saves with them.
    frozen = {f"{name}.base_layer.weight" for name in parts}
    _refuse_tensors([name for name in others if _module(name) not in frozen], path)
    scale = _scaling(config, path)
    return {name: _pair(parts[name], name, scale, path) for name in sorted(parts)}


def _refuse_tensors(names: Sequence[str], path: str) -> None:
    if names:
        shown = ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        raise PromptError(f"{path!r} is no plain weight difference: it also has {shown}")


def _pair(
    part: Mapping[str, np.ndarray], name: str, scale: Callable[[str, int], float], path: str
) -> Factors:
    if len(part) < 2:
        raise PromptError(
            f"{path!r}: {name} has a factor {next(iter(part))} and no {'AB'.strip(next(iter(part)))}"
        )
    down, up = part["A"], part["B"]
    if up.shape[1] != len(down):
        raise PromptError(
            f"{path!r}: {name} has A {list(down.shape)} and B {list(up.shape)}; expected [r, in] and [out, r]"
        )
    factor = scale(name, len(down))
    with np.errstate(over="ignore"):
        if not np.isfinite(np.float32(factor) * up).all():
            raise PromptError(f"{path!r}: {name} is not finite in float32 with its scale {factor:g}")
    return Factors(down, up, factor)


def _scaling(config: Mapping[str, Any], path: str) -> Callable[[str, int], float]:
    """A function of module and rank: what multiplies B A. PromptError if the configuration makes no sense."""
    ranks = _pattern(config, "rank_pattern", path)
    alphas = _pattern(config, "alpha_pattern", path)
    rank, alpha = (_number(config.get(name, 8), name, path) for name in ("r", "lora_alpha"))
    allowed = {rank, *ranks.values()}

    def scale(name: str, found: int) -> float:
        if found not in allowed:
            raise PromptError(
                f"{path!r}: {name} has rank {found}, but {CONFIG} says r {rank:g}"
                + (f" and rank_pattern {ranks}" if ranks else "")
            )
        own = alphas.get(_matching(alphas, name, path), alpha)
        return own / (found**0.5 if config.get("use_rslora") else found)

    return scale


def _number(value: Any, name: str, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise PromptError(f"{path!r}: {name} of {CONFIG} should be a number, found {value!r}")
    return float(value)


def _pattern(config: Mapping[str, Any], name: str, path: str) -> dict[str, float]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise PromptError(f"{path!r}: {name} of {CONFIG} should be an object, found {type(value).__name__}")
    return {key: _number(number, f"{name} {key!r}", path) for key, number in value.items()}


def _matching(patterns: Mapping[str, float], name: str, path: str) -> str:
    """The first pattern that a module's name ends with, as peft finds it (`get_pattern_key`), or the name."""
    for pattern in patterns:
        # An expression from an untrusted file can be made to run for years; these cannot.
        if len(pattern) > 300 or pattern.count("(") > 2 or len(re.findall(r"[*+?{]", pattern)) > 3:
            raise PromptError(
                f"{path!r}: the pattern {pattern[:60]!r} of alpha_pattern is too complicated to be run: "
                "at most 300 letters, 2 groups and 3 repetitions"
            )
        try:
            if re.match(rf"(.*\.)?({pattern})$", name):
                return pattern
        except (re.error, RecursionError, OverflowError) as error:
            raise PromptError(f"{path!r}: {pattern!r} of alpha_pattern is no pattern: {error}") from None
    return name


def _ia3(tensors: Mapping[str, Any], config: Mapping[str, Any], path: str) -> dict[str, Factors]:
    _refuse_tensors([name for name in tensors if not name.endswith(".ia3_l")], path)
    found = {}
    for name in sorted(tensors):
        vector = soft_prompts.read_floats(tensors[name], f"{path!r}: {name}", "out, 1] or [1, in")
        if 1 not in vector.shape:
            raise PromptError(f"{path!r}: {name} should be [out, 1] or [1, in], found {list(vector.shape)}")
        side = "out" if vector.shape[1] == 1 else "in"
        change = vector.reshape(-1, 1) - np.float32(1)
        found[f"{_module(name).removesuffix('.ia3_l')}:{side}"] = Factors(
            np.ones((1, 1), np.float32), change, 1.0
        )
    return found
