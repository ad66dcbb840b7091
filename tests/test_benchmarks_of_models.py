"""The benchmarks of a whole model, at a tiny size: both sides agree, and what they count is right."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

from transferscope import attachment
from transferscope.encoding import from_token_ids, prepared
from transferscope.loading import attention
from transferscope.measurement import measure
from transferscope.models import Backbone

FOLDER = Path(__file__).parents[1] / "benchmarks"
ROWS, EXAMPLES = 8, 40


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a benchmark by name, as a script beside it does."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture
def sized(load: Any) -> ModuleType:
    return load("yardsticks")  # type: ignore[no-any-return]


@pytest.fixture
def backbone(sized: ModuleType) -> Backbone:
    return sized.backbone_of("tiny")  # type: ignore[no-any-return]


def test_extraction_equals_the_restated_procedure_in_compat_mode(load: Any, backbone: Backbone) -> None:
    sides = load("extraction").Sides(backbone, ROWS, EXAMPLES)
    sides.reference()
    attached = attachment.attach_rows(backbone, sides.prompt, "mask-first")
    sides.found = measure(attached, *sides.data, blank=sides.blank, compat=True)
    found = sides.differences()
    assert found["flips"] == 0
    assert found["predictivity"] == 0
    assert found["baseline"] < 1e-6


def test_extraction_compares_the_two_sides(load: Any, backbone: Backbone) -> None:
    bench = load("extraction")
    found = bench.compare(bench.Sides(backbone, ROWS, EXAMPLES), 1)
    assert found["agree"]
    assert found["examples"] == 2 * EXAMPLES
    assert found["ratio"] > 0
    assert found["share_of_peak"] > 0
    su = bench.stimulated(backbone, ROWS, 1)
    assert su["difference"] < 1e-6


def test_differences_of_the_two_sides_are_seen(load: Any, backbone: Backbone) -> None:
    sides = load("extraction").Sides(backbone, ROWS, EXAMPLES)
    sides.ours()
    sides.reference()
    baseline, accuracy = sides.expected
    sides.expected = baseline, 1 - accuracy
    assert sides.differences()["flips"] > 0.01


@pytest.mark.parametrize("head", [False, True])
def test_the_formula_counts_what_the_model_computes(
    load: Any, sized: ModuleType, backbone: Backbone, head: bool
) -> None:
    model, text = backbone.model, 6
    ids, mask = torch.zeros(3, text, dtype=torch.long), torch.ones(3, text, dtype=torch.long)
    prompt = sized.prompt_of(backbone, ROWS)
    rows = ROWS + text
    with attention(model, "eager"), FlopCounterMode(display=False) as counter, torch.no_grad():
        if head:
            load("restated").logits(model, prompt, ids, mask)
        else:
            embeds = torch.cat([prompt.expand(3, -1, -1), backbone.embed(ids)], dim=1)
            backbone.hidden(embeds, torch.ones(3, rows, dtype=torch.long))
    read = {"head_rows": rows, "head_words": model.config.vocab_size} if head else {}
    assert counter.get_total_flops() == sized.forward_flops(model.config, 3, rows, **read)


def test_a_tuning_step_has_the_reference_s_loss_and_gradient(load: Any, backbone: Backbone) -> None:
    bench = load("tuning")
    found = bench.compare(bench.Sides(backbone, ROWS, 32), 2)
    assert found["differences"]["loss"] < 1e-5
    assert found["differences"]["gradient"] < 1e-4
    assert all(seconds > 0 for seconds in found["step_seconds"].values())
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_texts_have_the_lengths_of_sst2(sized: ModuleType) -> None:
    lengths = [len(ids) for ids, _ in sized.texts(4000, 500)]
    assert min(lengths) >= 4
    assert max(lengths) <= 78
    assert np.median(lengths) == pytest.approx(24, abs=1)
    assert np.mean(lengths) == pytest.approx(25.1, abs=0.5)


def test_live_tensors_are_counted_to_the_byte(sized: ModuleType) -> None:
    given = torch.ones(1000)
    with sized.LiveTensors() as live:
        kept = given + 1  # 4,000 bytes
        for _ in range(5):
            (kept + kept).view(10, 100)  # 4,000 more, gone each time
        kept += 1
    assert (live.now, live.peak) == (4000, 8000)


def test_memory_does_not_grow_with_the_examples(load: Any, sized: ModuleType, backbone: Backbone) -> None:
    attached = attachment.attach_rows(backbone, sized.prompt_of(backbone, ROWS), "mask-first")
    blank = from_token_ids([([0], 0)])

    def peak(examples: int) -> int:
        data = from_token_ids([([0, *[5 + i % 90] * 14, 2], i % 2) for i in range(examples)])
        with sized.LiveTensors() as live:
            measure(attached, data, data, blank=blank, token_budget=8 * (ROWS + 16))
        return int(live.peak)

    peak(16)  # once before: lookups that the model keeps
    assert peak(16) == peak(32) == peak(128)


def test_growth_is_measured_for_examples_tasks_and_trials(load: Any, backbone: Backbone) -> None:
    bench = load("growth")
    base = {"examples": 12, "tasks": 1, "trials": 1}
    for what in base:
        found = bench.doubled(backbone, ROWS, what, base, 1)
        assert found["ratio"] > 0
        peaks = found["peak_bytes_of_tensors"]
        assert peaks["double"] <= (1.5 if what == "examples" else 1) * peaks["base"]


def test_the_gpu_script_measures_on_any_device(load: Any, sized: ModuleType, backbone: Backbone) -> None:
    bench = load("gpu")
    attached = bench.attached_to(backbone, ROWS)
    data = from_token_ids(sized.texts(24, 500))
    batches = prepared(backbone, data, prompt_rows=ROWS, token_budget=256)
    speeds = bench.throughput(attached, data, (256, 512), repeats=1)
    assert [row["token_budget"] for row in speeds] == [256, 512]
    assert all(row["examples_per_second"] > 0 and row["peak_bytes"] is None for row in speeds)
    assert set(bench.reduction(attached, batches, repeats=1)) == {"plain", "moments", "counts"}
    assert bench.fired(attached, batches).shape == (24, 2, ROWS, 64)
    found = bench.flips(attached, batches)
    assert found["tf32"] == 0  # a CPU has none
    assert 0 < found["bfloat16"] < 0.5
    assert backbone.dtype == torch.float32
    assert bench.launch_gaps(attached, batches) is None
    assert bench.fused(backbone, ROWS) is None
    assert set(bench.products(backbone)) == {"float32", "tf32", "bfloat16"}


def test_trials_tuned_at_once_are_measured_where_they_can_be(load: Any) -> None:
    bench = load("gpu")
    found = bench.together(*bench.material("tiny", "cpu", examples=24), (1, 2), steps=1)
    if isinstance(found, str):
        assert found == "not in this version"
    else:
        assert [row["trials"] for row in found] == [1, 2]
        assert all(row["steps_per_second"] > 0 for row in found)


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([], None),
        ([(2.0, 4.0)], 0.0),
        ([(0.0, 2.0), (1.0, 3.0)], 0.0),
        ([(3.0, 4.0), (0.0, 1.0)], 0.5),
        ([(0.0, 10.0), (2.0, 3.0), (15.0, 20.0)], 0.25),
    ],
)
def test_idle_share_of_kernels(
    load: Any, intervals: list[tuple[float, float]], expected: float | None
) -> None:
    assert load("gpu").idle_share(intervals) == expected


def test_without_a_gpu_the_script_says_so(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = load("gpu")
    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(bench.main)
    assert (done.exit_code, done.output) == (0, "no GPU here: nothing was measured\n")


@pytest.mark.parametrize("name", ["extraction", "tuning"])
def test_the_peak_of_one_side_alone(load: Any, name: str) -> None:
    options = ["--size", "tiny", "--rows", "8", "--memory-of", "ours"]
    done = CliRunner().invoke(load(name).main, options)
    assert done.exit_code == 0
    assert 1e7 < json.loads(done.output)["peak_bytes"] < 1e11
