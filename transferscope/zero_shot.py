"""The zero-shot protocol: a source's prompt, unchanged, on a target, read as the target is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transferscope import attachment
from transferscope.encoding import Encoded, encode, room
from transferscope.errors import InputError
from transferscope.evaluation import Evaluation, Prepared, evaluate, evaluate_several, prepared
from transferscope.models import Backbone
from transferscope.prompts import SoftPrompt
from transferscope.readouts import readout_for
from transferscope.tasks import Task


class ZeroShot:
    """One target's dev split, tokenised once, in batches made once for each number of prompt rows."""

    def __init__(
        self,
        backbone: Backbone,
        target: Task,
        *,
        max_length: int | None = None,
        token_budget: int = 8192,
    ) -> None:
        """Raises InputError: no label words, no head to read them with, a backbone that cannot write."""
        if target.kind == "classification" and target.words is None:
            raise InputError(
                f"task {target.name!r} has no label words: zero-shot transfer needs a verbalizer head "
                "(the linear-probe protocol works without)"
            )
        self.backbone, self.target = backbone, target
        self.max_length, self.token_budget = max_length, token_budget
        self.readout = readout_for(backbone, target)
        self._encoded: dict[int | None, Encoded] = {}
        self._prepared: dict[int, Prepared] = {}

    def score(self, prompt: SoftPrompt) -> Evaluation:
        """The prompt's score on the target's dev split."""
        attached = attachment.attach(self.backbone, prompt)
        return evaluate(attached, self.readout, self.batches(attached.rows), metric=self.target.metric)

    def score_several(self, prompts: Sequence[SoftPrompt]) -> list[Evaluation]:
        """`score` of prompts with equally many rows; texts that they can share go through the model once."""
        several = [attachment.attach(self.backbone, prompt) for prompt in prompts]
        data = self.batches(several[0].rows)
        return evaluate_several(several, self.readout, data, metric=self.target.metric)

    def predictions(self, prompt: SoftPrompt, positions: Sequence[int] | np.ndarray) -> Any:
        """What is predicted for each of n examples of the dev split: class ids int64 [n], or n texts."""
        attached = attachment.attach(self.backbone, prompt)
        data = self.encoded(attached.rows).take(positions)
        found = evaluate(
            attached, self.readout, data, metric=self.target.metric, token_budget=self.token_budget
        )
        return found.predictions

    def encoded(self, rows: int) -> Encoded:
        """The dev split as token ids; again only where prompts of other lengths leave other room."""
        limit = room(self.backbone, rows, self.max_length)
        if limit not in self._encoded:
            self._encoded[limit] = encode(
                self.backbone,
                self.target.dev,
                prompt_rows=rows,
                max_length=self.max_length,
                max_new_tokens=self.target.max_new_tokens,
            )
        return self._encoded[limit]

    def batches(self, rows: int) -> Prepared:
        """The dev split in batches on the device."""
        if rows not in self._prepared:
            self._prepared[rows] = prepared(
                self.backbone, self.encoded(rows), prompt_rows=rows, token_budget=self.token_budget
            )
        return self._prepared[rows]
