"""Importers: published layouts and other tools' files -> a study. A file here adds its importers."""

import importlib
import pkgutil

from transferscope.importers.registry import Importer, ImportReport, get, importer, names

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["ImportReport", "Importer", "get", "importer", "names"]
