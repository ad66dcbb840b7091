"""Passes are counted as they happen: texts that are read once, passes that end early, and what they hold."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests import tiny
from tests.test_pipeline import write_study
from tests.test_planning import RATE, Live, backbone, counted, made_eager, runs_as_planned, some, work
from tests.test_text_cache import CAUSAL, VARIANTS
from transferscope import attachment, streaming, text_cache, token_budget, transfer, tuning_together
from transferscope.activations import Probe
from transferscope.counting import Batches, Counter, Shape, over_texts, shapes, steps
from transferscope.encoding import buckets, collate, encode, from_token_ids, prepared
from transferscope.evaluation import evaluate_several
from transferscope.outline import Sizes
from transferscope.pipeline import open_study
from transferscope.planning import Planner, plan
from transferscope.readouts import readout_for
from transferscope.settings import TuningSettings
from transferscope.streaming import How, Pass, stream
from transferscope.tuning import begin
from transferscope.tuning_run import prepare


def causal_study(folder: Path, model_type: str = "llama", **settings: Any) -> Path:
    """The three small tasks on a tiny random decoder."""
    write_study(folder, **settings)
    shutil.rmtree(folder / "model")
    tiny.model(model_type).save_pretrained(folder / "model")
    tiny.tokenizer("causal").save_pretrained(folder / "model")
    return folder


WIDE: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_inner": 256, "n_layer": 6},
    "llama": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 6},
}


STUDIES: dict[str, tuple[str, dict[str, Any]]] = {
    "suffix": ("llama", {}),
    "suffix, small batches, linear probe": ("gpt2", {"token_budget": 64, "head": "classifier"}),
    "suffix, compat": ("llama", {"signatures": {"compat": True}}),
    "suffix, one seed": ("llama", {"seeds": [3]}),
    "prefix": ("llama", {"template": "prefix", "token_budget": 64}),
}


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("kind", STUDIES)
def test_texts_that_are_read_once_are_counted_once(
    kind: str, small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``small``: few prompts share a reading, and the batches of an extraction are smaller than others."""
    if small:
        monkeypatch.setattr(transfer, "TOGETHER", 3)
        monkeypatch.setattr(streaming, "TOGETHER_BYTES", 1)
        monkeypatch.setattr(streaming, "CPU_TOKENS", 40)
    model_type, settings = STUDIES[kind]
    tuning = {"rows": 3, "steps": 3, "evaluate_every": 2, "batch_size": 8, "accumulate": 2}
    folder = causal_study(tmp_path, model_type, tuning=tuning, **{"template": "suffix", **settings})
    before, study = plan(open_study(folder), rate=RATE), open_study(folder)
    runs_as_planned(study, before)
    assert plan(open_study(folder), rate=RATE).total("passes") == 0


def test_a_half_measured_column_reads_its_texts_for_the_prompts_that_are_left(tmp_path: Path) -> None:
    folder = causal_study(tmp_path, template="suffix", seeds=3)
    study = open_study(folder)
    study.tune()
    study.measure(targets=["food"], sources=["pets"])
    before = plan(open_study(folder), stages=("measure",), rate=RATE)
    study = open_study(folder)
    with counted(study) as rows:
        study.measure()
    assert (len(rows), sum(rows)) == work(before, "measure")


@pytest.mark.parametrize("pools", [False, True])
@pytest.mark.parametrize("template", ["suffix", "prefix"])
def test_prompts_that_are_tuned_together_share_passes(
    template: str, pools: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``pools``: as on a GPU, where steps are common, too, and texts are not read apart."""
    monkeypatch.setattr(tuning_together, "pools", lambda backbone: pools)
    monkeypatch.setattr(Counter, "pools", pools)
    tuning = {"rows": 3, "steps": 3, "evaluate_every": 2, "batch_size": 8, "accumulate": 2, "together": True}
    folder = causal_study(tmp_path, template=template, seeds=3, tuning=tuning, token_budget=128)
    before, study = plan(open_study(folder), stages=("tune",), rate=RATE), open_study(folder)
    with counted(study) as rows:
        study.tune()
    assert (len(rows), sum(rows)) == work(before, "tune")
    three = {one.optimizer for one in before.work}
    assert three == {3 * Sizes.of(study.backbone).optimizer(3)}


def test_on_a_gpu_the_budget_is_that_of_its_memory_without_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = causal_study(tmp_path / "unsaid")
    enough = 2**28 + Sizes.of(backbone("llama")).weights  # 4 x 32768 rows of 2 kB each
    monkeypatch.setattr(Planner, "device", torch.device("cuda"))
    for free, budget in ((enough, 32768), (enough - 4, 16384), (0, 8192)):
        monkeypatch.setattr(token_budget, "_free", lambda device, free=free: free)
        assert Planner(open_study(folder)).counter.budget == budget
    said = Planner(open_study(causal_study(tmp_path / "said", token_budget=512)))
    assert said.counter.budget == 512


@pytest.mark.parametrize("name", CAUSAL)
def test_a_token_s_keys_and_values_are_those_of_the_cache(name: str) -> None:
    row, options = VARIANTS.get(name, (name, {}))
    made = backbone(row, **options)
    data = encode(made, some().train, prompt_rows=3)
    batch = collate(made, data, buckets(data, prompt_rows=3, token_budget=64)[0])
    cache = text_cache.read(made, batch).cache
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert Sizes.of(made).token * batch.ids.numel() == held


def test_an_encoder_keeps_no_texts() -> None:
    assert Sizes.of(backbone("bert")).token == Sizes.of(backbone("t5")).token == 0


@pytest.mark.parametrize(
    ("model_type", "template"),
    [("bert", "prefix"), ("t5", "prefix"), ("gpt2", "suffix"), ("llama", "suffix"), ("mixtral", "suffix")],
)
def test_a_pass_over_train_ends_before_the_last_down_projection(model_type: str, template: str) -> None:
    """What it saves is what the plan takes off: torch counts both."""
    made, task = backbone(model_type), some()
    attached = attachment.attach(made, attachment.initial_rows(made, 3, init="random"), template)
    data, probe = encode(made, task.train, prompt_rows=attached.rows), Probe.of(attached)
    how = How(made, probe, 2, (), False, False, False, 64)
    found = []
    for readouts in (True, False):
        passes = [Pass(attached, how.empty(2), [])]
        with FlopCounterMode(display=False) as counter:
            stream(passes, data, how, readouts=readouts)
        found.append(counter.get_total_flops())
    sums = 2 * 2 * len(data) * made.readout_size  # of the readout rows by class
    cut, sizes = shapes(data, buckets(data, prompt_rows=3, token_budget=64)), Sizes.of(made)
    whole, short = (over_texts(sizes, cut, 3, to_end=end).flops for end in (True, False))
    assert len(cut) > 1
    assert found[0] - found[1] - sums == pytest.approx(whole - short, rel=0.02)


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_operations_of_shared_texts_are_those_that_torch_counts(model_type: str) -> None:
    made = backbone(model_type, **WIDE[model_type])
    several, task = prompts_of(made, 3), some()
    long = from_token_ids([([5] * size, 0) for size in (55, 55, 54, 40, 40, 12)])  # for attention's sake
    data = prepared(made, long, prompt_rows=8, token_budget=128)
    readout = readout_for(made, task)
    with made_eager(made), FlopCounterMode(display=False) as counter:
        evaluate_several(several, readout, data)
    cut = shapes(data.data, data.groups)
    planned = over_texts(Sizes.of(made), cut, 8, prompts=3, shared=True)
    assert planned.flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def prompts_of(made: Any, count: int) -> list[attachment.Attached]:
    rows = [attachment.initial_rows(made, 8, init="random", seed=seed) for seed in range(count)]
    return [attachment.attach(made, one, "suffix") for one in rows]


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_memory_of_shared_texts_is_roughly_that_of_the_passes(model_type: str) -> None:
    """Within a factor of two of the tensors that were alive at once, beside weights and inputs."""
    made, task = backbone(model_type, **WIDE[model_type]), some()
    sizes, several = Sizes.of(made), prompts_of(made, 3)
    data = prepared(made, encode(made, task.train, prompt_rows=8), prompt_rows=8)
    readout = readout_for(made, task)
    with Live() as reading:
        evaluate_several(several, readout, data)
    planned = over_texts(sizes, shapes(data.data, data.groups), 8, prompts=3, shared=True)
    assert 0.5 < planned.memory / reading.peak < 2
    settings = TuningSettings(rows=8, batch_size=24, steps=1, validation=0.01, init="random")
    setup = prepare(made, task, settings, template="suffix")
    run = begin(made, task, setup, settings, 0).run
    with Live() as stepping:
        run.step_once()
    cut = [(len(setup.fit), int(setup.fit.lengths.max()))]
    assert 0.5 < steps(sizes, cut, 8, shared=True).memory / stepping.peak < 2


def test_nothing_costs_nothing() -> None:
    some_passes = Batches(2, 30, 1e3, 64)
    assert some_passes * 0 == Batches()
    assert some_passes + Batches() == some_passes
    assert Shape(3, "mask-first").beside == 4
