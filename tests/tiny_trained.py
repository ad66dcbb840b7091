"""A tiny T5 and a tiny Llama that really can do something: trained in seconds on three tasks of three words.

A control word says what to do with three words of one vocabulary (animals or colours): `copy` them, write the
`first`, or say their `kind`. In use the control word is left out, and a prompt must stand for it; where
nothing or any other word does, the model has learned to write a question mark. Texts that are held out were
never seen in this training.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from transferscope.models import Backbone, wrap
from transferscope.tasks import Example, Task

ANIMALS = ("cat", "dog", "cow", "hen", "fox", "bee", "owl", "rat")
COLOURS = ("red", "blue", "green", "pink", "gray", "gold", "teal", "plum")
VOCABULARIES = {"animals": ANIMALS, "colours": COLOURS}
CONTROLS = ("copy", "first", "kind")
NOTHING = ""  # no control word
KINDS = ("animal", "colour")
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
IDS = {word: i for i, word in enumerate((*SPECIALS, *CONTROLS, *KINDS, "?", *ANIMALS, *COLOURS))}
END = IDS["</s>"]
WORDS = 3
# kind of model -> steps of training, learning rate, examples a step
TRAINING = {"t5": (800, 3e-3, 48), "llama": (700, 2e-3, 32)}


def answer(control: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """What the control word asks for."""
    kind = KINDS[words[0] in COLOURS]
    answers = {"copy": words, "first": words[:1], "kind": (kind,), NOTHING: ("?",)}
    return answers[control]


def texts(vocabulary: str, *, held_out: bool) -> list[tuple[str, ...]]:
    """Three different words in any order: a fifth of all is held out."""
    orders = permutations(range(len(VOCABULARIES[vocabulary])), WORDS)
    chosen = [
        order for order in orders if (sum((7, 3, 1)[i] * order[i] for i in range(3)) % 5 == 0) is held_out
    ]
    return [tuple(VOCABULARIES[vocabulary][i] for i in order) for order in chosen]


def task(control: str, vocabulary: str, *, train: int = 128, dev: int = 40, **fields: Any) -> Task:
    """A task without its control word; dev has held-out texts.

    `kind` is a classification, of the texts of both vocabularies.
    """

    def examples(count: int, held_out: bool) -> tuple[Example, ...]:
        rng = np.random.default_rng([count, held_out])
        names = list(VOCABULARIES) if control == "kind" else [vocabulary]
        found = []
        for i in range(count):
            known = texts(names[i % len(names)], held_out=held_out)
            words = known[rng.integers(len(known))]
            text, right = " ".join((*words, "?")), answer(control, words)
            label = KINDS.index(right[0]) if control == "kind" else -1
            found.append(Example(text, None, label, () if control == "kind" else (" ".join(right),)))
        return tuple(found)

    splits = examples(train, False), examples(dev, True)
    if control == "kind":
        return Task("kind", *splits, KINDS, KINDS, **fields)
    fields = {"metric": "exact_match", "max_new_tokens": 6} | fields
    return Task(f"{control}-{vocabulary}", *splits, (), type=control, **fields)


@cache
def backbone(kind: str) -> Backbone:
    """The trained "t5" or "llama", the same in each call; about ten seconds when first asked for."""
    model = _model(kind)
    steps, rate, size = TRAINING[kind]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    rng = np.random.default_rng(0)
    known = [words for name in VOCABULARIES for words in texts(name, held_out=False)]
    model.train()
    for _ in range(steps):
        controls = [(*CONTROLS, NOTHING)[i] for i in rng.integers(len(CONTROLS) + 1, size=size)]
        chosen = [known[i] for i in rng.integers(len(known), size=size)]
        optimizer.zero_grad()
        _loss(kind, model, controls, chosen, rng).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return wrap(model.eval(), tokenizer(kind), f"trained {kind}")


def _model(kind: str) -> Any:
    common = {"vocab_size": len(IDS), "pad_token_id": 0, "eos_token_id": END}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "t5":
            sizes = {
                "d_model": 32,
                "d_kv": 8,
                "d_ff": 64,
                "num_heads": 4,
                "num_layers": 2,
                "num_decoder_layers": 1,
            }
            config = transformers.T5Config(
                dropout_rate=0.0,
                decoder_start_token_id=0,
                relative_attention_num_buckets=16,
                **sizes,
                **common,
            )
            return transformers.T5ForConditionalGeneration(config)
        sizes = {
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
        config = transformers.LlamaConfig(
            max_position_embeddings=64, bos_token_id=1, tie_word_embeddings=True, **sizes, **common
        )
        return transformers.LlamaForCausalLM(config)


def _loss(
    kind: str, model: Any, controls: list[str], chosen: list[tuple[str, ...]], rng: np.random.Generator
) -> torch.Tensor:
    """The control word stands where a prompt will: in front (T5); in front or behind the text (Llama)."""
    sources, targets = [], []
    for control, words in zip(controls, chosen, strict=True):
        # Once or twice, so that prompts of one and two rows stand where an order stood; a word of the text is
        # no order.
        order = [IDS[control]] * rng.integers(1, 3) if control else [IDS[words[0]]] * rng.integers(3)
        text = [IDS[word] for word in (*words, "?")]
        targets.append([*(IDS[word] for word in answer(control, words)), END])
        if kind == "t5":
            sources.append([*order, *text, END])
        else:
            text = [IDS["<s>"], *text]
            sources.append(order + text if rng.random() < 0.7 else text + order)
    if kind == "t5":
        ids = _padded(sources, 0)
        return model(input_ids=ids, attention_mask=(ids != 0).long(), labels=_padded(targets, -100)).loss
    rows = [source + target for source, target in zip(sources, targets, strict=True)]
    labels = [[-100] * len(source) + target for source, target in zip(sources, targets, strict=True)]
    return model(input_ids=_padded(rows, 0), labels=_padded(labels, -100), use_cache=False).loss


def _padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def tokenizer(kind: str) -> transformers.PreTrainedTokenizerFast:
    """Words as tokens: `a b ? </s>` for T5, `<s> a b ?` for Llama."""
    backend = Tokenizer(models.WordLevel(IDS, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    single = "$A </s>" if kind == "t5" else "<s> $A"
    special = "</s>" if kind == "t5" else "<s>"
    backend.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(special, IDS[special])]
    )
    roles = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "attention_mask"],
        **(roles if kind == "t5" else roles | {"bos_token": "<s>"}),
    )
