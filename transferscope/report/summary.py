"""What a study came to, in sentences, and what must be said with them: how much each of them rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transferscope import transfer
from transferscope.correlation import Score
from transferscope.graph_analysis import Communities
from transferscope.ordering import Ranking, listed
from transferscope.report.agreement import Agreement
from transferscope.report.neurons import TaskNeurons
from transferscope.report.provenance import TaskRow
from transferscope.report.stored import Stored
from transferscope.skill_sets import RATE

FEW_SEEDS, FEW_TARGETS = 5, 10
NEAREST = 2  # sources of each target, of whose graph the communities are


@dataclass(frozen=True)
class Facts:
    """All that the sentences are made from."""

    stored: Stored
    tasks: tuple[TaskRow, ...]
    rankings: tuple[Ranking, ...]
    agreed: Agreement | None
    communities: Communities | None
    neurons: tuple[TaskNeurons, ...]


def sentences(facts: Facts) -> tuple[str, ...]:
    """What was found, most important first."""
    said = [_about_study(facts), _about_transfer(facts), *_about_agreement(facts)]
    said += [_about_first(facts), _about_communities(facts), _about_layers(facts)]
    return tuple(one for one in said if one)


def caveats(facts: Facts) -> tuple[str, ...]:
    """How far to trust it."""
    said = [_about_seeds(facts), *_about_targets(facts), _about_weak(facts), _about_dev(facts)]
    return tuple(one for one in said if one)


def _about_study(facts: Facts) -> str:
    kinds = Counter(row.type for row in facts.tasks if row.type)
    types = f" of {counted(len(kinds), 'type')} ({listed(sorted(kinds))})" if kinds else ""
    own = [row.own for row in facts.tasks if row.own is not None]
    scores = list(dict.fromkeys(f"{value:.3f}" for value in (min(own), max(own)))) if own else []
    reached = f" Their own prompts reach {' to '.join(scores)}." if own else ""
    return f"{counted(len(facts.tasks), 'task')}{types}.{reached}"


def _about_transfer(facts: Facts) -> str:
    measured = facts.stored.measured
    if measured is None:
        return "No transfer was measured: everything below is a prediction that was not tested here."
    other = np.array([[s != t for t in measured.targets] for s in measured.sources])
    known = int((np.isfinite(measured.values) & other).sum())
    said = f"Measured {measured.protocol} transfer: {known} of {int(other.sum())} pairs of different tasks."
    means = transfer.by_type(measured, facts.stored.types)
    if means.same_cells and means.different_cells:
        said += (
            f" Mean {means.same:.3f} between tasks of the same type ({counted(means.same_cells, 'pair')}), "
            f"{means.different:.3f} between types ({counted(means.different_cells, 'pair')})."
        )
    return said


def _about_agreement(facts: Facts) -> list[str]:
    """Whether the evidence is beyond a random order and beyond the task type."""
    agreed = facts.agreed
    if agreed is None:
        return ["How far indicators agree with measured transfer is not known here: it takes both."]
    best, total = agreed.best, len({s.name for s in agreed.report.scores if s.kind == "indicator"})
    if best is None:
        return ["No indicator orders the measured sources of any target: their values are all equal."]
    said = [
        f"Of {counted(total, 'indicator')}, {best.name} orders the measured sources best: mean Spearman "
        f"{interval(best)} over {counted(best.n_targets, 'target')} (0: a random order, 1: the measured one)."
    ]
    beyond = agreed.beyond_chance
    if beyond is not None:
        said.append(_beyond(beyond, total, "a random order", "permutations of the tasks' names"))
    if agreed.beyond_type is None:
        return [*said, "Task types are not known of all tasks, so the baseline same type is missing."]
    types = next(s for s in agreed.report.scores if (s.name, s.metric) == ("same_type", "spearman"))
    said.append(f"The task type alone (no indicator) has {interval(types)}.")
    said.append(_beyond(agreed.beyond_type, total, "the task type alone", "paired differences over targets"))
    unlike = _of(agreed, best.name, "different-type")
    if unlike is not None and unlike.low is not None:
        verdict = "better than chance" if unlike.low > 0 else "no better than chance can be shown"
        said.append(
            f"Among sources of other types than the target's, {best.name} has {interval(unlike)}: {verdict}."
        )
    return said


def _of(agreed: Agreement, name: str, scope: str) -> Score | None:
    wanted = (name, "spearman", scope)
    return next((s for s in agreed.report.scores if (s.name, s.metric, s.scope) == wanted), None)


def _beyond(names: Sequence[str], total: int, what: str, by: str) -> str:
    how = f"({by}, p < .05 after Holm's correction for {counted(total, 'indicator')})"
    if not names:
        return f"No indicator is better than {what} beyond doubt {how}."
    verb = "is" if len(names) == 1 else "are"
    return f"{len(names)} of {total} {verb} better than {what} beyond doubt {how}: {listed(names)}."


def _about_first(facts: Facts) -> str:
    """How often the first of a ranking was the best that was measured, and how often any source is."""
    found = [one.sources for one in facts.rankings if one.indicator and one.sources[0].measured is not None]
    if not found:
        return ""
    values = [np.array([s.measured for s in some if s.measured is not None]) for some in found]
    hits = sum(float(some[0]) == some.max() for some in values)
    by_chance = sum(float((some == some.max()).mean()) for some in values)
    lost = float(np.mean([some.max() - some[0] for some in values]))
    lost_by_chance = float(np.mean([some.max() - some.mean() for some in values]))
    return (
        f"The source ranked first is the best measured one (or as good) for {hits} of "
        f"{counted(len(found), 'target')} (any source: {by_chance:.1f}); on average it is {lost:.3f} behind "
        f"the best (any source: {lost_by_chance:.3f})."
    )


def _about_communities(facts: Facts) -> str:
    found = facts.communities
    if found is None or found.agreement is None:
        return ""
    agree = found.agreement
    return (
        f"The graph of each target's {NEAREST} best sources falls into "
        f"{counted(len(found.groups), 'community', 'communities')}; their agreement with the task types "
        f"(adjusted Rand index) is {agree.rand:.2f}, p = {agree.p_rand:.3f}."
    )


def _about_layers(facts: Facts) -> str:
    if not facts.neurons:
        return ""
    shares = np.array([np.array(one.counts) / max(sum(one.counts), 1) for one in facts.neurons])
    mean = shares.mean(axis=0)
    layer = int(mean.argmax())
    return (
        f"Of the {100 * RATE:.0f} % most predictive neurons of the network, most lie in layer {layer} (from "
        f"0): {100 * mean[layer]:.0f} % (mean over {counted(len(facts.neurons), 'task')}; "
        f"{100 / len(mean):.0f} % were no layer better than another)."
    )


def _about_seeds(facts: Facts) -> str:
    trials = [material.trials for material in facts.stored.materials]
    if not trials:
        return "No prompts or signatures of all tasks: rankings have no interval over seeds."
    fewest = min(trials)
    if max(trials) == 1:
        return "One seed a task: one trial cannot tell sources apart, so rankings have no interval."
    said = f"{fewest} seeds a task" if fewest == max(trials) else f"{fewest} to {max(trials)} seeds a task"
    if fewest < FEW_SEEDS:
        said += f": fewer than {FEW_SEEDS}, so intervals over seeds are likely too narrow"
    return f"{said}. Intervals are 95 %, by bootstrap."


def _about_targets(facts: Facts) -> list[str]:
    agreed = facts.agreed
    if agreed is None:
        return []
    targets = len(agreed.report.targets)
    few = ": few, so what is not shown may still be there" if targets < FEW_TARGETS else ""
    said = [f"Agreement is judged over {counted(targets, 'target')}{few}."]
    said.append(
        "The best indicator was picked on the same targets that it is shown for, so it looks better than it "
        "is; how it does on another model and other tasks has to be measured there."
    )
    if agreed.beyond_chance is None:
        said.append("Without p values, an interval that leaves out 0 is not corrected for many indicators.")
    return said


def _about_weak(facts: Facts) -> str:
    weak = [row.task for row in facts.tasks if row.weak]
    if not weak:
        return ""
    return (
        f"Prompts no better than the majority class (within two standard errors), of which little can be "
        f"said as sources or targets: {listed(weak)}."
    )


def _about_dev(facts: Facts) -> str:
    scored = [row.dev for row in facts.tasks if row.dev is not None]
    if not scored:
        return ""
    size = f"{min(scored)}" if min(scored) == max(scored) else f"{min(scored)} to {max(scored)}"
    return f"Scores are on dev splits of {size} examples, which tuning never saw."


def counted(number: int, one: str, several: str | None = None) -> str:
    """A number with its noun.

    >>> counted(1, "pair"), counted(2, "pair")
    ('1 pair', '2 pairs')
    """
    return f"{number} {one if number == 1 else several or one + 's'}"


def interval(score: Score) -> str:
    """A mean with its 95 % interval."""
    mean = "not defined" if score.mean is None else f"{score.mean:.2f}"
    return mean if score.low is None or score.high is None else f"{mean} [{score.low:.2f}, {score.high:.2f}]"
