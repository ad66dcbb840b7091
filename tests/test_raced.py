"""Predictions of a race are kept: a second one pays nothing, a killed one goes on, none is of old data."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.test_pipeline import contents, write_study
from transferscope import raced, safe_precision, store, workspace
from transferscope.errors import StoreError
from transferscope.pipeline import Pipeline, open_study
from transferscope.raced import Evaluations
from transferscope.zero_shot import ZeroShot

DEV = 80  # rounds of 32, 64 and 80 examples


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks with prompts, nothing measured, and a target with examples for three rounds."""
    folder = write_study(tmp_path_factory.mktemp("tuned") / "study")
    rng = random.Random(0)
    words = [["hates", "small", "old"], ["likes", "big", "new"]]
    texts = [f"the film {rng.choice(words[i % 2])} {rng.choice(['a', 'an', 'it'])}" for i in range(DEV)]
    lines = [json.dumps({"text": text, "label": i % 2}) for i, text in enumerate(texts)]
    store.write_text(folder / "films" / "dev.jsonl", "\n".join(lines))
    open_study(folder).tune(["food", "pets"])
    return folder


@pytest.fixture
def study(tuned: Path, tmp_path: Path) -> Path:
    shutil.copytree(tuned, tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """How often each example was run under each prompt."""
    counts: Counter[tuple[str, int]] = Counter()
    real = ZeroShot.predictions

    def predictions(self: ZeroShot, prompt: Any, positions: Any) -> Any:
        counts.update((prompt.fingerprint, int(position)) for position in positions)
        return real(self, prompt, positions)

    monkeypatch.setattr(ZeroShot, "predictions", predictions)
    return counts


def race(study: Path, **options: Any) -> Any:
    return open_study(study).rank("films", race=True, **options)


def kept(study: Path) -> dict[str, bytes]:
    return contents(study / "races")


def cost(ranking: Any) -> str:
    return next(note for note in ranking.notes if note.startswith("Forward passes"))


def test_a_second_race_pays_nothing_and_loads_no_model(
    study: Path, asked: Counter[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = race(study)
    total = sum(asked.values())
    assert total >= 4 * 32
    assert set(asked.values()) == {1}
    assert f"{total} of the {4 * DEV}" in cost(first)
    assert "known from before" not in cost(first)
    files = kept(study)
    assert sorted(files) == [
        "films/food/0.json",
        "films/food/1.json",
        "films/pets/0.json",
        "films/pets/1.json",
    ]
    monkeypatch.setattr(workspace, "load_backbone", lambda *a, **k: pytest.fail("the model was loaded"))
    second = race(study)
    assert second.sources == first.sources
    assert f"0 of the {4 * DEV} that" in cost(second)
    assert f"(0%), and {total} that were known from before." in cost(second)
    assert kept(study) == files
    assert sum(asked.values()) == total


@pytest.mark.parametrize("writes", [1, 3, 5])
def test_a_killed_race_goes_on(
    writes: int, study: Path, asked: Counter[tuple[str, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(study, whole)
    expected = race(whole)
    asked.clear()
    real, left = store.write_json, [writes]

    def write(path: Any, *args: Any, **options: Any) -> None:
        real(path, *args, **options)
        left[0] -= "races" in str(path)
        if not left[0]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(raced.store, "write_json", write)
        with pytest.raises(KeyboardInterrupt):
            race(study)
    assert asked
    resumed = race(study)
    assert resumed.sources == expected.sources
    assert set(asked.values()) == {1}
    assert kept(study) == kept(whole)


def test_one_more_source_pays_for_itself_alone(study: Path, asked: Counter[tuple[str, int]]) -> None:
    raw = yaml.safe_load((study / "study.yaml").read_text())
    two = {name: spec for name, spec in raw["tasks"].items() if name != "pets"}
    store.write_text(study / "study.yaml", yaml.safe_dump({**raw, "tasks": two}))
    race(study)
    before = dict(asked)
    store.write_text(study / "study.yaml", yaml.safe_dump(raw))
    both = race(study)
    assert {source.source for source in both.sources} == {"food", "pets"}
    assert set(asked.values()) == {1}
    pets = {prompt.fingerprint for prompt in open_study(study).tune(["pets"])["pets"]}
    assert {prompt for prompt, _ in set(asked) - set(before)} >= pets
    assert int(re.findall(r"\d+", cost(both).split("known")[0])[-1]) > 0


def test_other_data_and_other_prompts_are_run_again(study: Path, asked: Counter[tuple[str, int]]) -> None:
    race(study)
    opened = open_study(study)
    prompt = opened.tune(["food"])["food"][0]
    other = replace(prompt, rows=prompt.rows + np.float32(0.5))
    assert Evaluations(opened, "films").missing("food", prompt, range(5)) == []
    assert Evaluations(opened, "films").missing("food", other, range(5)) == [0, 1, 2, 3, 4]
    with (study / "films" / "dev.jsonl").open("a") as file:
        file.write('\n{"text": "the film likes it", "label": 1}')
    asked.clear()
    lines: list[str] = []
    open_study(study, report=lines.append).rank("films", race=True)
    assert sum(asked.values()) >= 4 * 32
    assert [line.split(":")[0] for line in lines if line.startswith("racing")] == ["racing on films again"]
    assert "task: was" in next(line for line in lines if line.startswith("racing"))


def test_what_is_kept_is_what_measuring_finds(study: Path) -> None:
    opened: Pipeline = open_study(study)
    prompt = opened.tune(["food"])["food"][0]
    evaluations = Evaluations(opened, "films")
    in_parts = [evaluations.statistics("food", prompt, part) for part in (range(50), range(30, DEV))]
    assert evaluations.new == DEV
    right = np.concatenate([in_parts[0], in_parts[1][20:]])[:, 0]
    cell = opened.measure(targets=["films"], sources=["food"])
    assert right.mean() == pytest.approx(cell.per_seed[0, cell.sources.index("food"), 0])


def test_on_a_device_for_bfloat16_a_race_stays_in_the_precision_it_began_in(
    study: Path, asked: Counter[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_precision, "native", lambda device: True)
    monkeypatch.setattr(safe_precision, "agreement", lambda *a, **k: safe_precision.Agreement(99, 1.0, 0.0))
    first = race(study)
    inputs = json.loads(kept(study)["films/food/0.json"])["inputs"]
    assert inputs[safe_precision.KEY] == "bfloat16"
    monkeypatch.setattr(workspace, "load_backbone", lambda *a, **k: pytest.fail("the model was loaded"))
    assert race(study).sources == first.sources
    assert set(asked.values()) == {1}


def test_two_races_at_once_keep_what_both_found(study: Path) -> None:
    one, other = (Evaluations(open_study(study), "films") for _ in range(2))
    prompt = open_study(study).tune(["food"])["food"][0]
    for race_ in (one, other):
        assert race_.missing("food", prompt, range(5)) == [0, 1, 2, 3, 4]  # both have looked
    one.run("food", prompt, [0, 1, 2])
    other.run("food", prompt, [2, 3, 4])
    assert store.read_json(study / "races" / "films" / "food" / "0.json")["positions"] == [0, 1, 2, 3, 4]


def test_a_damaged_file_is_said(study: Path) -> None:
    race(study)
    file = study / "races" / "films" / "food" / "0.json"
    record = json.loads(file.read_text())
    store.write_text(file, json.dumps(record | {"positions": [1]}))
    with pytest.raises(StoreError, match="does not hold the predictions of a race"):
        race(study)
