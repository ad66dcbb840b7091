"""The origin study of a task as tables: performances, effects, predictivities, overlaps, words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from transferscope.exporters import Cell, Table, exporter, json_text, tabular
from transferscope.origin_report import OriginReport

EFFECTS = (
    "tuned by", "neurons", "rate", "count", "unperturbed", "drop", "random drop", "difference", "low", "high",
    "p",
)  # fmt: skip
LONG = (
    "task", "subject", "neurons", "rate", "count", "seed", "metric", "clean", "drop", "random_drop", "draws",
    "draws_higher",
)  # fmt: skip


def tables(report: OriginReport) -> list[Table]:
    """What is read from top to bottom; tables of controls only where there are controls."""
    found = [_performances(report), _effects(report)]
    if report.predictivities[1:]:
        found += [_predictivities(report), _overlaps(report)]
    if report.words:
        found.append(_words(report))
    return found


def _performances(report: OriginReport) -> Table:
    rows = tuple(
        (
            one.subject, one.parameters, len(one.seeds), one.value, one.majority,
            "no better than majority" if one.weak else "",
        )
        for one in report.performances
    )  # fmt: skip
    return Table(
        ("tuned by", "parameters", "seeds", report.metric, "majority class", ""),
        rows,
        f"{report.task} on {report.model}: what each way of tuning reaches, with nothing perturbed",
        report.notes,
    )


def _effects(report: OriginReport) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for one in report.effects:
        d = one.difference
        rows.append(
            (
                one.subject, one.neurons, one.rate, one.count, one.clean, one.drop, one.random_drop, d.mean,
                d.low, d.high, d.p,
            )
        )  # fmt: skip
    plan = report.plan
    notes = (
        f"noise of sd {plan.sd:g} on all rows; {plan.draws} draws of noise and random neurons; "
        f"drops of {report.metric} are means over seeds and draws",
        "difference: drop - random drop, paired; its 95 % interval and p are over draws, which all seeds "
        "share: they say nothing of other seeds (see the csv for each)",
    )
    return Table(EFFECTS, tuple(rows), "Chosen neurons against random ones of the same layers", notes)


def _predictivities(report: OriginReport) -> Table:
    rates = report.plan.rates
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (one.condition, one.trials, one.highest, *(value for _, value in one.top))
        for one in report.predictivities
    )
    return Table(
        ("predictivity under", "trials", "highest", *(f"mean of top {rate:g}" for rate in rates)),
        rows,
        "Predictivities (mean over trials)",
    )


def _overlaps(report: OriginReport) -> Table:
    rows = tuple(
        (one.neurons, one.rate, one.count, one.common, one.expected, one.spearman, _layers(one.by_layer))
        for one in report.overlaps
    )
    return Table(
        ("neurons", "rate", "skill neurons", "in common", "by chance", "Spearman", "Spearman by layer"),
        rows,
        "Do other ways of choosing find the same neurons?",
        ("Spearman: of the two scores over all neurons, whatever the rate",),
    )


def _layers(values: Sequence[float | None]) -> str:
    return " ".join("-" if value is None else f"{value:.2f}" for value in values)


def _words(report: OriginReport) -> Table:
    rows = tuple(
        (
            one.kind, f"{one.layer}:{one.neuron}", one.predictivity, one.selectivity, one.word,
            ", ".join(one.promotes),
        )
        for one in report.words
    )  # fmt: skip
    return Table(
        ("top", "neuron", "predictivity", "selectivity", "most for", "promotes"),
        rows,
        "Neurons and words",
        (
            "selectivity: (mean on the word - mean on other tokens) / sd, of the best word of train",
            "promotes: the words with the largest dot product of output embedding and output direction",
        ),
    )


def long_table(report: OriginReport) -> Table:
    """One row a subject, kind of neurons, rate and seed."""
    rows = tuple(
        (
            report.task, one.subject, one.neurons, one.rate, one.count, seed.seed, report.metric, seed.clean,
            seed.drop, seed.random_drop, report.plan.draws, seed.higher,
        )
        for one in report.effects
        for seed in one.seeds
    )  # fmt: skip
    return Table(LONG, rows)


tabular(OriginReport, tables, long_table)


@exporter(OriginReport, "json")
def origin_json(report: OriginReport | Sequence[OriginReport]) -> str:
    """{"studies": [the fields of OriginReport]}, one for each task."""
    several = [report] if isinstance(report, OriginReport) else report
    return json_text({"studies": [asdict(one) for one in several]})
