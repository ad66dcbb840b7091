"""Study folders of made-up numbers for the tests of the report, with any number of tasks and any names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from transferscope import comparison, correlation, store, transfer
from transferscope.comparison import IndicatorMatrix
from transferscope.errors import StudyError
from transferscope.signatures import Signature, save_signature
from transferscope.transfer import TransferMatrix

KINDS = ("opinion", "topic", "agreement")
LAYERS, NEURONS, ROWS, WIDTH = 3, 40, 4, 8
HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<img src=x onerror=alert(2)>",
    "\"' onmouseover=alert(3) x='",
    "=1+1",
    "javascript:alert(4)",
    "{{ 7 * 7 }} {% raw %} ${alert(5)} `",
    "<a href='https://example.com'>a link</a>",
    "\u202eright to left \u2028 na\u00efve \U0001f600 \u0645\u0647\u0645\u0629",
    "&lt;b&gt;bold&lt;/b&gt; <!-- <b>",
    "a_very_long_name_" * 11,
)


def kind(i: int) -> str:
    return KINDS[i % len(KINDS)]


def closeness(count: int, rng: np.random.Generator) -> np.ndarray:
    """[n, n]: tasks of one kind are closer."""
    same = np.equal.outer(np.arange(count) % len(KINDS), np.arange(count) % len(KINDS))
    return np.asarray(0.35 * same + rng.uniform(0.0, 0.6, (count, count)))


def measured(names: Sequence[str], seeds: int, rng: np.random.Generator) -> TransferMatrix:
    count = len(names)
    values = np.clip(0.45 + 0.4 * closeness(count, rng) + rng.normal(0, 0.02, (seeds, count, count)), 0, 1)
    for one in values:
        np.fill_diagonal(one, 0.95)
    metrics = dict.fromkeys(names, "accuracy")
    mean = values.mean(axis=0)
    return TransferMatrix("zero-shot", tuple(names), tuple(names), mean, values, tuple(range(seeds)), metrics)


def signature(name: str, i: int, seeds: int, rng: np.random.Generator, *, weak: bool = False) -> Signature:
    """Predictivities in [0.5, 1], highest in the last layer; the third task has three subtasks."""
    subtasks = 3 if i == 2 else 1
    cells = (seeds, subtasks, LAYERS, NEURONS)
    predictivity = np.clip(rng.uniform(0.5, 0.8, cells) + 0.06 * np.arange(LAYERS)[:, None], 0.5, 1.0)
    stimulation = rng.normal(size=(seeds, LAYERS, NEURONS)).astype(np.float32)
    own = 0.52 if weak else 0.95
    prompts = [f"{i}-{seed}" for seed in range(seeds)]
    return Signature(
        task=name,
        seeds=tuple(range(seeds)),
        model="0123456789abcdef",
        prompts=rng.normal(size=(seeds, ROWS, WIDTH)).astype(np.float32),
        stimulation=stimulation,
        active=stimulation > 0,
        predictivity=predictivity,
        baseline=np.zeros((seeds, LAYERS, ROWS, NEURONS), np.float32),
        provenance={
            "model": "made",
            "type": kind(i),
            "kind": "classification",
            "train_examples": 600 + i,
            "dev_examples": 200,
            "scores": [{"metric": "accuracy", "dev": own, "majority": 0.5} for _ in range(seeds)],
            "prompts": prompts,
            "subtasks": [{"name": f"class {c} against the rest"} for c in range(subtasks)],
        },
    )


def write_study(
    folder: Path,
    names: Sequence[str],
    *,
    indicators: Sequence[str] = ("on", "prompt_cosine_mean_token", "prompt_euclidean_average"),
    seeds: int = 2,
    with_signatures: bool = True,
    with_transfer: bool = True,
    with_correlation: bool = False,
    types: bool = True,
    weak: Sequence[str] = (),
    targets: int | None = None,
    seed: int = 0,
) -> Path:
    """A study of these tasks, whose prompts lie elsewhere; a name that can be no file's has no signature.

    ``targets``: transfer is measured to the first so many tasks alone.
    """
    rng = np.random.default_rng(seed)
    settings = {
        "model": "made/model",
        "head": "verbalizer",
        "seeds": list(range(seeds)),
        "tasks": {
            name: {"prompts": f"elsewhere/{i}", **({"type": kind(i)} if types else {})}
            for i, name in enumerate(names)
        },
    }
    store.write_text(folder / "study.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    study = store.Study(folder)
    for i, name in enumerate(names if with_signatures else ()):
        try:
            save_signature(signature(name, i, seeds, rng, weak=name in weak), study.signature_file(name))
        except StudyError:
            continue
    matrices = [IndicatorMatrix(name, tuple(names), closeness(len(names), rng)) for name in indicators]
    if matrices:
        store.write_csv(study.path("indicators.csv"), comparison.COLUMNS, comparison.to_rows(matrices))
    if with_transfer:
        found = measured(names, seeds, rng)
        goals = names[:targets]
        rows = [row for row in transfer.to_rows(found) if row[2] in goals]
        store.write_csv(study.path("transfer.csv"), transfer.COLUMNS, rows)
        if with_correlation:
            kinds = {name: kind(i) for i, name in enumerate(names)}
            report = correlation.correlate(matrices, found, types=kinds, permutations=99)
            store.write_json(study.path("correlation.json"), report, versioned=True)
    return folder
