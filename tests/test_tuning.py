"""Tuning: it learns, touches nothing but the prompt, and a kill in the middle changes no byte of a result."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from transferscope import attachment, tuning
from transferscope.digests import weights_digest
from transferscope.errors import InputError, TemplateError
from transferscope.evaluation import Evaluation, evaluate
from transferscope.models import Backbone, wrap
from transferscope.prompts import SoftPrompt
from transferscope.settings import TuningSettings
from transferscope.tasks import Example, Task
from transferscope.tuning import hold_out, prepare, tune
from transferscope.tuning_run import STATE

HERE = Path(__file__).resolve()
FILL = ["movie", "film", "plot", "story", "food", "the", "a", "was", "is", "very", "quite", "so", "and", "it"]
CLUES = ("likes", "hates")
QUICK: dict[str, Any] = {"rows": 3, "steps": 10, "batch_size": 8, "evaluate_every": 3, "learning_rate": 0.05}


def text(rng: np.random.Generator, clue: str) -> list[str]:
    """A few words of no meaning, and one that tells the class."""
    words = [str(word) for word in rng.choice(FILL, rng.integers(3, 7))]
    words.insert(int(rng.integers(len(words) + 1)), clue)
    return words


def split(count: int, seed: int, *, classes: tuple[str, ...] = CLUES) -> tuple[Example, ...]:
    rng = np.random.default_rng(seed)
    return tuple(
        Example(" ".join(text(rng, classes[i % len(classes)])), None, i % len(classes)) for i in range(count)
    )


TASK = Task("mood", split(40, 0), split(20, 1), ("pos", "neg"), ("good", "bad"))


def small(model_type: str = "bert", **options: Any) -> Backbone:
    tokenizer = tiny.tokenizer(tiny.tokenizer_kind(model_type))
    return wrap(tiny.model(model_type, **options), tokenizer, model_type)


def quick(**changes: Any) -> TuningSettings:
    return TuningSettings(**(QUICK | changes))


def same(one: SoftPrompt, other: SoftPrompt) -> bool:
    """Equal in every byte of rows and head, and in all that is said of how they came about."""
    heads = [b"" if p.head is None else p.head.weight.tobytes() + p.head.bias.tobytes() for p in (one, other)]
    return (
        one.rows.tobytes() == other.rows.tobytes()
        and heads[0] == heads[1]
        and one.provenance == other.provenance
    )


def make_run(backbone: Backbone, settings: TuningSettings, *, task: Task = TASK, **options: Any) -> Any:
    return tuning._Run(backbone, prepare(backbone, task, settings, **options), settings, 0, None)


@pytest.fixture(scope="module")
def random_bert() -> Backbone:
    return small()


@pytest.fixture(scope="module")
def trained_bert() -> Backbone:
    """A tiny BERT that has seen for some seconds that "likes" goes with "good" and "hates" with "bad"."""
    torch.manual_seed(0)
    model, tokenizer = tiny.model("bert", hidden_size=24, intermediate_size=48), tiny.tokenizer("bert")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(0.3)
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        ids, labels = _masked(rng, tokenizer)
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return wrap(model, tokenizer, "trained")


def _masked(rng: np.random.Generator, tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    ids, labels = torch.zeros(32, 12, dtype=torch.long), torch.full((32, 12), -100)
    for row in range(32):
        kind = int(rng.integers(2))
        words, word = text(rng, CLUES[kind]), ("good", "bad")[kind]
        place = 0 if rng.random() < 0.5 else len(words)
        words.insert(place, word)
        tokens = tokenizer(" ".join(words))["input_ids"]
        place = place + 1 if rng.random() < 0.7 else int(rng.integers(1, len(tokens) - 1))
        labels[row, place] = tokens[place]
        tokens[place] = tokenizer.mask_token_id
        ids[row, : len(tokens)] = torch.tensor(tokens)
    return ids, labels


# It learns.


def test_label_words_are_learned_far_above_chance(trained_bert: Backbone) -> None:
    task = Task("mood", split(96, 0), split(64, 1), ("pos", "neg"), ("good", "bad"))
    settings = quick(rows=4, steps=60, batch_size=16, evaluate_every=20, learning_rate=0.1)
    untuned = tune(
        trained_bert, task, settings=settings.model_copy(update={"steps": 1, "learning_rate": 1e-30})
    )
    prompt = tune(trained_bert, task, settings=settings)
    scores = prompt.provenance["scores"]
    assert scores["majority"] == 0.5
    assert scores["dev"] >= 0.9
    assert scores["validation"] >= 0.9
    assert scores["dev_loss"] < untuned.provenance["scores"]["dev_loss"] / 2
    assert (prompt.task, prompt.seed, prompt.template, prompt.head) == ("mood", 0, "mask-first", None)
    assert (prompt.rows.shape, prompt.rows.dtype) == ((4, 24), np.float32)
    assert prompt.provenance["words"] == ["good", "bad"]
    assert prompt.provenance["model_fingerprint"] == trained_bert.fingerprint


def test_a_classifier_is_learned_without_a_language_model_head() -> None:
    backbone = small(head=False)
    task = Task("mood", split(96, 0), split(64, 1), ("pos", "neg"))
    settings = quick(
        rows=4, steps=120, batch_size=16, evaluate_every=20, learning_rate=0.1, head_learning_rate=0.05
    )
    prompt = tune(backbone, task, settings=settings, head="classifier")
    assert prompt.provenance["scores"]["dev"] >= 0.8
    assert prompt.head is not None
    assert (prompt.head.weight.shape, prompt.head.bias.shape) == ((2, 16), (2,))
    assert prompt.head.weight.dtype == np.float32
    assert prompt.provenance["words"] is None


@pytest.mark.parametrize(
    ("model_type", "template", "head"),
    [
        ("bert", "prefix", "verbalizer"),
        ("roberta", "mask-first", "verbalizer"),
        ("electra", "mask-first", "classifier"),
        ("gpt2", "suffix", "verbalizer"),
        ("gpt2", "prefix", "classifier"),
        ("llama", "prefix", "verbalizer"),
        ("t5", "prefix", "verbalizer"),
        ("t5-gated", "prefix", "classifier"),
    ],
)
def test_the_loss_falls_on_every_kind_of_model(model_type: str, template: str, head: str) -> None:
    run = make_run(small(model_type), quick(steps=25, batch_size=36), template=template, head=head)
    before = fit_loss(run)
    for _ in range(25):
        run.step_once()
    assert fit_loss(run) < before - 0.01


def fit_loss(run: Any) -> float:
    found: Evaluation = evaluate(run.attached, run.readout, run.setup.fit)
    return found.loss


def test_a_bfloat16_backbone_has_a_float32_prompt() -> None:
    model = tiny.model("bert").to(torch.bfloat16)
    prompt = tune(wrap(model, tiny.tokenizer("bert")), TASK, settings=quick())
    assert prompt.rows.dtype == np.float32
    assert np.isfinite(prompt.rows).all()


# It touches nothing but the prompt and its head.


@pytest.mark.parametrize("head", ["verbalizer", "classifier"])
def test_the_backbone_stays_as_it_was(head: str) -> None:
    backbone = small()
    before = weights_digest(backbone.model)
    tune(backbone, TASK, settings=quick(), head=head)
    assert weights_digest(backbone.model) == before
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in backbone.model.modules())


@pytest.mark.parametrize("head", ["verbalizer", "classifier"])
def test_the_optimiser_has_the_prompt_and_its_head_alone(random_bert: Backbone, head: str) -> None:
    run = make_run(random_bert, quick(), head=head)
    held = [tuple(p.shape) for group in run.optimizer.param_groups for p in group["params"]]
    assert held == [(3, 16)] + ([(2, 16), (2,)] if head == "classifier" else [])
    before = [parameter.detach().clone() for parameter in run.parameters]
    run.step_once()
    run.step_once()  # a classifier starts at zero, so the prompt has its first gradient now
    assert all(not torch.equal(a, b) for a, b in zip(before, run.parameters, strict=True))
    assert run.attached.mask_row is not None
    assert not run.attached.mask_row.requires_grad


# The best checkpoint.


@pytest.mark.parametrize("head", ["verbalizer", "classifier"])
def test_the_best_checkpoint_is_returned(random_bert: Backbone, head: str) -> None:
    settings = quick(steps=24, learning_rate=0.5, head_learning_rate=1.0, evaluate_every=2)
    prompt = tune(random_bert, TASK, settings=settings, head=head)
    run = make_run(random_bert, settings, head=head)
    seen: list[tuple[float, float, int, bytes]] = []
    while not run.finished:
        run.step_once()
        if run.due:
            found = evaluate(run.attached, run.readout, run.setup.validation)
            seen.append((found.value, -found.loss, run.step, run.prompt.detach().numpy().tobytes()))
    value, _, step, rows = max(seen, key=lambda one: one[:2])
    assert prompt.provenance["best_step"] == step < 24
    assert prompt.provenance["scores"]["validation"] == value
    assert prompt.rows.tobytes() == rows
    assert len({one[:2] for one in seen}) > 3


@pytest.mark.parametrize("head", ["verbalizer", "classifier"])
def test_its_scores_are_those_of_a_new_evaluation(random_bert: Backbone, head: str) -> None:
    prompt = tune(random_bert, TASK, settings=quick(), head=head)
    setup = prepare(random_bert, TASK, quick(), head=head)
    attached = attachment.attach(random_bert, prompt)
    if prompt.head is None:
        readout = attachment.verbalizer(random_bert, setup.word_ids)
    else:
        readout = attachment.classifier(random_bert, prompt.head)
    dev, validation = (evaluate(attached, readout, data) for data in (setup.dev, setup.validation))
    scores = prompt.provenance["scores"]
    assert (dev.value, validation.value) == (scores["dev"], scores["validation"])
    assert dev.loss == pytest.approx(scores["dev_loss"], abs=1e-6)


def test_dev_has_no_part_in_the_choice(random_bert: Backbone) -> None:
    other = replace(TASK, dev=tuple(replace(e, label=1 - e.label) for e in split(30, 9)))
    settings = quick(steps=24, learning_rate=0.5, evaluate_every=2)
    one, two = (tune(random_bert, task, settings=settings) for task in (TASK, other))
    assert one.rows.tobytes() == two.rows.tobytes()
    assert one.provenance["best_step"] == two.provenance["best_step"]
    assert one.provenance["scores"]["dev_loss"] != two.provenance["scores"]["dev_loss"]


def test_the_task_s_metric_chooses(random_bert: Backbone) -> None:
    task = replace(TASK, metric="matthews")
    setup = prepare(random_bert, task, quick())
    prompt = tune(random_bert, task, settings=quick())
    readout = attachment.verbalizer(random_bert, setup.word_ids)
    again = evaluate(attachment.attach(random_bert, prompt), readout, setup.validation, metric="matthews")
    assert prompt.provenance["scores"]["metric"] == "matthews"
    assert prompt.provenance["scores"]["validation"] == again.value


@pytest.mark.parametrize(("patience", "steps"), [(1, 6), (3, 12), (None, 15)])
def test_early_stopping(random_bert: Backbone, patience: int | None, steps: int) -> None:
    # A step this small moves nothing: the first evaluation is the best, and each later one a miss.
    prompt = tune(random_bert, TASK, settings=quick(steps=15, patience=patience, learning_rate=1e-30))
    assert prompt.provenance["steps"] == steps
    assert prompt.provenance["best_step"] == 3


# Gradients and the schedule.


def test_two_batches_of_16_are_one_of_32(random_bert: Backbone) -> None:
    task = replace(TASK, train=split(36, 0))  # 4 held out: an epoch is one step either way
    gradients = []
    for size, accumulate in ((32, 1), (16, 2), (8, 4)):
        run = make_run(random_bert, quick(batch_size=size, accumulate=accumulate, clip=1e9), task=task)
        assert len(run.setup.fit) == 32
        run.step_once()
        gradients.append(run.prompt.grad.clone())
    assert gradients[0].abs().max() > 1e-3
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-4, atol=1e-7)


def test_clipping_is_of_the_prompt_alone(random_bert: Backbone) -> None:
    runs = [make_run(random_bert, quick(clip=clip), head="classifier") for clip in (1e-3, 1e9)]
    for run in runs:
        run.step_once()
        run.step_once()  # the classifier starts at zero: only now has the prompt a gradient
    clipped, free = runs
    assert free.prompt.grad.norm() > 2e-3
    assert clipped.prompt.grad.norm().item() == pytest.approx(1e-3, rel=1e-3)
    for a, b in zip(clipped.parameters[1:], free.parameters[1:], strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert clipped.parameters[1].grad.norm() > 1e-3


def test_the_schedule_warms_up_and_decays(random_bert: Backbone) -> None:
    run = make_run(random_bert, quick(steps=100, warmup=0.1), head="classifier")
    expected = {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 55: 0.5, 99: 1 / 90, 100: 0.0}
    assert {step: run._schedule(step) for step in expected} == pytest.approx(expected)
    for step in range(3):
        run.step_once()
        rates = [group["lr"] for group in run.optimizer.param_groups]
        assert rates == pytest.approx([0.05 * (step + 1) / 10, 0.005 * (step + 1) / 10])


def test_a_schedule_with_no_warm_up_starts_at_the_peak(random_bert: Backbone) -> None:
    run = make_run(random_bert, quick(steps=4, warmup=0.0))
    assert [run._schedule(step) for step in range(4)] == pytest.approx([1.0, 1.0, 2 / 3, 1 / 3])


def test_an_epoch_sees_each_example_once(random_bert: Backbone) -> None:
    run = make_run(random_bert, quick(batch_size=5))
    batches = [next(run.order) for _ in range(16)]
    epochs = [np.concatenate(batches[:8]), np.concatenate(batches[8:])]
    assert [sorted(epoch) for epoch in epochs] == [list(range(36))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()
    assert sorted({len(batch) for batch in batches}) == [1, 5]


# Where it starts.


def start(backbone: Backbone, **options: Any) -> SoftPrompt:
    """A tuning that does not move: its rows are those it started from."""
    settings = quick(steps=1, evaluate_every=1, learning_rate=1e-30, **options.pop("settings", {}))
    return tune(backbone, TASK, settings=settings, **options)


def test_the_start_from_label_words(random_bert: Backbone) -> None:
    table = random_bert.model.get_input_embeddings().weight.detach().numpy()
    words = random_bert.tokenizer.convert_tokens_to_ids(["good", "bad"])
    rows = start(random_bert, settings={"init": "label-words"}).rows
    np.testing.assert_array_equal(rows[:2], table[words])
    assert (table == rows[2]).all(axis=1).any()


def test_the_start_from_the_vocabulary_is_of_the_task_s_tokens(random_bert: Backbone) -> None:
    table = random_bert.model.get_input_embeddings().weight.detach().numpy()
    rows = start(random_bert, settings={"init": "vocabulary", "rows": 8}).rows
    found = [int(np.flatnonzero((table == row).all(axis=1))[0]) for row in rows]
    seen = {int(i) for e in TASK.train for i in random_bert.tokenizer(e.text)["input_ids"]}
    assert len(set(found)) == 8
    assert set(found) <= seen


def test_the_start_at_random_is_of_the_embeddings_size(random_bert: Backbone) -> None:
    table = random_bert.model.get_input_embeddings().weight.detach().numpy()
    rows = start(random_bert, settings={"init": "random", "rows": 40}).rows
    assert not any((table == row).all(axis=1).any() for row in rows)
    assert rows.std() == pytest.approx(table.std(), rel=0.2)
    assert rows.mean() == pytest.approx(table.mean(), abs=0.05)


@pytest.mark.parametrize("head", ["verbalizer", "classifier"])
def test_the_start_from_another_prompt_keeps_its_rows_and_head(random_bert: Backbone, head: str) -> None:
    source = tune(random_bert, TASK, settings=quick(rows=5), head=head)
    settings = {"rows": 2, "head_learning_rate": 1e-30}
    prompt = start(random_bert, init_from=source, head=head, settings=settings)
    assert prompt.rows.tobytes() == source.rows.tobytes()
    assert prompt.provenance["settings"]["rows"] == 5
    if source.head is not None:
        assert prompt.head is not None
        assert prompt.head.weight.tobytes() == source.head.weight.tobytes()
        assert prompt.head.bias.tobytes() == source.head.bias.tobytes()


def test_texts_leave_room_for_the_rows_of_the_prompt_it_starts_from(random_bert: Backbone) -> None:
    long = Example("movie " * 30 + "likes", None, 0)
    task = replace(TASK, train=(*TASK.train, long), dev=(*TASK.dev, long))
    source = SoftPrompt(np.zeros((40, 16), np.float32), "other", template="mask-first")
    prompt = tune(random_bert, task, settings=quick(steps=3), init_from=source)
    assert prompt.provenance["max_text_tokens"] == 64 - 41
    assert prompt.provenance["truncated_texts"] == 2


def test_a_class_that_training_lacks_still_has_its_row_in_the_classifier(random_bert: Backbone) -> None:
    dev = split(21, 1, classes=(*CLUES, "sees"))
    task = replace(TASK, dev=dev, labels=("pos", "neg", "none"), words=None)
    prompt = tune(random_bert, task, settings=quick(), head="classifier")
    assert prompt.head is not None
    assert prompt.head.weight.shape == (3, 16)


# Seeds, kills, states.


@pytest.mark.parametrize("head", ["verbalizer", "classifier"])
def test_the_same_seed_gives_the_same_bytes(random_bert: Backbone, head: str) -> None:
    one, two, other = (tune(random_bert, TASK, settings=quick(), head=head, seed=seed) for seed in (3, 3, 4))
    assert same(one, two)
    assert one.rows.tobytes() != other.rows.tobytes()
    assert (one.seed, other.seed) == (3, 4)


class Stop(Exception):
    """Raised in the middle of a tuning."""


def stop_at(step: int) -> Callable[[int, int, str], None]:
    def progress(done: int, total: int, what: str) -> None:
        if done == step:
            raise Stop

    return progress


def resumed(backbone: Backbone, folder: Path, **options: Any) -> tuple[SoftPrompt, list[int]]:
    steps: list[int] = []
    prompt = tune(backbone, TASK, folder=folder, progress=lambda done, *_: steps.append(done), **options)
    return prompt, steps


@pytest.mark.parametrize(
    ("head", "changes", "step"),
    [
        ("verbalizer", {}, 7),
        ("classifier", {}, 9),
        ("verbalizer", {"accumulate": 2, "weight_decay": 0.1}, 6),
        ("classifier", {"init": "random"}, 5),
        # The best is long past when these are interrupted, and stays the best.
        ("verbalizer", {"learning_rate": 0.5, "steps": 24}, 11),
        ("classifier", {"learning_rate": 0.5, "head_learning_rate": 1.0, "steps": 24, "patience": 4}, 11),
    ],
)
def test_interrupted_and_resumed_is_the_same(
    random_bert: Backbone, tmp_path: Path, head: str, changes: dict[str, Any], step: int
) -> None:
    settings = quick(**changes)
    whole = tune(random_bert, TASK, settings=settings, head=head, seed=1)
    with pytest.raises(Stop):
        tune(random_bert, TASK, settings=settings, head=head, seed=1, folder=tmp_path, progress=stop_at(step))
    assert (tmp_path / STATE).is_file()
    if settings.steps == 24:
        assert whole.provenance["best_step"] == 3
        assert whole.provenance["steps"] == (24 if settings.patience is None else 15)
    prompt, steps = resumed(random_bert, tmp_path, settings=settings, head=head, seed=1)
    assert steps[0] == step // 3 * 3 + 1  # it went on from the last evaluation
    assert same(prompt, whole)
    assert list(tmp_path.iterdir()) == []


def tune_and_die(folder: str) -> None:
    """Runs in a process of its own, which is killed after 7 of 10 steps."""
    torch.set_num_threads(1)

    def progress(done: int, total: int, what: str) -> None:
        if done == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    tune(small(), TASK, settings=quick(), folder=Path(folder), progress=progress)


def test_killed_and_resumed_is_the_same(random_bert: Backbone, tmp_path: Path) -> None:
    paths = [str(HERE.parents[1]), str(HERE.parent)]
    code = f"import sys; sys.path[:0] = {paths!r}; import test_tuning; test_tuning.tune_and_die(sys.argv[1])"
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, timeout=300)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    prompt, steps = resumed(random_bert, tmp_path, settings=quick())
    assert steps == [7, 8, 9, 10]
    assert same(prompt, tune(random_bert, TASK, settings=quick()))


@pytest.mark.parametrize(
    "other",
    [
        {"settings": quick(learning_rate=0.1)},
        {"settings": quick(), "seed": 5},
        {"settings": quick(), "template": "prefix"},
        {"settings": quick(), "head": "classifier"},
        {"settings": quick(), "max_length": 5},
        {"settings": quick(), "init_from": SoftPrompt(np.zeros((3, 16), np.float32), "x", 0, "mask-first")},
    ],
    ids=["settings", "seed", "template", "head", "max_length", "init_from"],
)
def test_a_state_of_other_inputs_is_ignored(
    random_bert: Backbone, tmp_path: Path, other: dict[str, Any]
) -> None:
    with pytest.raises(Stop):
        tune(random_bert, TASK, folder=tmp_path, progress=stop_at(7), **other)
    prompt, steps = resumed(random_bert, tmp_path, settings=quick())
    assert steps[0] == 1
    assert same(prompt, tune(random_bert, TASK, settings=quick()))


def test_a_state_of_another_task_or_model_is_ignored(random_bert: Backbone, tmp_path: Path) -> None:
    for backbone, task in ((random_bert, replace(TASK, train=split(40, 7))), (small(seed=1), TASK)):
        with pytest.raises(Stop):
            tune(backbone, task, settings=quick(), folder=tmp_path, progress=stop_at(7))
        _, steps = resumed(random_bert, tmp_path, settings=quick())
        assert steps[0] == 1


@pytest.mark.parametrize("damage", ["cut", "garbage", "flipped", "empty"])
def test_a_damaged_state_is_ignored(random_bert: Backbone, tmp_path: Path, damage: str) -> None:
    with pytest.raises(Stop):
        tune(random_bert, TASK, settings=quick(), folder=tmp_path, progress=stop_at(7))
    state = tmp_path / STATE
    data = bytearray(state.read_bytes())
    data[-3] ^= 0xFF
    state.write_bytes({"cut": data[:-40], "garbage": b"no", "flipped": bytes(data), "empty": b""}[damage])
    prompt, steps = resumed(random_bert, tmp_path, settings=quick())
    assert steps[0] == 1
    assert same(prompt, tune(random_bert, TASK, settings=quick()))


def test_progress_is_of_every_step(random_bert: Backbone) -> None:
    seen: list[tuple[int, int, str]] = []
    tune(random_bert, TASK, settings=quick(), seed=2, progress=lambda *what: seen.append(what))
    assert [one[:2] for one in seen] == [(step, 10) for step in range(1, 11)]
    assert seen[0][2] == "mood seed 2 "
    assert seen[-1][2].startswith("mood seed 2 accuracy ")


# Held-out examples.


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
def test_held_out_is_a_share_of_each_class_and_never_all(labels: list[int], share: float, seed: int) -> None:
    array = np.array(labels)
    rest, held = hold_out(array, share, seed)
    again = hold_out(array, share, seed)
    assert (rest.tolist(), held.tolist()) == (again[0].tolist(), again[1].tolist())
    counts = np.bincount(array)
    if counts.max() == 1:  # one example a class: nothing can be spared
        assert rest.tolist() == held.tolist() == list(range(len(labels)))
        return
    assert sorted([*rest, *held]) == list(range(len(labels)))
    for label in range(len(counts)):
        in_rest, in_held = (int((array[part] == label).sum()) for part in (rest, held))
        if counts[label] > 1:
            assert 1 <= in_held < counts[label]
            assert in_held in (1, counts[label] - 1) or abs(in_held - share * counts[label]) <= 0.5
        else:
            assert (in_rest, in_held) == (int(counts[label]), 0)


def test_held_out_examples_depend_on_the_seed_and_are_not_fitted(random_bert: Backbone) -> None:
    labels = np.array([0, 1] * 20)
    assert hold_out(labels, 0.2, 0)[1].tolist() != hold_out(labels, 0.2, 1)[1].tolist()
    setup = prepare(random_bert, TASK, quick(validation=0.25))
    assert (len(setup.fit), len(setup.validation), len(setup.dev)) == (30, 10, 20)
    assert np.bincount(setup.validation.labels).tolist() == [5, 5]
    texts = [random_bert.tokenizer(e.text)["input_ids"] for e in TASK.train]
    both = [ids.tolist() for ids in (*setup.fit.ids, *setup.validation.ids)]
    assert sorted(both) == sorted(texts)


def test_one_example_a_class_is_enough(random_bert: Backbone) -> None:
    prompt = tune(random_bert, replace(TASK, train=TASK.train[:2]), settings=quick())
    assert math.isfinite(prompt.provenance["scores"]["validation"])


# What is refused.


def test_heads_that_cannot_be(random_bert: Backbone) -> None:
    with pytest.raises(TemplateError, match=r"task 'mood' has no label words"):
        tune(random_bert, replace(TASK, words=None), settings=quick())
    with pytest.raises(TemplateError, match=r"no language-model head.*classifier"):
        tune(small(head=False), TASK, settings=quick())
    with pytest.raises(TemplateError, match=r"unknown head 'clasifier'. Did you mean 'classifier'"):
        tune(random_bert, TASK, settings=quick(), head="clasifier")
    with pytest.raises(TemplateError, match=r"unknown template 'sufix'"):
        tune(random_bert, TASK, settings=quick(), template="sufix")
    with pytest.raises(TemplateError, match="does not fit a model of kind"):
        tune(random_bert, TASK, settings=quick(), template="suffix")


def test_a_tuning_that_diverges_says_so(random_bert: Backbone, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'mood' diverged.*10 steps.*learning rate below 1e\+30"):
        tune(random_bert, TASK, settings=quick(learning_rate=1e30), folder=tmp_path)
    assert not (tmp_path / STATE).exists()
