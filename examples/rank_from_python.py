"""The stages as library functions: two tasks of one's own and a target, tuned, looked into, compared, ranked.

    python examples/rank_from_python.py [--steps 150]

Runs in about a minute on the small model that ships with transferscope; --model takes another masked LM.
"""

from __future__ import annotations

import argparse
from importlib import resources

from transferscope.demo import tasks as demo_tasks
from transferscope.models import load_backbone
from transferscope.ranking import rank
from transferscope.settings import TuningSettings
from transferscope.signatures import extract
from transferscope.tuning import tune

TARGET, SOURCES = "food_reviews", ("film_talk", "news_desk")


def main() -> None:
    """Tune two seeds for each task, extract the signatures, and rank the sources for the target."""
    shipped = str(resources.files("transferscope.demo") / "model")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=shipped, help="hub id or folder of a masked language model")
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()

    backbone = load_backbone(options.model)  # frozen
    tasks = demo_tasks.build()  # Task records: put your own here, or load_task(...)
    settings = TuningSettings(rows=15, steps=options.steps, evaluate_every=50)
    signatures = {}
    for name in (TARGET, *SOURCES):
        prompts = [tune(backbone, tasks[name], settings=settings, seed=seed) for seed in (0, 1)]
        scores = ", ".join(f"{prompt.provenance['scores']['dev']:.3f}" for prompt in prompts)
        print(f"{name}: accuracy {scores} (majority class {tasks[name].majority:.3f})")
        signatures[name] = extract(backbone, tasks[name], prompts)

    ranking = rank(TARGET, signatures, indicator="on")
    print(f"\nsources for {TARGET} by {ranking.indicator}:")
    for source in ranking.sources:
        print(f"  {source.rank}. {source.source}  {source.score:.3f}  [{source.low:.3f}, {source.high:.3f}]")


if __name__ == "__main__":
    main()
