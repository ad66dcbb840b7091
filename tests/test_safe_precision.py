"""bfloat16 for accuracy and tuning: the probe, the choice, and what a study keeps of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import yaml
from by_hand import examples, task

from tests.test_pipeline import contents, write_study
from transferscope import attachment, safe_precision, store
from transferscope.decoding import generate_ids
from transferscope.encoding import encode, prepared
from transferscope.errors import StudyError
from transferscope.evaluation import evaluate
from transferscope.models import Backbone, wrap
from transferscope.pipeline import open_study
from transferscope.precision import of_backbone
from transferscope.prompts import load_prompt
from transferscope.readouts import TextReadout, readout_for
from transferscope.safe_precision import Agreement, accepted, agreement, chosen, is_current, native, probed
from transferscope.settings import ModelSettings, TuningSettings, parse_settings
from transferscope.tasks import Example, Task
from transferscope.tuning import tune

SMALL = TuningSettings(rows=2, steps=6, evaluate_every=3, batch_size=8)


def backbone(model_type: str) -> Backbone:
    return wrap(tiny.model(model_type), tiny.tokenizer(tiny.tokenizer_kind(model_type)))


def written() -> Task:
    rows = [Example(one.text, None, -1, references=("good food",)) for one in examples(10, 10)]
    return Task("w", tuple(rows), tuple(rows), (), max_new_tokens=3, metric="exact_match")


@pytest.fixture
def made_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """This device counts as one that multiplies bfloat16 itself: autocast on the CPU has its arithmetic."""
    monkeypatch.setattr(safe_precision, "native", lambda device: True)


# The probe.


@pytest.mark.parametrize("model_type", ["bert", "electra", "gpt2", "llama", "t5", "gemma2", "opt"])
def test_the_probe_is_two_evaluations(model_type: str) -> None:
    frozen, given = backbone(model_type), task()
    found = agreement(frozen, given, SMALL)
    rows = attachment.initial_rows(
        frozen,
        2,
        candidates=np.unique(
            np.concatenate(encode(frozen, given.train, prompt_rows=3, max_length=None).ids)
        ).tolist(),
    )
    scores = []
    for dtype in (None, torch.bfloat16):
        under = frozen.at(dtype)
        attached = attachment.attach(under, rows)
        data = encode(under, given.train, prompt_rows=attached.rows)
        scores.append(evaluate(attached, readout_for(under, given), data))
    exact, rounded = scores
    assert found.examples == len(given.train)
    assert found.share == (exact.predictions == rounded.predictions).mean()
    assert found.loss == pytest.approx(abs(exact.loss - rounded.loss), abs=1e-7)
    assert 0 < found.loss < 0.2


def test_the_probe_draws_from_train_and_another_draw_is_another() -> None:
    frozen = backbone("bert")
    many = task()
    many = Task("t", examples(200, 3), many.dev, many.labels, many.words)
    found = agreement(frozen, many, SMALL)
    assert found.examples == safe_precision.EXAMPLES
    assert found == agreement(frozen, many, SMALL)
    assert found.loss != agreement(frozen, many, SMALL, seed=1).loss


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_a_classifier_is_probed_by_a_fixed_layer(model_type: str) -> None:
    frozen = backbone(model_type)
    found = agreement(frozen, task(classes=3), SMALL, head="classifier")
    assert found == agreement(frozen, task(classes=3), SMALL, head="classifier")
    assert 0 < found.loss < 0.1  # of a layer of zeros it would be 0 whatever the precision


@pytest.mark.parametrize("model_type", ["t5", "gpt2"])
def test_a_generation_task_is_probed_token_by_token(model_type: str) -> None:
    frozen = backbone(model_type)
    found = agreement(frozen, written(), SMALL)
    assert 0 < found.loss < 0.2
    assert 0.5 < found.share <= 1


@pytest.mark.parametrize(
    ("share", "loss", "safe"),
    [(0.99, 0.01, True), (0.97, 0.0, False), (1.0, 0.03, False), (1.0, float("nan"), False)],
)
def test_safe_is_alike_in_predictions_and_loss(share: float, loss: float, safe: bool) -> None:
    assert Agreement(128, share, loss).safe is safe


# The choice.


def test_the_cpu_is_not_made_for_it() -> None:
    assert not native(torch.device("cpu"))
    assert not probed(ModelSettings(name="m", device="cpu"))
    frozen = backbone("bert")
    kept, line = chosen(frozen, ModelSettings(name="m", device="cpu"), task(), SMALL)
    assert (kept, line) == (frozen, "")


def test_auto_takes_bfloat16_where_a_probe_says_so(
    made_for_it: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, settings = backbone("bert"), ModelSettings(name="m", device="cpu")
    monkeypatch.setattr(safe_precision, "AGREEMENT", 0.5)
    found, line = chosen(frozen, settings, task(), SMALL)
    assert of_backbone(found) == "bfloat16"
    assert "accuracy and tuning of t in bfloat16: on 18 examples" in line
    monkeypatch.setattr(safe_precision, "LOSS", 0.0)
    found, line = chosen(frozen, settings, task(), SMALL)
    assert of_backbone(found) == "float32"
    assert "in float32, for bfloat16 is not safe: on 18 examples" in line
    for given in (
        settings.model_copy(update={"precision": "float32"}),
        ModelSettings(name="m", dtype="bfloat16"),
    ):
        assert chosen(frozen, given, task(), SMALL) == (frozen, "")
    asked = settings.model_copy(update={"precision": "bfloat16"})
    assert of_backbone(chosen(frozen, asked, task(), SMALL)[0]) == "bfloat16"


def test_what_was_made_in_either_precision_is_current_under_auto_alone() -> None:
    old, reduced = {"model": "a"}, {"model": "a", "precision": "bfloat16"}
    auto, exact, low = (ModelSettings(name="m", precision=name) for name in ("auto", "float32", "bfloat16"))
    current = {
        (settings.precision, "precision" in stored): is_current(settings, stored, {"model": "a"})
        for settings in (auto, exact, low)
        for stored in (old, reduced)
    }
    assert current == {
        ("auto", False): True,
        ("auto", True): True,
        ("float32", False): True,
        ("float32", True): False,
        ("bfloat16", False): False,
        ("bfloat16", True): True,
    }
    assert not is_current(auto, reduced, {"model": "b"})
    assert accepted(auto, {}, old) == accepted(exact, reduced, old) == old


def test_settings_refuse_two_precisions() -> None:
    fields = {"tasks": {"a": {"train": "a.jsonl"}}}
    with pytest.raises(
        StudyError, match=r"precision is 'bfloat16' and dtype 'float16'.*leave precision at auto"
    ):
        parse_settings({"model": {"name": "m", "precision": "bfloat16", "dtype": "float16"}, **fields})
    with pytest.raises(StudyError, match=r"model.precision: .*'tf32'"):
        parse_settings({"model": {"name": "m", "precision": "tf32"}, **fields})


def test_the_precision_is_no_part_of_the_model() -> None:
    # What a study's model is remembered by; a new key would load every model of every study again.
    assert set(ModelSettings(name="m", precision="bfloat16").model_dump()) == {
        "name",
        "revision",
        "device",
        "dtype",
        "attention",
        "trust_remote_code",
    }


# Tuning and writing under autocast.


@pytest.mark.parametrize(
    ("model_type", "head"),
    [
        ("bert", "verbalizer"),
        ("modernbert", "classifier"),
        ("gpt2", "verbalizer"),
        ("t5-gated", "verbalizer"),
    ],
)
def test_a_prompt_is_tuned_under_bfloat16(model_type: str, head: str, tmp_path: Path) -> None:
    reduced = backbone(model_type).at(torch.bfloat16)
    prompt = tune(reduced, task(), settings=SMALL, head=head)
    plain = tune(reduced.at(None), task(), settings=SMALL, head=head)
    assert (prompt.provenance["precision"], plain.provenance["precision"]) == ("bfloat16", "float32")
    assert prompt.rows.dtype == np.float32
    assert np.isfinite(prompt.rows).all()
    assert not np.array_equal(prompt.rows, plain.rows)
    losses = [one.provenance["curve"]["losses"] for one in (prompt, plain)]
    np.testing.assert_allclose(*losses, atol=0.1)


@pytest.mark.parametrize("model_type", ["t5", "bart", "gpt2", "llama", "gemma2"])
def test_texts_are_written_under_bfloat16(model_type: str) -> None:
    frozen, given = backbone(model_type), written()
    texts = []
    for one in (frozen, frozen.at(torch.bfloat16)):
        attached = attachment.attach(one, attachment.initial_rows(one, 2))
        data = encode(one, given.dev, prompt_rows=2, max_new_tokens=3)
        texts.append(generate_ids(attached, prepared(one, data, prompt_rows=2), max_new_tokens=3))
        readout = readout_for(one, given)
        assert isinstance(readout, TextReadout)
        assert readout.loss(attached, prepared(one, data, prompt_rows=2).batches[0]).dtype == torch.float32
    same = [np.array_equal(a, b) for a, b in zip(*texts, strict=True)]
    assert np.mean(same) >= 0.6


# A study.


@pytest.fixture
def safe(made_for_it: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_precision, "AGREEMENT", 0.0)  # few examples, and a random model
    monkeypatch.setattr(safe_precision, "LOSS", 1.0)


def set_precision(study: Path, precision: str) -> None:
    raw = yaml.safe_load((study / "study.yaml").read_text())
    store.write_text(
        study / "study.yaml", yaml.safe_dump(raw | {"model": {"name": "model", "precision": precision}})
    )


def cells_of(study: Path, target: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((study / "transfer" / "zero-shot" / f"{target}.json").read_text())
    return found


def test_a_study_on_the_cpu_is_made_from_what_it_was_before(tmp_path: Path) -> None:
    study, lines = write_study(tmp_path / "study", seeds=1), list[str]()
    open_study(study, report=lines.append).measure(targets=["films"], sources=["food"])
    made_of = load_prompt(study / "prompts" / "films" / "0").provenance["inputs"]
    assert set(made_of) == {"model", "task", "template", "head", "max_length", "tuning"}
    assert set(cells_of(study, "films")["inputs"]) == {"model", "task", "max_length"}
    assert not [line for line in lines if "bfloat16" in line]


def test_auto_is_reported_recorded_and_kept(
    safe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, lines = write_study(tmp_path / "study", seeds=1), list[str]()
    there = open_study(study, report=lines.append)
    there.measure()
    signatures = there.extract()  # which measuring refuses under autocast
    assert sum("accuracy and tuning of films in bfloat16: on 40 examples" in line for line in lines) == 1
    prompt = load_prompt(study / "prompts" / "films" / "0")
    assert prompt.provenance["precision"] == prompt.provenance["inputs"]["precision"] == "bfloat16"
    assert cells_of(study, "films")["inputs"]["precision"] == "bfloat16"
    assert signatures["films"].provenance["precision"] == {"dtype": "float32", "tf32": False}
    # Elsewhere, where auto would be float32, nothing is stale, and a column goes on as it was begun.
    monkeypatch.setattr(safe_precision, "native", lambda device: False)
    before = contents(study)
    record = cells_of(study, "food")
    kept = [cell for cell in record["cells"] if cell["source"] != "pets"]
    store.write_json(study / "transfer" / "zero-shot" / "food.json", record | {"cells": kept})
    lines.clear()
    elsewhere = open_study(study, report=lines.append)
    elsewhere.measure()
    elsewhere.extract()
    assert not [line for line in lines if "again" in line]
    assert {name for name, data in contents(study).items() if data != before[name]} <= {
        "transfer/zero-shot/food.json"  # its cells in another order
    }
    # Who asks for float32 gets it.
    set_precision(study, "float32")
    open_study(study, report=lines.append).measure(targets=["films"], sources=["films"])
    assert any(
        'tuning films seed 0 again: precision: was "bfloat16", no longer there' in line for line in lines
    )
    assert any("measuring zero-shot on films again" in line for line in lines)
    assert "precision" not in cells_of(study, "films")["inputs"]


def test_neurons_do_not_depend_on_the_precision_of_accuracy(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", seeds=1)
    plain = open_study(study).extract(["films"])["films"]
    (study / "signatures" / "films.safetensors").unlink()
    prompts = {"films": (load_prompt(study / "prompts" / "films" / "0"),)}
    set_precision(study, "bfloat16")
    again = open_study(study)
    again._prompts.update(prompts)  # those of float32
    found = again.extract(["films"])["films"]
    np.testing.assert_array_equal(found.predictivity, plain.predictivity)
    np.testing.assert_array_equal(found.stimulation, plain.stimulation)


def test_what_an_unsafe_probe_leaves_in_float32_is_made_as_ever(
    made_for_it: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_precision, "LOSS", -1.0)
    study, lines = write_study(tmp_path / "study", seeds=1), list[str]()
    open_study(study, report=lines.append).tune(["films"])
    assert any("accuracy and tuning of films in float32, for bfloat16 is not safe" in line for line in lines)
    made_of = load_prompt(study / "prompts" / "films" / "0").provenance
    assert made_of["precision"] == "float32"
    assert "precision" not in made_of["inputs"]


def test_a_state_of_another_precision_is_not_gone_on_from(tmp_path: Path) -> None:
    reduced, states = backbone("bert").at(torch.bfloat16), list[Any]()

    def stop(step: int, _: int, __: str) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(reduced, task(), settings=SMALL, folder=tmp_path, progress=stop)
    plain = reduced.at(None)
    resumed = tune(plain, task(), settings=SMALL, folder=tmp_path, progress=lambda *seen: states.append(seen))
    assert states[0][0] == 1
    np.testing.assert_array_equal(resumed.rows, tune(plain, task(), settings=SMALL).rows)
