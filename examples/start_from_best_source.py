"""A new task and some prompts of others: find the best source by a race, start from it, keep the result.

    python examples/start_from_best_source.py [--steps 150] [--out DIR]

The sources are PEFT folders and need no data. The target needs no prompt of its own: the race runs the
sources' prompts on growing parts of its dev split. Then tuning on a few examples starts from the winner and
from scratch, each with its own best learning rate.
"""

from __future__ import annotations

import argparse
import tempfile
from importlib import resources
from pathlib import Path

import yaml

from transferscope.demo import tasks as demo_tasks
from transferscope.models import load_backbone
from transferscope.pipeline import open_study
from transferscope.prompts import load_prompt, save_prompt
from transferscope.settings import TuningSettings
from transferscope.tuning import tune

TARGET, SOURCES, SHOTS = "hearsay", ("letters", "food_reviews", "answers"), 32


def make_study(folder: Path, steps: int) -> None:
    """A study as one would write it: sources that are adapter folders, and a target with data."""
    model = str(resources.files("transferscope.demo") / "model")
    backbone, tasks = load_backbone(model), demo_tasks.build()
    settings = TuningSettings(rows=15, steps=steps, evaluate_every=50)
    for name in SOURCES:
        save_prompt(tune(backbone, tasks[name], settings=settings), folder / "adapters" / name)
    described = demo_tasks.write(folder)
    study = {
        "model": model,
        "seeds": 2,
        "tuning": {"rows": 15, "steps": max(2, steps // 3), "evaluate_every": max(1, steps // 15)},
        "tasks": {
            TARGET: described[TARGET],
            **{name: {"prompts": f"adapters/{name}", "type": described[name]["type"]} for name in SOURCES},
        },
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")


def main() -> None:
    """Race, start from the winner, and say where the best prompt is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--out", type=Path, help="keep the study there; default: a temporary folder")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        make_study(folder, options.steps)
        study = open_study(folder)

        race = study.rank(TARGET, race=True)
        print(f"sources for {TARGET}, by a race:")
        for source in race.sources:
            print(f"  {source.rank}. {source.source}  {source.measured:.3f} on {source.examples} examples")
        print(f"- {next(note for note in race.notes if note.startswith('Forward passes'))}")

        winner = race.sources[0].source
        found = study.compare_starts(TARGET, [winner], shots=SHOTS, with_random=False)
        print(f"\nstarting from {winner} with {SHOTS} examples:")
        for start in found.starts:
            untouched = "" if start.untouched is None else f", {start.untouched:.3f} untouched"
            print(f"  {start.start}: {start.dev:.3f} at learning rate {start.learning_rate:g}{untouched}")
        for note in found.notes:
            print(f"- {note}")
        best = study.best_run(found)
        print(f"the prompt, a PEFT folder: {best} {load_prompt(best).rows.shape}")


if __name__ == "__main__":
    main()
