"""Eight small tasks told by the demo's text generator: three of opinion, three of topic, two of agreement."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from transferscope.demo import lexicon, world
from transferscope.store import write_text
from transferscope.tasks import Example, Task

TRAIN, DEV = 600, 200  # examples of each task
NEWS = ("sport", "music", "law")
LETTERS = ("gardens", "travel")
CALLS = ("medicine", "school")
Texts = tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """How one task is made. ``write(rng, class id)`` returns the text of an example, or its two texts."""

    name: str
    type: str
    labels: tuple[str, ...]
    words: tuple[str, ...]
    write: Callable[[Random, int], Texts]
    about: str


def _food_review(rng: Random, label: int) -> Texts:
    first, second = (world.opinion(rng, "food", label == 1) for _ in range(2))
    place = rng.choice(lexicon.DOMAINS["food"].places)
    return (f"we went to the {place} {rng.choice(lexicon.TIMES)} . {first} and {second} .",)


def _film_talk(rng: Random, label: int) -> Texts:
    opinion = world.opinion(rng, "film", label == 1)
    return (f"i was there with {rng.choice(lexicon.PEOPLE)} , and listen : {opinion} .",)


def _guest_book(rng: Random, label: int) -> Texts:
    first, second = (world.opinion(rng, "hotels", label == 1) for _ in range(2))
    return (f"note : {first} ; {second} . yours , {rng.choice(lexicon.PEOPLE)}",)


def _news(rng: Random, label: int) -> Texts:
    return (f"news : {world.event(rng, NEWS[label]).tell(rng)} , so our writer reports .",)


def _letter(rng: Random, label: int) -> Texts:
    opinion = world.opinion(rng, LETTERS[label], rng.random() < 0.5)
    return (f"dear anna , {opinion} . {world.remark(rng)} . yours , tom",)


def _call(rng: Random, label: int) -> Texts:
    return (f"hello , i am calling because {world.event(rng, CALLS[label]).tell(rng)} . please call back .",)


def _answer(rng: Random, label: int) -> Texts:
    event = world.event(rng, rng.choice(("sport", "sea", "gardens", "music")))
    return event.tell(rng, "active"), world.reply(rng, event.domain, label == 1, "speech")


def _hearsay(rng: Random, label: int) -> Texts:
    event = world.event(rng, rng.choice(("law", "food", "gadgets", "school")))
    return f"they say that {event.tell(rng, 'passive')}", world.reply(rng, event.domain, label == 1, "told")


RECIPES = (
    Recipe("food_reviews", "opinion", ("blame", "praise"), ("bad", "good"), _food_review,
           "does the reviewer praise the food?"),
    Recipe("film_talk", "opinion", ("disliked", "liked"), ("terrible", "great"), _film_talk,
           "did the speaker like the film?"),
    Recipe("guest_book", "opinion", ("unhappy", "happy"), ("poor", "excellent"), _guest_book,
           "was the hotel's guest happy?"),
    Recipe("news_desk", "topic", NEWS, NEWS, _news, "which desk does the news item belong to?"),
    Recipe("letters", "topic", LETTERS, LETTERS, _letter, "what is the letter about?"),
    Recipe("phone_calls", "topic", CALLS, CALLS, _call, "where should the call be put through to?"),
    Recipe("answers", "agreement", ("disagrees", "agrees"), ("no", "yes"), _answer,
           "does the second speaker agree with the first?"),
    Recipe("hearsay", "agreement", ("denied", "borne out"), ("false", "true"), _hearsay,
           "is what they say borne out?"),
)  # fmt: skip


def make(recipe: Recipe, seed: int = 0) -> Task:
    """One task: TRAIN and DEV examples, no text twice, each split balanced and shuffled."""
    rng = Random(f"{recipe.name} {seed}")
    seen: set[Texts] = set()
    found: list[Example] = []
    while len(found) < TRAIN + DEV:
        label = len(found) % len(recipe.labels)
        texts = recipe.write(rng, label)
        if texts not in seen:
            seen.add(texts)
            found.append(Example(texts[0], texts[1] if len(texts) == 2 else None, label))
    train, dev = found[:TRAIN], found[TRAIN:]
    rng.shuffle(train)
    rng.shuffle(dev)
    return Task(
        name=recipe.name,
        train=tuple(train),
        dev=tuple(dev),
        labels=recipe.labels,
        words=recipe.words,
        type=recipe.type,
        source=f"made by transferscope.demo, seed {seed}: {recipe.about}",
    )


def build(seed: int = 0) -> dict[str, Task]:
    """The eight tasks by name, in a fixed order; the same seed gives the same tasks."""
    return {recipe.name: make(recipe, seed) for recipe in RECIPES}


def write(folder: Path, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Write ``folder``/tasks/<name>/{train,dev}.jsonl; returns what the study file says of each task.

    Paths in it are relative to ``folder``, so the folder can be moved. Labels are written by name.
    """
    specs: dict[str, dict[str, Any]] = {}
    for name, task in build(seed).items():
        fields = ["text_a", "text_b"] if task.is_pair else ["text"]
        splits = {"train": task.train, "dev": task.dev}
        for split, examples in splits.items():
            lines = (_line(example, fields, task.labels) for example in examples)
            write_text(Path(folder) / "tasks" / name / f"{split}.jsonl", "".join(lines))
        specs[name] = {
            **{split: f"tasks/{name}/{split}.jsonl" for split in splits},
            "text": fields if task.is_pair else "text",
            "label": "label",
            "labels": list(task.labels),
            "words": list(task.words or ()),
            "type": task.type,
        }
    return specs


def _line(example: Example, fields: list[str], labels: tuple[str, ...]) -> str:
    texts = (example.text,) if example.pair is None else (example.text, example.pair)
    return json.dumps({**dict(zip(fields, texts, strict=True)), "label": labels[example.label]}) + "\n"
