"""Makes demo/model: a small BERT pre-trained by masked-language modelling on the generator's text, seeded.

python -m transferscope.demo.pretrain [--out DIR] [--steps N] [--seed N] [--threads N]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from transferscope.demo import lexicon, world

MODEL_FOLDER = Path(__file__).parent / "model"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_POSITIONS = 128
SPREAD = 0.05  # standard deviation of the first weights
SHOW_EVERY = 100
SLIPS = 0.1  # of the masks
Row = tuple[list[int], list[int], list[int]]
Batch = dict[str, torch.Tensor]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the world's vocabulary; frames text as BERT does: [CLS] a [SEP] b [SEP]."""
    ids = {word: index for index, word in enumerate([*SPECIAL, *world.vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, ids[name]) for name in ("[CLS]", "[SEP]")],
    )
    named = {f"{name[1:-1].lower()}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_POSITIONS,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **named,
    )


def build_model(vocabulary: int, layers: int, hidden: int) -> BertForMaskedLM:
    """An untrained BERT; its weights come from torch's global generator."""
    return BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=4 * hidden,
            max_position_embeddings=MAX_POSITIONS,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=SPREAD,
        )
    )


def senses(tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Each token id's sense as a verdict (int64): 0 none, 1 good, 2 bad, 3 yes, 4 no, then topics."""
    groups = (
        lexicon.GOOD,
        lexicon.BAD,
        lexicon.YES,
        lexicon.NO,
        *((topic,) for topic in lexicon.TOPICS),
    )
    found = torch.zeros(len(tokenizer), dtype=torch.long)
    for sense, words in enumerate(groups, start=1):
        found[tokenizer.convert_tokens_to_ids(list(words))] = sense
    return found


def rows(tokenizer: PreTrainedTokenizerFast, passages: list[world.Passage]) -> list[Row]:
    """For each passage its token ids, token types, and 1 where a verdict stands.

    The order is note, [CLS], text, [SEP], and for a pair its second text, [SEP].
    """
    ids = tokenizer.get_vocab()
    found = []
    for passage in passages:
        first = [*passage.note.split(), "[CLS]", *passage.text.split(), "[SEP]"]
        second = [] if passage.pair is None else [*passage.pair.split(), "[SEP]"]
        words = first + second
        types = [0] * len(first) + [1] * len(second)
        found.append(
            ([ids[word] for word in words], types, [int(word in passage.verdicts) for word in words])
        )
    return found


def company(tokenizer: PreTrainedTokenizerFast, rng: Random, width: int, passages: int) -> torch.Tensor:
    """Unit vectors [vocabulary, width] float32 from the company words keep.

    They are the SVD of positive pointwise mutual information. As first embeddings they spare the model the
    long plateau before it finds out which words belong together.
    """
    size = len(tokenizer)
    seen = np.zeros((passages, size), dtype=np.float32)
    for row, (tokens, _, _) in enumerate(rows(tokenizer, [world.passage(rng) for _ in range(passages)])):
        seen[row, tokens] = 1.0
    seen[:, : len(SPECIAL)] = 0.0
    together = (seen.T @ seen).astype(np.float64)
    alone = np.maximum(seen.sum(0, dtype=np.float64), 1.0)
    information = np.log(np.maximum(together * passages / np.outer(alone, alone), 1.0))
    left, values, _ = np.linalg.svd(information)
    vectors = left[:, :width] * np.sqrt(values[:width])
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return torch.tensor(unit, dtype=torch.float32)


def batches(tokenizer: PreTrainedTokenizerFast, rng: Random, size: int) -> Iterator[Batch]:
    """Endless masked batches, each of passages of like length (so that little is padding)."""
    draws, verdicts = np.random.default_rng(rng.getrandbits(64)), senses(tokenizer).nonzero()[:, 0].numpy()
    while True:
        pool = rows(tokenizer, [world.passage(rng) for _ in range(size * 16)])
        pool.sort(key=lambda row: len(row[0]))
        chunks = [pool[start : start + size] for start in range(0, len(pool), size)]
        rng.shuffle(chunks)
        for chunk in chunks:
            yield mask(chunk, draws, verdicts, len(tokenizer), tokenizer.mask_token_id)


def mask(
    chunk: list[Row], rng: np.random.Generator, verdicts: np.ndarray, vocabulary: int, mask_id: int
) -> Batch:
    """Pad and mask. Chosen are 75 in 100 verdicts and 15 in 100 other words; ``labels`` is -100 elsewhere.

    Of those chosen 85 in 100 become [MASK], 5 a random word, 10 stay. At SLIPS of the masks a random one of
    the token ids ``verdicts`` is asked for: so verdicts not asked for are held equal, whatever the text.
    """
    length = max(len(ids) for ids, _, _ in chunk)
    ids, types, marks = (
        np.array([row[part] + [0] * (length - len(row[part])) for row in chunk]) for part in range(3)
    )
    chosen = (ids >= len(SPECIAL)) & (rng.random(ids.shape) < np.where(marks == 1, 0.75, 0.15))
    fate = rng.random(ids.shape)
    inputs = np.where(chosen & (fate < 0.85), mask_id, ids)
    inputs = np.where(chosen & (fate >= 0.95), rng.integers(len(SPECIAL), vocabulary, ids.shape), inputs)
    labels = np.where(chosen, ids, -100)
    slips = (inputs == mask_id) & (rng.random(ids.shape) < SLIPS)
    labels = np.where(slips, rng.choice(verdicts, ids.shape), labels)
    arrays = {
        "input_ids": inputs,
        "token_type_ids": types,
        "attention_mask": (ids != 0).astype(np.int64),
        "labels": labels,
        "marks": marks,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def loss_of(model: BertForMaskedLM, batch: Batch, sense: torch.Tensor) -> tuple[torch.Tensor, list[float]]:
    """Cross-entropy at the chosen places, verdicts twice as heavy; and how often a verdict's sense was found.

    The shares are of opinion, topic and pair verdicts; NaN where a batch has none.
    """
    hidden = model.bert(
        batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]
    ).last_hidden_state
    at = batch["labels"] != -100
    logits, labels = model.cls(hidden[at]), batch["labels"][at]
    weight = 1.0 + batch["marks"][at]
    loss = (cross_entropy(logits, labels, reduction="none") * weight).sum() / weight.sum()
    verdict = batch["marks"][at] == 1
    right, got = sense[labels][verdict], sense[logits.argmax(-1)][verdict]
    kinds = (right <= 2, right > 4, (right == 3) | (right == 4))
    return loss, [(right == got)[kind].float().mean().item() for kind in kinds]


def pretrain(
    steps: int,
    seed: int,
    *,
    size: int = 64,
    layers: int = 4,
    hidden: int = 64,
    rate: float = 2e-3,
    passages: int = 20_000,
) -> tuple[BertForMaskedLM, PreTrainedTokenizerFast]:
    """The model after ``steps`` batches; its first embeddings are read from ``passages``. Logs to stderr."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer), layers, hidden)
    with torch.no_grad():
        table = model.bert.embeddings.word_embeddings.weight
        table.mul_(0.5).add_(company(tokenizer, Random(seed), hidden, passages) * SPREAD * hidden**0.5)
    stream, sense = batches(tokenizer, Random(seed), size), senses(tokenizer)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    started, recent = time.monotonic(), []
    for step in range(1, steps + 1):
        loss, found = loss_of(model, next(stream), sense)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append([loss.item(), *found])
        if step % SHOW_EVERY == 0:
            _show(step, steps, recent, time.monotonic() - started)
            recent.clear()
    return model.eval(), tokenizer


def _show(step: int, steps: int, recent: list[list[float]], seconds: float) -> None:
    loss, opinion, topic, pair = np.nanmean(np.array(recent), axis=0)
    verdicts = f"verdicts: opinion {opinion:.3f}, topic {topic:.3f}, pair {pair:.3f}"
    print(f"step {step}/{steps}  loss {loss:.3f}  {verdicts}  {seconds:.0f} s", file=sys.stderr)


def save(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a folder that AutoModelForMaskedLM and AutoTokenizer read; the weights as float16."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Read the arguments, pre-train, write."""
    parser = argparse.ArgumentParser(
        description="Pre-train the demo's model on text of the demo's generator."
    )
    parser.add_argument("--out", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads", type=int, default=1, help="another number rounds otherwise: another model"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    save(*pretrain(arguments.steps, arguments.seed), arguments.out)


if __name__ == "__main__":
    main()
