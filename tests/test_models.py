"""Backbones: label logits, gradients, sizes, fingerprints, loading, and every way loading can fail."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.utils import logging as hf_logging

from tests import tiny
from transferscope import loading
from transferscope.errors import ArchitectureError, BackboneError
from transferscope.models import Backbone, load_backbone, wrap

WORDS = torch.tensor([9, 5, 40])
LEARNED_POSITIONS = (
    *("bert", "roberta", "xlm-roberta", "distilbert", "electra", "gpt2", "mpnet", "albert", "bart", "opt"),
)


@cache
def backbone(model_type: str) -> Backbone:
    return wrap(tiny.model(model_type))


def saved(folder: Path, model_type: str = "bert", *, head: bool = True, **overrides: Any) -> Path:
    tiny.model(model_type, head=head, **overrides).save_pretrained(folder)
    tiny.tokenizer(tiny.tokenizer_kind(model_type)).save_pretrained(folder)
    return folder


def inputs(made: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(5, 60, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, 4:] = 0
    return ids, mask


@pytest.mark.parametrize("model_type", tiny.ALL)
def test_label_logits_are_the_full_models(model_type: str) -> None:
    made, stock = backbone(model_type), tiny.model(model_type)  # the stock model has never been wrapped
    ids, mask = inputs(made)
    options = {}
    if made.architecture.kind == "encoder-decoder":
        options = {"decoder_input_ids": torch.full((3, 1), made.config.decoder_start_token_id)}
    with torch.no_grad():
        full = stock(input_ids=ids, attention_mask=mask, **options).logits
        hidden = made.hidden(made.embed(ids), mask)
        assert hidden.shape == (3, full.shape[1], made.readout_size)
        for row in range(full.shape[1]):
            ours = made.label_logits(hidden[:, row], WORDS)
            assert ours.dtype == torch.float32
            assert (ours - full[:, row][:, WORDS]).abs().max() < 1e-5
            every = made.vocabulary_logits(hidden[:, row])
            assert (every - full[:, row]).abs().max() < 1e-5
    assert full.std() > 0.1  # not equal because all is zero


@pytest.mark.parametrize("model_type", tiny.ALL)
def test_gradient_reaches_the_prompt_and_no_parameter(model_type: str) -> None:
    made = backbone(model_type)
    ids, mask = inputs(made)
    prompt = torch.randn(4, made.embedding_size, requires_grad=True)
    embeds = torch.cat([prompt.expand(3, -1, -1), made.embed(ids)], 1)
    hidden = made.hidden(embeds, torch.cat([torch.ones(3, 4, dtype=torch.long), mask], 1))
    # not the sum of the logits: the head's norm may make that nearly constant
    made.label_logits(hidden[:, -1], WORDS).log_softmax(-1)[:, 0].sum().backward()
    assert prompt.grad is not None
    assert (prompt.grad.abs().amax(1) > 1e-6).all()
    assert all(
        parameter.grad is None and not parameter.requires_grad for parameter in made.model.parameters()
    )
    assert not made.model.training


@pytest.mark.parametrize("model_type", tiny.ALL)
def test_sizes(model_type: str) -> None:
    made = backbone(model_type)
    assert made.layers == sum(tiny.layers(model_type))
    assert made.neurons == tiny.neurons(model_type)
    assert made.hidden_size == 16
    assert made.embedding_size == tiny.embedding_size(model_type)
    assert made.readout_size == tiny.readout_size(model_type)
    assert made.max_positions == tiny.positions(model_type)
    everything = torch.arange(tiny.VOCAB)
    assert torch.equal(made.embeddings, made.embed(everything))
    assert [number for _, number, _ in made.down_projections()] == list(range(made.layers))
    assert made.has_lm_head
    assert not wrap(tiny.model(model_type, head=False)).has_lm_head
    assert made.device == torch.device("cpu")
    assert made.dtype == torch.float32


@pytest.mark.parametrize("model_type", LEARNED_POSITIONS)
def test_max_positions_is_the_longest_input_that_works(model_type: str) -> None:
    made = backbone(model_type)
    limit = made.max_positions
    assert limit is not None
    made.hidden(torch.zeros(1, limit, made.embedding_size), torch.ones(1, limit))
    with pytest.raises((IndexError, RuntimeError)):
        made.hidden(torch.zeros(1, limit + 1, made.embedding_size), torch.ones(1, limit + 1))


@pytest.mark.parametrize("model_type", tiny.ALL)
def test_base_model_gives_the_same_hidden_states(model_type: str) -> None:
    made = backbone(model_type)
    bare = tiny.model(model_type, head=False)
    state = made.base.state_dict()
    bare.load_state_dict({key: state[key] for key in bare.state_dict() if key in state}, strict=False)
    ids, mask = inputs(made)
    with torch.no_grad():
        ours, theirs = (each.hidden(each.embed(ids), mask) for each in (made, wrap(bare)))
    assert torch.equal(ours, theirs)


def test_token_types_reach_the_models_that_have_them() -> None:
    types = torch.tensor([[0, 0, 0, 1, 1, 1, 1]]).expand(3, -1)
    differs = {}
    for model_type in tiny.ALL:
        made = backbone(model_type)
        ids, mask = inputs(made)
        with torch.no_grad():
            plain, typed = made.hidden(made.embed(ids), mask), made.hidden(made.embed(ids), mask, types)
        differs[model_type] = not torch.equal(plain, typed)
    assert [model_type for model_type, changed in differs.items() if changed] == ["bert", "electra", "albert"]


def test_decoder_embeds_take_the_place_of_the_start_token() -> None:
    made = backbone("t5")
    ids, mask = inputs(made)
    with torch.no_grad():
        default = made.hidden(made.embed(ids), mask)
        same = made.hidden(
            made.embed(ids), mask, decoder_embeds=made.embed(torch.zeros(3, 1, dtype=torch.long))
        )
        longer = made.hidden(made.embed(ids), mask, decoder_embeds=made.embed(ids[:, :2]))
    assert torch.equal(default, same)
    assert longer.shape == (3, 2, 16)


def test_feed_forward_chunking_is_switched_off() -> None:
    made = wrap(tiny.model("bert", chunk_size_feed_forward=3))
    seen: list[int] = []
    made.down_projections()[0][2].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    made.hidden(torch.randn(1, 6, 16), torch.ones(1, 6))
    assert seen == [6]


def test_no_head_no_label_logits() -> None:
    with pytest.raises(BackboneError, match="has no language-model head; use head: classifier"):
        wrap(tiny.model("bert", head=False)).label_logits(torch.zeros(1, 16), WORDS)


def test_a_row_that_does_not_fit_the_model() -> None:
    model = tiny.model("bert")
    model.bert.encoder.layer[1].output = nn.Identity()
    with pytest.raises(BackboneError, match=r"no module 'output\.dense' in BertLayer"):
        wrap(model)


def test_layers_of_different_width() -> None:
    model = tiny.model("bert")
    model.bert.encoder.layer[1].output.dense = nn.Linear(20, 16)
    with pytest.raises(BackboneError, match=r"different numbers of neurons: \[20, 24\]"):
        _ = wrap(model).neurons


# --- fingerprints ---


def test_fingerprint_sees_one_bit_a_swap_and_the_configuration() -> None:
    seen = {wrap(tiny.model("bert")).fingerprint}
    for change in ("bit", "swap", "transpose", "config"):
        model = tiny.model("bert")
        weight = model.bert.encoder.layer[1].output.dense.weight
        with torch.no_grad():
            if change == "bit":
                weight.view(torch.int32)[3, 5] ^= 1
            elif change == "swap":
                weight[[0, 1]] = weight[[1, 0]]
            elif change == "transpose":
                model.bert.encoder.layer[0].attention.self.query.weight.copy_(
                    model.bert.encoder.layer[0].attention.self.query.weight.T.clone()
                )
            else:
                model.config.layer_norm_eps = 1e-6
        seen.add(wrap(model).fingerprint)
    assert len(seen) == 5


def test_fingerprint_sees_the_tokenizer_but_not_how_it_was_called() -> None:
    model, tokenizer = tiny.model("bert"), tiny.tokenizer("bert")
    first = wrap(model, tokenizer).fingerprint
    tokenizer(["good movie", "bad"], padding=True, truncation=True, max_length=4)
    assert wrap(model, tokenizer).fingerprint == first
    tokenizer.add_tokens(["splendid"])
    assert wrap(model, tokenizer).fingerprint != first
    assert wrap(model).fingerprint != first


@pytest.mark.parametrize("model_type", tiny.ALL)
def test_fingerprint_does_not_depend_on_the_folder(model_type: str, tmp_path: Path) -> None:
    one, two = (load_backbone(saved(tmp_path / name, model_type)) for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    # transformers makes a qwen2 folder's tokenizer one of its own class, whatever was saved
    same = one.tokenizer if model_type == "qwen2" else tiny.tokenizer(tiny.tokenizer_kind(model_type))
    memory = wrap(tiny.model(model_type), same)
    assert memory.fingerprint == one.fingerprint
    assert len(one.fingerprint) == 32


# --- loading ---


@pytest.mark.parametrize("model_type", tiny.ALL)
def test_loading_gives_what_was_saved(model_type: str, tmp_path: Path) -> None:
    made = load_backbone(str(saved(tmp_path, model_type)), device="cpu")
    ids, mask = inputs(made)
    with torch.no_grad():
        expected = backbone(model_type).hidden(made.embed(ids), mask)
        assert torch.equal(made.hidden(made.embed(ids), mask), expected)
    assert made.name == str(tmp_path)
    assert made.has_lm_head
    assert made.tokenizer("good movie")["input_ids"]
    assert made.pad_id == made.tokenizer.pad_token_id
    assert not any(parameter.requires_grad for parameter in made.model.parameters())
    bare = load_backbone(tmp_path, head="classifier", device="cpu")
    assert not bare.has_lm_head
    assert torch.equal(bare.hidden(bare.embed(ids), mask), expected)


def test_attention_falls_back_to_eager_where_sdpa_is_not_there(tmp_path: Path) -> None:
    assert load_backbone(saved(tmp_path / "a", "bert")).config._attn_implementation == "sdpa"
    assert load_backbone(tmp_path / "a", attention="eager").config._attn_implementation == "eager"
    assert load_backbone(saved(tmp_path / "b", "deberta-v2")).config._attn_implementation == "eager"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("model_type", ["bert", "t5", "llama"])
def test_half_precision(model_type: str, dtype: str, tmp_path: Path) -> None:
    made = load_backbone(saved(tmp_path, model_type), device="cpu", dtype=dtype)
    assert made.dtype == getattr(torch, dtype)
    ids, mask = inputs(made)
    with torch.no_grad():
        hidden = made.hidden(made.embed(ids).float(), mask)  # float32 prompt rows may be among them
        logits = made.label_logits(hidden[:, 0], WORDS)
        full = backbone(model_type)
        expected = full.label_logits(full.hidden(full.embed(ids), mask)[:, 0], WORDS)
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("model_type", [name for name in tiny.MODEL_TYPES if name != "t5-gated"])
def test_verbalizer_needs_a_head(model_type: str, tmp_path: Path) -> None:
    saved(tmp_path, model_type, head=False)
    with pytest.raises(BackboneError, match="has no language-model head; use head: classifier") as caught:
        load_backbone(tmp_path, device="cpu")
    assert "\n" not in str(caught.value)
    assert load_backbone(tmp_path, head="classifier", device="cpu").layers


def test_incomplete_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(
        BackboneError, match=r"lacks weights of the model: bert\.encoder\.layer\.2.* and \d+ more"
    ):
        load_backbone(tmp_path)


def test_loading_is_quiet_and_puts_the_settings_back(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, head=False)
    before = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_backbone(tmp_path, head="classifier")
        with pytest.raises(BackboneError):
            load_backbone(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert (hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()) == before


def test_unknown_architecture_when_loading(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "brt"}')
    with pytest.raises(ArchitectureError, match=r"(?s)'brt'.*Did you mean 'bert'.*register\("):
        load_backbone(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float23"}, "dtype is 'float23'. Did you mean 'float32'"),
        ({"head": "clasifier"}, "Did you mean 'classifier'"),
        ({"attention": "flash"}, "Available: eager, sdpa"),
        ({"device": "cudaa"}, "Did you mean 'cuda'"),
    ],
)
def test_options_that_do_not_exist(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=message):
        load_backbone(tmp_path, **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "no model folder"),
        ("/no/where", "no model folder"),
        ("nobody/nothing", r"hub.*offline mode is on"),
    ],
)
def test_models_that_are_not_there(name: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message) as caught:
        load_backbone(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_that_are_not_whole(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"has no config\.json"):
        load_backbone(tmp_path)
    tiny.model("bert").save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="no tokenizer files"):
        load_backbone(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BackboneError, match="not a valid JSON"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("model_type", ["bert", "t5", "llama"])
def test_attention_is_switched_and_put_back(model_type: str) -> None:
    made = backbone(model_type)
    ids, mask = inputs(made)
    with torch.no_grad():
        sdpa = made.hidden(made.embed(ids), mask)
        with loading.attention(made.model, "eager"):
            assert {module.config._attn_implementation for module in _configured(made)} == {"eager"}
            eager = made.hidden(made.embed(ids), mask)
    assert (sdpa - eager).abs().max() < 1e-4
    with pytest.raises(KeyError), loading.attention(made.model, "eager"):
        raise KeyError
    assert {module.config._attn_implementation for module in _configured(made)} == {"sdpa"}


def test_attention_that_the_model_does_not_have() -> None:
    made = backbone("deberta-v2")
    with loading.attention(made.model, "eager"):
        pass
    with pytest.raises(BackboneError, match="sdpa"), loading.attention(made.model, "sdpa"):
        pass
    assert made.config._attn_implementation == "eager"


def _configured(made: Backbone) -> list[Any]:
    return [module for module in made.model.modules() if hasattr(module, "config")]


@pytest.mark.parametrize("name", ["minilm-l6", "minilm-l6-mlm", "stories260k"])
def test_real_models(name: str, shared: Any) -> None:
    folder = shared("realworld", "models", name)
    made = load_backbone(folder, head="classifier", device="cpu")
    assert (made.layers, made.neurons) == ((5, 172) if name == "stories260k" else (6, 1536))
    encoded = made.tokenizer("the cat sat on the mat", return_tensors="pt")
    with torch.no_grad():
        hidden = made.hidden(made.embed(encoded["input_ids"]), encoded["attention_mask"])
        reference = made.model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"])[0]
    assert (hidden - reference).abs().max() < 1e-4
    if name == "minilm-l6":
        with pytest.raises(BackboneError, match="use head: classifier"):
            load_backbone(folder)
    else:
        assert load_backbone(folder).has_lm_head
