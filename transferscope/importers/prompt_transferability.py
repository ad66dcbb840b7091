"""The layout of thunlp/Prompt-Transferability (Su et al., NAACL 2022) -> a study of one backbone.

task_prompt_emb/<TASK>Prompt<BACKBONE>/task_prompt                   the prompt: a torch file, [100, D]
result/<TARGET>Prompt<BACKBONE>/result_<SOURCE>Prompt<BACKBONE>.json a result: JSON in a JSON string
.../result_random.json, .../result_randomPrompt<BACKBONE>.json       the same of a random prompt
.../result_model_transfer_<SOURCE>Prompt<OTHER>.json                 of another backbone's prompt, projected
.../result_<SOURCE>Prompt<OTHER>.json                                of another backbone's prompt, unchanged
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from transferscope import store
from transferscope.errors import InputError, PromptError, StudyError, suggest
from transferscope.foreign import read_rows
from transferscope.importers.registry import ImportReport, importer
from transferscope.importers.study_file import claim, kind_of, write_tasks
from transferscope.prompts import SoftPrompt, save_prompt
from transferscope.settings import RESERVED
from transferscope.store import Study

NAME = "prompt-transferability"
FOLDER, PROMPTS, RESULTS = "Prompt-Transferability-1.0", "task_prompt_emb", "result"
ZERO_SHOT, PROJECTED, FOREIGN = "zero-shot", "projected", "foreign"
RANDOM = "random"
APART = "cross-model.csv"
MAX_RESULT = 65_536  # bytes
LARGEST = sys.float_info.max
# As the repository's README has them; for other backbones the user says which model it is.
MODELS = {
    "Bert": "bert-base-uncased",
    "Roberta": "roberta-base",
    "RobertaLarge": "roberta-large",
    "T5Small": "t5-small",
    "T5": "t5-base",
    "T5Large": "t5-large",
}
# The authors' groups (the table in their script for correlations, named as in section 3 of the paper); of
# recastner they have label words and no group.
GROUPS = {
    "SA": "IMDB SST2 laptop restaurant movierationales tweetevalsentiment",
    "NLI": "MNLI QNLI snli",
    "EJ": "ethicsdeontology ethicsjustice",
    "PI": "QQP MRPC",
    "QA": "squad nq_open",
    "SUM": "multi_news samsum",
    "NLI-recast": "recastner",
}
TYPES = {task: group for group, tasks in GROUPS.items() for task in tasks.split()}
METRICS = {"acc": "accuracy"}
# What their code calls acc is for these a BLEU score, truncated and floored for each batch of 64.
TEXTS = ("squad", "nq_open", "multi_news", "samsum")

Row = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What a clone has of one backbone: prompts by task, rows of results, rows kept apart, and problems."""

    prompts: dict[str, np.ndarray] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    apart: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@importer(
    NAME,
    backbone="The backbone, as the folders' names have it: Roberta, T5Small, ...",
    out="The folder of the study to make; the same import again refreshes it.",
    types="CSV file task,type instead of the authors' task types.",
    model="The backbone's hub id or folder, if it is not one of the usual.",
)
def import_prompt_transferability(
    clone: Path, *, backbone: str, out: Path, types: Path | None = None, model: str | None = None
) -> ImportReport:
    """A clone of thunlp/Prompt-Transferability: prompts, zero-shot transfer and the random-prompt control.

    CLONE is the clone, its folder Prompt-Transferability-1.0, or a folder with task_prompt_emb/ and result/.
    What is missing or broken there is reported and left out.

    \b
    transferscope import prompt-transferability CLONE --backbone Roberta --out su-roberta
    transferscope compare --study su-roberta --indicator prompt_cosine_mean_token
    """
    root = find_root(Path(clone))
    _check_backbone(root, backbone)
    if model is None and backbone not in MODELS:
        raise InputError(
            f"which model {backbone} is, is not known; say it with --model. Known: "
            + ", ".join(f"{name} ({hub})" for name, hub in MODELS.items())
        )
    model = model or MODELS[backbone]
    found = read_clone(root, backbone)
    if not found.prompts:
        lines = [f"no prompt of {backbone} in {root / PROMPTS} can be read", *found.problems]
        raise InputError("\n".join(lines))
    kinds = TYPES if types is None else read_types(types)
    study = claim(Path(out), {"importer": NAME, "backbone": backbone, "model": model})
    _write(study, found, backbone, model, kinds)
    missing, lines = missing_results(found, backbone)
    random = sum(row["source"] == RANDOM for row in found.rows)
    return ImportReport(
        importer=NAME,
        study=str(out),
        model=model,
        tasks=tuple(found.prompts),
        prompts=len(found.prompts),
        cells=len(found.rows) - random,
        random=random,
        apart=len(found.apart),
        missing=missing,
        problems=(*found.problems, *lines),
    )


def _write(study: Study, found: Found, backbone: str, model: str, types: Mapping[str, str]) -> None:
    """The study: prompts, transfer.csv, cross-model.csv, and study.yaml last."""
    from transferscope import cells  # with torch, which a mistake in the options need not wait for

    kind = kind_of(model)
    template = "mask-first" if kind == "encoder" else "prefix"
    own = {row["target"]: row for row in found.rows if row["source"] == row["target"]}
    tasks: dict[str, dict[str, str]] = {}
    for task, rows in found.prompts.items():
        provenance: dict[str, Any] = {"model": model, "imported_from": _prompt_file(task, backbone)}
        if kind == "encoder":
            # Their code puts the mask token's embedding in this row's place whenever the prompt is used.
            provenance["replaced_by_mask"] = 0
        if task in own:
            provenance["scores"] = {"metric": own[task]["metric"], "dev": own[task]["value"]}
        tasks[task] = {"prompts": f"prompts/{task}"}
        if task in types:
            tasks[task]["type"] = provenance["task_type"] = types[task]
        prompt = SoftPrompt(rows, task, 0, template, None, provenance)
        save_prompt(prompt, study.prompt_folder(task, 0), model=model, kind=kind)
    cells.add_imported(study, found.rows, f"{NAME} {backbone}")
    if found.apart or study.path(APART).is_file():
        table = [[row[name] for name in cells.COLUMNS] for row in found.apart]
        store.write_csv(study.path(APART), cells.COLUMNS, table)
    head = {"model": model, "template": template, "seeds": [0]}
    write_tasks(study, tasks, head, f"imported from thunlp/Prompt-Transferability, backbone {backbone}")


def read_types(path: Path) -> dict[str, str]:
    """A CSV file with the columns task,type as a dict. Raises StudyError."""
    return {row["task"]: row["type"] for row in store.read_csv(path, ("task", "type")) if row["type"]}


def find_root(clone: Path) -> Path:
    """The folder that has task_prompt_emb/ and result/, at `clone` or one level down. Raises InputError."""
    for root in (clone, clone / FOLDER):
        if (root / PROMPTS).is_dir():
            return root
    found = sorted(path.name for path in clone.iterdir() if path.is_dir())[:8] if clone.is_dir() else []
    raise InputError(
        f"{str(clone)!r} is no clone of thunlp/Prompt-Transferability: no folder {PROMPTS} in it or in its "
        f"folder {FOLDER}; found {', '.join(found) or 'no folder'}"
    )


def split_name(name: str) -> tuple[str, str] | None:
    """(task, backbone) of a folder's or prompt's name such as SST2PromptRobertaLarge; None if it is none.

    >>> split_name("SST2PromptRobertaLarge")
    ('SST2', 'RobertaLarge')
    >>> split_name("README.md")
    """
    task, _, backbone = name.rpartition("Prompt")
    return (task, backbone) if task and backbone else None


def _folders(folder: Path, backbone: str) -> Iterator[tuple[str, Path]]:
    """The tasks with a folder of exactly this backbone (T5 is not T5Small), in order, and their folders."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            parts = split_name(path.name)
            if parts and parts[1] == backbone and path.is_dir() and path.name[0] != ".":
                yield parts[0], path


def _check_backbone(root: Path, backbone: str) -> None:
    names = [split_name(path.name) for path in sorted((root / PROMPTS).iterdir()) if path.is_dir()]
    counts = Counter(parts[1] for parts in names if parts and _plain(parts[1]))
    if backbone not in counts and not any(_folders(root / PROMPTS, backbone)):
        raise InputError(f"no prompt of a backbone {backbone!r} there. {suggest(backbone, counts)}")


def _plain(backbone: str) -> bool:
    """Names such as Roberta_proj are of variants, which are none of the backbones."""
    return re.fullmatch(r"[A-Za-z0-9]+", backbone) is not None


def _prompt_file(task: str, backbone: str) -> str:
    return f"{PROMPTS}/{task}Prompt{backbone}/task_prompt"


def read_clone(root: Path, backbone: str) -> Found:
    """All that the clone has of one backbone. Raises nothing for a file that is broken: it is a problem."""
    found = Found()
    _read_prompts(root, backbone, found)
    for target, folder in _folders(root / RESULTS, backbone):
        if target in RESERVED:
            found.problems.append(f"{RESULTS}/{folder.name}: {target!r} is no name of a task here")
        else:
            _read_column(target, folder, backbone, found)
    return found


def _read_prompts(root: Path, backbone: str, found: Found) -> None:
    for task, folder in _folders(root / PROMPTS, backbone):
        where = _prompt_file(task, backbone)
        if task in RESERVED:  # a random prompt is a control, not a task
            found.problems.append(f"{where}: {task!r} is no name of a task here; its results are the control")
            continue
        if not (folder / "task_prompt").is_file():
            found.problems.append(f"{where}: not there")
            continue
        try:
            store.checked_name(task)
            found.prompts[task] = read_rows(folder / "task_prompt")
        except (PromptError, StudyError) as error:
            found.problems.append(f"{where}: {_relative(error, root)}")
    shapes = Counter(rows.shape[1] for rows in found.prompts.values())
    for task, rows in list(found.prompts.items()):
        usual = shapes.most_common(1)[0][0]
        if rows.shape[1] != usual:
            found.problems.append(
                f"{_prompt_file(task, backbone)}: {rows.shape[1]} wide, most are {usual} wide"
            )
            del found.prompts[task]


def _relative(error: Exception, root: Path) -> str:
    return str(error).replace(f"{root}/", "")


def _read_column(target: str, folder: Path, backbone: str, found: Found) -> None:
    """The results of one target."""
    metrics: Counter[str] = Counter()
    draws = 0
    for path in sorted(folder.glob("result*.json")):
        where = f"{RESULTS}/{folder.name}/{path.name}"
        kind = classify(path.stem, backbone)
        if kind is None:
            found.problems.append(
                f"{where}: its name says neither a task nor a backbone as expected; left out"
            )
            continue
        try:
            metric, value = read_result(path)
        except InputError as error:
            found.problems.append(f"{where}: {error}")
            continue
        protocol, source = kind
        if target in TEXTS and metric == METRICS["acc"]:
            metric = "bleu"
        seed = draws if kind == (ZERO_SHOT, RANDOM) else 0
        draws += kind == (ZERO_SHOT, RANDOM)
        metrics[metric] += protocol == ZERO_SHOT
        rows = found.rows if protocol == ZERO_SHOT else found.apart
        cell = {"protocol": protocol, "source": source, "target": target, "seed": seed}
        rows.append({**cell, "metric": metric, "value": value})
    if not metrics.total():
        found.problems.append(f"{RESULTS}/{folder.name}: no result of a prompt of {backbone}")
    elif len(+metrics) > 1:
        found.problems.append(f"{RESULTS}/{folder.name}: several metrics: {', '.join(sorted(+metrics))}")


def classify(stem: str, backbone: str) -> tuple[str, str] | None:
    """Protocol and source of a result file of this backbone's folder; None if its name says neither.

    >>> classify("result_SST2PromptRoberta", "Roberta")
    ('zero-shot', 'SST2')
    >>> classify("result_random", "Roberta")
    ('zero-shot', 'random')
    >>> classify("result_SST2PromptRobertaLarge", "Roberta")
    ('foreign', 'SST2@RobertaLarge')
    >>> classify("result_model_transfer_SST2PromptT5", "Roberta")
    ('projected', 'SST2@T5')
    """
    name = stem.removeprefix("result_")
    if name == RANDOM:
        return ZERO_SHOT, RANDOM
    crossed = re.fullmatch(r"(.+)Prompt_cross_model_([A-Za-z0-9]+)_to_([A-Za-z0-9]+)", name)
    if crossed:
        return (PROJECTED, f"{crossed[1]}@{crossed[2]}") if crossed[3] == backbone else None
    projected = name.startswith("model_transfer_")
    parts = split_name(name.removeprefix("model_transfer_"))
    if parts is None or name.startswith("task_transfer_") or (parts[1] != backbone and not _plain(parts[1])):
        return None
    task, other = parts
    if projected or other != backbone:
        return PROJECTED if projected else FOREIGN, f"{task}@{other}"
    return (ZERO_SHOT, task) if task == RANDOM or task not in RESERVED else None


def read_result(path: Path) -> tuple[str, float]:
    """Metric and value of a result file: an object of one number, or a JSON string that contains one.

    Raises InputError: it is empty, damaged, or the value is no finite number.
    """
    try:
        if path.stat().st_size > MAX_RESULT:
            raise InputError(f"{path.stat().st_size} bytes, too many for a result")
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise InputError("empty")
        value = json.loads(text)
        value = json.loads(value) if isinstance(value, str) else value
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be read as JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(value, dict) or not value:
        raise InputError(f"expected an object such as {{'acc': 0.5}}, found {str(value)[:40]}")
    key = "acc" if "acc" in value else next(iter(value))
    number = value[key]
    finite = isinstance(number, int | float) and not isinstance(number, bool) and abs(number) <= LARGEST
    if not finite:
        raise InputError(f"{key} is {str(number)[:40]}, not a finite number")
    return METRICS.get(key, key), float(number)


def missing_results(found: Found, backbone: str) -> tuple[int, list[str]]:
    """How many results the matrix lacks, and what to say of it: one line for each task."""
    measured = [row for row in found.rows if row["source"] != RANDOM]
    sources = sorted({row["source"] for row in measured})
    there: Mapping[str, Sequence[str]] = {
        target: sorted(row["source"] for row in found.rows if row["target"] == target)
        for target in sorted({row["target"] for row in found.rows})
    }
    lines, total = [], 0
    for target, names in there.items():
        absent = [source for source in sources if source not in names]
        total += len(absent)
        gone = absent + ([] if RANDOM in names else ["a random prompt"])
        if gone:
            lines.append(f"{RESULTS}/{target}Prompt{backbone}: no result of {', '.join(gone)}")
    for task in sorted({*sources, *there} - set(found.prompts)):
        lines.append(
            f"{_prompt_file(task, backbone)}: none for {task}, which has results: it is no task here"
        )
    for task in found.prompts:
        if task not in there:
            also = "" if task in sources else ", nor any of its prompt"
            lines.append(f"{RESULTS}/{task}Prompt{backbone}: no results with {task} as target{also}")
    return total, lines
