"""A prompt beside the study's own is tuned once, read without a model, and tuned again with a reason."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from transferscope.kept_prompts import kept
from transferscope.models import Backbone, wrap
from transferscope.settings import TuningSettings
from transferscope.tasks import Example, Task

EXAMPLES = tuple(Example(text, None, k % 2) for k, text in enumerate(["great film", "bad film"] * 8))
TASK = Task("films", EXAMPLES, EXAMPLES, ("bad", "good"), ("terrible", "great"))


@pytest.fixture
def workspace() -> SimpleNamespace:
    lines: list[str] = []
    settings = SimpleNamespace(
        tuning=TuningSettings(rows=2, steps=1), head="verbalizer", max_length=None, token_budget=512
    )
    return SimpleNamespace(settings=settings, report=lines.append, lines=lines)


def backbone() -> Backbone:
    return wrap(tiny.model("bert"), tiny.tokenizer("bert"), "small")


def kept_in(folder: Path, workspace: Any, made_of: dict[str, Any], made: Any = backbone) -> Any:
    return kept(
        workspace,
        TASK,
        folder,
        "tuning films",
        made_of=made_of,
        backbone=made,
        seed=3,
        template=None,
        progress=lambda done, total, text: None,
    )


def test_what_is_current_is_read_without_a_model(workspace: SimpleNamespace, tmp_path: Path) -> None:
    first, new = kept_in(tmp_path / "p", workspace, {"steps": 1})
    assert (new, first.seed, first.provenance["inputs"]) == (True, 3, {"steps": 1})
    again, new = kept_in(tmp_path / "p", workspace, {"steps": 1}, lambda: pytest.fail("the model was made"))
    assert not new
    assert again.fingerprint == first.fingerprint
    assert workspace.lines == []


def test_what_is_made_of_something_else_is_tuned_again(workspace: SimpleNamespace, tmp_path: Path) -> None:
    kept_in(tmp_path / "p", workspace, {"steps": 1})
    found, new = kept_in(tmp_path / "p", workspace, {"steps": 2})
    assert (new, found.provenance["inputs"]) == (True, {"steps": 2})
    assert workspace.lines == ["tuning films again: steps: was 1, now 2"]
