"""Skill neurons of a real model, perturbed: a page with the random-initialised control beside it.

    python benchmarks/real_neurons.py --study STUDY --control DIR --page docs/real-neurons.md --task mpqa ...

STUDY is that of `real_model.py`. In DIR a model of the same configuration with random weights is made, and
prompts are tuned on it with the study's settings (two seeds: a control needs fewer). Everything is kept; a
second call writes the page again. The picture goes beside the page.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import transformers
import yaml

from transferscope import neuron_study, plots
from transferscope.perturbation_curves import PerturbationReport, TaskCurves
from transferscope.perturbation_plan import BOTTOM, CONDITIONS, SKILL, PerturbationSettings
from transferscope.perturbing import perturb
from transferscope.pipeline import Pipeline, open_study
from transferscope.specificity import SpecificityReport
from transferscope.store import write_text

PAPER = PerturbationSettings("noise", rates=(0.1, 0.2))
EVERYWHERE = PerturbationSettings("mean", rows="all", rates=(0.05, 0.2, 0.4), draws=3)
ABLATED = PerturbationSettings("mean", rows="prompt", rates=(0.05, 0.1, 0.2, 0.4), held_out=True)
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


@dataclass(frozen=True)
class Way:
    """One way of perturbing: the trained model and the control beside it."""

    title: str
    about: str
    trained: PerturbationReport
    control: PerturbationReport

    @classmethod
    def of(
        cls, title: str, about: str, settings: PerturbationSettings, *on: tuple[Pipeline, list[str]]
    ) -> Way:
        """Both models perturbed, each on its own tasks; what is kept is read."""
        found = [perturb(study, tasks, settings) for study, tasks in on]
        return cls(title, about, *(replace(one, model=Path(one.model).name) for one in found))

    @property
    def reports(self) -> list[tuple[str, PerturbationReport]]:
        return [("trained", self.trained), ("random", self.control)]

    def text(self, fresh: Sequence[str]) -> str:
        """A section of the page; ``fresh`` are the tasks that had no say in the choice of this way."""
        curves = "\n\n".join(_curves(report) for _, report in self.reports)
        return (
            f"## {self.title}\n\n{_fold(self.about)}\n\n{_areas(self.reports)}\n\n"
            f"{_words(self, fresh)}\n\n{CURVES}\n\n{curves}"
        )


def page(
    study: Pipeline, beside: Pipeline, tasks: list[str], fresh: list[str], command: str, picture: Path
) -> str:
    """The page as Markdown; what is missing is tuned, extracted and perturbed first."""
    ablated = Way.of(
        "Held at their mean on the prompt rows",
        ABLATED_ABOUT.format(tried=_listed(tasks), fresh=_listed(fresh)),
        ABLATED,
        (study, [*tasks, *fresh]),
        (beside, tasks),
    )
    tried = [
        Way.of(title, about, settings, (study, tasks), (beside, tasks))
        for title, about, settings in (
            ("Noise, as in the paper", NOISE_ABOUT, PAPER),
            ("Held at their mean on all rows", EVERYWHERE_ABOUT, EVERYWHERE),
        )
    ]
    plots.write(plots.plot(ablated.trained, "curves"), picture)
    about = ABOUT.format(seeds=len(study.settings.seeds), draws=PAPER.draws, own=SEEDS)
    parts = [
        f"# {TITLE}\n\n    {command}\n\n{_fold(about)}\n\n{_fold(EXPLAINED)}",
        ablated.text(fresh),
        f"![Accuracy by the share of neurons held at their mean, by task]({picture.name})",
        *(way.text([]) for way in tried),
        _specificity(neuron_study.compare_tasks(study)),
    ]
    return "\n\n".join(parts) + "\n"


TITLE = "Skill neurons of a real model, perturbed"
CURVES = "Accuracy by the share of neurons, mean over prompts and draws, with 95 % intervals over prompts:"
ABOUT = (
    "The model and the prompts are those of `benchmarks/real_model.py`, {seeds} prompts a task. The "
    "neurons of every layer with the highest predictivity are perturbed, against as many random neurons "
    "of the same layers ({draws} draws a prompt) and those of the lowest predictivity. The control is a "
    "model of the same configuration with random weights, with {own} prompts a task tuned on it in the "
    "same way and skill neurons found there. This page is written by the command; its numbers and "
    "sentences are those of one run."
)
EXPLAINED = (
    "Area: the mean over the rates (by trapezoids) of (accuracy under random neurons - accuracy under "
    "skill neurons); positive where skill neurons matter more. The interval and p are paired over prompts "
    "and draws (p: sign flips, corrected by Holm over the tasks of one model), so they hold with these "
    "prompts; the interval over prompts draws the prompts anew. Bottom: the same area for the neurons of "
    "the lowest predictivity, which should not be above 0."
)
ABLATED_ABOUT = (
    "Chosen neurons get their baseline, the mean over train at that row: they no longer tell one text "
    "from another, and nothing else about them changes. They are found on one half of dev and scored on "
    "the other. This way was chosen after others had been tried on {tried}; {fresh} had no part in that "
    "choice."
)
NOISE_ABOUT = (
    "Gaussian noise of sd 0.1 on all rows, one draw an example; neurons are found and scored on the same "
    "dev examples. It was tried first, on these tasks alone. What noise of one absolute size does depends "
    "on how far a neuron's output weights carry it, however little the neuron itself says about the task."
)
EVERYWHERE_ABOUT = (
    "The mean over the prompt's rows, put on all rows: on those of the text it is hardly the neuron's own. "
    "Tried second, on these tasks alone, found and scored on the same dev examples, with 3 draws a prompt."
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


def _words(way: Way, fresh: Sequence[str]) -> str:
    works = [one for one in way.trained.tasks if not one.weak]
    alive = [one for one in way.control.tasks if not one.weak]
    lines = [
        f"Prompts better than the majority class: {_names(works)} of {_names(way.trained.tasks)} on the "
        f"trained model, {_names(alive)} on random weights.",
        _verdict("Trained model", works),
    ]
    if fresh:
        lines.append(
            _verdict("Of these, without a part in the choice", [one for one in works if one.task in fresh])
        )
    lines.append(_verdict("Random weights", way.control.tasks))
    return "\n".join(_fold(f"- {line}", "  ") for line in lines)


def _verdict(what: str, tasks: Sequence[TaskCurves]) -> str:
    areas = [(one, area) for one in tasks if (area := one.area(SKILL)) is not None and area.low is not None]
    more = [one for one, area in areas if area.low > 0]  # type: ignore[operator]
    sure = [one for one, area in areas if one in more and (area.p_holm or area.p or 0.0) < 0.05]
    less = [one for one, area in areas if area.high < 0]  # type: ignore[operator]
    open_ = [one for one, _ in areas if one not in more and one not in less]
    return (
        f"{what}: skill neurons matter more than random ones (interval above 0) for {_names(more)}; less for "
        f"{_names(less)}; not told apart for {_names(open_)}. More, and p below .05: {_names(sure)}."
    )


def _names(tasks: Sequence[TaskCurves]) -> str:
    return ", ".join(one.task for one in tasks) or "none"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _curves(report: PerturbationReport) -> str:
    rows, rates = [], report.settings.rates[1:]
    for one in report.tasks:
        for condition in CONDITIONS:
            points = [one.point(condition, rate) for rate in rates]
            rows.append((one.task, condition, one.unperturbed, *(_interval(point) for point in points)))
    columns = ("task", "neurons", "0", *(f"{rate:g}" for rate in rates))
    return f"**{report.model}**\n\n{_table(columns, rows)}"


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
    parser.add_argument("--task", dest="tasks", action="append", help="both ways, and control; default all")
    parser.add_argument(
        "--fresh", action="append", default=[], help="tasks that had no say in the second way"
    )
    given = parser.parse_args()
    study = open_study(given.study, report=_say)
    tasks = given.tasks or list(study.settings.tasks)
    command = "python benchmarks/real_neurons.py --study STUDY --control CONTROL --page docs/real-neurons.md"
    command += "".join(f" --task {name}" for name in given.tasks or ())
    command += "".join(f" --fresh {name}" for name in given.fresh)
    picture = given.page.with_suffix(".png")
    beside = control(study, given.control, tasks)
    write_text(given.page, page(study, beside, tasks, given.fresh, command, picture))


if __name__ == "__main__":
    main()
