"""Real models and real tasks, small: from task files to a ranking through the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from transferscope.cli import main
from transferscope.store import write_text

WORDS = {"subj": ["personal", "factual"], "mpqa": ["bad", "good"]}


@pytest.mark.parametrize(("model", "head"), [("minilm-l6", "classifier"), ("minilm-l6-mlm", "verbalizer")])
def test_two_real_tasks_from_files_to_a_ranking(
    model: str, head: str, shared: Callable[..., Path], tmp_path: Path
) -> None:
    folder = shared("realworld", "models", model)
    tasks: dict[str, Any] = {
        name: {
            "train": os.fspath(shared("realworld", "tasks", name, "train.jsonl")),
            "dev": os.fspath(shared("realworld", "tasks", name, "dev.jsonl")),
            "text": "text",
            "label": "label",
            "words": WORDS[name] if head == "verbalizer" else None,
            "type": name,
            "max_train": 240,
            "max_dev": 160,
        }
        for name in WORDS
    }
    settings = {
        "model": os.fspath(folder),
        "head": head,
        "seeds": 1,
        "max_length": 32,
        "tuning": {"rows": 8, "steps": 36, "evaluate_every": 18, "batch_size": 16},
        "tasks": tasks,
    }
    study = tmp_path / "study"
    write_text(study / "study.yaml", yaml.safe_dump(settings))
    result = CliRunner().invoke(
        main, ["rank", "subj", "--study", os.fspath(study), "--format", "json"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    ranking = json.loads(result.stdout)
    assert ranking["target"] == "subj"
    assert [source["source"] for source in ranking["sources"]] == ["mpqa"]
    record = json.loads((study / "prompts" / "subj" / "0" / "transferscope.json").read_text())
    scores = record["provenance"]["scores"]
    assert scores["majority"] == pytest.approx(0.5, abs=0.05)
    # A few small steps: far from what the model can do, and well above the majority class all the same.
    assert scores["dev"] > scores["majority"] + 0.1
