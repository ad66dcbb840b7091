"""Numbers and text on their way into a page: few digits, and no character that ends the place it is in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

DIGITS = 5
_TURNING = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])


def rounded(value: float | None) -> float | int | None:
    """To five significant digits, a whole number without its ".0"; None for what is no finite number.

    >>> rounded(0.123456789), rounded(2.0), rounded(float("nan")), rounded(None)
    (0.12346, 2, None, None)
    """
    if value is None or not math.isfinite(value):
        return None
    found = float(f"{value:.{DIGITS}g}")
    return int(found) if found.is_integer() and abs(found) < 1e15 else found


def numbers(values: np.ndarray) -> list[float | int | None]:
    """An array of any shape as a flat list, row by row, each rounded."""
    return [rounded(float(value)) for value in np.asarray(values, dtype=np.float64).reshape(-1)]


def one_way(text: str) -> str:
    """A sentence without the marks that turn the direction of all text after them.

    A name that holds one would turn the rest of the sentence; names that stand alone are isolated instead.

    >>> one_way("a \u202etask and more")
    'a task and more'
    """
    return text.translate(_TURNING)


def json_for_script(value: Mapping[str, Any]) -> str:
    r"""JSON that can stand inside a script element, whatever its strings hold.

    ``<``, ``>`` and ``&`` are written as escapes of JSON, so no string can close the element or open a
    comment; so is all that is not ASCII, with it the two line ends that JSON allows and JavaScript did not.
    Raises ValueError for a number that is not finite.

    >>> json_for_script({"a": "</script>"})
    '{"a":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
