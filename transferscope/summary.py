"""What a study came to: how well each task's prompts work and which source is ranked first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transferscope.comparison import no_better_than_majority
from transferscope.correlation import CorrelationReport
from transferscope.precision import flips_of
from transferscope.ranking import Ranking
from transferscope.signatures import Signature


@dataclass(frozen=True)
class TaskSummary:
    """One task: metric, dev score (mean and sd over R seeds), majority class, the source ranked first.

    ``flip_rate``: of a model loaded in bfloat16 or float16, the share of flipped comparisons.
    """

    task: str
    type: str | None
    metric: str
    seeds: int
    score: float | None
    spread: float | None
    majority: float | None
    source: str | None
    ties: int | None
    weak: bool
    flip_rate: float | None = None

    @classmethod
    def of(cls, name: str, signature: Signature, type_: str | None, ranking: Ranking | None) -> TaskSummary:
        """From a signature's provenance and the task's ranking."""
        scores: Sequence[dict[str, Any]] = signature.provenance["scores"]
        dev = np.array([score["dev"] for score in scores if "dev" in score])  # prompts of others have none
        first = ranking.sources[0] if ranking is not None and ranking.sources else None
        ties = None
        if ranking is not None and first is not None and first.ties_with_best is not None:
            ties = sum(bool(source.ties_with_best) for source in ranking.sources) - 1
        return cls(
            task=name,
            type=type_,
            metric=str(scores[0].get("metric") or ""),
            seeds=len(scores),
            score=float(dev.mean()) if len(dev) else None,
            spread=float(dev.std(ddof=1)) if len(dev) > 1 else None,
            majority=scores[0].get("majority"),
            source=first.source if first else None,
            ties=ties,
            weak=no_better_than_majority(signature.provenance),
            flip_rate=flips_of(signature.provenance),
        )


@dataclass(frozen=True)
class StudySummary:
    """A finished study."""

    folder: str
    model: str
    tasks: tuple[TaskSummary, ...]
    correlation: CorrelationReport | None
