"""The linear probe: features by hand, a head fitted on train alone, closed form against normal equations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from transferscope import attachment, probing
from transferscope.encoding import encode
from transferscope.errors import InputError
from transferscope.evaluation import prepared
from transferscope.models import wrap
from transferscope.probing import LinearProbe, features
from transferscope.prompts import SoftPrompt
from transferscope.tasks import Example, Task

SUBJECTS = ["movie", "film", "plot", "story", "food", "dog", "cat"]


def task(size: int = 60, classes: int = 2, seed: int = 0) -> Task:
    rng = np.random.default_rng(seed)
    clues = ["likes", "hates", "sees"][:classes]
    examples = tuple(
        Example(f"the {rng.choice(SUBJECTS)} {clues[i % classes]} {rng.choice(SUBJECTS)}", None, i % classes)
        for i in range(size)
    )
    half = size // 2
    return Task("mood", examples[:half], examples[half:], tuple(clues))


def prompt(width: int = 16, rows: int = 2, template: str = "mask-first") -> SoftPrompt:
    rng = np.random.default_rng(1)
    return SoftPrompt((0.3 * rng.standard_normal((rows, width))).astype(np.float32), "s", 0, template)


@pytest.fixture(scope="module")
def backbone() -> Any:
    """No language-model head: the probe needs none."""
    return wrap(tiny.model("bert", head=False), tiny.tokenizer("bert"), "tiny")


def test_features_are_the_readout_rows_in_the_order_of_the_split(backbone: Any) -> None:
    attached = attachment.attach(backbone, prompt())
    data = encode(backbone, task().dev, prompt_rows=attached.rows)
    found = features(attached, prepared(backbone, data, prompt_rows=attached.rows, token_budget=24))
    for i, ids in enumerate(data.ids):
        text = backbone.embed(torch.tensor(ids)[None])
        rows = torch.cat([attached.mask_row, attached.prompt])[None]
        with torch.no_grad():
            hidden = backbone.model(inputs_embeds=torch.cat([rows, text], dim=1))[0]
        np.testing.assert_allclose(found[i], hidden[0, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize("probe", ["ridge", "logistic"])
@pytest.mark.parametrize("classes", [2, 3])
def test_it_finds_classes_that_features_tell(backbone: Any, probe: str, classes: int) -> None:
    target = task(300, classes)
    score = LinearProbe(backbone, target, probe=probe).score(prompt())
    shuffled = np.random.default_rng(0).permutation([e.label for e in target.train])
    noise = replace(
        target, train=tuple(replace(e, label=int(y)) for e, y in zip(target.train, shuffled, strict=True))
    )
    assert score.value >= 0.85
    assert score.logits.shape == (len(target.dev), classes)
    assert np.isfinite(score.loss)
    assert LinearProbe(backbone, noise, probe=probe).score(prompt()).value < 0.7


def test_dev_has_no_part_in_the_head(backbone: Any) -> None:
    target = task()
    turned = replace(target, dev=tuple(replace(e, label=1 - e.label) for e in target.dev))
    one, two = (LinearProbe(backbone, t).score(prompt()) for t in (target, turned))
    np.testing.assert_array_equal(one.logits, two.logits)
    assert one.value == pytest.approx(1 - two.value)


def test_the_closed_form_is_the_normal_equations(backbone: Any) -> None:
    target, chosen = task(), prompt()
    scorer = LinearProbe(backbone, target)
    score = scorer.score(chosen)
    attached = attachment.attach(backbone, chosen)
    train, dev = (features(attached, split) for split in scorer._splits(attached.rows))
    mean, sd = train.mean(axis=0), train.std(axis=0)
    x, z = (np.asarray((part - mean) / sd, dtype=np.float64) for part in (train, dev))
    y = np.array([2.0 * e.label - 1 for e in target.train])
    gap = []
    for alpha in np.logspace(-2, 5, 15):
        weights = np.linalg.solve(x.T @ x + alpha * np.eye(x.shape[1]), x.T @ (y - y.mean()))
        gap.append(np.abs((z @ weights + y.mean()) - 2 * score.logits[:, 1]).max())
    assert min(gap) < 1e-3  # the head is ridge at one of the strengths


def test_at_most_so_many_examples_and_every_class(backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    encode_ = probing.encode

    def counting(model: Any, examples: Any, **options: Any) -> Any:
        seen.append(len(examples))
        return encode_(model, examples, **options)

    monkeypatch.setattr(probing, "encode", counting)
    scorer = LinearProbe(backbone, task(90, 3), examples=12)
    scorer.score(prompt())
    scorer.score(prompt())  # the same rows: nothing is tokenised again
    assert seen == [12, 45]


def test_a_class_that_train_lacks_is_never_found(backbone: Any) -> None:
    target = task(90, 3)
    without = replace(target, train=tuple(e for e in target.train if e.label != 1))
    score = LinearProbe(backbone, without).score(prompt())
    assert score.logits.shape == (45, 3)
    assert set(score.predictions.tolist()) == {0, 2}


@pytest.mark.parametrize(
    ("model_type", "template"), [("t5", "prefix"), ("llama", "suffix"), ("gpt2", "prefix")]
)
def test_it_works_for_other_kinds_of_models(model_type: str, template: str) -> None:
    other = wrap(tiny.model(model_type), tiny.tokenizer(tiny.tokenizer_kind(model_type)), "tiny")
    score = LinearProbe(other, task()).score(prompt(other.embedding_size, template=template))
    assert 0 <= score.value <= 1


def test_what_it_refuses(backbone: Any) -> None:
    with pytest.raises(InputError, match="ridge"):
        LinearProbe(backbone, task(), probe="rigde")
    few = replace(task(), train=task().train[:3])
    with pytest.raises(InputError, match="two examples of each class"):
        LinearProbe(backbone, few, probe="logistic").score(prompt())
