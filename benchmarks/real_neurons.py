"""Skill neurons of a real model, perturbed: a page with the random-initialised control beside it.

    python benchmarks/real_neurons.py --study STUDY --control DIR --page docs/real-neurons.md --task mpqa ...

STUDY is that of `real_model.py`. In DIR a model of the same configuration with random weights is made, and
prompts are tuned on it with the study's settings (two seeds: a control needs fewer). Everything is kept; a
second call writes the page again.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
import yaml

from transferscope import neuron_study
from transferscope.perturbation_curves import PerturbationReport, TaskCurves
from transferscope.perturbation_plan import BOTTOM, CONDITIONS, SKILL, PerturbationSettings
from transferscope.perturbing import perturb
from transferscope.pipeline import Pipeline, open_study
from transferscope.specificity import SpecificityReport
from transferscope.store import write_text

RATES = (0.1, 0.2)
SEEDS = 2  # of the control


def control(study: Pipeline, folder: Path, tasks: Sequence[str]) -> Pipeline:
    """The same study, of some tasks, on a model of the same configuration with random weights (seed 0)."""
    file = folder / "study.yaml"
    if not file.is_file():
        source, weights = study.settings.model.name, folder / "model"
        torch.manual_seed(0)
        config = transformers.AutoConfig.from_pretrained(source)
        transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(weights)
        transformers.AutoTokenizer.from_pretrained(source).save_pretrained(weights)
        described = yaml.safe_load((study.study.folder / "study.yaml").read_text(encoding="utf-8"))
        described |= {"model": "model", "measure": False, "seeds": SEEDS}
        described["tasks"] = {name: described["tasks"][name] for name in tasks}
        described.pop("indicators", None)
        write_text(file, yaml.safe_dump(described, sort_keys=False))
    return open_study(folder, report=_say)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def page(study: Pipeline, beside: Pipeline, tasks: Sequence[str], command: str) -> str:
    """The page as Markdown; what is missing is tuned, extracted and perturbed first."""
    settings = PerturbationSettings("noise", rates=RATES)
    own, random = (perturb(one, tasks, settings) for one in (study, beside))
    seeds = len(study.settings.seeds)
    about = (
        f"The model and the prompts are those of `benchmarks/real_model.py`, {seeds} prompts a task. "
        f"Gaussian noise of sd {settings.sd} (as in the paper) on the neurons of every layer with the "
        "highest predictivity, on all rows, against as many random neurons of the same layers "
        f"({settings.draws} draws a prompt) and those of the lowest predictivity. The control is a model "
        f"of the same configuration with random weights, with {SEEDS} prompts a task tuned on it in the "
        "same way and skill neurons found there. This page is written by the command; its numbers and "
        "sentences are those of one run."
    )
    reports = [("trained", own), ("random", random)]
    specific = neuron_study.compare_tasks(study)
    parts = [
        f"# {TITLE}\n\n    {command}\n\n{_fold(about)}",
        f"## Do they matter more than random neurons?\n\n{_fold(EXPLAINED)}\n\n{_areas(reports)}",
        "## In words\n\n" + _words(own, random),
        "## Curves\n\nAccuracy, mean over prompts and draws, with 95 % intervals over prompts.\n\n"
        + "\n\n".join(_curves(report) for _, report in reports),
        _specificity(specific),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


TITLE = "Skill neurons of a real model, perturbed"
EXPLAINED = (
    "Area: mean over the rates of (accuracy under random neurons - accuracy under skill neurons); "
    "positive where skill neurons matter more. The interval and p are paired over prompts and draws (p: "
    "sign flips, corrected by Holm over the tasks of one model), so they hold with these prompts; the "
    "interval over prompts draws the prompts anew. Bottom: the same area for the neurons of the lowest "
    "predictivity, which should not be above 0."
)


def _areas(reports: Iterable[tuple[str, PerturbationReport]]) -> str:
    rows = []
    for weights, report in reports:
        for one in report.tasks:
            skill, bottom = one.area(SKILL), one.area(BOTTOM)
            if skill is None:
                continue
            rows.append(
                (
                    *(one.task, weights, one.unperturbed, one.majority, skill.mean),
                    *(_ends(skill.low, skill.high), skill.p_holm if skill.p_holm is not None else skill.p),
                    *(_ends(skill.prompts_low, skill.prompts_high), None if bottom is None else bottom.mean),
                )
            )
    columns = (
        "task",
        "weights",
        "unperturbed",
        "majority",
        "area",
        "95 %",
        "p",
        "over prompts",
        "bottom",
    )
    return _table(columns, rows)


def _words(own: PerturbationReport, random: PerturbationReport) -> str:
    works = [one for one in own.tasks if not one.weak]
    lines = [
        f"Prompts better than the majority class: {_names(works)} of {_names(own.tasks)} on the trained "
        f"model, "
        f"{_names([one for one in random.tasks if not one.weak])} on random weights.",
        _verdict("Trained model", works),
        _verdict("Random weights", random.tasks),
    ]
    return "\n".join(_fold(f"- {line}", "  ") for line in lines)


def _verdict(what: str, tasks: Sequence[TaskCurves]) -> str:
    areas = [(one, area) for one in tasks if (area := one.area(SKILL)) is not None and area.low is not None]
    more = [one for one, area in areas if area.low > 0]  # type: ignore[operator]
    less = [one for one, area in areas if area.high < 0]  # type: ignore[operator]
    open_ = [one for one, _ in areas if one not in more and one not in less]
    return (
        f"{what}: skill neurons matter more than random ones (interval above 0) for {_names(more)}; less for "
        f"{_names(less)}; not told apart for {_names(open_)}."
    )


def _names(tasks: Sequence[TaskCurves]) -> str:
    return ", ".join(one.task for one in tasks) or "none"


def _curves(report: PerturbationReport) -> str:
    rows = []
    for one in report.tasks:
        for condition in CONDITIONS:
            points = [one.point(condition, rate) for rate in RATES]
            rows.append((one.task, condition, one.unperturbed, *(_interval(point) for point in points)))
    columns = ("task", "neurons", "0", *(f"{rate:g}" for rate in RATES))
    return f"**{Path(report.model).name}**\n\n{_table(columns, rows)}"


def _specificity(report: SpecificityReport) -> str:
    rows = [
        (one.measure, one.basis, one.group, one.mean, _ends(one.low, one.high), one.chance, one.pairs)
        for one in report.groups
        if one.measure in ("spearman", "share")
    ]
    columns = ("measure", "basis", "group", "mean", "95 % over tasks", "chance", "pairs")
    return (
        "## Are they a task's own?\n\nAll tasks of the study (`transferscope neurons --study STUDY`).\n\n"
        f"{_table(columns, rows)}"
    )


def _interval(point: object) -> str:
    mean, low, high = (getattr(point, key) for key in ("mean", "low", "high"))
    return f"{mean:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"


def _fold(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 130, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = (
            f"{c:.3f}" if isinstance(c, float | np.floating) else "" if c is None else str(c) for c in row
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--study", required=True, type=Path, help="the study of real_model.py")
    parser.add_argument("--control", required=True, type=Path, help="folder for the control")
    parser.add_argument("--page", required=True, type=Path, help="the Markdown page to write")
    parser.add_argument("--task", dest="tasks", action="append", help="can be repeated; default all")
    given = parser.parse_args()
    study = open_study(given.study, report=_say)
    tasks = given.tasks or list(study.settings.tasks)
    command = "python benchmarks/real_neurons.py --study STUDY --control CONTROL --page docs/real-neurons.md"
    command += "".join(f" --task {name}" for name in given.tasks or ())
    write_text(given.page, page(study, control(study, given.control, tasks), tasks, command))


if __name__ == "__main__":
    main()
