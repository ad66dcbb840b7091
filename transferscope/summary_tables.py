"""A study's summary as a table."""

from __future__ import annotations

from transferscope import precision, ranking
from transferscope.exporters import Table, tabular
from transferscope.summary import StudySummary


def _tables(summary: StudySummary) -> list[Table]:
    columns = (
        "task",
        "type",
        "metric",
        "seeds",
        "own prompt",
        "sd",
        "majority class",
        "first source",
        "others tied",
    )
    rows = tuple(
        (t.task, t.type, t.metric, t.seeds, t.score, t.spread, t.majority, t.source, t.ties)
        for t in summary.tasks
    )
    notes = [f"study {summary.folder}, model {summary.model}; scores on dev, which tuning never saw"]
    if weak := [t.task for t in summary.tasks if t.weak]:
        notes.append(f"{ranking.WEAK}: {', '.join(weak)}")
    notes += precision.warnings({t.task: t.flip_rate for t in summary.tasks})
    return [Table(columns, rows, "Tasks, their prompts, and the source ranked first", tuple(notes))]


tabular(StudySummary, _tables)
