"""The benchmarks run, and what they count does not depend on the clock."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(FOLDER))  # as for a script: the files beside it can be imported
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def test_measuring_tokenises_once_and_runs_the_same_passes_as_plain_evaluations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = load("transfer")
    backbone = bench.backbone_of(None, 1, 32)
    passes: list[tuple[int, ...]] = []
    forward = backbone.base.forward

    def counting(*args: object, **options: object) -> object:
        passes.append(tuple(options["inputs_embeds"].shape))  # type: ignore[attr-defined]
        return forward(*args, **options)

    monkeypatch.setattr(backbone.base, "forward", counting)
    found = bench.compare(backbone, sources=3, examples=40, repeats=1)
    assert found["tokenisations_per_measurement"] == 1
    assert found["ratio"] > 0
    # Turn by turn: the reference's passes, then ours, which have the same shapes in the same order.
    turn = len(passes) // 4
    assert turn % 3 == 0
    assert passes[:turn] == passes[turn : 2 * turn] == passes[2 * turn : 3 * turn]


def test_every_benchmark_is_in_the_readme() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"`{path.name}`" in readme for path in FOLDER.glob("*.py"))


def test_all_pairs_at_once_beat_the_loop() -> None:
    bench = load("all_pairs")
    for name in bench.BOUNDS:
        row = bench.compare(name, 20)
        assert (row["indicator"], row["neurons"]) == (name, 36_864)
        assert 0 < row["ratio"] < 1


def test_updates_together_make_as_many_passes_of_no_more_rows_as_separate_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = load("together")
    backbone = bench.backbone_of(None, 1, 64)
    settings = bench.TuningSettings(rows=4, steps=20, batch_size=8)
    passes: list[tuple[int, int]] = []
    forward = backbone.base.forward

    def counting(*args: object, **options: object) -> object:
        passes.append(tuple(options["inputs_embeds"].shape[:2]))  # type: ignore[attr-defined]
        return forward(*args, **options)

    monkeypatch.setattr(backbone.base, "forward", counting)
    found = bench.compare(backbone, bench.task_of(backbone, 120), settings, trials=3, turns=3)
    assert found["ratio"] > 0
    turns = [passes[start : start + 3] for start in range(0, len(passes), 3)]
    assert len(turns) == 8
    # Separate tunings begin the first turn; then the two take turns to begin.
    for begun in range(0, 8, 2):
        separate, together = turns[begun : begun + 2] if begun % 4 == 0 else turns[begun : begun + 2][::-1]
        assert sum(texts for texts, _ in together) == sum(texts for texts, _ in separate)
        assert sum(texts * width for texts, width in together) <= sum(t * width for t, width in separate)


def test_whole_tunings_and_rates_are_measured() -> None:
    bench = load("together")
    backbone = bench.backbone_of(None, 1, 64)
    task, settings = bench.task_of(backbone, 60), bench.TuningSettings(rows=2, steps=2, batch_size=4)
    found = bench.compare(backbone, task, settings, trials=2, turns=1, whole=True)
    assert (found["what"], found["trials"]) == ("tunings of 2 steps", 2)
    rows = bench.rates(backbone, task, settings, (1, 2), updates=2)
    assert [(row["trials"], row["gain"] > 0) for row in rows] == [(1, True), (2, True)]
    assert rows[0]["gain"] == 1


def test_texts_before_prompts_go_through_the_model_once() -> None:
    bench = load("suffix")
    found = bench.compare(bench.backbone_of(None, 1, 32), prompts=4, rows=8, examples=12, repeats=1)
    tokens = found["rows"]["plain"] // 4 - 12 * 8  # padding included
    assert found["rows"]["shared"] == tokens + 4 * 12 * 8
    assert found["row_ratio"] == found["rows"]["shared"] / found["rows"]["plain"]
    assert found["ratio"] > 0
    assert found["largest_difference_of_logits"] < 1e-5
