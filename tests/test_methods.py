"""Each method in each architecture: what it trains and computes, and that nothing of it stays behind."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from transferscope import methods
from transferscope.digests import weights_digest
from transferscope.errors import BackboneError, InputError
from transferscope.methods import Method, Sizes
from transferscope.models import Backbone, wrap

SMALL = Sizes(rank=2, alpha=6, bottleneck=3, prefix=3)
NOT_FOR = {
    "bitfit": ("t5", "t5-gated", "llama"),
    "prefix": ("t5", "t5-gated", "distilbert", "deberta-v2", "deberta-v2-new-head", "falcon"),
}
FITTING = [(m, t) for m in methods.names() for t in tiny.MODEL_TYPES if t not in NOT_FOR.get(m, ())]
UNFIT = [(m, t) for m, types in NOT_FOR.items() for t in types]


def small(model_type: str) -> Backbone:
    return wrap(tiny.model(model_type), tiny.tokenizer(tiny.tokenizer_kind(model_type)), model_type)


def texts() -> tuple[Tensor, Tensor]:
    """Ids [2, 7] and a mask that hides the end of the second text."""
    ids = torch.randint(6, 60, (2, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 5:] = 0
    return ids, mask


def run(backbone: Backbone, ids: Tensor, mask: Tensor) -> Tensor:
    return backbone.hidden(backbone.embed(ids), mask)


def move(tensors: dict[str, Tensor]) -> None:
    """Other values than those at the start."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))


def state(backbone: Backbone) -> dict[str, Any]:
    """All that a method may not leave behind."""
    return {
        "weights": weights_digest(backbone.model),
        "names": list(backbone.model.state_dict()),
        "modules": [(name, id(module), module.training) for name, module in backbone.model.named_modules()],
        "gradients": [(p.requires_grad, p.grad is None) for p in backbone.model.parameters()],
        "hooks": [
            (len(module._forward_hooks), len(module._forward_pre_hooks))
            for module in backbone.model.modules()
        ],
    }


def ffn(backbone: Backbone) -> list[Tensor]:
    """Copies of the FFN's weights: of what ends it, and of its gate."""
    modules = [down for _, _, down in backbone.down_projections()] + [g for g in backbone.gates() if g]
    return [module.weight.detach().clone() for module in modules]


def use(backbone: Backbone, method: str, plain: Tensor) -> None:
    """Train a step by a method and look at what it does; then fail while it is open."""
    (ids, mask), frozen = texts(), ffn(backbone)
    with methods.opened(backbone, method, sizes=SMALL) as tensors:
        start = run(backbone, ids, mask)
        if method != "prefix":  # the others start where the model is
            assert torch.equal(start, plain)
        start[:, -1].square().sum().backward()
        assert [name for name, tensor in tensors.items() if tensor.grad is None] == []
        trained = {id(tensor) for tensor in tensors.values()}
        assert not any(p.requires_grad and id(p) not in trained for p in backbone.model.parameters())
        move(tensors)
        assert (run(backbone, ids, mask) - plain).abs().max() > 1e-3
        assert all(torch.equal(a, b) for a, b in zip(ffn(backbone), frozen, strict=True))
        raise ZeroDivisionError


@pytest.mark.parametrize(("method", "model_type"), FITTING)
def test_it_changes_the_model_and_leaves_nothing_behind(method: str, model_type: str) -> None:
    backbone = small(model_type)
    before, plain = state(backbone), run(backbone, *texts())
    with pytest.raises(ZeroDivisionError):
        use(backbone, method, plain)
    assert state(backbone) == before
    assert torch.equal(run(backbone, *texts()), plain)


@pytest.mark.parametrize("model_type", [model_type for method, model_type in FITTING if method == "prefix"])
def test_a_prefix_does_not_show_what_the_mask_hides(model_type: str) -> None:
    backbone, (ids, mask) = small(model_type), texts()
    with methods.opened(backbone, "prefix", sizes=SMALL), torch.no_grad():
        both, alone = run(backbone, ids, mask), run(backbone, ids[1:, :5], mask[1:, :5])
    torch.testing.assert_close(both[1:, :5], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("method", "model_type"), UNFIT)
def test_what_an_architecture_cannot_have_is_refused(method: str, model_type: str) -> None:
    backbone = small(model_type)
    before = state(backbone)
    with pytest.raises(BackboneError, match="lora or adapter"), methods.opened(backbone, method):
        pass
    assert state(backbone) == before


def test_memory_that_runs_out_is_not_taken_for_a_prefix_that_does_not_fit() -> None:
    backbone = small("gpt2")

    def full(*args: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    handle = backbone.down_projections()[0][2].register_forward_pre_hook(full)
    with pytest.raises(RuntimeError, match="allocate memory"), methods.opened(backbone, "prefix"):
        pass
    handle.remove()


def test_lora_adds_scaled_factors_to_query_and_value() -> None:
    backbone, (ids, mask) = small("bert"), texts()
    with methods.opened(backbone, "lora", sizes=SMALL) as tensors, torch.no_grad():
        move(tensors)
        found = run(backbone, ids, mask)
        pairs = {name.split(".lora_")[0] for name in tensors}
        changes = {
            name: 6 / 2 * tensors[f"{name}.lora_B.default.weight"] @ tensors[f"{name}.lora_A.default.weight"]
            for name in pairs
        }
    assert {name.rpartition(".")[2] for name in pairs} == {"query", "value"}
    by_hand = small("bert")
    with torch.no_grad():
        for name, change in changes.items():
            by_hand.base.get_submodule(name).weight.add_(change)
    torch.testing.assert_close(found, run(by_hand, ids, mask))


def test_an_adapter_stands_behind_each_ffn() -> None:
    backbone, (ids, mask) = small("bert"), texts()
    outputs: dict[int, Tensor] = {}
    with methods.opened(backbone, "adapter", sizes=SMALL) as tensors, torch.no_grad():
        move(tensors)
        for _, layer, module in backbone.down_projections():
            module.register_forward_hook(lambda m, i, out, layer=layer: outputs.update({layer: (i[0], out)}))
        run(backbone, ids, mask)
        for _, layer, module in backbone.down_projections():
            inputs, found = outputs[layer]
            y = inputs @ module.weight.T + module.bias
            part = {name.split(".", 2)[2]: t for name, t in tensors.items() if f"layer.{layer}." in name}
            inner = torch.nn.functional.gelu(y @ part["down.weight"].T + part["down.bias"])
            wanted = y + inner @ part["up.weight"].T + part["up.bias"]
            torch.testing.assert_close(found, wanted)


def test_a_prefix_is_keys_and_values_that_every_row_attends_to() -> None:
    backbone, (ids, mask) = small("bert"), texts()
    attention = backbone.base.encoder.layer[0].attention.self
    seen: list[Tensor] = []
    with methods.opened(backbone, "prefix", sizes=SMALL) as tensors, torch.no_grad():
        (rows,) = tensors.values()  # [P, layers * 2 * D]
        embedded = backbone.base.embeddings(
            inputs_embeds=backbone.embed(ids), token_type_ids=torch.zeros_like(ids), past_key_values_length=3
        )
        handle = attention.register_forward_hook(lambda m, i, out: seen.append(out[0]))
        run(backbone, ids, mask)
        handle.remove()
    heads, width = attention.num_attention_heads, attention.attention_head_size

    def split(values: Tensor) -> Tensor:
        return values.reshape(*values.shape[:-1], heads, width).transpose(-3, -2)  # [..., heads, rows, width]

    own = rows.detach().reshape(3, backbone.layers * 2, -1)  # key and value of each layer
    key, value = (torch.cat([split(own[:, k]).expand(2, -1, -1, -1), split(layer(embedded))], dim=2)
                  for k, layer in enumerate((attention.key, attention.value)))  # fmt: skip
    scores = split(attention.query(embedded)) @ key.transpose(-1, -2) / width**0.5
    hidden = torch.cat([torch.zeros(2, 3), (1 - mask).float()], dim=1)[:, None, None] * -1e9
    wanted = (torch.softmax(scores + hidden, dim=-1) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(seen[0], wanted, atol=1e-5, rtol=1e-4)


def test_the_start_is_drawn_with_the_seed_alone() -> None:
    backbone = small("bert")

    def start(method: str, seed: int) -> list[Tensor]:
        torch.randn(seed + 3)  # the global generator's state does not matter
        with methods.opened(backbone, method, sizes=SMALL, seed=seed) as tensors:
            return [tensor.detach().clone() for tensor in tensors.values()]

    for method in ("lora", "adapter", "prefix"):
        first, again, other = start(method, 0), start(method, 0), start(method, 1)
        assert all(map(torch.equal, first, again))
        assert not all(map(torch.equal, first, other))
    kept = torch.random.get_rng_state()
    start_lora = methods.opened(backbone, "lora")
    with start_lora:
        assert torch.equal(torch.random.get_rng_state(), kept)


def test_bitfit_trains_all_biases_below_the_head_and_nothing_else() -> None:
    backbone = small("bert")
    with methods.opened(backbone, "bitfit") as tensors:
        names = {name for name, _ in backbone.base.named_parameters() if name.endswith("bias")}
        assert set(tensors) == names
        assert any("LayerNorm.bias" in name for name in names)
        assert not backbone.model.cls.predictions.bias.requires_grad


def test_bitfit_wants_float32() -> None:
    backbone = wrap(tiny.model("bert").bfloat16(), None, "half")
    with pytest.raises(BackboneError, match="float32"), methods.opened(backbone, "bitfit"):
        pass


def test_an_unknown_name_gets_the_nearest_and_a_row_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"unknown method 'bitfitt'. Did you mean 'bitfit'"):
        methods.get("bitfitt")
    monkeypatch.setattr(methods, "_TABLE", dict(methods._TABLE))
    row = methods.register(Method("norms", "layer norms", 0.1, methods.get("bitfit").open))
    assert methods.get("norms") is row
    assert methods.names()[-1] == "norms"


def test_lora_inside_the_ffn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = small("bert")
    before = state(backbone)
    monkeypatch.setitem(methods.LORA_TARGETS, "bert", ["output.dense"])
    with pytest.raises(BackboneError, match="has to stay frozen"), methods.opened(backbone, "lora"):
        pass
    assert state(backbone) == before
