"""Tuning by other methods: it learns, can be interrupted, is kept and read, is refused where it must be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from transferscope import method_tuning, methods, store
from transferscope.digests import weights_digest
from transferscope.encoding import encode
from transferscope.errors import InputError, PromptError, StoreError, StudyError
from transferscope.evaluation import evaluate
from transferscope.method_tuning import (
    TunedMethod,
    load_tuned,
    save_tuned,
    settings_of,
    tune_method,
    tuned_with,
)
from transferscope.methods import Sizes
from transferscope.models import Backbone, wrap
from transferscope.readouts import readout_for
from transferscope.settings import TuningSettings
from transferscope.tasks import Example, Task

SMALL = Sizes(rank=2, alpha=4, bottleneck=4, prefix=3)
FILL = ["movie", "film", "plot", "story", "food", "a", "was", "is", "very", "quite"]


def split(count: int, seed: int) -> tuple[Example, ...]:
    """A word that tells the class, among others."""
    rng = np.random.default_rng(seed)
    texts = [[*map(str, rng.choice(FILL, 3)), ("likes", "hates")[i % 2]] for i in range(count)]
    return tuple(Example(" ".join(words), None, i % 2) for i, words in enumerate(texts))


TASK = Task("mood", split(40, 0), split(20, 1), ("pos", "neg"), ("good", "bad"))


def small(model_type: str = "bert", **options: Any) -> Backbone:
    tokenizer = tiny.tokenizer(tiny.tokenizer_kind(model_type))
    return wrap(tiny.model(model_type, **options), tokenizer, model_type)


def quick(method: str, **changes: Any) -> TuningSettings:
    base = TuningSettings(steps=12, batch_size=8, evaluate_every=4)
    return settings_of(method, base).model_copy(update=changes)


def dev(backbone: Backbone, tuned: TunedMethod, places: int = 0) -> tuple[float, float]:
    """Score and loss on dev, measured apart from the tuning."""
    head = "verbalizer" if tuned.head is None else "classifier"
    with tuned_with(backbone, tuned) as attached:
        data = encode(backbone, TASK.dev, prompt_rows=attached.rows + places)
        found = evaluate(attached, readout_for(backbone, TASK, head, layer=tuned.head), data)
    return found.value, found.loss


@pytest.mark.parametrize("method", methods.names())
def test_each_method_lowers_the_loss_and_is_the_same_when_read_again(method: str, tmp_path: Path) -> None:
    backbone = small()
    before = weights_digest(backbone.model)
    tuned = tune_method(backbone, TASK, method, settings=quick(method, steps=24), sizes=SMALL)
    assert weights_digest(backbone.model) == before
    losses = tuned.provenance["curve"]["losses"]
    assert min(losses) < losses[0]
    assert tuned.template == "mask-first"
    assert tuned.parameters == tuned.provenance["parameters"] == sum(a.size for a in tuned.arrays.values())
    read = load_tuned(save_tuned(tuned, tmp_path / "kept"))
    assert read.fingerprint == tuned.fingerprint
    assert read.provenance == store.json_ready(tuned.provenance)
    scores = tuned.provenance["scores"]
    found = dev(backbone, read, methods.get(method).places(SMALL))
    assert found == (scores["dev"], pytest.approx(scores["dev_loss"], rel=1e-5))
    assert weights_digest(backbone.model) == before


def test_the_mask_row_alone_stands_before_the_text() -> None:
    backbone = small()
    attached = method_tuning.without_rows(backbone, "mask-first")
    assert attached.rows == 1
    assert attached.mask_row is not None
    bert = backbone.embed(attached.mask_row.new_tensor([[4]]).long())[0]
    np.testing.assert_array_equal(attached.mask_row.numpy(), bert.numpy())
    assert method_tuning.without_rows(small("gpt2"), "prefix").rows == 0


@pytest.mark.parametrize(("model_type", "template"), [("gpt2", "suffix"), ("gpt2", "prefix"), ("t5", None)])
def test_it_works_where_there_is_no_mask_row(model_type: str, template: str | None) -> None:
    backbone = small(model_type)
    tuned = tune_method(backbone, TASK, "lora", settings=quick("lora"), sizes=SMALL, template=template)
    assert dev(backbone, tuned)[0] == tuned.provenance["scores"]["dev"]


def test_a_classifier_is_tuned_with_it_and_kept(tmp_path: Path) -> None:
    backbone = small(head=False)
    task = replace(TASK, words=None)
    tuned = tune_method(backbone, task, "lora", settings=quick("lora"), sizes=SMALL, head="classifier")
    assert tuned.head is not None
    assert tuned.head.weight.shape == (2, 16)
    assert np.abs(tuned.head.weight).max() > 0
    read = load_tuned(save_tuned(tuned, tmp_path))
    assert read.head is not None
    np.testing.assert_array_equal(read.head.weight, tuned.head.weight)
    assert read.fingerprint == tuned.fingerprint != replace(tuned, head=None).fingerprint


class Stop(Exception):
    """Raised in the middle of a tuning."""


def test_an_interrupted_tuning_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    backbone = small()
    before = weights_digest(backbone.model)
    whole = tune_method(backbone, TASK, "bitfit", settings=quick("bitfit"))

    def stop(done: int, total: int, text: str) -> None:
        if done == 9:
            raise Stop

    with pytest.raises(Stop):
        tune_method(backbone, TASK, "bitfit", settings=quick("bitfit"), folder=tmp_path, progress=stop)
    assert weights_digest(backbone.model) == before
    assert [path.name for path in tmp_path.iterdir()] == ["tuning-state.safetensors"]
    seen: list[int] = []
    again = tune_method(
        backbone, TASK, "bitfit", settings=quick("bitfit"), folder=tmp_path,
        progress=lambda done, total, text: seen.append(done),
    )  # fmt: skip
    assert seen == [9, 10, 11, 12]
    assert again.fingerprint == whole.fingerprint
    assert again.provenance == whole.provenance
    assert list(tmp_path.iterdir()) == []


def test_seeds_and_methods_have_fingerprints_of_their_own() -> None:
    backbone = small()
    first, other = (
        tune_method(backbone, TASK, "lora", settings=quick("lora"), sizes=SMALL, seed=seed) for seed in (0, 1)
    )
    assert first.fingerprint != other.fingerprint


def test_settings_keep_all_but_the_learning_rate() -> None:
    base = TuningSettings(steps=7)
    assert settings_of("lora", base) == TuningSettings(
        steps=7, learning_rate=methods.get("lora").learning_rate
    )
    assert settings_of("lora", base, 0.5).learning_rate == 0.5


def test_refusals(tmp_path: Path) -> None:
    backbone = small()
    with pytest.raises(InputError, match="unknown method 'lorra'"):
        tune_method(backbone, TASK, "lorra")
    written = tuple(Example("the film", None, -1, ("film",)) for _ in range(4))
    texts = Task("copy", written, written, (), metric="exact_match", max_new_tokens=4)
    with pytest.raises(InputError, match="generation task"):
        tune_method(backbone, texts, "lora")
    tuned = tune_method(backbone, TASK, "lora", settings=quick("lora"), sizes=SMALL)
    before = weights_digest(backbone.model)
    name = next(iter(tuned.arrays))
    for wrong in (
        {name: tuned.arrays[name]},
        dict(tuned.arrays) | {name: tuned.arrays[name][:1]},
        dict(tuned.arrays) | {name: np.full_like(tuned.arrays[name], np.nan)},
    ):
        with (
            pytest.raises(PromptError, match="the lora of 'mood'"),
            tuned_with(backbone, replace(tuned, arrays=wrong)),
        ):
            pass
    assert weights_digest(backbone.model) == before
    with pytest.raises(StudyError, match="no tuned method"):
        load_tuned(tmp_path)
    save_tuned(tuned, tmp_path)
    record = store.read_json(tmp_path / "transferscope.json")
    store.write_json(tmp_path / "transferscope.json", record | {"sizes": {"rank": "many"}})
    with pytest.raises(StoreError, match="does not hold a tuned method"):
        load_tuned(tmp_path)
    store.write_json(tmp_path / "transferscope.json", record)
    arrays = {name: np.arange(3)}
    store.save_arrays(tmp_path / "adapter.safetensors", {f"adapter.{k}": v for k, v in arrays.items()}, {})
    with pytest.raises(StoreError, match="floats"):
        load_tuned(tmp_path)
