"""A pruning report as tables: scores with intervals, sizes, and speed beside the limit of the FLOP count."""

from __future__ import annotations

from transferscope.exporters import Cell, Table, tabular
from transferscope.pruning_study import PruningReport

WHAT = {
    "before": "unpruned model",
    "after": "pruned model, same prompts",
    "random neurons": "as many random neurons left, same prompts",
    "re-tuned": "pruned model, prompts tuned again",
}


def _tables(report: PruningReport) -> list[Table]:
    curve = [_curve(report)] if len(report.curve) > 1 else []
    return [_scores(report), *curve, _sizes(report), _speeds(report)]


def _scores(report: PruningReport) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (WHAT[score.what], score.value, score.low, score.high, len(score.by_seed)) for score in report.scores
    ]
    rows.append(("majority class", report.majority, None, None, None))
    settings = report.settings
    how = (
        f"{settings.keep:g} of the neurons kept in each layer from {settings.from_layer} on (numbered from "
        f"0), the others held at their baseline ({settings.baseline})"
    )
    title = f"{report.model} pruned for {report.task}: {report.metric} on dev"
    return Table(
        ("model and prompts", "mean", "low", "high", "seeds"), tuple(rows), title, (how, *report.notes)
    )


def _curve(report: PruningReport) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (one.keep, one.pruned, WHAT[score.what], score.value, score.low, score.high)
        for one in report.curve
        for score in one.scores
    )
    columns = ("kept", "pruned", "model and prompts", "mean", "low", "high")
    note = "pruned: the share of the pruned layers' neurons that is gone; prompts not tuned again"
    return Table(columns, rows, "By the share of neurons", (note,))


def _sizes(report: PruningReport) -> Table:
    before, after = report.before, report.after
    widths = ", ".join(map(str, report.widths))
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (what, old, new, new / old)
        for what, old, new in (
            ("parameters", before.parameters, after.parameters),
            ("of the feed-forward layers", before.ffn_parameters, after.ffn_parameters),
            ("bytes of the weights", before.bytes, after.bytes),
        )
    )
    note = f"neurons left by layer, of {report.neurons}: {widths}"
    return Table(("size", "before", "after", "share"), rows, "What is left of the model", (note,))


def _speeds(report: PruningReport) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (one.batch, one.rows, one.before, one.after, one.speedup, one.low, one.high, one.limit)
        for one in report.speeds
    )
    columns = ("batch", "rows", "seconds before", "after", "speed-up", "low", "high", "FLOP limit")
    notes = (
        f"on {report.device}, {report.threads} threads; both models in turns, medians of "
        f"{min(one.repeats for one in report.speeds)} or more pairs, low and high are quartiles; the limit "
        "counts matrix products alone"
        if report.speeds
        else "not measured",
    )
    return Table(columns, rows, "Speed of a forward pass", notes)


def _long(report: PruningReport) -> Table:
    """One row a number: task,keep,from_layer,baseline,quantity,at,value,low,high."""
    settings = report.settings
    key = (report.task, settings.keep, settings.from_layer, settings.baseline)
    columns = ("task", "keep", "from_layer", "baseline", "quantity", "at", "value", "low", "high")
    rows: list[tuple[Cell, ...]] = [
        (*key, report.metric, score.what, score.value, score.low, score.high) for score in report.scores
    ]
    rows.append((*key, report.metric, "majority", report.majority, None, None))
    for one in report.curve:
        if one.keep != settings.keep:
            at = (report.task, one.keep, *key[2:], report.metric)
            rows += [(*at, score.what, score.value, score.low, score.high) for score in one.scores]
    for what, size in (("before", report.before), ("after", report.after)):
        rows += [
            (*key, "parameters", what, size.parameters, None, None),
            (*key, "ffn_parameters", what, size.ffn_parameters, None, None),
            (*key, "bytes", what, size.bytes, None, None),
        ]
    for speed in report.speeds:
        where = f"batch {speed.batch}"
        rows.append((*key, "speedup", where, speed.speedup, speed.low, speed.high))
        rows.append((*key, "flop_limit", where, speed.limit, None, None))
    return Table(columns, tuple(rows))


tabular(PruningReport, _tables, _long)
