"""LoRA and IA3 folders: equal to what peft merges into the weights, and nothing taken for what it is not."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file

from transferscope.adapters import Update, load_adapter, load_update
from transferscope.errors import PromptError
from transferscope.prompts import CONFIG, RECORD, WEIGHTS, SoftPrompt, save_prompt

peft = pytest.importorskip("peft")

ATTENTION = "encoder.layer.0.attention.self"
A, B = f"{ATTENTION}.query.lora_A.weight", f"{ATTENTION}.query.lora_B.weight"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, by the way that peft calls it
        warnings.simplefilter("ignore", UserWarning)  # of peft, about Conv1D and saved embeddings
        yield


def adapted(model_type: str, config: Any, model: Any = None) -> Any:
    """A tiny model under an adapter whose every number is random: peft starts with no change at all."""
    model = tiny.model(model_type) if model is None else model
    wrapped = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.copy_(1 + torch.randn(parameter.shape, generator=generator))
    return wrapped


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def merged(model_type: str, config: Any, folder: Path) -> tuple[Update, dict[str, tuple[Any, Any]]]:
    """The adapter as read from a folder, and by peft: name of each changed weight -> (before, after)."""
    before = weights(tiny.model(model_type))
    wrapped = adapted(model_type, config)
    wrapped.save_pretrained(folder)
    after = weights(wrapped.merge_and_unload())
    changed = {name: (before[name], after[name]) for name in before if not before[name].equal(after[name])}
    return load_update(folder), changed


LORA: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("roberta", {"target_modules": ["query", "value"], "r": 3, "lora_alpha": 7}),
    "rslora": ("roberta", {"target_modules": ["query"], "r": 3, "lora_alpha": 7, "use_rslora": True}),
    "every linear layer": ("llama", {"target_modules": "all-linear", "r": 2, "lora_alpha": 5}),
    "patterns": (
        "roberta",
        {
            "target_modules": ["query", "value", "output.dense"],
            "r": 2,
            "lora_alpha": 6,
            "rank_pattern": {"query": 4, r"^roberta\.encoder\.layer\.1\.output\.dense": 5},
            "alpha_pattern": {"layer.1.attention.self.query": 11, r".*layer\.\d\.attention.*value": 3},
        },
    ),
    "patterns and rslora": (
        "roberta",
        {
            "target_modules": ["query", "key"],
            "r": 2,
            "rank_pattern": {"key": 3},
            "alpha_pattern": {"key": 5},
            "use_rslora": True,
        },
    ),
    "Conv1D": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "r": 2}),
    "T5": ("t5", {"target_modules": ["q", "wo"], "r": 2, "lora_alpha": 3}),
    "embeddings": ("roberta", {"target_modules": ["word_embeddings", "query"], "r": 2, "lora_alpha": 3}),
    "embeddings saved whole": ("llama", {"target_modules": ["embed_tokens", "q_proj"], "r": 2}),
}


@pytest.mark.parametrize("case", LORA)
def test_lora_is_what_peft_adds_to_the_weights(case: str, tmp_path: Path) -> None:
    model_type, options = LORA[case]
    found, changed = merged(model_type, peft.LoraConfig(**options), tmp_path / "a")
    assert found.kind == "LORA"
    names = {name for name in changed if not name.endswith("bias")}
    assert len(names) >= len(found.pairs()) > 0  # tied weights have two names
    for name, (down, up) in found.pairs().items():
        (full,) = [n for n in names if n.removesuffix(".weight").endswith(name) and "lm_head" not in n]
        before, after = changed[full]
        difference = (after - before).numpy()
        ours = up @ down
        if difference.shape != ours.shape or model_type == "gpt2" or "embed" in name:
            difference = difference.T  # Conv1D and embeddings keep [in, out]
        np.testing.assert_allclose(ours, difference, atol=2e-5)
        assert np.abs(difference).max() > 0.1


def test_every_changed_module_is_read(tmp_path: Path) -> None:
    found, changed = merged("llama", peft.LoraConfig(target_modules="all-linear", r=2), tmp_path / "a")
    assert {f"model.{name}.weight" for name in found.factors} == set(changed)


IA3 = {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]}


@pytest.mark.parametrize(
    ("model_type", "options"),
    [
        ("roberta", IA3),
        ("gpt2", {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"]}),
    ],
)
def test_ia3_is_what_peft_multiplies_by_less_one(
    model_type: str, options: dict[str, Any], tmp_path: Path
) -> None:
    config = peft.IA3Config(**options, fan_in_fan_out=model_type == "gpt2")
    found, changed = merged(model_type, config, tmp_path / "a")
    assert found.kind == "IA3"
    assert {name.rpartition(":")[2] for name in found.factors} == {"in", "out"}
    assert len(found.factors) == len([name for name in changed if name.endswith(".weight")])
    for name, (down, up) in found.pairs().items():
        module, _, side = name.rpartition(":")
        (full,) = [n for n in changed if n.endswith(f"{module}.weight")]
        before, after = (part.numpy().T if model_type == "gpt2" else part.numpy() for part in changed[full])
        assert down.tolist() == [[1.0]]
        change = before * (up if side == "out" else up.T)  # W * (l - 1), by rows or by columns
        np.testing.assert_allclose(change, after - before, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats_are_read(folder: Path, dtype: torch.dtype) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / WEIGHTS)
    factors = load_update(folder).factors[f"{ATTENTION}.query"]
    wanted = tensors[f"base_model.model.roberta.{A}"].to(dtype).float().numpy()
    np.testing.assert_array_equal(factors.down, wanted)
    assert factors.down.dtype == factors.up.dtype == np.float32


def test_a_new_head_is_left_out_and_named(tmp_path: Path) -> None:
    config = tiny.model("roberta").config
    config.num_labels = 2
    model = transformers.RobertaForSequenceClassification(config)
    with_head = adapted("", peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"], r=2), model)
    with_head.save_pretrained(tmp_path / "a")
    adapted("roberta", peft.LoraConfig(target_modules=["query"], r=2)).save_pretrained(tmp_path / "b")
    bare = tiny.model("roberta", head=False)
    adapted("", peft.LoraConfig(target_modules=["query"], r=2), bare).save_pretrained(tmp_path / "c")
    headed, plain, without = (load_update(tmp_path / name) for name in "abc")
    assert len(headed.left_out) == 4
    assert all("classifier" in name for name in headed.left_out)
    assert plain.left_out == without.left_out == ()
    # One backbone, three classes around it: the same names of modules.
    assert set(headed.factors) == set(plain.factors) == set(without.factors)
    assert f"{ATTENTION}.query" in plain.factors


def test_names_that_would_become_one_are_kept(folder: Path) -> None:
    change(
        folder,
        lambda t: t.update({f"base_model.model.{A}": t[ROBERTA_A], f"base_model.model.{B}": t[ROBERTA_B]}),
    )
    names = set(load_update(folder).factors)
    assert {f"{ATTENTION}.query", f"roberta.{ATTENTION}.query"} <= names


def test_task_seed_and_scores_come_from_our_record(folder: Path) -> None:
    plain = load_update(folder)
    assert (plain.task, plain.seed, plain.model, plain.where) == ("sst2", 0, "org/tiny", str(folder))
    record = {"task": "mnli", "seed": 3, "provenance": {"scores": {"dev": 0.5}}}
    (folder / RECORD).write_text(json.dumps(record))
    ours = load_update(folder)
    assert (ours.task, ours.seed) == ("mnli", 3)
    assert ours.provenance == {"model": "org/tiny", "scores": {"dev": 0.5}}
    (folder / RECORD).write_text('{"seed": "x"}')
    refused(folder, "seed should be a whole number")


def test_any_adapter_that_can_be_compared(folder: Path, tmp_path: Path) -> None:
    assert isinstance(load_adapter(folder), Update)
    soft = save_prompt(SoftPrompt(np.ones((2, 3), np.float32), "t"), tmp_path / "soft")
    assert isinstance(load_adapter(soft), SoftPrompt)
    edit(folder, peft_type="LOHA")
    with pytest.raises(PromptError, match=r"sst2' is .* type 'LOHA'; read are .*P_TUNING.*LORA, IA3"):
        load_adapter(folder)
    refused(folder, "type 'LOHA'; weight differences are read from LORA and IA3 folders")
    edit(folder, peft_type=["LORA"])
    refused(folder, r"type \['LORA'\]")


# What cannot be turned into a difference of weights.

ROBERTA_A, ROBERTA_B = f"base_model.model.roberta.{A}", f"base_model.model.roberta.{B}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "sst2"
    config = peft.LoraConfig(target_modules=["query", "value"], r=2, lora_alpha=6)
    config.base_model_name_or_path = "org/tiny"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted("roberta", config).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A LoRA adapter of r 2 and alpha 6 on the queries and values of a tiny RoBERTa."""
    copied = tmp_path / "sst2"
    copied.mkdir()
    for name in (CONFIG, WEIGHTS):
        (copied / name).write_bytes((made / name).read_bytes())
    edit(copied, base_model_name_or_path="org/tiny")
    return copied


def edit(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | fields))


def change(folder: Path, how: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = copy.deepcopy(load_file(folder / WEIGHTS))
    how(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / WEIGHTS)


def refused(folder: Path, message: str) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        load_update(folder)
    assert folder.name in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "use_dora: DoRA also scales the weights"),
        ({"bias": "lora_only"}, "bias 'lora_only': biases are saved whole"),
        ({"lora_bias": True}, "lora_bias: biases are added"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save lm_head: saved whole"),
        ({"trainable_token_indices": {"word_embeddings": [1, 2]}}, "trainable_token_indices: rows"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa': the weights were changed"),
        (
            {"init_lora_weights": "olora"},
            "init_lora_weights 'olora'.*path_initial_model_for_weight_conversion",
        ),
        ({"use_dora": True, "bias": "all"}, "use_dora: .*; bias 'all'"),
    ],
)
def test_adapters_of_peft_that_are_no_plain_difference(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = peft.LoraConfig(target_modules=["query"], r=2, **options)
    adapted("roberta", config).save_pretrained(tmp_path / "a")
    refused(tmp_path / "a", f"'.*a' is no plain weight difference: .*{message}")


def test_an_adapter_that_peft_converted_is_plain(tmp_path: Path) -> None:
    before = weights(tiny.model("roberta"))
    config = peft.LoraConfig(target_modules=["query"], r=2, lora_alpha=3, init_lora_weights="olora")
    wrapped = peft.get_peft_model(tiny.model("roberta"), config)
    wrapped.peft_config["default"].init_lora_weights = True  # as peft's guide says, to save the start
    wrapped.save_pretrained(tmp_path / "start")
    wrapped.peft_config["default"].init_lora_weights = "olora"
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape))
    after = weights(copy.deepcopy(wrapped).merge_and_unload())
    start = str(tmp_path / "start")
    wrapped.save_pretrained(tmp_path / "a", path_initial_model_for_weight_conversion=start)
    name = f"{ATTENTION}.query"
    down, up = load_update(tmp_path / "a").pairs()[name]
    difference = after[f"roberta.{name}.weight"] - before[f"roberta.{name}.weight"]
    np.testing.assert_allclose(up @ down, difference.numpy(), atol=2e-5)
    assert down.shape == (4, 16)


@pytest.mark.parametrize(
    "option", ["use_qalora", "alora_invocation_tokens", "kasa_config", "target_parameters"]
)
def test_options_that_are_not_understood_are_refused(folder: Path, option: str) -> None:
    edit(folder, **{option: [1]})
    refused(folder, f"is no plain weight difference: {option}: ")


@pytest.mark.parametrize(
    "name",
    [
        f"base_model.model.roberta.{ATTENTION}.query.lora_magnitude_vector",
        f"base_model.model.roberta.{ATTENTION}.query.lora_B.bias",
        "base_model.model.lm_head.weight",
        "base_model.model.roberta.embeddings.word_embeddings.base_layer.weight",
        f"base_model.model.roberta.{ATTENTION}.query",
        "x",
    ],
)
def test_a_tensor_that_is_not_understood_is_named(folder: Path, name: str) -> None:
    change(folder, lambda tensors: tensors.update({name: torch.ones(2, 2)}))
    refused(folder, f"no plain weight difference: it also has {name}$")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda t: t.pop(ROBERTA_B), "query has a factor A and no B"),
        (lambda t: t.pop(ROBERTA_A), "query has a factor B and no A"),
        (
            lambda t: t.update({ROBERTA_B: torch.ones(16, 3)}),
            r"A \[2, 16\] and B \[16, 3\]; expected \[r, in\]",
        ),
        (
            lambda t: t.update({ROBERTA_A: torch.ones(3, 16), ROBERTA_B: torch.ones(16, 3)}),
            "query has rank 3, but adapter_config.json says r 2",
        ),
        (lambda t: t.update({ROBERTA_A: torch.ones(2, 16, 1)}), r"should be floats of shape \[r, in\]"),
        (lambda t: t.update({ROBERTA_B: torch.ones(16)}), r"should be floats of shape \[out, r\]"),
        (lambda t: t.update({ROBERTA_A: torch.ones(2, 16, dtype=torch.int32)}), "found I32"),
        (
            lambda t: t.update({ROBERTA_A: torch.full((2, 16), torch.nan)}),
            "lora_A.weight has NaN or infinite",
        ),
        (
            lambda t: t.update({ROBERTA_B: torch.full((16, 2), 2e38)}),
            "not finite in float32 with its scale 3",
        ),
        (lambda t: t.clear(), "changes no module; found no tensor"),
    ],
)
def test_factors_that_do_not_fit(folder: Path, how: Callable[[Any], Any], message: str) -> None:
    change(folder, how)
    refused(folder, message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": "2"}, "r of adapter_config.json should be a number, found '2'"),
        ({"r": [2]}, r"r of adapter_config.json should be a number"),
        ({"lora_alpha": None}, "lora_alpha of .* should be a number, found None"),
        ({"lora_alpha": True}, "lora_alpha of .* should be a number, found True"),
        ({"lora_alpha": float("nan")}, "lora_alpha of .* should be a number, found nan"),
        ({"alpha_pattern": [1]}, "alpha_pattern of .* should be an object, found list"),
        ({"alpha_pattern": {"query": "x"}}, "alpha_pattern 'query' of .* should be a number"),
        ({"alpha_pattern": {"(": 1}}, r"'\(' of alpha_pattern is no pattern"),
        ({"alpha_pattern": {"(a+)+(b+)+": 1}}, r"pattern '\(a\+\)\+\(b\+\)\+' .* too complicated"),
        ({"alpha_pattern": {"(a|a)" * 40: 1}}, "too complicated"),
        ({"alpha_pattern": {"a" * 400: 1}}, "too complicated"),
        ({"r": 4, "rank_pattern": {"key": 3}}, "has rank 2, but .* says r 4 and rank_pattern"),
    ],
)
def test_hostile_configurations(folder: Path, fields: dict[str, Any], message: str) -> None:
    edit(folder, **fields)
    refused(folder, message)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("m.ia3_l", torch.ones(2, 3), r"should be \[out, 1\] or \[1, in\], found \[2, 3\]"),
        ("m.ia3_l", torch.ones(4), r"should be floats of shape \[out, 1\] or \[1, in\]"),
        ("m.ia3_l", torch.full((4, 1), torch.inf), "NaN or infinite"),
        ("m.weight", torch.ones(4, 1), "it also has m.weight"),
    ],
)
def test_hostile_vectors(folder: Path, name: str, tensor: torch.Tensor, message: str) -> None:
    edit(folder, peft_type="IA3")
    save_file({name: tensor}, folder / WEIGHTS)
    refused(folder, message)


def test_damaged_missing_and_pickled_files(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"PK\x03\x04 pickle")
    refused(folder, "cannot be read as safetensors")
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"never read")
    refused(folder, r"adapter_model\.bin \(pickle\) is not read")
    refused(tmp_path / "none", "not a PEFT adapter folder")


def test_a_file_that_is_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transferscope.adapters.MAX_BYTES", 10)
    refused(folder, "bytes; at most 10 are read")


def test_reading_adapters_imports_neither_torch_nor_transformers(folder: Path) -> None:
    code = (
        "import sys; from transferscope.adapters import load_update; "
        "print(len(load_update(sys.argv[1]).pairs())); "
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout == "4\n[]\n"
