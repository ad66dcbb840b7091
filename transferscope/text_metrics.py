"""Scores of one written text against its references: exact match, token F1, ROUGE-L, and the counts of BLEU.

sacrebleu and rouge-score are imported when they are first needed, so that everything else works without them.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from transferscope.errors import InputError

ORDERS = 4  # BLEU counts n-grams of 1 to 4 words
BLEU_COUNTS = 2 + 2 * ORDERS

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """A text as the SQuAD evaluation compares it: lower case, no punctuation, no articles, single blanks.

    Source: Rajpurkar et al., EMNLP 2016, and the evaluation script of that data set.

    >>> normalised("The  cat, a DOG!")
    'cat dog'
    """
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact(prediction: str, references: Sequence[str]) -> float:
    """1 if the text equals one of the references after `normalised`, else 0."""
    return float(normalised(prediction) in {normalised(text) for text in references})


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """The best over the references of the F1 of their words, counted, after `normalised`.

    Where either has no words the F1 is 1 if both have none, else 0 (the evaluation script of SQuAD 2.0).

    >>> token_f1("the red cat", ["a cat", "dog"])
    0.6666666666666666
    """
    found = normalised(prediction).split()
    return max(_f1(found, normalised(text).split()) for text in references)


def _f1(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    common = sum((Counter(found) & Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted))


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """The best over the references of ROUGE-L's F1, by the library rouge-score without stemming.

    Source: Lin, Text Summarization Branches Out 2004. The library's words are runs of a-z and 0-9 in lower
    case, so texts in other scripts have none.
    """
    return float(_rouge().score_multi(list(references), prediction)["rougeL"].fmeasure)


def bleu_counts(prediction: str, references: Sequence[str]) -> list[float]:
    """What a text adds to the corpus's BLEU: its length, the closest reference's, hits and n-grams by order.

    [2 + 4 + 4] numbers, by sacrebleu with its own defaults (tokenizer 13a, case kept).
    """
    score = _bleu().sentence_score(prediction, list(references))
    return [float(score.sys_len), float(score.ref_len), *map(float, (*score.counts, *score.totals))]


def bleu(counts: Sequence[float]) -> float:
    """Corpus BLEU, 0 to 1, of sums of `bleu_counts`, as sacrebleu smooths it (Papineni et al., ACL 2002)."""
    found, wanted, *both = (round(count) for count in counts[:BLEU_COUNTS])
    score = type(_bleu()).compute_bleu(both[:ORDERS], both[ORDERS:], found, wanted, smooth_method="exp")
    return float(score.score) / 100


def require_rouge() -> None:
    """Raises InputError unless rouge-score is installed."""
    _rouge()


def require_bleu() -> None:
    """Raises InputError unless sacrebleu is installed."""
    _bleu()


@cache
def _rouge() -> Any:
    return _library("rouge_score.rouge_scorer", "rouge_l", "rouge-score").RougeScorer(["rougeL"])


@cache
def _bleu() -> Any:
    # Effective order only says how a single text's own score is smoothed, which is not used; without it the
    # library warns.
    return _library("sacrebleu.metrics", "bleu", "sacrebleu").BLEU(effective_order=True)


def _library(
    module: str, metric: str, package: str, importer: Callable[[str], ModuleType] = import_module
) -> ModuleType:
    try:
        return importer(module)
    except ImportError as error:
        raise InputError(
            f"the metric {metric!r} needs the library {package!r}: pip install 'transferscope[generation]'"
        ) from error
