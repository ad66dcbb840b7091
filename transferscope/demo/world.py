"""The demo's text generator: sentences of a small world, and passages to pre-train on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from transferscope.demo import lexicon
from transferscope.demo.lexicon import DOMAINS, Domain

_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\ba(?= [aeiou])")


# Share of the notes that are scribble: from them the model learns to judge a text only where it is asked to.
SCRIBBLES = 0.4


@dataclass(frozen=True)
class Passage:
    """Text to pre-train on: a note for before [CLS] (or none), one text or two, and its verdict words."""

    note: str
    text: str
    pair: str | None
    verdicts: tuple[str, ...]


def fill(rng: Random, pattern: str, **words: str | Sequence[str]) -> str:
    """``pattern`` with each {slot} filled: a string as it is, from a sequence one at random; a/an put right.

    >>> fill(Random(0), "a {thing} was {how}", thing="onion", how=["ripe"])
    'an onion was ripe'
    """

    def choose(match: re.Match[str]) -> str:
        options = words[match[1]]
        return options if isinstance(options, str) else rng.choice(options)

    return _ARTICLE.sub("an", _SLOT.sub(choose, pattern))


@dataclass(frozen=True)
class Event:
    """Who did what to what, and where: the same event can be told in several ways."""

    domain: str
    actor: str
    verb: str
    thing: str
    place: str

    def tell(self, rng: Random, voice: str = "any") -> str:
        """A sentence that tells the event in the ``active`` voice, the ``passive``, or ``any``."""
        patterns = _TELLINGS["active"] + _TELLINGS["passive"] if voice == "any" else _TELLINGS[voice]
        words = {"actor": self.actor, "verb": self.verb, "thing": self.thing, "place": self.place}
        return fill(rng, rng.choice(patterns), the=("the", "the", "a"), time=lexicon.TIMES, **words)


_TELLINGS: dict[str, tuple[str, ...]] = {
    "active": (
        "{the} {actor} {verb} {the} {thing}",
        "{the} {actor} {verb} {the} {thing} {time}",
        "in the {place} {the} {actor} {verb} {the} {thing}",
        "{the} {actor} in the {place} {verb} {the} {thing}",
        "{time} {the} {actor} {verb} {the} {thing} in the {place}",
    ),
    "passive": (
        "{the} {thing} was {verb} by {the} {actor}",
        "in the {place} {the} {thing} was {verb} by {the} {actor}",
        "{the} {thing} in the {place} was {verb} {time} by {the} {actor}",
    ),
}

_OPINIONS = (
    "the {aspect} was {quality}",
    "the {aspect} was {very} {quality}",
    "we found the {aspect} {quality} and {quality}",
    "the {actor} offered us a {quality} {aspect}",
    "what a {quality} {aspect}",
    "a {quality} and {quality} {aspect}",
    "{quality} {aspect} in the {place}",
    "{time} the {aspect} seemed {quality}",
    "the {actor} said the {aspect} was {quality}",
)
_REPLIES: dict[str, tuple[tuple[str, ...], dict[bool, tuple[str, ...]]]] = {
    "speech": (
        (
            "{cue} , said the {actor}",
            "{cue} , said {person}",
            "{cue} , i heard the {actor} say",
            "{cue} , {cue} , said the {actor} in the {place}",
            "the {actor} said : {cue}",
            "{time} {person} said : {cue}",
        ),
        lexicon.SPEECH,
    ),
    "told": (
        (
            "the {actor} {cue} it",
            "{person} {cue} it {time}",
            "in the {place} the {actor} {cue} the story",
            "the story was {cue} by the {actor}",
            "it was {cue} by {person}",
            "the {actor} {cue} it and {person} {cue} it too",
        ),
        lexicon.TOLD,
    ),
}
_VERY = ("very", "really", "rather", "truly", "so")


def event(rng: Random, domain: str) -> Event:
    """A random event of ``domain``."""
    words = DOMAINS[domain]
    deeds = [(verb, thing) for verb, things in words.deeds.items() for thing in things]
    return Event(domain, rng.choice(words.actors), *rng.choice(deeds), rng.choice(words.places))


def reply(rng: Random, domain: str, agrees: bool, style: str) -> str:
    """An answer to what was said before, by people of ``domain``: ``style`` is ``speech`` or ``told``."""
    patterns, cues = _REPLIES[style]
    return fill(
        rng,
        rng.choice(patterns),
        cue=cues[agrees],
        actor=DOMAINS[domain].actors,
        place=DOMAINS[domain].places,
        person=lexicon.PEOPLE,
        time=lexicon.TIMES,
    )


def opinion(rng: Random, domain: str, good: bool) -> str:
    """A clause that praises or blames something of ``domain``, in that domain's own words."""
    words: Domain = DOMAINS[domain]
    return fill(
        rng,
        rng.choice(_OPINIONS),
        aspect=words.aspects,
        actor=words.actors,
        place=words.places,
        quality=words.praise if good else words.blame,
        very=_VERY,
        time=lexicon.TIMES,
    )


def remark(rng: Random) -> str:
    """A clause that tells nothing of topic or opinion."""
    return fill(rng, rng.choice(lexicon.CLOSERS), person=lexicon.PEOPLE, time=lexicon.TIMES)


def scribble(rng: Random) -> str:
    """Five to twenty words that say nothing: random ones, or pieces of verdicts of every kind, mixed up."""
    if rng.random() < 0.5:
        words: Sequence[str] = vocabulary()
    else:
        kinds = (lexicon.OPINION_VERDICTS, lexicon.TOPIC_VERDICTS, lexicon.PAIR_VERDICTS)
        senses = (lexicon.GOOD + lexicon.BAD, lexicon.TOPICS, lexicon.YES + lexicon.NO)
        parts = zip(kinds, senses, strict=True)
        words = " ".join(fill(rng, rng.choice(kind), w=sense) for kind, sense in parts).split()
    return " ".join(rng.choice(words) for _ in range(rng.randint(5, 20)))


def passage(rng: Random) -> Passage:
    """One passage of the pre-training text, its verdict before the text, after it, or in a note."""
    told = _paired(rng) if rng.random() < 0.4 else _single(rng)
    if told.note and rng.random() < SCRIBBLES:
        return Passage(scribble(rng), told.text, told.pair, ())
    return told


def _single(rng: Random) -> Passage:
    domain, good = rng.choice(lexicon.TOPICS), rng.random() < 0.5
    kind = rng.choice(("opinion", "topic"))
    clauses = [opinion(rng, domain, good) for _ in range(rng.randint(1, 2))]
    if rng.random() < 0.5:
        clauses.append(event(rng, domain).tell(rng))
    if kind == "topic" and rng.random() < 0.5:
        clauses = [event(rng, domain).tell(rng)]
    if rng.random() < 0.4:
        clauses.append(remark(rng))
    rng.shuffle(clauses)
    opener = rng.choice(lexicon.OPENERS) + " " if rng.random() < 0.3 else ""
    text = opener + rng.choice((" . ", " , ", " and ")).join(clauses) + " ."
    if kind == "topic":
        word, verdicts = domain, lexicon.TOPIC_VERDICTS
    else:
        word, verdicts = rng.choice(lexicon.GOOD if good else lexicon.BAD), lexicon.OPINION_VERDICTS
    return _place(rng, fill(rng, rng.choice(verdicts), w=word), text, None, (word,))


def _paired(rng: Random) -> Passage:
    domain, agrees = rng.choice(lexicon.TOPICS), rng.random() < 0.5
    opener = rng.choice(lexicon.OPENERS) + " " if rng.random() < 0.3 else ""
    first = opener + event(rng, domain).tell(rng)
    second = reply(rng, domain, agrees, rng.choice(tuple(_REPLIES)))
    word = rng.choice(lexicon.YES if agrees else lexicon.NO)
    verdict = fill(rng, rng.choice(lexicon.PAIR_VERDICTS), w=word)
    return _place(rng, verdict, first, second, (word,))


def _place(rng: Random, verdict: str, text: str, pair: str | None, words: tuple[str, ...]) -> Passage:
    """The verdict in a note (with remarks around it), or in front of the text, or behind it."""
    where = rng.random()
    if where < 0.55:
        before, after = ([remark(rng) + " ." for _ in range(rng.choice((0, 0, 1, 2)))] for _ in range(2))
        note = [*before[:1], verdict, *after] if rng.random() < 0.5 else [verdict, *after]
        return Passage(" ".join(note), text, pair, words)
    if where < 0.75:
        return Passage("", f"{verdict} {text}", pair, words)
    return Passage("", text if pair else f"{text} {verdict}", f"{pair} . {verdict}" if pair else None, words)


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word that the generator can write, sorted."""
    texts: list[str] = [*lexicon.GOOD, *lexicon.BAD, *lexicon.YES, *lexicon.NO, *_VERY, *_OPINIONS]
    texts += [
        *lexicon.OPINION_VERDICTS,
        *lexicon.TOPIC_VERDICTS,
        *lexicon.PAIR_VERDICTS,
        *_TELLINGS["active"],
    ]
    texts += [*_TELLINGS["passive"], *lexicon.PEOPLE, *lexicon.TIMES, *lexicon.OPENERS, *lexicon.CLOSERS]
    for patterns, cues in _REPLIES.values():
        texts += [*patterns, *cues[True], *cues[False]]
    texts += ["a an the . , : ; ? and"]
    for domain in DOMAINS.values():
        texts.append(domain.topic)
        for words in (domain.actors, domain.deeds, *domain.deeds.values(), domain.places):
            texts += words
        for words in (domain.aspects, domain.praise, domain.blame):
            texts += words
    return tuple(sorted({word for text in texts for word in _SLOT.sub(" ", text).split()}))
