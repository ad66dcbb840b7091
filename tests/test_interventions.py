"""Interventions against edits of weights and activations by hand, for each row of the architectures."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import tiny
from transferscope.activations import capture
from transferscope.attachment import Attached, attach, verbalizer
from transferscope.encoding import Encoded, collate, from_token_ids
from transferscope.errors import InputError
from transferscope.evaluation import evaluate
from transferscope.interventions import MODES, Edit, intervene
from transferscope.models import Backbone, wrap
from transferscope.templates import TEMPLATES, Batch, Placed

ROWS, EXAMPLES = 3, 6


@cache
def backbone(name: str) -> Backbone:
    return wrap(tiny.model(name), tiny.tokenizer(tiny.tokenizer_kind(name)), name)


CASES = [
    (name, template)
    for name in tiny.ALL
    for template, kinds in TEMPLATES.items()
    if backbone(name).architecture.kind in kinds
]


def split() -> Encoded:
    rng = np.random.default_rng(0)
    texts = [rng.integers(5, 60, size=rng.integers(2, 9)).tolist() for _ in range(EXAMPLES)]
    return from_token_ids([(text, i % 2) for i, text in enumerate(texts)])


def given(name: str, template: str | None = None) -> tuple[Backbone, Attached, Batch]:
    made = backbone(name)
    rows = torch.randn(ROWS, made.embedding_size, generator=torch.Generator().manual_seed(1))
    return made, attach(made, rows, template), collate(made, split(), np.arange(EXAMPLES))


def chosen(made: Backbone, seed: int = 0, *, first: bool = False) -> np.ndarray:
    """A fifth of the neurons; of the first layer only where asked for."""
    mask = np.random.default_rng(seed).random((made.layers, made.neurons)) < 0.2
    assert mask.any(axis=1).all()
    mask[0] &= first
    return mask


def by_row(made: Backbone, attached: Attached, seed: int = 3) -> np.ndarray:
    """Numbers [L, P, N]: what stands at other neurons is no number."""
    rows = ROWS + (attached.mask_row is not None)
    if made.architecture.kind == "decoder" and attached.template == "prefix":
        rows = 1  # the readout row alone
    values = np.random.default_rng(seed).normal(size=(made.layers, rows, made.neurons)).astype(np.float32)
    return np.where(chosen(made, first=True)[:, None], values, np.nan)


def probed(made: Backbone, template: str, layer: int, length: int) -> list[int]:
    """The rows that "prompt" means, of one example with so many tokens: counted by hand."""
    kind = made.architecture.kind
    if kind == "encoder-decoder" and layer >= 2:
        return [0]  # the decoder's start
    if template == "mask-first":
        return [0, 1, 2, 3]  # the mask row first
    if template == "suffix":
        return [length + p for p in range(ROWS)]
    return [ROWS + length - 1] if kind == "decoder" else [0, 1, 2]


def hooks(made: Backbone) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in made.model.modules())


def run(attached: Attached, batch: Batch) -> Tensor:
    with torch.inference_mode():
        return attached.forward(attached.place(batch))


@contextmanager
def caught(made: Backbone) -> Iterator[dict[int, Tensor]]:
    """Copies of what enters the down projections, by layer."""
    found: dict[int, Tensor] = {}
    with capture(made, lambda layer, values, gate: found.__setitem__(layer, values.clone()), missing=True):
        yield found


def columns(module: Any) -> Tensor:
    """W_down as [D, N], also of GPT-2's transposed linear; a view."""
    weight: Tensor = module.weight.data
    return weight if hasattr(module, "in_features") else weight.T


@pytest.mark.parametrize("mode", ["zero", "mean"])
@pytest.mark.parametrize("name", [name for name in tiny.ALL if name != "mixtral"])  # in tests/test_experts.py
def test_on_all_rows_it_is_an_edit_of_the_weights(name: str, mode: str) -> None:
    made, attached, batch = given(name)
    mask = chosen(made)
    level = np.random.default_rng(2).normal(size=mask.shape).astype(np.float32)
    other = wrap(copy.deepcopy(made.model), made.tokenizer, name)
    for _, layer, down in other.down_projections():
        down.weight = torch.nn.Parameter(down.weight.clone(), requires_grad=False)  # ALBERT's is shared
        down.bias = None if down.bias is None else torch.nn.Parameter(down.bias.clone(), requires_grad=False)
        weight = columns(down)
        for n in np.flatnonzero(mask[layer]):
            if mode == "mean":
                if down.bias is None:
                    down.bias = torch.nn.Parameter(torch.zeros(len(weight)), requires_grad=False)
                down.bias.data.add_(weight[:, n] * float(level[layer, n]))
            weight[:, n] = 0.0
    expected = run(attach(other, attached.prompt, attached.template), batch)
    edit = Edit(mask, mode, baseline=level if mode == "mean" else None, rows="all")
    with intervene(made, edit):  # no prompt is needed
        found = run(attached, batch)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, run(attached, batch), atol=1e-3)


@pytest.mark.parametrize("mode", ["zero", "mean"])
@pytest.mark.parametrize(("name", "template"), CASES)
def test_on_prompt_rows_it_is_an_edit_of_the_activations(name: str, template: str, mode: str) -> None:
    made, attached, batch = given(name, template)
    # In the last layer no other row reads a prompt row: what is edited before it must reach the readout.
    mask, level, lengths = chosen(made, first=True), by_row(made, attached), split().lengths

    def by_hand(layer: int) -> Any:
        def hook(module: Any, inputs: Any) -> Any:
            values = inputs[0].clone()
            for i, length in enumerate(lengths):
                for place, row in enumerate(probed(made, template, layer, int(length))):
                    for n in np.flatnonzero(mask[layer]):
                        values[i, row, n] = 0.0 if mode == "zero" else float(level[layer, place, n])
            return (values, *inputs[1:])

        return hook

    handles = [d.register_forward_pre_hook(by_hand(layer)) for _, layer, d in made.down_projections()]
    expected = run(attached, batch)
    for handle in handles:
        handle.remove()
    with intervene(made, Edit(mask, mode, baseline=level), attached=attached) as edited:
        assert torch.equal(run(edited, batch), expected)
    assert not torch.allclose(run(attached, batch), expected, atol=1e-4)


@pytest.mark.parametrize("rows", ["prompt", "all"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "template"), CASES)
def test_other_neurons_and_rows_keep_their_bits(name: str, template: str, mode: str, rows: str) -> None:
    made, attached, batch = given(name, template)
    mask = chosen(made)
    level = by_row(made, attached) if rows == "prompt" else by_row(made, attached)[:, 0]
    edit = Edit(mask, mode, sd=0.5, baseline=level, rows=rows)
    with caught(made) as before, intervene(made, edit, attached=attached) as edited, caught(made) as after:
        run(edited, batch)
    for layer in range(made.layers):
        touched = torch.zeros_like(before[layer], dtype=torch.bool)
        for i, length in enumerate(split().lengths):
            at = probed(made, template, layer, int(length)) if rows == "prompt" else slice(None)
            touched[i, at] = torch.from_numpy(mask[layer])
        missing = before[layer].isnan()  # of experts that a row is not sent to
        torch.testing.assert_close(
            after[layer][~touched], before[layer][~touched], rtol=0, atol=0, equal_nan=True
        )
        changed = (after[layer] != before[layer]) & ~missing
        touched &= ~missing
        if mode != "zero":  # noise and means never meet the value that was there; zeros may (a relu's)
            assert torch.equal(changed, touched)
        else:
            assert not after[layer][touched].any()


@pytest.mark.parametrize(
    ("name", "template"), [("bert", "mask-first"), ("llama", "suffix"), ("t5", "prefix")]
)
def test_noise_is_that_of_the_seed_and_new_in_each_pass(name: str, template: str) -> None:
    made, attached, batch = given(name, template)
    edit = Edit(chosen(made), sd=0.3)

    def differences(seed: int) -> list[Tensor]:
        found = []
        with (
            caught(made) as a,
            intervene(made, edit, attached=attached, seed=seed) as edited,
            caught(made) as b,
        ):
            for _ in range(2):
                torch.randn(7)  # what else draws numbers changes nothing
                run(edited, batch)
                found += [b[layer] - a[layer] for layer in range(made.layers)]
        return found

    first, again, other = differences(5), differences(5), differences(6)
    assert all(map(torch.equal, first, again))
    changed = [(one != 0).any() for one in first]
    assert changed == [False, *[True] * (made.layers - 1)] * 2
    for layer in range(1, made.layers):
        assert not torch.equal(first[layer], first[made.layers + layer])
        assert not torch.equal(first[layer], other[layer])


def test_noise_has_the_sd_it_is_said_to_have() -> None:
    made, attached, batch = given("bert", "mask-first")
    mask = np.ones((made.layers, made.neurons), dtype=bool)
    scale = np.exp(np.random.default_rng(0).normal(size=(made.layers, ROWS + 1, made.neurons)))
    units: list[tuple[Edit, Any]] = [
        (Edit(mask, sd=0.3), 1.0),
        (Edit(mask, sd=0.3, unit="neuron", scale=scale[:, 0], rows="all"), scale[:, None, 0]),
        (Edit(mask, sd=0.3, unit="neuron", scale=scale, noise_by="row"), scale),
    ]
    for edit, expected in units:
        drawn: list[Tensor] = []
        with caught(made) as a, intervene(made, edit, attached=attached) as edited, caught(made) as b:
            for _ in range(60):
                run(edited, batch)
                drawn.append(torch.stack([(b[layer] - a[layer])[:, : ROWS + 1] for layer in range(2)]))
        ratio = torch.cat(drawn, dim=1).std(dim=1).numpy() / (0.3 * expected)  # [L, P, N]
        assert ratio.shape == (2, ROWS + 1, 24)
        assert np.abs(ratio - 1).max() < 0.25  # 360 draws of each


@pytest.mark.parametrize("rows", ["prompt", "all"])
@pytest.mark.parametrize("by", ["example", "row"])
def test_noise_is_one_draw_an_example_or_a_row(by: str, rows: str) -> None:
    made, attached, batch = given("bert", "mask-first")
    edit = Edit(chosen(made), sd=4.0, rows=rows, noise_by=by)
    with caught(made) as a, intervene(made, edit, attached=attached) as edited, caught(made) as b:
        run(edited, batch)
    noise = (b[1] - a[1])[:, : ROWS + 1, torch.from_numpy(edit.neurons[1])]  # [B, P, k]
    assert (noise[0] - noise[1]).abs().min() > 1e-4
    apart = (noise[:, 1:] - noise[:, :1]).abs()
    assert apart.max() < 1e-5 if by == "example" else apart.min() > 1e-4


@pytest.mark.parametrize("rows", ["prompt", "all"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "t5-gated"])
def test_hooks_are_gone_afterwards(name: str, rows: str) -> None:
    made, attached, batch = given(name)
    before, plain = hooks(made), run(attached, batch)
    edit = Edit(chosen(made), "zero", rows=rows)
    with intervene(made, edit, attached=attached) as edited:
        assert hooks(made) == before + made.layers - 1  # the first layer has no chosen neuron
        run(edited, batch)
    assert hooks(made) == before
    with pytest.raises(KeyError, match="in the block"), intervene(made, edit, attached=attached):
        raise KeyError("in the block")
    assert hooks(made) == before
    with pytest.raises(RuntimeError), intervene(made, edit, attached=attached) as edited:
        edited.forward(Placed(torch.zeros(1, 2, 3), torch.ones(1, 2), None, slice(0, 1), torch.zeros(1)))
    assert hooks(made) == before
    assert torch.equal(run(attached, batch), plain)


def test_nothing_chosen_is_nothing_done() -> None:
    made, attached, batch = given("bert")
    none = np.zeros((made.layers, made.neurons), dtype=bool)
    before = hooks(made)
    with intervene(made, Edit(none), attached=attached) as edited:
        assert hooks(made) == before
        assert torch.equal(run(edited, batch), run(attached, batch))


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_gradients_pass_through_an_edit(name: str) -> None:
    made, attached, batch = given(name)
    rows = attached.prompt.clone().requires_grad_()
    attached = attach(made, rows, attached.template)
    level = by_row(made, attached)
    with intervene(made, Edit(chosen(made), "mean", baseline=level), attached=attached) as edited:
        edited.forward(edited.place(batch)).square().sum().backward()
    assert rows.grad is not None
    assert rows.grad.abs().sum() > 0


def test_evaluations_run_through_it_batch_by_batch() -> None:
    made, attached, _ = given("llama", "suffix")
    readout = verbalizer(made, [7, 9])
    edit = Edit(chosen(made), "zero")
    with intervene(made, edit, attached=attached) as edited:
        small = evaluate(edited, readout, split(), token_budget=1)
        whole = evaluate(edited, readout, split(), token_budget=10_000)
    assert small.logits is not None
    assert whole.logits is not None
    np.testing.assert_allclose(small.logits, whole.logits, rtol=1e-4, atol=1e-5)
    plain = evaluate(attached, readout, split()).logits
    assert plain is not None
    assert np.abs(plain - whole.logits).max() > 1e-3


def test_two_interventions_add_up() -> None:
    made, attached, batch = given("gpt2", "suffix")
    first, second = chosen(made, 1), chosen(made, 2)
    with intervene(made, Edit(first | second, "zero"), attached=attached) as edited:
        expected = run(edited, batch)
    with (
        intervene(made, Edit(first, "zero"), attached=attached) as outer,
        intervene(made, Edit(second, "zero"), attached=outer) as inner,
    ):
        assert torch.equal(run(inner, batch), expected)


def test_a_placed_batch_is_edited_once_in_each_layer() -> None:
    # Rows that a model writes after the prompt are passes of their own, with no prompt row in them.
    made, attached, batch = given("gpt2", "prefix")
    with intervene(made, Edit(chosen(made), "zero"), attached=attached) as edited, torch.inference_mode():
        placed = edited.place(batch)
        made.hidden(placed.embeds, placed.mask)
        written = made.embed(torch.tensor([[5], [6]]))
        mask = torch.ones(2, 1, dtype=torch.int64)
        later = made.hidden(written, mask)
        assert torch.equal(edited.forward(placed), edited.forward(placed))
    with torch.inference_mode():
        assert torch.equal(later, made.hidden(written, mask))


MASK = np.zeros((2, 24), dtype=bool)
NUMBERS = np.zeros((2, 24))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"mode": "nose"}, "mode of an edit is 'nose'. Did you mean 'noise'"),
        ({"unit": "neurons"}, "Did you mean 'neuron'"),
        ({"rows": "prompts"}, "Did you mean 'prompt'"),
        ({"noise_by": "rows"}, "noise_by of an edit is 'rows'. Did you mean 'row'"),
        ({"neurons": MASK.astype(int)}, r"must be bool \[L, N\]; found int64 \[2, 24\]"),
        ({"sd": -0.1}, "sd of the noise is -0.1"),
        ({"sd": float("nan")}, "sd of the noise is nan"),
        ({"unit": "neuron"}, "unit 'neuron' needs scale"),
        ({"mode": "mean"}, "mode 'mean' needs baseline"),
        ({"mode": "mean", "baseline": NUMBERS[:1]}, r"baseline \[1, 24\] does not fit neurons \[2, 24\]"),
        ({"mode": "mean", "baseline": NUMBERS[:, None], "rows": "all"}, r"it must be \[L, N\]$"),
        ({"mode": "mean", "neurons": ~MASK, "baseline": NUMBERS * np.nan}, "not finite"),
    ],
)
def test_edits_that_make_no_sense_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        Edit(**{"neurons": MASK, **options})


def test_edits_that_do_not_fit_the_model_or_the_prompt_are_refused() -> None:
    made, attached, batch = given("bert", "prefix")
    for edit, given_, complaint in (
        (Edit(MASK[:, :20]), attached, r"neurons \[2, 20\] do not fit 'bert', which has 2 layers of 24"),
        (Edit(MASK), None, "rows 'prompt' needs the attached prompt"),
        (Edit(MASK, "mean", baseline=np.zeros((2, 9, 24))), attached, "does not fit a prompt with 3 probed"),
    ):
        with pytest.raises(InputError, match=complaint), intervene(made, edit, attached=given_):
            pass
    with (
        pytest.raises(InputError, match="did not go through the attached prompt"),
        intervene(made, Edit(~MASK, "zero"), attached=attached),
    ):
        run(attached, batch)  # not the one that intervene gives
