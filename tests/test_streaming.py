"""A pass over a split: how far a forward pass goes."""

from __future__ import annotations

from typing import Any

from by_hand import case

from transferscope.encoding import from_token_ids
from transferscope.measurement import measure


def test_the_pass_over_train_ends_before_the_last_down_projection() -> None:
    made = case("bert", "mask-first")
    downs = [module for _, _, module in made.attached.backbone.down_projections()]
    calls = [0 for _ in downs]

    def counting(number: int) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            calls[number] += 1

        return hook

    handles = [module.register_forward_hook(counting(number)) for number, module in enumerate(downs)]
    data = from_token_ids([([2, 9, 11], 0), ([2, 8, 7], 1)])
    measure(made.attached, data, data, blank=from_token_ids([([2], 0)]))
    for handle in handles:
        handle.remove()
    assert calls == [3] * (len(downs) - 1) + [2]  # train, dev and the empty text; the last: dev and that
