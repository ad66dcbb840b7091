"""No loop over batches asks the device for a value: questions do not grow with the number of batches."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from by_hand import examples
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from transferscope import attachment, probing
from transferscope.attachment import Attached
from transferscope.encoding import Encoded, batches, buckets, collate, encode, on_device, one_ahead, prepared
from transferscope.evaluation import evaluate
from transferscope.masks import Counted, counted
from transferscope.measurement import measure, stimulate
from transferscope.models import wrap
from transferscope.task_spec import Subtask

# What a GPU is waited for: a number, or how many rows there are. (Copies to the host do not show on a CPU.)
ASKING = ("_local_scalar_dense", "is_nonzero", "item", "nonzero", "masked_select", "unique")
MODELS = [
    ("bert", "mask-first"),
    ("deberta-v2", "mask-first"),
    ("modernbert", "mask-first"),
    ("albert", "prefix"),
    ("gpt2", "suffix"),
    ("opt", "prefix"),
    ("bloom", "prefix"),
    ("llama", "prefix"),
    ("gemma2", "prefix"),
    ("falcon", "suffix"),
    ("t5", "prefix"),
    ("bart", "prefix"),
]
SUBTASKS = (Subtask((0,), (1,)), Subtask((2,), (0, 1)))


class Asked(TorchDispatchMode):
    """How often values were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket._qualified_op_name.removeprefix("aten::")
        if name.startswith(ASKING):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def setting(model_type: str, template: str, device: str = "cpu") -> tuple[Attached, Encoded]:
    backbone = wrap(tiny.model(model_type).to(device), tiny.tokenizer(tiny.tokenizer_kind(model_type)))
    rows = torch.randn(2, backbone.embedding_size, generator=torch.Generator().manual_seed(0)).to(device)
    attached = attachment.attach(backbone, rows, template)
    return attached, encode(backbone, examples(24, 5, classes=3), prompt_rows=attached.rows)


def loops(attached: Attached, data: Encoded) -> dict[str, Callable[[int], object]]:
    """The loops, by the token budget."""
    readout = attachment.verbalizer(attached.backbone, [5, 6, 7])
    beside = attached.rows
    return {
        "measure": lambda budget: measure(attached, data, data, token_budget=budget),
        "subtasks": lambda budget: measure(attached, data, data, token_budget=budget, subtasks=SUBTASKS),
        "evaluate": lambda budget: evaluate(
            attached, readout, prepared(attached.backbone, data, prompt_rows=beside, token_budget=budget)
        ),
        "features": lambda budget: probing.features(
            attached, prepared(attached.backbone, data, prompt_rows=beside, token_budget=budget)
        ),
    }


@pytest.mark.parametrize(("model_type", "template"), MODELS)
def test_what_is_asked_does_not_grow_with_the_batches(model_type: str, template: str) -> None:
    attached, data = setting(model_type, template)
    for name, loop in loops(attached, data).items():
        counts = []
        for budget in (10_000, 40):
            assert len(buckets(data, prompt_rows=attached.rows, token_budget=budget)) == 1 or budget == 40
            with Asked() as asked:
                loop(budget)
            counts.append(asked.counts)
        assert counts[0] == counts[1], name
    with Asked() as asked:
        stimulate(attached)
    assert not asked.counts


def test_the_test_notices_a_question() -> None:
    attached, data = setting("bert", "mask-first")
    plain = list(batches(attached.backbone, data, buckets(data, prompt_rows=3, token_budget=40)))
    assert len(plain) > 2
    with Asked() as asked, torch.inference_mode():
        for batch in plain:
            placed = attached.place(batch)
            attached.backbone.hidden(placed.embeds, placed.mask.as_subclass(Tensor))
    assert asked.counts.total() == len(plain)


@pytest.mark.gpu
@pytest.mark.parametrize(("model_type", "template"), MODELS)
def test_a_gpu_is_not_waited_for_in_the_loops(model_type: str, template: str) -> None:
    attached, data = setting(model_type, template, "cuda")
    for name, loop in loops(attached, data).items():
        loop(40)  # what is set up once
        counts = []
        for budget in (10_000, 40):
            before = torch.cuda.get_sync_debug_mode()
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                try:
                    loop(budget)
                finally:
                    torch.cuda.set_sync_debug_mode(before)
            counts.append(sum("synchronizing CUDA operation" in str(one.message) for one in said))
        assert counts[0] == counts[1], name


@pytest.mark.gpu
def test_batches_come_from_pinned_memory_without_a_wait() -> None:
    attached, data = setting("bert", "mask-first", "cuda")
    groups = buckets(data, prompt_rows=3, token_budget=40)
    expected = [collate(attached.backbone, data, group) for group in groups]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = list(batches(attached.backbone, data, groups))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(found, expected, strict=True):
        assert one.ids.is_cuda
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.mask, other.mask)
        assert torch.equal(one.labels, other.labels)
        assert one.index == other.index


# Batches one ahead.


def test_each_batch_is_made_before_the_one_in_front_of_it_is_used() -> None:
    log: list[str] = []

    def made() -> Iterator[int]:
        for number in range(3):
            log.append(f"made {number}")
            yield number

    for number in one_ahead(made()):
        log.append(f"used {number}")
    assert log == ["made 0", "made 1", "used 0", "made 2", "used 1", "used 2"]
    assert list(one_ahead([])) == []
    assert list(one_ahead([7])) == [7]


def test_arrays_go_to_the_device_as_they_are() -> None:
    values = np.arange(6).reshape(2, 3)
    assert torch.equal(on_device(values, torch.device("cpu")), torch.arange(6).reshape(2, 3))


# Masks that know their ones.


def test_a_mask_answers_from_the_host() -> None:
    part = counted(torch.tensor([[1, 1], [1, 0]]), 3)
    whole = counted(torch.ones(2, 2, dtype=torch.int64), 4)
    with Asked() as asked:
        assert part.all() is False
        assert whole.to(dtype=torch.bool).all() is True
        assert part[:, :2].sum() == whole.bool().sum() - 1 == 3
    assert not asked.counts


@pytest.mark.parametrize(
    "part",
    [
        lambda mask: mask.view(-1),
        lambda mask: mask.view(torch.int32),
        lambda mask: mask[:1],
        lambda mask: mask[:, :1],
        lambda mask: mask[torch.tensor([0, 0])],
        lambda mask: mask[[0, 0]],
        lambda mask: ~mask.bool(),
        lambda mask: 1 - mask,
        lambda mask: torch.cat([mask, mask]),
        lambda mask: mask.sum(dim=1),
        lambda mask: mask.all(dim=1),
        lambda mask: mask.clone().fill_(1),
    ],
)
def test_what_is_made_of_a_mask_is_an_ordinary_tensor(part: Callable[[Tensor], Tensor]) -> None:
    plain = torch.tensor([[1, 1], [1, 0]])
    found = part(counted(plain.clone(), 3))
    assert type(found) is Tensor
    assert torch.equal(found, part(plain))


def test_the_mask_of_a_placed_batch_counts_the_prompt() -> None:
    attached, data = setting("bert", "mask-first")
    batch = collate(attached.backbone, data, np.arange(5))
    placed = attached.place(batch)
    assert isinstance(placed.mask, Counted)
    assert placed.mask.ones == int(placed.mask.as_subclass(Tensor).sum()) == int(data.lengths[:5].sum()) + 15
    # Of a part of a batch nothing is known, so it is asked for.
    halves = collate(attached.backbone, data, np.arange(5)).mask[:2]
    assert type(halves) is Tensor
