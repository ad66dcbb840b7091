"""Which of my PEFT prompts is the best source for this one? No task data and no model are needed.

    python examples/rank_adapters.py --target my-adapters/sst2 --adapters my-adapters
    python examples/rank_adapters.py [--steps 150]

Without a folder of yours, some prompts are tuned first on the small model that ships with transferscope, and
saved as PEFT adapters.
"""

from __future__ import annotations

import argparse
import tempfile
from importlib import resources
from pathlib import Path

from transferscope.demo import tasks as demo_tasks
from transferscope.models import load_backbone
from transferscope.prompts import save_prompt
from transferscope.ranking import rank_prompts
from transferscope.settings import TuningSettings
from transferscope.tuning import tune

SOURCES = ("food_reviews", "film_talk", "guest_book", "news_desk")


def make_adapters(folder: Path, steps: int) -> Path:
    """A folder of PEFT prompt-tuning adapters, two seeds a task; returns that of the first task."""
    backbone = load_backbone(str(resources.files("transferscope.demo") / "model"))
    tasks = demo_tasks.build()
    settings = TuningSettings(rows=15, steps=steps, evaluate_every=50)
    for name in SOURCES:
        for seed in (0, 1):
            prompt = tune(backbone, tasks[name], settings=settings, seed=seed)
            save_prompt(prompt, folder / name / str(seed))
    return folder / SOURCES[0]


def main() -> None:
    """Rank all adapters in a folder, but the target's own, as sources for the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=Path, help="folder of PEFT adapter folders")
    parser.add_argument("--target", type=Path, help="the target's adapter folder (or one with its seeds)")
    parser.add_argument("--indicator", help="default: chosen, and the choice explained")
    parser.add_argument("--steps", type=int, default=150, help="to tune the examples")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        adapters = options.adapters or Path(temporary)
        target = options.target or make_adapters(adapters, options.steps)
        ranking = rank_prompts(target, [adapters], indicator=options.indicator)
    print(f"sources for {ranking.target} by {ranking.indicator}:")
    for source in ranking.sources:
        tied = "  (not told from the best)" if source.ties_with_best and source.rank > 1 else ""
        print(f"  {source.rank}. {source.source}  {source.score:.3f}{tied}")
    for note in ranking.notes:
        print(f"- {note}")


if __name__ == "__main__":
    main()
