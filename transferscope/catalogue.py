"""The catalogue of indicators: what each needs, what that costs, and a page with all of them."""

from __future__ import annotations

import csv
import io
from functools import cache
from importlib import resources
from typing import Any

import indicators
from indicators import Indicator

SECONDS = "indicator_seconds.csv"

# need -> what one must have, and what it costs to get it beside the indicator itself
NEEDS: dict[str, str] = {
    "prompt": "a prompt of each task; no data, no model",
    "update": "a LoRA or IA3 adapter of each task; no data, no model",
    "anchors": "embeddings of words that both models have; no data",
    "stimulation": "a prompt of each task and the model: one forward pass of one empty text a prompt",
    "predictivity": "a prompt and labelled data of each task: a forward pass over train and dev a prompt",
    "features": "a prompt of the source and labelled data of the target: a forward pass over a sample a pair",
    "labels": "labels",
    "probabilities": "the same pass, with label words",
    "logits": "the same pass, with label words",
    "representation": "prompts of both and texts of the target: a forward pass over a sample a pair",
    "inputs": "texts of each task: one forward pass of the bare model over a sample",
    "vocabulary": "texts of each task and a tokenizer; no forward pass",
    "prompt_fisher": "a prompt and texts of each task: a forward and a backward pass over a sample",
    "ffn_fisher": "a prompt and texts of each task: a forward and a backward pass over a sample",
    "firing": "a prompt and texts of each task: a forward pass over a sample",
    "lape_mask": "a prompt and texts of three tasks or more: a forward pass over a sample",
    "mean_difference": "a prompt and labelled data of each task: a forward pass over a sample",
    "point_biserial": "a prompt and labelled data of each task: a forward pass over a sample",
    "auroc": "a prompt and labelled data of each task: a forward pass over a sample",
    "attribution": "a prompt and labelled data of each task: a forward and a backward pass over a sample",
}

FAMILIES = {
    "prompt_space": "Prompts",
    "neurons": "Neurons",
    "updates": "Weight differences",
    "label_scores": "Features and labels of the target",
    "representations": "Representations of the same texts",
    "relative": "Across models",
    "task_embeddings": "Task embeddings",
    "distributions": "Distances between data",
    "transport": "Optimal transport",
    "neuron_scores": "Other scores of neurons",
    "specificity": "Neurons of few tasks",
}


def everything() -> list[Indicator]:
    """All records, parametric ones as their templates."""
    return [*indicators.records(), *indicators.parametric()]


def cost(record: Indicator) -> str:
    """What it takes to have what an indicator needs, in words."""
    return "; ".join(dict.fromkeys(NEEDS[need] for need in record.needs))


@cache
def seconds() -> dict[str, float]:
    """Seconds of one value at the sizes of roberta-base on one core, as benchmarks/seconds.py measured."""
    file = resources.files("transferscope") / SECONDS
    if not file.is_file():
        return {}
    rows = csv.DictReader(io.StringIO(file.read_text(encoding="utf-8")))
    return {row["name"]: float(row["seconds"]) for row in rows}


def facts(record: Indicator) -> dict[str, Any]:
    """All that is known of an indicator, for people."""
    return {
        "name": record.name,
        "family": record.family,
        "needs": ", ".join(record.needs),
        "symmetric": record.symmetric,
        "range": f"[{record.bounds[0]:g}, {record.bounds[1]:g}]",
        "closer": "larger" if record.higher_is_closer else "smaller",
        "formula": record.formula,
        "chance": record.chance,
        "degenerate": record.degenerate,
        "cost": cost(record),
        "seconds": seconds().get(record.template or record.name),
        "source": record.source,
    }


def page() -> str:
    """docs/indicators.md, from the registry alone."""
    lines = [
        "# The catalogue",
        "",
        "Made from the registry by `scripts/catalogue`; do not edit. Which one: [choosing.md](choosing.md).",
        "Seconds: one value at the sizes of roberta-base, on one core (`benchmarks/seconds.py`).",
    ]
    families: dict[str, list[Indicator]] = {}
    for record in everything():
        families.setdefault(record.family, []).append(record)
    for family, records in families.items():
        lines += ["", f"## {FAMILIES.get(family, family)}"]
        for record in records:
            lines += ["", *_entry(facts(record), record)]
    return "\n".join(lines) + "\n"


def _entry(known: dict[str, Any], record: Indicator) -> list[str]:
    about = (record.function.__doc__ or "").strip().splitlines()[0]
    symmetry = (
        "a score of a source on a target"
        if record.convention == "score"
        else ("symmetric" if record.symmetric else "not symmetric")
    )
    took = "" if known["seconds"] is None else f" One value: {known['seconds']:g} s."
    return [
        f"### `{known['name']}`",
        "",
        about,
        "",
        f"- formula: {known['formula']}",
        f"- range {known['range']}, {known['closer']} is closer; {symmetry}; by chance {known['chance']}",
        f"- degenerate: {known['degenerate']}",
        f"- needs: {known['needs']} ({known['cost']}).{took}",
        f"- source: {known['source']}",
    ]
