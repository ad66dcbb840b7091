"""What predicted transfer on a real model: a study from task files to a page, in one command.

    python benchmarks/real_model.py --model MODEL --tasks DIR --study DIR --page docs/real-model.md

MODEL is a masked language model (a folder or a hub id), DIR has NAME/train.jsonl and NAME/dev.jsonl with the
fields text and label for each task of TASKS. Everything is kept in the study folder: a second call goes on
where the first one stopped, and writes the page again. Three seeds of eight tasks take about three hours on
one CPU core with a model of 6 layers and 384 hidden units.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from real_model_page import page  # the file beside this one

import indicators
from transferscope.needs import SUPPLIERS
from transferscope.pipeline import Pipeline, open_study
from transferscope.store import write_text

# name: (type, one label word a class, in the order of the label numbers)
TASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sst2": ("sentiment", ("bad", "good")),
    "mpqa": ("sentiment", ("negative", "positive")),
    "imdb": ("sentiment", ("terrible", "great")),
    "amazon_uci": ("sentiment", ("bad", "good")),
    "subj": ("subjectivity", ("personal", "factual")),
    "tweet_hate": ("hate speech", ("kind", "hate")),
    "tweet_emotion": ("emotion", ("anger", "joy", "hope", "sad")),
    "trec": ("question type", ("description", "thing", "short", "human", "place", "number")),
}
NOT_OF_PROMPTS = {"update", "anchors"}  # of weight differences, and of two backbones
TUNING = {"rows": 16, "steps": 240, "evaluate_every": 50}


def applicable() -> list[str]:
    """Every indicator of the catalogue that soft prompts on one backbone supply."""
    supplied = set(SUPPLIERS) - NOT_OF_PROMPTS
    return [name for name in indicators.names() if set(indicators.get(name).needs) <= supplied]


def study_file(model: str, tasks: Path, seeds: int) -> dict[str, Any]:
    """The study as a study.yaml has it."""
    described = {
        name: {
            "train": str((tasks / name / "train.jsonl").resolve()),
            "dev": str((tasks / name / "dev.jsonl").resolve()),
            "text": "text",
            "label": "label",
            "type": kind,
            "max_train": 3000,
            "max_dev": 400,
            "words": list(words),
        }
        for name, (kind, words) in TASKS.items()
    }
    return {
        "model": str(Path(model).resolve()) if Path(model).is_dir() else model,
        "head": "verbalizer",
        "seeds": seeds,
        "max_length": 40,
        "tuning": TUNING,
        "features": {"examples": 500},  # CCA needs more than the 384 dimensions
        "indicators": applicable(),
        "tasks": described,
    }


def open_or_make(folder: Path, described: dict[str, Any]) -> Pipeline:
    """The study in this folder, made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "study.yaml"
    if not file.is_file():
        write_text(file, yaml.safe_dump(described, sort_keys=False))
    return open_study(folder, report=lambda text: print(text, file=sys.stderr, flush=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id of a masked language model")
    parser.add_argument("--tasks", required=True, type=Path, help="folder with NAME/{train,dev}.jsonl")
    parser.add_argument("--study", required=True, type=Path, help="folder for prompts, signatures, transfer")
    parser.add_argument("--page", required=True, type=Path, help="the Markdown page to write")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    pipeline = open_or_make(given.study, study_file(given.model, given.tasks, given.seeds))
    write_text(given.page, page(pipeline))


if __name__ == "__main__":
    main()
