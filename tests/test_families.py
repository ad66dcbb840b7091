"""Every family of models in the stages behind its neurons: signatures, pruning, tuning, a small Llama."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from by_hand import task

from tests import tiny
from transferscope import files, methods, pruning
from transferscope.attachment import attach, initial_rows
from transferscope.encoding import collate, from_token_ids
from transferscope.errors import BackboneError
from transferscope.measurement import stimulate
from transferscope.methods import Sizes
from transferscope.models import Backbone, wrap
from transferscope.pipeline import open_study
from transferscope.prompts import SoftPrompt
from transferscope.pruned import PrunedModel, save_pruned
from transferscope.signatures import extract
from transferscope.templates import DEFAULTS

NOT_PRUNED = {
    "albert": "layers share one",
    "modernbert": "one joint linear",
    "phi3": "one joint linear",
    "mixtral": "belong to experts",
}
SMALL = Sizes(rank=2, alpha=6, bottleneck=3, prefix=3)
REFUSED = {  # no biases; attention whose modules peft does not know
    **dict.fromkeys(("mpnet", "albert"), ("lora",)),
    **dict.fromkeys(("mt5", "mistral", "mixtral", "qwen3", "gemma2", "gemma3_text"), ("bitfit",)),
    **dict.fromkeys(("modernbert", "olmo2", "granite", "smollm3", "phi3"), ("lora", "bitfit")),
}
GATED = (
    "modernbert",
    "mt5",
    "phi3",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "olmo2",
)


@cache
def backbone(name: str) -> Backbone:
    return wrap(tiny.model(name), tiny.tokenizer(tiny.tokenizer_kind(name)), name)


CAUSAL = [name for name in tiny.ALL if tiny.tokenizer_kind(name) == "causal"]


@pytest.mark.parametrize("template", ["prefix", "suffix"])
@pytest.mark.parametrize("name", CAUSAL)
def test_left_and_right_padding_give_the_same_numbers(name: str, template: str) -> None:
    made = backbone(name)
    rows = torch.randn(3, made.embedding_size, generator=torch.Generator().manual_seed(3))
    data = from_token_ids([([1, 9, 20, 31, 8, 17, 40, 12], 0), ([1, 5, 30], 1), ([2], 0)])
    attached = attach(made, rows, template)
    placed = attached.place(collate(made, data, np.arange(3)))
    order = torch.sort(placed.mask, dim=1, stable=True).indices  # what is padding goes to the front
    moved = placed.embeds.gather(1, order.unsqueeze(-1).expand_as(placed.embeds))
    with torch.no_grad():
        right = made.hidden(placed.embeds, placed.mask)
        left = made.hidden(moved, placed.mask.gather(1, order))
    assert placed.mask.sum(dim=1).tolist() == [11, 6, 4]
    for i, length in enumerate((11, 6, 4)):
        assert (right[i, :length] - left[i, -length:]).abs().max() < 1e-5
        assert int(placed.readout[i]) == length - 1
        alone = made.hidden(placed.embeds[i : i + 1, :length], placed.mask[i : i + 1, :length])[0]
        assert (right[i, :length] - alone).abs().max() < 1e-5


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_a_signature_is_extracted(name: str) -> None:
    made = backbone(name)
    template = DEFAULTS[made.architecture.kind]
    prompts = [
        SoftPrompt(initial_rows(made, 2, seed=seed).numpy(), "t", seed, template=template) for seed in (0, 1)
    ]
    found = extract(made, task(), prompts)
    shape = (made.layers, made.neurons)
    assert found.stimulation.shape == (2, *shape)
    assert found.predictivity is not None
    assert found.predictivity.shape == (2, 1, *shape)
    assert np.nanmin(found.predictivity) >= 0.5
    assert np.isfinite(found.predictivity).mean() > 0.5
    assert found.features is not None
    assert found.features.shape[-1] == made.readout_size
    gated = found.provenance["active_means"] == "gate > 0"
    assert gated == any(gate is not None for gate in made.gates())
    assert gated or name not in GATED
    assert gated or np.array_equal(found.active, found.stimulation > 0)


@pytest.mark.parametrize(
    ("name", "joint", "activation"),
    [
        ("phi3", "model.layers.1.mlp.gate_up_proj", torch.nn.functional.silu),
        ("modernbert", "model.layers.1.mlp.Wi", torch.nn.functional.gelu),
    ],
)
def test_the_half_under_the_activation_decides_what_is_active(name: str, joint: str, activation: Any) -> None:
    made, seen = backbone(name), []
    handle = made.model.get_submodule(joint).register_forward_hook(lambda _, inputs, out: seen.append(out[0]))
    values, active = stimulate(attach(made, initial_rows(made, 2)))
    handle.remove()
    [rows] = seen  # [Q, 2 N]
    gate, up = rows[:, :24], rows[:, 24:]
    [row] = [q for q in range(len(rows)) if np.allclose(activation(gate[q]) * up[q], values[1], atol=1e-6)]
    assert np.array_equal(active[1], (gate[row] > 0).numpy())
    assert not np.array_equal(active[1], values[1] > 0)


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_neurons_are_cut_out_or_the_reason_is_said(name: str, tmp_path: Path) -> None:
    made = backbone(name)
    rng = np.random.default_rng(0)
    kept, held = rng.random((made.layers, made.neurons)) < 0.5, rng.normal(size=(made.layers, made.neurons))
    if name in NOT_PRUNED:
        with pytest.raises(BackboneError, match=rf"'{name}' cannot be pruned: .*{NOT_PRUNED[name]}"):
            pruning.fold(made, kept, held)
        return
    folded = pruning.fold(made, kept, held)
    assert folded.widths == tuple(kept.sum(axis=1))
    assert pruning.difference(made, folded, kept, held) < 1e-5  # from the model whose neurons are overwritten
    assert pruning.difference(made, made, kept, held) > 1e-3
    save_pruned(folded.model, tmp_path, {})
    loaded = wrap(PrunedModel.from_pretrained(tmp_path), made.tokenizer)
    assert loaded.fingerprint == folded.fingerprint


@pytest.mark.parametrize("method", ["lora", "adapter", "bitfit"])
@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_other_ways_of_tuning_work_or_the_reason_is_said(name: str, method: str) -> None:
    made = wrap(tiny.model(name), tiny.tokenizer(tiny.tokenizer_kind(name)), name)
    embeds, mask = torch.randn(2, 7, made.embedding_size), torch.ones(2, 7, dtype=torch.long)
    plain, print_ = made.hidden(embeds, mask).detach(), made.fingerprint
    if method in REFUSED.get(name, ()):
        with (
            pytest.raises(BackboneError, match=r"no biases|cannot put LoRA"),
            methods.opened(made, method, sizes=SMALL),
        ):
            pass
    else:
        with methods.opened(made, method, sizes=SMALL) as tensors:
            start = made.hidden(embeds, mask)
            assert torch.equal(start, plain)
            start[:, -1].square().sum().backward()
            assert not [part for part, tensor in tensors.items() if tensor.grad is None]
    assert torch.equal(made.hidden(embeds, mask), plain)
    assert wrap(made.model, made.tokenizer).fingerprint == print_


def test_a_real_small_llama_is_tuned_extracted_and_ranked(shared: Any, tmp_path: Path) -> None:
    tasks = {
        name: {
            "train": str(shared("realworld", "tasks", name, "train.jsonl")),
            "dev": str(shared("realworld", "tasks", name, "dev.jsonl")),
            "text": "text",
            "label": "label",
            "words": ["big", "happy"],
            "max_train": 60,
            "max_dev": 40,
        }
        for name in ("sst2", "mpqa")
    }
    settings = {
        "model": str(shared("realworld", "models", "stories260k")),
        "seeds": 2,
        "tasks": tasks,
        "max_length": 48,
        "template": "suffix",
        "tuning": {"rows": 4, "steps": 12, "evaluate_every": 6, "batch_size": 16},
    }
    files.write_text(tmp_path / "study.yaml", yaml.safe_dump(settings))
    study = open_study(tmp_path)
    signatures = study.extract()
    prompts = study.tune()
    for name, found in signatures.items():
        assert found.stimulation.shape == (2, 5, 172)
        assert found.provenance["active_means"] == "gate > 0"
        assert found.provenance["template"] == "suffix"
        assert found.subtask_predictivity.shape == (1, 5, 172)
        assert found.skill_mask(0.1).sum(axis=1).tolist() == [17] * 5
        assert not np.array_equal(prompts[name][0].rows, prompts[name][1].rows)
        curve = prompts[name][0].provenance["curve"]
        assert curve["steps"][-1] == 12
        assert np.isfinite(curve["losses"]).all()
        assert len(set(curve["losses"])) > 1  # the steps did something
    ranking = study.rank("sst2")
    assert [source.source for source in ranking.sources] == ["mpqa"]
    assert np.isfinite(ranking.sources[0].score)
