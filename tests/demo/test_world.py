"""The demo's generator, its eight tasks and the shipped model: they fit, and the model has the skills."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from transferscope.demo import lexicon, tasks, world
from transferscope.demo.pretrain import MODEL_FOLDER, build_tokenizer, mask, pretrain, rows, senses
from transferscope.tasks import Task, load_task

FRESH = 12345  # a seed that pre-training did not use


@pytest.fixture(scope="module")
def built() -> dict[str, Task]:
    return tasks.build()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL_FOLDER)


@pytest.fixture(scope="module")
def model():
    return AutoModelForMaskedLM.from_pretrained(MODEL_FOLDER, dtype=torch.float32).eval()


def words_of(domain: lexicon.Domain) -> set[str]:
    things = {thing for done_to in domain.deeds.values() for thing in done_to}
    return things | {
        *domain.actors,
        *domain.deeds,
        *domain.places,
        *domain.aspects,
        *domain.praise,
        *domain.blame,
    }


def all_texts(task: Task) -> list[str]:
    return [text for e in task.train + task.dev for text in (e.text, e.pair) if text is not None]


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    def passages(seed: int) -> list[world.Passage]:
        rng = Random(seed)
        return [world.passage(rng) for _ in range(20)]

    assert passages(1) == passages(1)
    assert passages(1) != passages(2)


def test_domains_share_no_word() -> None:
    domains = list(lexicon.DOMAINS.values())
    for index, domain in enumerate(domains):
        for other in domains[index + 1 :]:
            assert not words_of(domain) & words_of(other), (domain.topic, other.topic)


def test_a_verdict_agrees_with_its_text() -> None:
    rng = Random(0)
    praise = {word for d in lexicon.DOMAINS.values() for word in d.praise}
    blame = {word for d in lexicon.DOMAINS.values() for word in d.blame}
    opinions = 0
    for passage in (world.passage(rng) for _ in range(500)):
        words = set(f"{passage.text} {passage.pair or ''}".split())
        for verdict in passage.verdicts:
            if verdict in (*lexicon.GOOD, *lexicon.BAD):
                opinions += 1
                assert words & (praise if verdict in lexicon.GOOD else blame)
                assert not words & (blame if verdict in lexicon.GOOD else praise)
            elif verdict in lexicon.TOPICS:
                assert words & words_of(lexicon.DOMAINS[verdict])
    assert opinions > 100


def test_an_event_keeps_to_its_domain() -> None:
    rng = Random(0)
    for topic, domain in lexicon.DOMAINS.items():
        event = world.event(rng, topic)
        assert event.thing in domain.deeds[event.verb]
        assert event.actor in domain.actors
        assert event.place in domain.places


def test_tasks_are_deterministic_and_differ_by_seed(built: dict[str, Task]) -> None:
    assert tasks.build() == built
    again = tasks.build(seed=1)
    assert list(again) == list(built)
    assert all(again[name].train != task.train for name, task in built.items())


def test_there_are_eight_tasks_in_three_families_with_words_of_their_own(built: dict[str, Task]) -> None:
    words = [word for task in built.values() for word in task.words or ()]
    assert len(built) == 8
    assert len({task.type for task in built.values()}) >= 3
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("name", [recipe.name for recipe in tasks.RECIPES])
def test_splits_are_disjoint_balanced_and_of_the_right_size(built: dict[str, Task], name: str) -> None:
    task = built[name]
    assert (len(task.train), len(task.dev)) == (tasks.TRAIN, tasks.DEV)
    assert len({(e.text, e.pair) for e in task.train + task.dev}) == tasks.TRAIN + tasks.DEV
    for split in (task.train, task.dev):
        counts = [sum(e.label == label for e in split) for label in range(task.classes)]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("name", [recipe.name for recipe in tasks.RECIPES])
def test_labels_are_right(built: dict[str, Task], name: str) -> None:
    task = built[name]
    for e in task.train + task.dev:
        words = set(e.text.split())
        if task.type == "opinion":
            domain = next(d for d in lexicon.DOMAINS.values() if words & {*d.praise, *d.blame})
            assert bool(words & set(domain.praise)) == (e.label == 1)
            assert bool(words & set(domain.blame)) == (e.label == 0)
        elif task.type == "topic":
            told = [d.topic for d in lexicon.DOMAINS.values() if words & words_of(d)]
            assert told == [task.labels[e.label]]
        else:
            cues = {agrees: {*lexicon.SPEECH[agrees], *lexicon.TOLD[agrees]} for agrees in (True, False)}
            second = set((e.pair or "").split())
            assert bool(second & cues[True]) == (e.label == 1)
            assert bool(second & cues[False]) == (e.label == 0)


def test_no_task_holds_a_verdict_word(built: dict[str, Task]) -> None:
    verdicts = {*lexicon.GOOD, *lexicon.BAD, *lexicon.YES, *lexicon.NO, *lexicon.TOPICS}
    for task in built.values():
        assert not verdicts & {word for text in all_texts(task) for word in text.split()}, task.name


def test_written_tasks_load_as_they_were(built: dict[str, Task], tmp_path: Path) -> None:
    for name, spec in tasks.write(tmp_path).items():
        loaded, made = load_task(name, spec, folder=tmp_path), built[name]
        assert (loaded.train, loaded.dev, loaded.type) == (made.train, made.dev, made.type)
        assert (loaded.labels, loaded.words) == (made.labels, made.words)


def test_the_shipped_model_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL_FOLDER.iterdir()) <= 3_000_000


def test_the_shipped_tokenizer_is_that_of_the_generator(tokenizer) -> None:
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()


def test_tasks_and_label_words_are_single_tokens_of_the_shipped_tokenizer(
    built: dict[str, Task], tokenizer
) -> None:
    for task in built.values():
        for text in all_texts(task):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.unk_token_id not in ids, text
        for word in task.words or ():
            ids = tokenizer(word, add_special_tokens=False)["input_ids"]
            assert len(ids) == 1
            assert ids[0] != tokenizer.unk_token_id


def test_pairs_are_framed_as_bert_does(tokenizer) -> None:
    found = tokenizer("a judge", "the ball")
    assert tokenizer.convert_ids_to_tokens(found["input_ids"]) == [
        "[CLS]",
        "a",
        "judge",
        "[SEP]",
        "the",
        "ball",
        "[SEP]",
    ]
    assert found["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]


def test_the_shipped_model_has_the_skills_on_fresh_text(model, tokenizer) -> None:
    """Masked verdicts of passages it never saw: the right sense among all words of the vocabulary."""
    rng = Random(FRESH)
    read = rows(tokenizer, [world.passage(rng) for _ in range(400)])
    sense, width = senses(tokenizer), max(len(ids) for ids, _, _ in read)
    ids, types, marks = (
        torch.tensor([row[part] + [0] * (width - len(row[part])) for row in read]) for part in range(3)
    )
    hidden = marks == 1
    inputs = ids.masked_fill(hidden, tokenizer.mask_token_id)
    with torch.no_grad():
        logits = model(inputs, (ids != tokenizer.pad_token_id).long(), types).logits[hidden]
    right, got = sense[ids[hidden]], sense[logits.argmax(-1)]
    kinds = {"opinion": right <= 2, "pair": (right == 3) | (right == 4), "topic": right > 4}
    shares = {kind: (right == got)[at].float().mean().item() for kind, at in kinds.items()}
    assert shares["opinion"] > 0.9, shares
    assert shares["topic"] > 0.9, shares
    assert shares["pair"] > 0.85, shares


def test_masking_hides_most_verdicts_and_no_special_token() -> None:
    tokenizer = build_tokenizer()
    rng = Random(0)
    read = rows(tokenizer, [world.passage(rng) for _ in range(200)])
    batch = mask(read, np.random.default_rng(0), np.arange(5, 9), len(tokenizer), tokenizer.mask_token_id)
    chosen, marks = batch["labels"] != -100, batch["marks"] == 1
    assert 0.65 < chosen[marks].float().mean() < 0.85
    assert (batch["labels"][chosen] > 4).all()
    changed = (batch["input_ids"] != batch["labels"]) & chosen
    assert changed.sum() / chosen.sum() > 0.85


def test_pre_training_is_reproducible() -> None:
    first, second = (
        pretrain(2, seed=0, size=4, hidden=16, layers=1, passages=50)[0].state_dict() for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
