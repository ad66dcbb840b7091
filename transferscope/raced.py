"""What was predicted for single examples of a target, kept: no race asks for an example twice.

races/<target>/<source>/<seed>.json    positions in the dev split, and what this prompt predicts there
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from transferscope import safe_precision, store
from transferscope.errors import StoreError
from transferscope.metrics import metric as find_metric
from transferscope.pieces import Predictions
from transferscope.prompts import SoftPrompt
from transferscope.workspace import Workspace
from transferscope.zero_shot import ZeroShot

FOLDER = "races"


@dataclass
class _Known:
    """The predictions of one prompt, class ids or texts, by position, in the order in which they came."""

    inputs: dict[str, Any]
    found: dict[int, int | str] = field(default_factory=dict)


class Evaluations:
    """One target's dev split under any prompt, example by example: read where current, else run and kept.

    ``new`` counts the examples (once for each prompt) that were not there.
    """

    def __init__(self, workspace: Workspace, target: str) -> None:
        """Raises TaskError for a target without data."""
        self.workspace, self.target, self.new = workspace, target, 0
        self.task = workspace.task(target)
        self._known: dict[tuple[str, int], _Known] = {}
        self._said = False

    def statistics(
        self, source: str, prompt: SoftPrompt, positions: Sequence[int] | np.ndarray
    ) -> np.ndarray:
        """What each of n examples adds to the target's metric under a source's prompt, float64 [n, C].

        Raises StoreError for a damaged file, and what `ZeroShot` raises where something is still to be run.
        """
        self.run(source, prompt, positions)
        found = self._of(source, prompt).found
        examples = [self.task.dev[position] for position in positions]
        predictions = [found[int(position)] for position in positions]
        gold = [one.references if self.task.kind == "generation" else one.label for one in examples]
        return find_metric(self.task.metric).statistics(gold, predictions, self.task.classes or None)

    def run(self, source: str, prompt: SoftPrompt, positions: Sequence[int] | np.ndarray) -> None:
        """See to it that the predictions at these positions are there."""
        missing = self.missing(source, prompt, positions)
        if not missing:
            return
        predicted = self._scorer.predictions(prompt, missing)
        plain = [one if isinstance(one, str) else int(one) for one in predicted]
        self._known.pop((source, prompt.seed))  # meanwhile another process may have added to the file
        known = self._of(source, prompt)
        known.found |= dict(zip(missing, plain, strict=True))
        self.new += len(missing)
        record = {
            "target": self.target,
            "source": source,
            "seed": prompt.seed,
            "inputs": known.inputs,
            "positions": list(known.found),
            "predictions": list(known.found.values()),
        }
        store.write_json(self._path(source, prompt.seed), record, versioned=True)

    def ahead(self, prompts: Mapping[str, Sequence[SoftPrompt]], positions: np.ndarray) -> None:
        """What is missing at these positions may be done elsewhere first; it counts as new."""
        every = [(source, prompt) for source, several in prompts.items() for prompt in several]
        before = [self.missing(source, prompt, positions) for source, prompt in every]
        pieces = [
            Predictions(self.target, source, prompt.seed, tuple(left))
            for (source, prompt), left in zip(every, before, strict=True)
            if left
        ]
        if self.workspace.ahead(pieces):
            self.forget()
            after = sum(len(self.missing(source, prompt, positions)) for source, prompt in every)
            self.new += sum(map(len, before)) - after

    def forget(self) -> None:
        """Read again what is asked for next: another process may have added to it."""
        self._known.clear()

    def missing(self, source: str, prompt: SoftPrompt, positions: Sequence[int] | np.ndarray) -> list[int]:
        """Those of these positions that are still to be run."""
        found = self._of(source, prompt).found
        return [int(position) for position in positions if int(position) not in found]

    def _of(self, source: str, prompt: SoftPrompt) -> _Known:
        key = source, prompt.seed
        if key not in self._known:
            self._known[key] = self._read(source, prompt)
        return self._known[key]

    def _read(self, source: str, prompt: SoftPrompt) -> _Known:
        path = self._path(source, prompt.seed)
        inputs = {**self._inputs, "prompt": prompt.fingerprint}
        if not path.is_file():
            return _Known(inputs)
        record = _record(path)
        changed = store.stale_reason(record["inputs"], inputs)
        if not changed:
            return _Known(inputs, dict(zip(record["positions"], record["predictions"], strict=True)))
        if not self._said:
            self.workspace.report(f"racing on {self.target} again: {'; '.join(changed)}")
            self._said = True
        return _Known(inputs)

    def _path(self, source: str, seed: int) -> store.Place:
        folders = [store.checked_name(name) for name in (self.target, source)]
        return self.workspace.study.path(FOLDER, *folders, f"{int(seed)}.json")

    @cached_property
    def _inputs(self) -> dict[str, Any]:
        """What predictions depend on beside the prompt; all of a target are in one precision."""
        workspace, model = self.workspace, self.workspace.settings.model
        inputs = {
            "model": workspace.model_fingerprint,
            "task": self.task.fingerprint,
            "max_length": workspace.settings.max_length,
        }
        if not safe_precision.probed(model):
            return store.json_ready(safe_precision.accepted(model, {}, inputs))
        files = [*workspace.study.path(FOLDER, store.checked_name(self.target)).glob("*/*.json")]
        files.sort(key=str)
        for stored in (_record(path)["inputs"] for path in files[:1]):
            there = {name: value for name, value in stored.items() if name != "prompt"}
            if safe_precision.is_current(model, there, inputs):
                return store.json_ready(safe_precision.accepted(model, there, inputs))
        return store.json_ready(inputs | safe_precision.made_in(workspace.scoring_backbone(self.task)))

    @cached_property
    def _scorer(self) -> ZeroShot:
        return ZeroShot(
            safe_precision.as_made_in(self.workspace.backbone, self._inputs),
            self.task,
            max_length=self.workspace.settings.max_length,
            token_budget=self.workspace.token_budget,
        )


def _record(path: store.Place) -> Mapping[str, Any]:
    record = store.read_json(path)
    try:
        same = len(record["positions"]) == len(record["predictions"])
        if same and isinstance(record["inputs"], dict):
            return dict(record)
    except (KeyError, TypeError):
        pass
    raise StoreError(f"{path} does not hold the predictions of a race; remove it to have them made again")
