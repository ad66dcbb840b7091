"""What is known of skill neurons as tables: between tasks, along the prompt, and neuron by neuron."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from transferscope.exporters import Cell, Table, tabular
from transferscope.neuron_view import ClassActivation, Fired, NeuronCard, NeuronView
from transferscope.prompt_rows import RowsReport
from transferscope.skill_sets import Floats
from transferscope.specificity import DIFFERENT, MEASURES, SAME, GroupMean, SpecificityReport

TEXT = 70  # letters of a text that are shown
SHOWN_WORDS = 5
BAR = 30  # the longest bar of a histogram
_CLASSES = "under a class: mean and standard deviation of the activation at the row over its texts"

# Between tasks.

_NAMES = {
    "spearman": "Spearman",
    "spearman_layers": "Spearman by layer",
    "share": "share in common",
    "jaccard": "Jaccard",
}


def _specificity_tables(report: SpecificityReport) -> list[Table]:
    title = "Are skill neurons a task's own? Predictivity and sets, compared"
    columns = ("measure", "of", "between", "mean", "low", "high", "chance", "pairs", "tasks")
    groups = tuple(_group(one) for one in report.groups if one.measure != "jaccard")
    tables = [Table(columns, groups, title, report.notes)]
    if report.differences:
        rows: tuple[tuple[Cell, ...], ...] = tuple(
            (_NAMES[one.measure], one.basis, one.mean, one.low, one.high, one.p)
            for one in report.differences
            if one.measure != "jaccard"
        )
        note = "p: one-sided, of giving the types to other tasks (Mantel's test); not corrected."
        difference = f"Pairs of the {SAME} less those of {DIFFERENT}"
        tables.append(Table(("measure", "of", "difference", "low", "high", "p"), rows, difference, (note,)))
    for name in ("spearman", "share"):
        one = report.measure(name)
        values = np.where(np.eye(len(report.tasks), dtype=bool), one.trials, one.values)
        note = "on the diagonal a task's own trials with each other (single trials)"
        tables.append(_square(MEASURES[name], report.tasks, values, (note,)))
    return [*tables, _layers(report)]


def _group(one: GroupMean) -> tuple[Cell, ...]:
    head = (_NAMES[one.measure], one.basis, one.group)
    return (*head, one.mean, one.low, one.high, one.chance, one.pairs, one.tasks)


def _square(title: str, tasks: Sequence[str], values: Floats, notes: tuple[str, ...]) -> Table:
    rows: list[tuple[Cell, ...]] = [(name, *map(float, row)) for name, row in zip(tasks, values, strict=True)]
    return Table(("task", *tasks), tuple(rows), f"{title[0].upper()}{title[1:]}", notes)


def _layers(report: SpecificityReport) -> Table:
    pairs = ~np.eye(len(report.tasks), dtype=bool)
    rows: list[tuple[Cell, ...]] = []
    for layer in range(report.layers):
        known = report.spearman_by_layer[layer][pairs]
        known = known[np.isfinite(known)]
        mean = float(known.mean()) if len(known) else None
        rows.append((layer, mean, *map(int, report.layer_counts[:, layer])))
    expected = tuple(map(float, report.layer_expected))
    title = f"By layer: skill neurons among the highest {report.rate:g} of the whole network"
    note = "Spearman: mean over pairs of tasks, in this layer; expected: were each layer as good as another"
    columns = ("layer", "Spearman", *report.tasks)
    return Table(columns, (*rows, ("expected", None, *expected)), title, (note,))


def _specificity_long(report: SpecificityReport) -> Table:
    """measure, basis, layer, source, target, value, chance: all matrices; and the counts by layer."""
    rows: list[tuple[Cell, ...]] = []
    for one in report.measures:
        for basis, values, chance in (
            ("mean over trials", one.values, one.chance),
            ("single trials", one.trials, one.trials_chance),
        ):
            rows += _cells(report, one.measure, basis, None, values, chance)
    for layer, values in enumerate(report.spearman_by_layer):
        zero = np.where(np.isnan(values), np.nan, 0.0)
        rows += _cells(report, "spearman", "mean over trials", layer, values, zero)
    for i, task in enumerate(report.tasks):
        rows += [
            (
                "skill_neurons",
                "mean over trials",
                layer,
                task,
                task,
                int(count),
                float(report.layer_expected[i]),
            )
            for layer, count in enumerate(report.layer_counts[i])
        ]
    return Table(("measure", "basis", "layer", "source", "target", "value", "chance"), tuple(rows))


def _cells(
    report: SpecificityReport, measure: str, basis: str, layer: int | None, values: Floats, chance: Floats
) -> list[tuple[Cell, ...]]:
    return [
        (measure, basis, layer, source, target, float(values[i, j]), float(chance[i, j]))
        for i, source in enumerate(report.tasks)
        for j, target in enumerate(report.tasks)
    ]


tabular(SpecificityReport, _specificity_tables, _specificity_long)

# Along the prompt.


def _rows_tables(report: RowsReport) -> list[Table]:
    columns = ("row", "all neurons", "its skill neurons", "share in common", "chance", "first for")
    rows = tuple((r.row, r.mean, r.best, r.share, r.chance, r.first_for) for r in report.rows)
    note = (
        "predictivity (mean over trials) at one row alone: of all neurons, and of the skill neurons that it "
        "finds; their share in common with those that all rows find; for which share of the latter it is the "
        "best row"
    )
    title = f"Where on the prompt: {report.task}, {len(report.seeds)} trials, rate {report.rate:g}"
    first = Table(columns, rows, title, (note, *report.notes))
    curve = tuple((s.kind, s.size, s.share, s.low, s.high, s.chance, s.sets) for s in report.settling)
    settled = tuple(
        f"{kind}: "
        + (
            f"from {size} on at least {report.limit:g}"
            if size
            else f"not seen to stay at {report.limit:g} or above with fewer than all"
        )
        for kind, size in report.settled.items()
    )
    names = ("part", "size", "share in common", "low", "high", "chance", "sets")
    return [first, Table(names, curve, "How many rows and trials settle the skill neurons", settled)]


def _rows_long(report: RowsReport) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (report.task, "row", r.row, r.share, None, None, r.chance, 1) for r in report.rows
    ]
    rows += [(report.task, s.kind, s.size, s.share, s.low, s.high, s.chance, s.sets) for s in report.settling]
    return Table(("task", "part", "size", "share", "low", "high", "chance", "sets"), tuple(rows))


tabular(RowsReport, _rows_tables, _rows_long)

# Neuron by neuron.


def _view_tables(view: NeuronView) -> list[Table]:
    head = ("neuron", "rank", "predictivity", "sd", "row", "Acc", "fires for")
    rows = tuple((*_card(card), *map(_level, card.classes), _words(card)) for card in view.neurons)
    title = f"Neurons of {view.task} ({view.examples} dev texts, majority class {view.majority:.3f})"
    tables = [Table((*head, *view.labels, "promotes"), rows, title, (*view.notes, _CLASSES))]
    texts = [row for card in view.neurons for row in _ends(card)]
    if texts:
        names = ("neuron", "fires", "activation", "class", "text")
        tables.append(Table(names, tuple(texts), "Dev texts that fire them most and least"))
    return [*tables, *(_bars(card) for card in view.neurons if card.histogram is not None)]


def _name(card: NeuronCard) -> str:
    return f"{card.layer}:{card.neuron}"


def _card(card: NeuronCard) -> tuple[Cell, ...]:
    return (
        _name(card),
        card.rank,
        card.predictivity,
        card.sd,
        card.row,
        card.accuracy,
        card.fires_for,
    )


def _level(one: ClassActivation) -> str:
    spread = "" if one.sd is None else f" ± {one.sd:.2g}"
    return f"{one.mean:.4g}{spread}" if one.examples else "-"


def _words(card: NeuronCard) -> str:
    return " ".join(shown(word.word, TEXT) for word in card.promotes[:SHOWN_WORDS])


def _ends(card: NeuronCard) -> list[tuple[Cell, ...]]:
    return [
        (_name(card), kind, f"{one.value:.4g}", one.label, _text(one))
        for kind, several in (("most", card.most), ("least", card.least))
        for one in several
    ]


def _text(one: Fired) -> str:
    if one.pair is None:
        return shown(one.text, TEXT)
    return f"{shown(one.text, TEXT // 2)} | {shown(one.pair, TEXT // 2)}"


def shown(text: str, most: int) -> str:
    """A text for a terminal: one line, nothing that a terminal would obey, at most so many letters.

    >>> shown("one\\n two\\x1b[2J three", 12)
    'one two [2J…'
    """
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def _bars(card: NeuronCard) -> Table:
    histogram = card.histogram
    assert histogram is not None  # asked for by the caller
    most = max(max(counts) for counts in histogram.counts) or 1
    rows: list[tuple[Cell, ...]] = []
    for place, (low, high) in enumerate(zip(histogram.edges[:-1], histogram.edges[1:], strict=True)):
        counts = [several[place] for several in histogram.counts]
        drawn = ["█" * math.ceil(BAR * count / most) for count in counts]
        rows.append(
            (
                f"{low:.6g}",
                f"{high:.6g}",
                *(cell for pair in zip(counts, drawn, strict=True) for cell in pair),
            )
        )
    columns = ("from", "to", *(name for label in histogram.labels for name in (label, f"{label}, drawn")))
    note = f"baseline {card.baseline:.6g}: above it the neuron fires"
    return Table(columns, tuple(rows), f"Activations of {_name(card)} at row {card.row}, by class", (note,))


def _view_long(view: NeuronView) -> Table:
    """One row for each neuron and class."""
    names = ("task", "seed", "layer", "neuron", "rank", "predictivity", "sd", "row", "baseline", "accuracy")
    rows = tuple(
        (
            *(
                view.task,
                view.shown,
                card.layer,
                card.neuron,
                card.rank,
                card.predictivity,
                card.sd,
                card.row,
            ),
            *(card.baseline, card.accuracy, card.fires_for, one.label, one.examples, one.mean, one.sd),
            " ".join(word.word for word in card.promotes),
        )
        for card in view.neurons
        for one in card.classes
    )
    return Table((*names, "fires_for", "class", "examples", "class_mean", "class_sd", "promotes"), rows)


tabular(NeuronView, _view_tables, _view_long)
