"""What can go wrong, as a tree:

TransferscopeError            anything this library raises on purpose
├── InputError                the user's input is wrong (the command line exits with 2); also a ValueError
│   ├── TaskError             a task's files, fields, labels or splits
│   ├── BackboneError         the model: not found, no LM head, not supported as asked
│   │   └── ArchitectureError its model type has no row in the table of architectures
│   ├── TemplateError         template, head and label words do not fit the model
│   ├── PromptError           a prompt or adapter folder cannot be used
│   ├── StudyError            the study file or the study folder
│   ├── SignatureError        signatures that do not fit each other
│   └── IndicatorInputError   an indicator is asked for without what it needs
├── StoreError                an artefact on disk is damaged or of another format version
└── WorkerError               a process that did a unit of work failed or died
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TransferscopeError(Exception):
    """Anything this library raises on purpose."""


class InputError(TransferscopeError, ValueError):
    """The user's input is wrong: one clear message, exit status 2 on the command line."""


class TaskError(InputError):
    """A task's files, fields, labels or splits are wrong."""


class BackboneError(InputError):
    """The model was not found or cannot do what was asked."""


class ArchitectureError(BackboneError):
    """The model type has no row in the table of architectures."""


class TemplateError(InputError):
    """Template, head and label words do not fit the model."""


class PromptError(InputError):
    """A prompt or adapter folder cannot be used."""


class StudyError(InputError):
    """The study file or the study folder is wrong."""


class SignatureError(InputError):
    """Signatures do not fit each other."""


class IndicatorInputError(InputError):
    """An indicator is asked for without what it needs."""


class StoreError(TransferscopeError):
    """An artefact on disk is damaged or of another format version."""


class WorkerError(TransferscopeError):
    """A process that did a unit of work failed unexpectedly, or died again and again."""


def suggest(name: str, allowed: Iterable[str]) -> str:
    """What to append to an error about an unknown name: the nearest one, then all that are allowed.

    >>> suggest("prfix", ["mask-first", "prefix"])
    "Did you mean 'prefix'? Available: mask-first, prefix."
    >>> suggest("x", [])
    'Available: none.'
    """
    names = sorted(set(allowed))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Available: {', '.join(names) or 'none'}."
