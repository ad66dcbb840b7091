"""Indicators of transferability: pure functions, arrays in and floats out, found by name in one registry.

Each module of this package is imported here by itself, so a new file with a decorated function adds an
indicator with no edit elsewhere.

>>> get("prompt_cosine_concat").function([[1.0, 0.0]], [[1.0, 1.0]])
0.7071067811865475
"""

from __future__ import annotations

import importlib
import pkgutil

from indicators.inputs import InvalidInput
from indicators.neurons import layer_groups
from indicators.registry import (
    Indicator,
    UnknownIndicator,
    get,
    indicator,
    matrix,
    names,
    parametric,
    records,
)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "Indicator",
    "InvalidInput",
    "UnknownIndicator",
    "get",
    "indicator",
    "layer_groups",
    "matrix",
    "names",
    "parametric",
    "records",
]
