"""Prompts beside the study's own (of a random-initialised model, of a pruned one), each kept in a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transferscope.files import Place
from transferscope.kept_signatures import Keeper
from transferscope.models import Backbone
from transferscope.prompts import RECORD, SoftPrompt, load_prompt, save_prompt
from transferscope.staleness import is_current
from transferscope.tasks import Task
from transferscope.tuning import tune


def kept(
    workspace: Keeper,
    task: Task,
    folder: Place,
    doing: str,
    *,
    made_of: Mapping[str, Any],
    backbone: Callable[[], Backbone],
    seed: int,
    template: str | None,
    init_from: SoftPrompt | None = None,
    progress: Callable[[int, int, str], None],
) -> tuple[SoftPrompt, bool]:
    """The prompt in a folder: read if it is current, and then without any model; else tuned and kept.

    ``made_of`` is all that it is made from, ``doing`` the work in messages. Settings are the study's. Returns
    the prompt, and whether it was tuned now.
    """
    if (folder / RECORD).is_file():
        known = load_prompt(folder)
        if is_current(known.provenance, made_of, workspace.report, doing):
            return known, False
    study = workspace.settings
    found = tune(
        backbone(),
        task,
        settings=study.tuning,
        seed=seed,
        template=template,
        head=study.head,
        init_from=init_from,
        max_length=study.max_length,
        token_budget=study.token_budget,
        folder=folder,
        progress=progress,
    )
    found.provenance["inputs"] = made_of  # type: ignore[index]
    save_prompt(found, folder, model=backbone().name, kind=backbone().architecture.kind)
    return found, True
