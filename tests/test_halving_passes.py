"""Every pass over texts gives its numbers where memory runs out in it, and keeps sums where the layers are.

A new pass is a new row of PASSES (what it gives is compared) or of STEPS (its gradients are).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import task
from test_halving import backbone, broken_backward, room_for, tuning, writing
from torch import Tensor

from transferscope import attachment, precision, safe_precision
from transferscope.activity import activity
from transferscope.attachment import Attached
from transferscope.encoding import Encoded, Prepared, encode, prepared
from transferscope.evaluation import evaluate, evaluate_several
from transferscope.gradients import gradients
from transferscope.interventions import Edit, intervene
from transferscope.measurement import measure
from transferscope.models import Backbone
from transferscope.neuron_levels import levels
from transferscope.neuron_stream import Picked, at_rows
from transferscope.pair_features import Extractor
from transferscope.pooling import Trial, evaluate_together
from transferscope.probing import features
from transferscope.profiles import profile
from transferscope.projection import fit_task
from transferscope.projector import ProjectorSettings
from transferscope.prompts import Head, SoftPrompt
from transferscope.pruning import all_rows_baseline
from transferscope.readouts import readout_for
from transferscope.tasks import Example
from transferscope.tuning_together import step_together
from transferscope.word_selectivity import word_selectivity

Numbers = list[np.ndarray]
SOME = task()


def data_of(made: Backbone, *, rows: int, split: tuple[Example, ...] = SOME.train) -> Encoded:
    return encode(made, split, prompt_rows=rows)


def given(made: Backbone, seed: int = 1) -> tuple[Attached, Prepared]:
    rows = attachment.initial_rows(made, 3, init="random", seed=seed)
    attached = attachment.attach(made, rows)
    return attached, prepared(made, data_of(made, rows=attached.rows), prompt_rows=attached.rows)


def prompt_of(made: Backbone) -> SoftPrompt:
    return SoftPrompt(given(made)[0].prompt.numpy(), "s", 0, given(made)[0].template)


def arrays(record: Any) -> Numbers:
    return [value for value in vars(record).values() if isinstance(value, np.ndarray)]


def measured(made: Backbone) -> Numbers:
    attached, data = given(made)
    return arrays(measure(attached, data.data, data_of(made, rows=attached.rows, split=SOME.dev)))


def active(made: Backbone) -> Numbers:
    return arrays(activity(*given(made), kept=7))


def attributed(made: Backbone) -> Numbers:
    attached, data = given(made)
    return arrays(gradients(attached, readout_for(made, SOME), data, labels="given"))


def drawn(made: Backbone) -> Numbers:
    attached, data = given(made)
    return arrays(gradients(attached, readout_for(made, SOME), data, seed=3))


def texts_alone(made: Backbone) -> Numbers:
    return arrays(profile(made, SOME, parts=["texts"]))


def of_pair(made: Backbone) -> Numbers:
    extractor, head = Extractor(made, SOME), readout_for(made, SOME)
    return arrays(extractor.extract(prompt_of(made), layers=True, head=head))  # type: ignore[arg-type]


def of_words(made: Backbone) -> Numbers:
    found = word_selectivity(made, data_of(made, rows=0), min_count=2)
    return [found.scores, found.words, np.array(found.tokens)]


def by_row(made: Backbone) -> Numbers:
    return arrays(levels(*given(made)))


def over_all_rows(made: Backbone) -> Numbers:
    return arrays(levels(*given(made), rows="all"))


def of_neurons(made: Backbone) -> Numbers:
    attached, data = given(made)
    chosen = [(0, 1), (0, 5), (made.layers - 1, 2)]
    return [at_rows(Picked(attached, chosen), data, np.zeros(3, dtype=np.int64))]


def held_at(made: Backbone) -> Numbers:
    attached, data = given(made)
    return [all_rows_baseline([attached, given(made, 2)[0]], data.data)]


def compared(made: Backbone) -> Numbers:
    attached, data = given(made)
    found = precision._comparisons(attached, data, data)
    return [*found.fired, *found.there, found.varies.numpy()]


def predicted(made: Backbone) -> Numbers:
    attached, data = given(made)
    return list(map(np.array, safe_precision._predicted(attached, readout_for(made, SOME), data)))


def predicted_tokens(made: Backbone) -> Numbers:
    attached, (data, readout) = given(made)[0], written_texts(made)
    return list(map(np.array, safe_precision._predicted(attached, readout, data)))


def scored(made: Backbone) -> Numbers:
    attached, data = given(made)
    found = evaluate_several([attached, given(made, 2)[0]], readout_for(made, SOME), data)
    return [logits for one in found if (logits := one.logits) is not None]


def read_out(made: Backbone) -> Numbers:
    return [features(*given(made))]


def edited(made: Backbone) -> Numbers:
    """Where the probed rows of a half stand, and that each layer is edited again."""
    attached, data = given(made)
    neurons = np.zeros((made.layers, made.neurons), dtype=bool)
    neurons[:, ::2] = True
    edit = Edit(neurons, "mean", baseline=np.full(neurons.shape, 0.5))
    with intervene(made, edit, attached=attached) as inside:
        found = evaluate(inside, readout_for(made, SOME), data).logits
    assert found is not None
    return [found]


def scored_together(made: Backbone) -> Numbers:
    rng = np.random.default_rng(0)
    trials, parts = [], []
    for seed, split in enumerate([SOME.train, SOME.dev, SOME.dev[:5]]):
        layer = Head(*(rng.normal(size=size).astype(np.float32) for size in ((2, made.readout_size), 2)))
        trials.append(Trial(given(made, seed)[0], attachment.classifier(made, layer)))
        parts.append(data_of(made, rows=4, split=split))
    return [one.logits for one in evaluate_together(trials, parts) if one.logits is not None]


def written_texts(made: Backbone) -> tuple[Prepared, Any]:
    one = writing()
    data = encode(made, one.train, prompt_rows=3, max_new_tokens=one.max_new_tokens)
    return prepared(made, data, prompt_rows=3), readout_for(made, one)


def written_together(made: Backbone) -> Numbers:
    data, readout = written_texts(made)
    parts = [data.data.take(range(9)), data.data.take(range(4, 18))]
    trials = [Trial(given(made, seed)[0], readout) for seed in (1, 2)]
    found = evaluate_together(trials, parts, metric="exact_match")
    assert len({text for one in found for text in one.texts or ()}) > 2
    return [part for one in found for part in (np.array(one.loss), np.array(one.texts))]


Pass = Callable[[Backbone], Numbers]
PASSES: dict[str, tuple[Pass, tuple[str, ...]]] = {
    "extraction": (measured, ("bert", "mixtral")),
    "activity": (active, ("bert", "t5-gated", "llama")),
    "gradients": (attributed, ("bert", "t5", "mixtral")),
    "gradients, drawn labels": (drawn, ("bert", "gpt2")),
    "the bare model's texts": (texts_alone, ("bert", "bart")),
    "features of a pair": (of_pair, ("bert", "gpt2")),
    "words": (of_words, ("bert", "t5")),
    "levels by row": (by_row, ("bert", "t5")),
    "levels of all rows": (over_all_rows, ("bert", "t5")),
    "chosen neurons": (of_neurons, ("bert",)),
    "the baseline of all rows": (held_at, ("bert", "t5")),
    "comparisons that rounding flips": (compared, ("bert", "mixtral")),
    "predictions of two precisions": (predicted, ("bert",)),
    "tokens of two precisions": (predicted_tokens, ("llama",)),
    "scores of several prompts": (scored, ("bert", "llama")),
    "features of a probe": (read_out, ("bert",)),
    "scores under an intervention": (edited, ("bert", "t5", "llama", "mixtral")),
    "scores of trials together": (scored_together, ("bert", "gpt2")),
    "texts of trials together": (written_together, ("t5", "llama")),
}
ROWS = [(name, kind) for name, (_, kinds) in PASSES.items() for kind in kinds]


def same(found: Numbers, expected: Numbers) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        if one.dtype.kind == "U":
            np.testing.assert_array_equal(one, other)
        else:
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(("name", "kind"), ROWS)
def test_a_pass_in_halves_is_the_undisturbed_one(name: str, kind: str) -> None:
    """Injected before and behind the neurons' hook of every layer, where four, or a single text, fit."""
    made, run = backbone(kind), PASSES[name][0]
    expected = run(made)
    assert not made.fitting.rows
    for layer in range(len(made.widths)):
        for most, late in ((4, False), (4, True), (1, True)):
            with room_for(made, most, layer, late=late) as failed:
                found = run(made)
            runs = run is not texts_alone or made.down_projections()[layer][0] == made.architecture.stacks[0]
            assert len(failed) > 1 or not runs, (layer, most)
            made.fitting.rows.clear()
            same(found, expected)


@pytest.mark.parametrize("name", ["gradients", "gradients, drawn labels"])
def test_gradients_that_break_off_on_the_way_back(name: str) -> None:
    made, run = backbone(), PASSES[name][0]
    expected = run(made)
    with broken_backward(made, 4) as failed:
        same(run(made), expected)
    assert failed


def of_trials(made: Backbone, head: str) -> list[Tensor]:
    """The gradients of three trials' first common step."""
    one = writing() if head == "text" else SOME
    runs = [tuning(made, one, "classifier" if head == "classifier" else "verbalizer") for _ in range(3)]
    found: list[Tensor] = []
    for number, run in enumerate(runs):
        with torch.no_grad():
            run.parameters[0].mul_(1 + number)

        def end(run: Any = run) -> None:
            found.extend(parameter.grad.clone() for parameter in run.parameters)

        run.end_step = end  # type: ignore[method-assign]
    step_together(runs)
    return found


def of_projector(made: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    found: list[Tensor] = []

    def step(self: torch.optim.AdamW) -> None:
        found.extend(one.grad.clone() for group in self.param_groups for one in group["params"])

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    rng = np.random.default_rng(4)
    source = SoftPrompt(rng.normal(size=(3, 5)).astype(np.float32), SOME.name, 0, "prefix")
    settings = ProjectorSettings(hidden=6, steps=1, batch_size=8, clip=1e9)
    fit_task(made, {SOME.name: [source]}, {SOME.name: SOME}, settings)
    monkeypatch.undo()
    return found


STEPS: dict[str, tuple[Callable[..., list[Tensor]], str, str]] = {
    "trials together": (of_trials, "bert", "verbalizer"),
    "trials together with a classifier": (of_trials, "bert", "classifier"),
    "trials together, causal": (of_trials, "gpt2", "verbalizer"),
    "trials that write texts": (of_trials, "t5", "text"),
    "a projector": (of_projector, "bert", ""),
}


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_in_halves_has_the_same_gradients(
    name: str, backwards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, kind, head = STEPS[name]
    made = backbone(kind)
    given: Any = head or monkeypatch
    expected = run(made, given)
    with broken_backward(made, 3) if backwards else room_for(made, 3, 1) as failed:
        found = run(made, given)
    assert failed
    assert made.fitting.rows.keys() >= {"tuning"}
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-6)
    assert max(float(other.abs().max()) for other in expected) > 1e-3


LAYERED = ["extraction", "activity", "words", "levels by row", "levels of all rows",
           "the baseline of all rows", "comparisons that rounding flips"]  # fmt: skip


@pytest.mark.parametrize("kind", ["bert", "t5"])
@pytest.mark.parametrize("name", LAYERED)
def test_layers_kept_apart_give_the_same_numbers(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two names of one device, layers in turn: what is put together at the end stands in its order."""
    made, run = backbone(kind), PASSES[name][0]
    expected = run(made)
    names, asked = (torch.device("cpu", 0), torch.device("cpu")), []

    def apart(one: Backbone) -> tuple[torch.device, ...]:
        asked.append(one)
        return tuple(names[i % 2] for i in range(one.layers))

    for module in (
        "layer_devices",
        "layer_sums",
        "activity",
        "neuron_levels",
        "word_selectivity",
        "precision",
    ):
        monkeypatch.setattr(f"transferscope.{module}.layer_devices", apart)
    found = run(made)
    assert asked
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
