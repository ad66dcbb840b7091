"""The demo: a study on the shipped model and tasks, from tuning to ranking, like any other study."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml

from transferscope import report as pages
from transferscope import store
from transferscope.correlation import CorrelationReport
from transferscope.demo import tasks
from transferscope.errors import StudyError
from transferscope.pipeline import STUDY_FILE, Progress, Report, open_study
from transferscope.ranking import Ranking
from transferscope.summary import StudySummary
from transferscope.transfer import TransferMatrix, TypeMeans, by_type

DEFAULT_FOLDER = "transferscope-demo"
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
SEEDS = 2
TUNING = {"rows": 15, "steps": 80, "learning_rate": 0.03, "evaluate_every": 40, "batch_size": 32}


@dataclass(frozen=True)
class Demo:
    """What the demo found: all of it measured, in this run or an earlier one that it went on with.

    ``page`` is the HTML report, None where the extra that makes it is not installed.
    """

    folder: Path
    seconds: float
    summary: StudySummary
    transfer: TransferMatrix
    means: TypeMeans
    report: CorrelationReport
    ranking: Ranking
    page: store.Place | None = None


def run_demo(
    out: Path | str | None = None,
    *,
    seed: int = 0,
    report: Report | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Demo:
    """Write the demo's study into ``out``, run it, and rank sources for its first task. Needs no network.

    A folder that holds this study already is gone on with; any other folder with something in it is refused
    (StudyError).
    """
    began = clock()
    folder = Path(out or DEFAULT_FOLDER)
    write_study(folder, seed)
    pipeline = open_study(folder, report=report, progress=progress)
    summary = pipeline.run()
    measured = pipeline.measure()
    correlated = summary.correlation or pipeline.correlate()
    target = summary.tasks[0].task
    ranked = pipeline.rank(target)
    page = pages.write_report(folder) if pages.available() else None
    if page is not None:
        pipeline.report(f"wrote {page.name}: open it in a browser")
    return Demo(
        folder=folder,
        seconds=clock() - began,
        summary=summary,
        transfer=measured,
        means=by_type(measured, pipeline.types),
        report=correlated,
        ranking=ranked,
        page=page,
    )


def write_study(folder: Path, seed: int = 0) -> None:
    """An ordinary study folder: study.yaml, the model, and the tasks as jsonl files."""
    file = folder / STUDY_FILE
    if folder.is_dir() and any(folder.iterdir()) and not file.is_file():
        raise StudyError(f"{str(folder)!r} is not empty and not a study: choose another folder with --out")
    settings = {
        "model": {"name": "model"},
        "head": "verbalizer",
        "template": "mask-first",
        "seeds": list(range(seed, seed + SEEDS)),
        "tuning": TUNING,
        "tasks": tasks.write(folder, seed=seed),
    }
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        raise StudyError(
            f"{str(folder)!r} holds another study (or this one with other settings): choose another --out"
        )
    (folder / "model").mkdir(parents=True, exist_ok=True)
    shipped = resources.files("transferscope.demo") / "model"
    for name in MODEL_FILES:
        with resources.as_file(shipped / name) as source:
            shutil.copyfile(source, folder / "model" / name)
    store.write_text(file, text)
