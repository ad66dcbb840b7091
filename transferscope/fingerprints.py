"""Objects as text: in JSON's own types, as fingerprints alike in every process, and as what has changed."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import os
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np


def json_ready(value: Any) -> Any:
    """`value` in JSON's own types: arrays as lists, records as objects, NaN and infinity as null.

    Raises TypeError for what has no faithful JSON form.
    """
    if isinstance(value, enum.Enum):
        return json_ready(value.value)
    if isinstance(value, np.generic | np.ndarray):
        return json_ready(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: json_ready(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_json_key(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, AbstractSet):
        return sorted((json_ready(item) for item in value), key=json.dumps)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"cannot write a {type(value).__name__} as JSON: {value!r:.80}")


def _json_key(key: Any) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    raise TypeError(f"cannot use a {type(key).__name__} as a JSON key: {key!r:.80}")


def fingerprint(*objects: Any) -> str:
    """32 hex digits that depend on the objects' content alone, the same in every process, on every machine.

    Takes None, bool, numbers, str, bytes, paths, enums, numpy arrays (by dtype, shape, content), dataclasses
    and pydantic models (by class name and fields), sequences (a tuple equals a list), sets and mappings (in
    any order). Raises TypeError for anything else.

    >>> fingerprint({"a": 1, "b": (2.0,)}) == fingerprint({"b": [2.0], "a": 1})
    True
    >>> fingerprint(1) == fingerprint(1.0)
    False
    """
    return hashlib.sha256(_canonical(objects).encode()).hexdigest()[:32]


def _canonical(value: Any) -> str:
    """A text which two objects share only if they are equal in content; every kind has a tag of its own."""
    if isinstance(value, enum.Enum):
        return f"enum {type(value).__name__} {_canonical(value.value)}"
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | str):
        return json.dumps(value)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return f"float {float(value)!r}"
    if isinstance(value, bytes | bytearray):
        return f"bytes {hashlib.sha256(value).hexdigest()}"
    if isinstance(value, np.ndarray):
        return _canonical_array(value)
    if isinstance(value, os.PathLike):
        return f"path {json.dumps(os.fspath(value))}"
    return _canonical_collection(value)


def _canonical_array(array: np.ndarray) -> str:
    if array.dtype.kind not in "biufcSU":
        raise TypeError(f"cannot fingerprint an array of dtype {array.dtype}")
    little = np.asarray(array, order="C")
    little = little.astype(little.dtype.newbyteorder("<"), copy=False)
    content = hashlib.sha256(little.tobytes()).hexdigest()
    return f"array {little.dtype.str} {list(little.shape)} {content}"


def _canonical_collection(value: Any) -> str:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return f"record {type(value).__name__} {_canonical(fields)}"
    if hasattr(value, "model_dump") and not isinstance(value, type):
        return f"record {type(value).__name__} {_canonical(value.model_dump())}"
    if isinstance(value, Mapping):
        items = sorted((_canonical(key), _canonical(item)) for key, item in value.items())
        return "{" + ",".join(f"{key}:{item}" for key, item in items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_canonical(item) for item in value) + "]"
    if isinstance(value, AbstractSet):
        return "set [" + ",".join(sorted(_canonical(item) for item in value)) + "]"
    raise TypeError(f"cannot fingerprint a {type(value).__name__}: {value!r:.80}")


def stale_reason(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Which inputs of an artefact differ from the ones it was made from, one readable line each; [] if none.

    >>> stale_reason({"model": "a", "settings": {"steps": 10}}, {"model": "a", "settings": {"steps": 20}})
    ['settings.steps: was 10, now 20']
    """
    old, new = json_ready(stored), json_ready(current)
    return [line for key in [*new, *(k for k in old if k not in new)] for line in _changes(key, old, new)]


def _changes(key: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    if key not in old:
        return [f"{key}: new, {_short(new[key])}"]
    if key not in new:
        return [f"{key}: was {_short(old[key])}, no longer there"]
    before, after = old[key], new[key]
    if isinstance(before, dict) and isinstance(after, dict):
        return [f"{key}.{line}" for line in stale_reason(before, after)]
    if fingerprint(before) == fingerprint(after):
        return []
    return [f"{key}: was {_short(before)}, now {_short(after)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
