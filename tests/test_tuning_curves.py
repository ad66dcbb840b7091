"""The learning curve that a tuning leaves behind, and where it begins when it starts from another prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from transferscope.models import Backbone, wrap
from transferscope.settings import TuningSettings
from transferscope.tasks import Example, Task
from transferscope.tuning import tune

SETTINGS = TuningSettings(rows=3, steps=6, evaluate_every=3, batch_size=8)


def task(examples: int = 24) -> Task:
    texts = [(f"the film {'likes' if i % 2 else 'hates'} it", i % 2) for i in range(examples)]
    split = tuple(Example(text, None, label) for text, label in texts)
    return Task("films", split, split[:12], ("no", "yes"), ("bad", "good"))


@pytest.fixture(scope="module")
def bert() -> Backbone:
    return wrap(tiny.model("bert"), tiny.tokenizer("bert"), "bert")


def test_the_curve_has_every_evaluation(bert: Backbone) -> None:
    prompt = tune(bert, task(), settings=SETTINGS)
    curve, scores = prompt.provenance["curve"], prompt.provenance["scores"]
    assert curve["steps"] == [3, 6]
    assert curve["values"][curve["steps"].index(prompt.provenance["best_step"])] == scores["validation"]
    assert len(curve["losses"]) == 2
    assert all(np.isfinite(curve["losses"]))


def test_a_source_is_scored_before_the_first_step_and_kept_where_it_is_best(bert: Backbone) -> None:
    source = tune(bert, task(), settings=SETTINGS)
    ruinous = SETTINGS.model_copy(update={"learning_rate": 50.0})
    prompt = tune(bert, task(), settings=ruinous, init_from=source, seed=0)
    curve = prompt.provenance["curve"]
    assert curve["steps"] == [0, 3, 6]
    losses = dict(zip(curve["steps"], curve["losses"], strict=True))
    assert losses[0] < min(losses[3], losses[6])
    assert prompt.provenance["best_step"] == 0
    np.testing.assert_array_equal(prompt.rows, source.rows)


def test_a_resumed_run_has_the_whole_curve(bert: Backbone, tmp_path: Path) -> None:
    source = tune(bert, task(), settings=SETTINGS, seed=5)
    whole = tune(bert, task(), settings=SETTINGS, init_from=source)

    def stop(step: int, _: int, __: str) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(bert, task(), settings=SETTINGS, init_from=source, folder=tmp_path, progress=stop)
    resumed = tune(bert, task(), settings=SETTINGS, init_from=source, folder=tmp_path)
    assert resumed.provenance["curve"] == whole.provenance["curve"]
    assert resumed.provenance["curve"]["steps"] == [0, 3, 6]
