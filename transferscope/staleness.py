"""Whether something that a study keeps is current, and the line that says why it is made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transferscope.fingerprints import stale_reason

Report = Callable[[str], None]


def is_current(provenance: Mapping[str, Any], inputs: Mapping[str, Any], report: Report, doing: str) -> bool:
    """Whether what is kept was made from these ``inputs``; if not, ``report`` hears why it is made again.

    The inputs that it was made from are in its ``provenance``, under "inputs". ``doing`` names the work:

    >>> is_current({"inputs": {"steps": 10}}, {"steps": 20}, print, "tuning pets seed 0")
    tuning pets seed 0 again: steps: was 10, now 20
    False
    """
    changed = stale_reason(provenance.get("inputs") or {}, inputs)
    say_again(report, doing, changed)
    return not changed


def say_again(report: Report, doing: str, changed: Sequence[str]) -> None:
    """Report that work is done again, and what ``changed`` (lines of `stale_reason`); nothing without any."""
    if changed:
        report(f"{doing} again: {'; '.join(changed)}")
