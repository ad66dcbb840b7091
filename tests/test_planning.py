"""A plan is what then happens: passes and rows to the last one, statistics to the byte, memory roughly."""

from __future__ import annotations

import csv
import json
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from click.testing import CliRunner
from test_pipeline import write_study
from torch.utils._python_dispatch import TorchDispatchMode

from transferscope import attachment, measurement
from transferscope.cli import main
from transferscope.encoding import encode
from transferscope.errors import InputError
from transferscope.evaluation import evaluate, prepared
from transferscope.models import Backbone, wrap
from transferscope.outline import Sizes, outline, product_rate, statistics_bytes
from transferscope.pipeline import Pipeline, open_study
from transferscope.planning import Plan, plan
from transferscope.readouts import readout_for
from transferscope.settings import ModelSettings, TuningSettings
from transferscope.task_spec import Subtask
from transferscope.tasks import Example, Task
from transferscope.tuning_run import TuningRun, prepare

RATE = 1e9


@contextmanager
def counted(study: Pipeline) -> Iterator[list[int]]:
    """The rows of each forward pass of the study's model."""
    rows: list[int] = []

    def hook(module: Any, inputs: Any, given: dict[str, Any]) -> None:
        size, width = given["inputs_embeds"].shape[:2]
        rows.append(size * width)

    handle = study.backbone.base.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


def work(found: Plan, stage: str) -> tuple[int, int]:
    chosen = [one for one in found.work if one.stage == stage]
    return sum(one.passes for one in chosen), sum(one.rows for one in chosen)


STUDIES: dict[str, dict[str, Any]] = {
    "mask-first": {},
    "prefix, small batches": {"template": "prefix", "token_budget": 64},
    "compat, one seed": {"signatures": {"compat": True}, "seeds": [3]},
    "classifier": {"head": "classifier"},
}


def runs_as_planned(study: Pipeline, before: Plan) -> None:
    """Run the stages of a study: passes and rows of each are those that were planned."""
    runs: list[tuple[str, Callable[[], Any]]] = [
        ("tune", study.tune), ("extract", study.extract), ("measure", study.measure)
    ]  # fmt: skip
    with counted(study) as rows:
        for stage, run in runs:
            rows.clear()
            run()
            assert (len(rows), sum(rows)) == work(before, stage), stage


@pytest.mark.parametrize("kind", STUDIES)
def test_passes_and_rows_are_those_of_the_run(kind: str, tmp_path: Path) -> None:
    tuning = {"rows": 3, "steps": 5, "evaluate_every": 2, "batch_size": 8, "accumulate": 2}
    folder = write_study(tmp_path, tuning=tuning, **STUDIES[kind])
    before = plan(open_study(folder), rate=RATE)
    assert not (tmp_path / "backbone.json").exists()  # nothing was done
    study = open_study(folder)
    runs_as_planned(study, before)
    after = plan(open_study(folder), rate=RATE)
    assert after.total("passes") == after.total("memory") == 0
    assert after.total("done") == after.total("units") == before.total("units")
    assert before.total("seconds") == pytest.approx(before.total("flops") / RATE)


def test_what_is_done_is_not_planned_again(tmp_path: Path) -> None:
    folder = write_study(tmp_path, tuning={"rows": 3, "steps": 2, "evaluate_every": 2, "batch_size": 8})
    study = open_study(folder)
    study.extract(["food"])
    found = {(one.stage, one.task): one for one in plan(open_study(folder), rate=RATE).work}
    assert [found["tune", name].done for name in ("films", "food", "pets")] == [0, 2, 0]
    assert [found["extract", name].passes > 0 for name in ("films", "food", "pets")] == [True, False, True]
    assert found["measure", "food"].done == 0
    study.measure()
    assert plan(open_study(folder), stages=("measure",), rate=RATE).total("passes") == 0


def test_patience_makes_it_an_upper_bound(tmp_path: Path) -> None:
    folder = write_study(
        tmp_path, tuning={"rows": 3, "steps": 8, "evaluate_every": 2, "batch_size": 8, "patience": 1}
    )
    found, study = plan(open_study(folder), stages=("tune",), rate=RATE), open_study(folder)
    assert all(one.at_most for one in found.work)
    with counted(study) as rows:
        study.tune()
    assert 0 < len(rows) <= found.total("passes")


def test_an_unknown_stage(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'extract'"):
        plan(open_study(write_study(tmp_path)), stages=("extrct",))


def test_the_command_prints_it_and_does_nothing(tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    ran = CliRunner().invoke(main, ["run", str(folder), "--dry-run", "--format", "json"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert {one["stage"] for one in found["work"]} == {"tune", "extract", "measure"}
    assert found["rate"] > 0
    assert all(one["seconds"] > 0 for one in found["work"])
    assert not (tmp_path / "prompts").exists()
    table = CliRunner().invoke(main, ["run", str(folder), "--dry-run"])
    assert "passes" in table.stdout
    assert "GFLOP/s" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "stages", "tasks"),
    [
        (["tune", "food"], {"tune"}, {"food"}),
        (["extract", "food", "pets"], {"tune", "extract"}, {"food", "pets"}),
        (["measure"], {"tune", "measure"}, {"films", "food", "pets"}),
    ],
)
def test_each_stage_can_be_planned(
    arguments: list[str], stages: set[str], tasks: set[str], tmp_path: Path
) -> None:
    folder = write_study(tmp_path)
    ran = CliRunner().invoke(main, [*arguments, "--study", str(folder), "--dry-run", "--format", "csv"])
    assert ran.exit_code == 0, ran.output
    rows = list(csv.DictReader(ran.stdout.splitlines()))
    assert ({row["stage"] for row in rows}, {row["task"] for row in rows}) == (stages, tasks)
    assert not (tmp_path / "prompts").exists()


def some(classes: int = 2) -> Task:
    words = ["movie", "film", "plot", "story", "food"]
    made = tuple(Example(" ".join(words[: 2 + i % 4]), None, i % classes) for i in range(24))
    return Task("t", made, made[:12], ("a", "b", "c")[:classes], ("good", "bad", "maybe")[:classes])


def backbone(model_type: str, **sizes: Any) -> Backbone:
    return wrap(tiny.model(model_type, **sizes), tiny.tokenizer(tiny.tokenizer_kind(model_type)))


@pytest.mark.parametrize(
    ("model_type", "template"),
    [("bert", "mask-first"), ("t5", "prefix"), ("llama", "suffix"), ("mixtral", "suffix")],
)
@pytest.mark.parametrize("subtasks", [(), (Subtask((1,), (0,)), Subtask((2,), (0, 1)))])
def test_statistics_are_exact(
    model_type: str, template: str, subtasks: tuple[Subtask, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, task = backbone(model_type), some(3)
    kept: list[Any] = []
    stream = measurement.stream

    def spy(passes: Any, data: Any, how: Any, **options: Any) -> Any:
        for one in passes:
            kept.extend(part for held in (one.statistics, *(p for _, p in one.parts)) for part in held.parts)
        return stream(passes, data, how, **options)

    monkeypatch.setattr(measurement, "stream", spy)
    attached = attachment.attach(made, attachment.initial_rows(made, 3, init="random"), template)
    train, dev = (encode(made, split, prompt_rows=attached.rows) for split in (task.train, task.dev))
    measurement.measure(attached, train, dev, subtasks=subtasks)
    held = sum(value.nbytes for one in kept for value in vars(one).values())
    sizes = Sizes.of(made)
    shape = 3, sizes.layers, attached.rows, sizes.neurons
    experts = made.architecture.experts
    assert held == statistics_bytes(*shape, subtasks=len(subtasks), experts=experts)


class Live(TorchDispatchMode):
    """The most bytes that tensors made while it is on held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else (found,):
            if isinstance(one, torch.Tensor):
                self._meet(one.untyped_storage())
        return found

    def _meet(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize(("model_type", "template"), [("bert", "prefix"), ("llama", "prefix")])
def test_memory_is_roughly_that_of_the_passes(model_type: str, template: str) -> None:
    """Within a factor of two of the tensors that were alive at once, beside weights and inputs."""
    made = backbone(model_type, hidden_size=64, intermediate_size=256, num_hidden_layers=6)
    task, sizes = some(), Sizes.of(made)
    attached = attachment.attach(made, attachment.initial_rows(made, 8, init="random"), template)
    data = prepared(made, encode(made, task.train, prompt_rows=8), prompt_rows=8)
    rows = sum(len(batch.ids) * (batch.ids.shape[1] + 8) for batch in data.batches)
    assert len(data.batches) == 1
    readout = readout_for(made, task)
    with Live() as reading:
        evaluate(attached, readout, data)
    assert 0.5 < sizes.reading(rows) / reading.peak < 2
    settings = TuningSettings(rows=8, batch_size=24, steps=1, validation=0.01)
    setup = prepare(made, task, settings, template=template)
    prompt = attached.prompt.clone().requires_grad_(True)
    run = TuningRun(attachment.attach(made, prompt, template), setup, settings, 0, [prompt])
    with Live() as stepping:
        run.step_once()
    width = int(setup.fit.lengths.max()) + 8
    assert 0.5 < sizes.tuning(len(setup.fit) * width) / stepping.peak < 2


@pytest.mark.parametrize("model_type", ["bert", "t5", "gpt2", "llama", "albert"])
def test_the_outline_has_the_sizes_of_the_model(model_type: str, tmp_path: Path) -> None:
    model = tiny.model(model_type)
    model.save_pretrained(tmp_path)
    tiny.tokenizer(tiny.tokenizer_kind(model_type)).save_pretrained(tmp_path)
    empty = outline(str(tmp_path), ModelSettings(name="m"), "verbalizer")
    assert all(parameter.is_meta for parameter in empty.model.parameters())
    assert Sizes.of(empty) == Sizes.of(wrap(model))
    half = outline(str(tmp_path), ModelSettings(name="m", dtype="bfloat16"), "verbalizer")
    assert Sizes.of(half).weights < 0.6 * Sizes.of(empty).weights
    assert Sizes.of(empty, "4bit").weights < Sizes.of(empty, "8bit").weights < Sizes.of(empty).weights


def test_operations_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    made = backbone("bert", hidden_size=64, intermediate_size=256)
    embeds, mask = torch.randn(4, 20, 64), torch.ones(4, 20, dtype=torch.int64)
    with made_eager(made), FlopCounterMode(display=False) as counter, torch.no_grad():
        made.hidden(embeds, mask)
    assert Sizes.of(made).flops(4, 20) == pytest.approx(counter.get_total_flops(), rel=0.03)


def made_eager(made: Backbone) -> Any:
    from transferscope.loading import attention

    return attention(made.model, "eager")


def test_the_rate_is_a_positive_number() -> None:
    sizes = Sizes.of(backbone("bert"))
    assert product_rate(sizes, 64, torch.float32, torch.device("cpu")) > 0
