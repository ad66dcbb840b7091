"""What indicators read (their needs), and where each comes from: a task's signature, its profile, or a pair.

Of a pair are the target's data under the source's prompt: features, probabilities, representations.
"""

from __future__ import annotations

from collections.abc import Iterable

import indicators
from indicators import Indicator, UnknownIndicator
from transferscope.errors import IndicatorInputError

_BY_NAME = "`transferscope compare --study DIR --indicator NAME`"
_OF_PAIR = f"{_BY_NAME}: the target's train split under the source's prompt"
_OF_TEXTS = f"{_BY_NAME}: the task's train split"
_OF_OWN = f"{_BY_NAME}: the task's labelled train split under its own prompt"

SUPPLIERS = {
    "prompt": "`transferscope tune`, or a folder of PEFT prompts",
    "update": "a folder of PEFT LoRA or IA3 adapters",
    "stimulation": "`transferscope extract`",
    "predictivity": "`transferscope extract` with the task's data (labelled train and dev splits)",
    "features": _OF_PAIR,
    "representation": _OF_PAIR,
    "probabilities": f"{_OF_PAIR}, read by the target's label words",
    "logits": f"{_OF_PAIR}, read by the target's label words",
    "labels": f"{_BY_NAME}: the labels of the train split",
    "inputs": _OF_TEXTS,
    "vocabulary": _OF_TEXTS,
    "firing": f"{_OF_TEXTS} under its own prompt",
    "lape_mask": f"{_OF_TEXTS} under its own prompt, of three tasks or more",
    "mean_difference": _OF_OWN,
    "point_biserial": _OF_OWN,
    "auroc": _OF_OWN,
    "attribution": f"{_OF_OWN}, read by its label words or classifier",
    "prompt_fisher": f"{_OF_OWN}, read by its label words or classifier",
    "ffn_fisher": f"{_OF_OWN}, read by its label words or classifier",
    "anchors": "the input embeddings of the tokens that two backbones share",
}

# Arrays of a pair: a source's prompt on a target's data. Labels beside them are the target's.
PAIR = frozenset({"features", "representation", "probabilities", "logits"})

# Arrays of a task's profile, by the pass over its data that gives them.
PROFILE = {
    "texts": ("inputs", "labels", "vocabulary"),
    "activity": ("firing", "mean_difference", "point_biserial", "auroc"),
    "gradients": ("attribution", "prompt_fisher", "ffn_fisher"),
}

# Made of the arrays of all tasks, by the part that those come from.
OF_ALL_TASKS = {"lape_mask": "activity"}

# One array a task, whatever its trials.
WITHOUT_TRIALS = frozenset({*PROFILE["texts"], *OF_ALL_TASKS})

# A generation task has none of these.
OF_CLASSES = frozenset(
    {"predictivity", "labels", "probabilities", "logits"} | {*PROFILE["activity"][1:], *PROFILE["gradients"]}
)


def record(name: str) -> Indicator:
    """The record of an indicator by name. Raises IndicatorInputError with the nearest names."""
    try:
        return indicators.get(name)
    except UnknownIndicator as error:
        raise IndicatorInputError(str(error)) from None


def of_pair(record: Indicator) -> bool:
    """Whether it reads the target's data under the source's prompt."""
    return record.convention == "score" or not PAIR.isdisjoint(record.needs)


def of_profile(record: Indicator) -> bool:
    """Whether it reads what the profiles of two tasks hold."""
    return not of_pair(record) and bool(parts(record))


def parts(record: Indicator) -> tuple[str, ...]:
    """The passes of a profile that give what it reads."""
    return tuple(
        part
        for part, needs in PROFILE.items()
        if any(need in needs or OF_ALL_TASKS.get(need) == part for need in record.needs)
    )


def supplier(need: str, task: str, kind: str) -> str:
    """Where what a task lacks comes from, or why there is none."""
    if kind == "generation" and need in OF_CLASSES:
        return f"{task!r} is a generation task, which has no classes, and {need} is of classes"
    return f"{need} comes from {SUPPLIERS.get(need, 'elsewhere')}"


def refuse(record: Indicator, task: str, kind: str, missing: Iterable[str]) -> IndicatorInputError:
    """The error for an indicator that is asked for, and a task that lacks what it reads."""
    lacking = list(missing)
    stages = "; ".join(supplier(need, task, kind) for need in lacking)
    return IndicatorInputError(
        f"the indicator {record.name!r} needs {' and '.join(record.needs)}, and {task!r} has no "
        f"{' and no '.join(lacking)}: {stages}"
    )
