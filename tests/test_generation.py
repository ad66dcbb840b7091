"""Generation tasks from tuning to transfer, on a T5 and a Llama that were trained to follow control words."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny_trained
import torch
import yaml

from transferscope import comparison, store, transfer
from transferscope.attachment import attach, initial_rows
from transferscope.encoding import encode
from transferscope.errors import IndicatorInputError, InputError, SignatureError, TaskError
from transferscope.evaluation import Evaluation, evaluate
from transferscope.measurement import measure
from transferscope.metrics import metric
from transferscope.models import Backbone
from transferscope.pipeline import open_study
from transferscope.probing import LinearProbe
from transferscope.prompts import SoftPrompt, load_prompt, save_prompt
from transferscope.readouts import readout_for
from transferscope.settings import TuningSettings
from transferscope.signatures import Signature, extract, load_signature, save_signature
from transferscope.tasks import Task
from transferscope.tuning import tune

SETTINGS = TuningSettings(
    rows=2, steps=100, evaluate_every=50, batch_size=16, learning_rate=0.1, init="random"
)
TASKS = {
    "copy-animals": tiny_trained.task("copy", "animals"),
    "copy-colours": tiny_trained.task("copy", "colours"),
    "first-animals": tiny_trained.task("first", "animals"),
    "kind": tiny_trained.task("kind", ""),
}
WRITTEN = [name for name, task in TASKS.items() if task.kind == "generation"]
KINDS = ("t5", "llama")


@cache
def tuned(kind: str, name: str) -> SoftPrompt:
    return tune(tiny_trained.backbone(kind), TASKS[name], settings=SETTINGS, template="prefix")


def score(kind: str, prompt: SoftPrompt | torch.Tensor, task: Task) -> Evaluation:
    backbone = tiny_trained.backbone(kind)
    attached = attach(backbone, prompt, "prefix")
    data = encode(backbone, task.dev, prompt_rows=attached.rows, max_new_tokens=task.max_new_tokens)
    return evaluate(attached, readout_for(backbone, task), data, metric=task.metric)


@cache
def zero_shot(kind: str, source: str, target: str) -> float:
    return score(kind, tuned(kind, source), TASKS[target]).value


@cache
def signature(kind: str, name: str) -> Signature:
    return extract(tiny_trained.backbone(kind), TASKS[name], [tuned(kind, name)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WRITTEN)
def test_a_tuned_prompt_makes_the_model_write_what_it_never_saw(kind: str, name: str) -> None:
    task, backbone = TASKS[name], tiny_trained.backbone(kind)
    seen = {example.text for example in task.train}
    assert not seen & {example.text for example in task.dev}
    scores = tuned(kind, name).provenance["scores"]
    assert scores["metric"] == "exact_match"
    assert scores["dev"] >= 0.8
    assert scores["majority"] <= 0.3
    nothing = score(kind, torch.zeros(0, backbone.embedding_size), task).value
    draws = [score(kind, initial_rows(backbone, 2, init="random", seed=s), task).value for s in range(8)]
    assert nothing <= 0.3
    assert np.mean(draws) <= 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_is_what_was_scored(kind: str) -> None:
    task = TASKS["copy-animals"]
    prompt = tuned(kind, task.name)
    found = score(kind, prompt, task)
    scores, texts = prompt.provenance["scores"], found.predictions
    assert (found.value, found.loss) == pytest.approx((scores["dev"], scores["dev_loss"]), rel=1e-5)
    assert found.logits is None
    assert found.value == pytest.approx(
        np.mean([text in example.references for text, example in zip(texts, task.dev, strict=True)])
    )
    known = metric("exact_match")
    rows = known.statistics([example.references for example in task.dev], texts)
    assert known.value(rows.sum(axis=0)) == pytest.approx(found.value)


def test_a_text_is_lost_with_its_target_before_it() -> None:
    """The loss is small where the texts are right, and large under no prompt."""
    task = TASKS["copy-animals"]
    nothing = torch.zeros(0, tiny_trained.backbone("llama").embedding_size)
    assert score("llama", tuned("llama", task.name), task).loss < 0.3
    assert score("llama", nothing, task).loss > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_transfer_between_related_tasks_is_higher_than_from_an_unrelated_one(kind: str) -> None:
    related = zero_shot(kind, "copy-animals", "copy-colours"), zero_shot(kind, "copy-colours", "copy-animals")
    others = (
        zero_shot(kind, "first-animals", "copy-colours"),
        zero_shot(kind, "first-animals", "copy-animals"),
    )
    assert min(related) >= 0.5
    assert max(others) <= 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_transfer_goes_across_kinds_of_task(kind: str) -> None:
    assert zero_shot(kind, "kind", "kind") >= 0.9
    to_class = score(kind, tuned(kind, "copy-animals"), TASKS["kind"])
    assert to_class.metric == "accuracy"
    assert to_class.predictions.shape == (len(TASKS["kind"].dev),)
    to_text = score(kind, tuned(kind, "kind"), TASKS["copy-animals"])
    assert (to_text.metric, len(to_text.predictions)) == ("exact_match", len(TASKS["copy-animals"].dev))
    assert to_text.value <= 0.2  # it says the kind, it does not copy


def test_text_behind_the_text_is_written_under_a_suffix_prompt() -> None:
    task = TASKS["first-animals"]
    prompt = tune(tiny_trained.backbone("llama"), task, settings=SETTINGS, template="suffix")
    assert prompt.template == "suffix"
    assert prompt.provenance["scores"]["dev"] >= 0.9


def test_tuning_goes_on_from_another_tasks_prompt() -> None:
    backbone, source = tiny_trained.backbone("llama"), tuned("llama", "copy-colours")
    few = SETTINGS.model_copy(update={"steps": 4, "evaluate_every": 2, "learning_rate": 0.002})
    went_on = tune(backbone, TASKS["copy-animals"], settings=few, init_from=source, template="prefix")
    fresh = tune(backbone, TASKS["copy-animals"], settings=few, template="prefix")
    assert went_on.provenance["curve"]["steps"] == [0, 2, 4]
    assert went_on.provenance["scores"]["dev"] > fresh.provenance["scores"]["dev"] + 0.2


def test_an_interrupted_tuning_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    backbone, task = tiny_trained.backbone("t5"), TASKS["first-animals"]
    few = SETTINGS.model_copy(update={"steps": 12, "evaluate_every": 4})
    whole = tune(backbone, task, settings=few)

    def stop(done: int, total: int, text: str) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(backbone, task, settings=few, folder=tmp_path, progress=stop)
    again = tune(backbone, task, settings=few, folder=tmp_path)
    np.testing.assert_array_equal(again.rows, whole.rows)
    assert again.provenance["curve"] == whole.provenance["curve"]


def test_a_prompt_is_saved_and_read(tmp_path: Path) -> None:
    prompt = tuned("llama", "copy-animals")
    save_prompt(prompt, tmp_path / "p", model="trained llama", kind="decoder")
    read = load_prompt(tmp_path / "p")
    np.testing.assert_array_equal(read.rows, prompt.rows)
    assert (read.head, read.provenance["task_kind"]) == (None, "generation")


@pytest.mark.parametrize("kind", KINDS)
def test_a_signature_has_what_needs_no_classes(kind: str, tmp_path: Path) -> None:
    backbone, found = tiny_trained.backbone(kind), signature(kind, "copy-animals")
    assert found.stimulation.shape == (1, backbone.layers, backbone.neurons)
    assert found.prompts.shape == (1, 2, backbone.embedding_size)
    assert found.predictivity is None
    assert found.baseline is None
    assert found.features is None
    assert (found.provenance["kind"], found.provenance["train_examples"]) == ("generation", 128)
    save_signature(found, tmp_path / "s.safetensors")
    read = load_signature(tmp_path / "s.safetensors")
    np.testing.assert_array_equal(read.stimulation, found.stimulation)
    with pytest.raises(SignatureError, match="'copy-animals' is a generation task, which has no classes"):
        _ = read.mean_predictivity


@pytest.mark.parametrize("kind", KINDS)
def test_indicators_compare_across_kinds_of_task_what_all_supply(kind: str) -> None:
    signatures = [signature(kind, name) for name in TASKS]
    matrices = {matrix.indicator: matrix for matrix in comparison.compare(signatures)}
    assert "on" in matrices
    known = [comparison.from_signature(one) for one in signatures]
    needs = {need for name in matrices for need in comparison.find(name, known).needs}
    assert needs == {"prompt", "stimulation"}
    for matrix in matrices.values():
        assert matrix.tasks == tuple(TASKS)
    message = r"'copy-animals' has no predictivity: 'copy-animals' is a generation task, which has no classes"
    with pytest.raises(IndicatorInputError, match=message):
        comparison.compare(signatures, ["predictivity_spearman"])


def test_predictivity_cannot_be_measured_of_texts() -> None:
    task, backbone = TASKS["copy-animals"], tiny_trained.backbone("t5")
    attached = attach(backbone, tuned("t5", task.name))
    train, dev = (
        encode(backbone, split, prompt_rows=attached.rows, max_new_tokens=task.max_new_tokens)
        for split in (task.train, task.dev)
    )
    with pytest.raises(TaskError, match="generation task, which has no classes, and predictivity needs"):
        measure(attached, train, dev)


@pytest.mark.parametrize(("name", "wrong"), [("copy-animals", "accuracy"), ("kind", "bleu")])
def test_a_metric_of_the_other_kind_is_refused(name: str, wrong: str) -> None:
    backbone: Backbone = tiny_trained.backbone("t5")
    task = TASKS[name]
    attached = attach(backbone, torch.zeros(1, backbone.embedding_size), "prefix")
    data = encode(backbone, task.dev, prompt_rows=1, max_new_tokens=task.max_new_tokens)
    with pytest.raises(
        InputError, match=f"the metric '{wrong}' is for .*, and this readout is for {task.kind}"
    ):
        evaluate(attached, readout_for(backbone, task), data, metric=wrong)


# Measured transfer, ranking and starts.


@pytest.mark.parametrize("kind", KINDS)
def test_the_transfer_matrix_is_across_kinds(kind: str) -> None:
    prompts = {name: [tuned(kind, name)] for name in TASKS}
    matrix = transfer.measure(tiny_trained.backbone(kind), prompts, TASKS, draws=1)
    assert matrix.sources == matrix.targets == tuple(TASKS)
    for source, target in (("copy-animals", "copy-colours"), ("kind", "copy-animals"), ("kind", "kind")):
        assert matrix.value(source, target) == pytest.approx(zero_shot(kind, source, target))
    assert dict(matrix.metrics or {})["kind"] == "accuracy"
    assert matrix.controls["random"].shape == (1, 4)
    assert matrix.relative[0, 1] == pytest.approx(matrix.values[0, 1] / matrix.values[1, 1])


def test_a_linear_probe_is_not_for_texts() -> None:
    with pytest.raises(InputError, match="generation task, and a linear probe finds classes: use zero-shot"):
        LinearProbe(tiny_trained.backbone("t5"), TASKS["copy-animals"])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study on disk, of the trained Llama: two tasks of texts, one of classes, prompts and data of all."""
    folder = tmp_path_factory.mktemp("texts")
    backbone, described = tiny_trained.backbone("llama"), {}
    backbone.model.save_pretrained(folder / "model")
    backbone.tokenizer.save_pretrained(folder / "model")
    for name in ("copy-animals", "copy-colours", "kind"):
        task = TASKS[name]
        save_prompt(tuned("llama", name), folder / "given" / name, model="model", kind="decoder")
        described[name] = {"prompts": f"given/{name}", "type": name.split("-")[0], "metric": task.metric}
        described[name] |= {"train": f"{name}/train.jsonl", "dev": f"{name}/dev.jsonl"}
        for split in ("train", "dev"):
            lines = [
                {"text": e.text, "label": task.labels[e.label]}
                if task.labels
                else {"text": e.text, "written": list(e.references)}
                for e in getattr(task, split)
            ]
            store.write_text(folder / name / f"{split}.jsonl", "\n".join(map(json.dumps, lines)))
        if task.labels:
            words = dict(zip(task.labels, task.words or (), strict=True))
            described[name] |= {"labels": list(task.labels), "words": words}
        else:
            described[name] |= {"answer": "written", "max_new_tokens": task.max_new_tokens}
    settings = {
        "model": "model", "template": "prefix", "seeds": [0], "tasks": described,
        "tuning": SETTINGS.model_dump(exclude={"patience"}), "transfer": {"random_draws": 1},
    }  # fmt: skip
    store.write_text(folder / "study.yaml", yaml.safe_dump(settings))
    return folder


def test_a_study_of_both_kinds_runs_from_end_to_end(study: Path) -> None:
    summary = open_study(study).run()
    assert [task.metric for task in summary.tasks] == ["exact_match", "exact_match", "accuracy"]
    assert summary.correlation is not None
    ranking = open_study(study).rank("copy-colours", indicator="prompt_cosine_mean_token", measure=2)
    assert ranking.sources[0].source == "copy-animals"
    assert ranking.sources[0].measured == pytest.approx(zero_shot("llama", "copy-animals", "copy-colours"))


def test_texts_race(study: Path) -> None:
    raced = open_study(study).rank("copy-colours", race=True)
    first, last = raced.sources
    assert (first.source, last.source) == ("copy-animals", "kind")
    assert first.measured is not None
    assert last.examples is not None
    assert first.measured > 0.5 > (last.measured or 0.0)


def test_texts_are_started_from_a_source(study: Path) -> None:
    found = open_study(study).compare_starts(
        "copy-colours", ["copy-animals"], shots=16, learning_rates=[0.01], with_random=False
    )
    source = next(start for start in found.starts if start.start == "copy-animals")
    scratch = next(start for start in found.starts if start.start == "scratch")
    assert found.metric == "exact_match"
    assert source.dev > scratch.dev
    assert (source.comparable_steps, scratch.comparable_steps) == (0, 100)  # there before its first step
    assert found.recommended is source
