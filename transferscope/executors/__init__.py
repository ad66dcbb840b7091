"""Executors: where units of work are done. A file here adds its executor."""

import importlib
import pkgutil

from transferscope.executors.registry import Executor, Executors, executor, get, make, names

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Executor", "Executors", "executor", "get", "make", "names"]
