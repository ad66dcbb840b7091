"""Scores of one text: worked examples, and the libraries' own numbers."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from transferscope import text_metrics
from transferscope.errors import InputError
from transferscope.text_metrics import bleu, bleu_counts, exact, normalised, rouge_l, token_f1

WORDS = ["the", "cat", "sat", "on", "a", "mat", "with", "two", "red", "birds", "and", "one", "old", "dog"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat", "cat"),
        ("an apple, a pear; THE plum!", "apple pear plum"),
        ("  much \t white\nspace ", "much white space"),
        ("don't", "dont"),
        ("theatre another", "theatre another"),  # articles are whole words
        ("the.", ""),
        ("", ""),
    ],
)
def test_normalisation_is_squads(text: str, expected: str) -> None:
    assert normalised(text) == expected


def test_an_exact_match_is_with_any_reference() -> None:
    assert exact("The cat.", ["dog", "a cat"]) == 1.0
    assert exact("cats", ["dog", "cat"]) == 0.0


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        ("red cat", ["red cat"], 1.0),
        ("cat red", ["red cat"], 1.0),  # a bag of words
        ("red red cat", ["red cat"], 0.8),  # counted: 2 of 3 and 2 of 2
        ("red", ["blue cat", "red dog bird"], 0.5),  # the best reference
        ("red", ["blue"], 0.0),
        ("", ["blue"], 0.0),
        ("the", ["a"], 1.0),  # no words on both sides
    ],
)
def test_token_f1_by_hand(found: str, wanted: list[str], expected: float) -> None:
    assert token_f1(found, wanted) == pytest.approx(expected)


def test_rouge_l_by_hand() -> None:
    # The longest common subsequence of "the cat sat down" and "the dog sat" is "the sat": 2 of 4, 2 of 3.
    assert rouge_l("the cat sat down", ["the dog sat"]) == pytest.approx(2 * 2 / (4 + 3))
    assert rouge_l("", ["the dog"]) == 0.0


def some(rng: np.random.Generator, most: int = 12) -> str:
    return " ".join(rng.choice(WORDS, size=rng.integers(1, most)))


def test_rouge_l_is_the_librarys_for_the_best_reference() -> None:
    rng = np.random.default_rng(0)
    scorer = RougeScorer(["rougeL"])
    for _ in range(30):
        text, references = some(rng), [some(rng) for _ in range(rng.integers(1, 4))]
        expected = max(scorer.score(one, text)["rougeL"].fmeasure for one in references)
        assert rouge_l(text, references) == expected


@pytest.mark.parametrize("several", [1, 3])
def test_bleu_of_summed_counts_is_sacrebleus_corpus_bleu(several: int) -> None:
    rng = np.random.default_rng(several)
    texts = [some(rng) for _ in range(20)] + [""]
    # Near the texts, so that 4-grams are found; another number of references for each text.
    references = [
        [text.replace("cat", "dog") or "cat"] + [some(rng) for _ in range(rng.integers(several))]
        for text in texts
    ]
    longest = max(map(len, references))
    streams = [[one[i] if i < len(one) else None for one in references] for i in range(longest)]
    expected = sacrebleu.corpus_bleu(texts, streams).score / 100
    counts = np.sum([bleu_counts(text, one) for text, one in zip(texts, references, strict=True)], axis=0)
    assert 0.1 < expected < 1
    assert bleu(counts.tolist()) == pytest.approx(expected, abs=1e-12)


def test_a_missing_library_is_named_with_the_extra_that_brings_it() -> None:
    def importer(name: str) -> object:
        raise ImportError(name)

    with pytest.raises(
        InputError, match=r"'bleu' needs .*'sacrebleu'.*pip install 'transferscope\[generation\]'"
    ):
        text_metrics._library("sacrebleu.metrics", "bleu", "sacrebleu", importer)  # type: ignore[arg-type]
