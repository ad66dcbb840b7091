"""Plots: records -> matplotlib figures (extra `plot`). A file here adds its plots."""

import importlib
import pkgutil

from transferscope.plots.registry import kinds, pairs, plot, plotter
from transferscope.plots.writing import ENDINGS, checked_ending, render, write

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["ENDINGS", "checked_ending", "kinds", "pairs", "plot", "plotter", "render", "write"]
