"""Which indicator ranks when none is asked for: by what is there, and by what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transferscope import comparison, recommendation
from transferscope.comparison import Material
from transferscope.errors import IndicatorInputError, InputError
from transferscope.recommendation import Verdict

if TYPE_CHECKING:
    from transferscope.comparison import IndicatorMatrix
    from transferscope.transfer import TransferMatrix

DEFAULT, WITHOUT_PROMPTS, OF_UPDATES = "prompt_cosine_mean_token", "on", "update_cosine"


@dataclass(frozen=True)
class Chosen:
    """The indicator to rank by, why, and what measured transfer to other targets says of it, if anything."""

    name: str
    why: str
    evidence: Verdict | None


def choose(
    target: Material,
    sources: Sequence[Material],
    name: str | None,
    types: Mapping[str, str],
    transfer: TransferMatrix | None,
    prefer_same_type: bool,
    matrices: Sequence[IndicatorMatrix] | None = None,
) -> Chosen:
    """The indicator by this name, or for None the best founded one.

    `matrices` are those that were computed already; without, or without the indicator among them, what the
    evidence needs is computed. Raises InputError (no source), and as `comparison.check_together`.
    """
    if not sources:
        raise InputError(f"there is no source for {target.task!r}: at least one other task is needed")
    materials = [target, *sources]
    comparison.check_together(materials)
    default, why = (name, f"Indicator {name}: asked for.") if name else by_needs(materials)
    if transfer is None or not recommendation.enough(target.task, transfer):
        return Chosen(default, why, None)
    known = _usable(matrices or (), materials)
    if default not in {matrix.indicator for matrix in known}:
        known = comparison.compare_materials(materials, [name] if name else None)
    evidence = recommendation.weigh(
        target.task,
        known,
        transfer,
        types=types,
        prefer_same_type=prefer_same_type,
        default=default,
        choose=name is None,
    )
    if evidence is None or name:
        return Chosen(default, why, evidence)
    return Chosen(evidence.indicator, recommendation.why(evidence), evidence)


def _usable(matrices: Sequence[IndicatorMatrix], materials: Sequence[Material]) -> Sequence[IndicatorMatrix]:
    """Those that a ranking could compute from the same materials."""
    names = {record.name for record in comparison.available(materials)}
    return [matrix for matrix in matrices if matrix.indicator in names]


def by_needs(materials: Sequence[Material]) -> tuple[str, str]:
    """The indicator to use when none is asked for, by what is there, and why."""
    supplied = comparison.have(materials)
    if "prompt" in supplied:
        return DEFAULT, (
            f"Indicator {DEFAULT}: the default. It needs prompts alone, and prompts of any length. With "
            "the published transfer of RoBERTa-base and T5-small (31 targets) its mean per-target Spearman "
            'is .411, that of "same task type" .535; among sources of other types than the target\'s it is '
            "only .175 [.05, .31] (RoBERTa-base .02, T5-small .30)."
        )
    if "stimulation" in supplied:
        return WITHOUT_PROMPTS, (
            f"Indicator {WITHOUT_PROMPTS}: chosen because not every source has prompt rows to compare; "
            "it needs the stimulated neurons alone."
        )
    if "update" in supplied:
        return OF_UPDATES, (
            f"Indicator {OF_UPDATES}: the default for LoRA and IA3 adapters, because it is the simplest. No "
            "published measurement of how far it agrees with transfer is known to this package. It compares "
            "what was added to the backbone's weights, without the heads saved beside."
        )
    raise IndicatorInputError(
        "no indicator can be chosen: some task has neither a prompt nor a stimulation "
        f"(they come from {comparison.SUPPLIERS['prompt']}; {comparison.SUPPLIERS['stimulation']})"
    )
