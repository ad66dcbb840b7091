"""Single prompts of other tools -> a study: each becomes a prompt folder and a task of the study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transferscope.errors import InputError, PromptError, StudyError, suggest
from transferscope.foreign import read_prompt
from transferscope.importers.registry import ImportReport, importer
from transferscope.importers.study_file import claim, kind_of, open_existing, write_tasks
from transferscope.prompts import CONFIG, RECORD, SoftPrompt, find_prompts, load_prompt, save_prompt
from transferscope.settings import RESERVED
from transferscope.store import Place, Study, checked_name

NAME = "prompts"
TEMPLATES = ("mask-first", "prefix", "suffix")
# Names that tools give to the file of any prompt: the folder says which task it is.
USUAL = (
    "task_prompt",
    "best-backbone",
    "adapter_model",
    "soft_embeds",
    "soft_prompt",
    "prompt",
    "best",
    "checkpoint",
)


@dataclass(frozen=True)
class Given:
    """One prompt to import: where it came from, and what sort of model it says it is for."""

    path: Path
    prompt: SoftPrompt
    kind: str


@importer(
    NAME,
    out="The folder of a study to make, or to add to if this command made it.",
    study="A study to add to: a folder or its study.yaml.",
    model="The backbone's hub id or folder; needed with --out.",
    task="The task's name; else the name of the file or folder. Several paths are then its trials.",
    seed="The seed of the (first) trial.",
    key="The name of the prompt's tensor, where a file has several.",
    task_id="The task of a multitask prompt (PEFT), from 0.",
    template="Where the rows stand: mask-first, prefix or suffix; by default where their tool puts them.",
)
def import_prompts(
    paths: tuple[Path, ...],
    *,
    out: Path | None = None,
    study: Place | None = None,
    model: str | None = None,
    task: str | None = None,
    seed: int = 0,
    key: str | None = None,
    task_id: int | None = None,
    template: str | None = None,
) -> ImportReport:
    """Prompts of other tools: PEFT folders, Skill-Neuron, OpenPrompt and SPoT files, .npy, .safetensors.

    The format is found out from what a file holds. A folder with PEFT folders below it gives all of them.

    \b
    transferscope import prompts adapters/* --out my-study --model roberta-base
    transferscope import prompts best-backbone --study my-study --task sst2 --seed 1
    transferscope import prompts multitask/ --study my-study --task mnli --task-id 2
    """
    if (out is None) == (study is None):
        raise InputError("give one of --out STUDY (a new one) and --study STUDY (one to add to)")
    if template is not None and template not in TEMPLATES:
        raise InputError(f"unknown template {template!r}. {suggest(template, TEMPLATES)}")
    if seed < 0:
        raise InputError(f"seed should be at least 0, found {seed}")
    name, folder = _study(out, study, model)
    given = list(_read(paths, task, seed, key, task_id, template))
    problems = _problems(given, name)
    here = folder or Study(Path(out or ""))
    _check(given, here)
    if folder is None:
        here = claim(Path(out or ""), {"importer": NAME, "model": name})
    default = kind_of(name)
    for one in given:
        known = {**one.prompt.provenance, "model": name, "imported_from": "/".join(one.path.parts[-2:])}
        prompt = replace(one.prompt, provenance=known)
        save_prompt(
            prompt, here.prompt_folder(prompt.task, prompt.seed), model=name, kind=one.kind or default
        )
    tasks = {one.prompt.task: {"prompts": f"prompts/{one.prompt.task}"} for one in given}
    seeds = sorted({one.prompt.seed for one in given})
    head: dict[str, Any] = {"model": name, "template": given[0].prompt.template, "seeds": seeds}
    if given[0].prompt.head is not None:
        head["head"] = "classifier"
    write_tasks(here, tasks, head, "prompts that were tuned elsewhere")
    return ImportReport(NAME, str(here.folder), name, tuple(tasks), len(given), problems=tuple(problems))


def _study(out: Path | None, study: Place | None, model: str | None) -> tuple[str, Study | None]:
    """The backbone's name, and the study to add to (None: a new one)."""
    if study is None:
        if model is None:
            raise InputError(f"--out {out} needs --model: which backbone the prompts were tuned on")
        return model, None
    found, settings = open_existing(study)
    if model is not None and model != settings.model.name:
        raise InputError(
            f"the study {str(study)!r} is of the model {settings.model.name!r}, not {model!r}: prompts of "
            "two backbones do not go together"
        )
    return settings.model.name, found


def _read(
    paths: tuple[Path, ...],
    task: str | None,
    seed: int,
    key: str | None,
    task_id: int | None,
    template: str | None,
) -> Iterator[Given]:
    """The prompts in these places, each with its task, seed and template."""
    for number, path in enumerate(_places(paths)):
        read = read_prompt(path, key=key, task_id=task_id)
        prompt = SoftPrompt(read.rows, _name(path), seed, read.template, None, {"format": read.format})
        if read.model:
            prompt = replace(prompt, provenance={**prompt.provenance, "model": read.model})
        if (path / RECORD).is_file():  # written by transferscope: the record says more than the rows
            ours = load_prompt(path)
            known = {name: value for name, value in ours.provenance.items() if name != "inputs"}
            prompt = replace(ours, rows=read.rows, provenance=known)
        if task is not None:
            prompt = replace(prompt, task=task, seed=seed + number)
        prompt = replace(prompt, template=template or prompt.template)
        if prompt.task in RESERVED:
            raise InputError(
                f"{str(path)!r}: {prompt.task!r} stands for a control; say another name with --task"
            )
        try:
            checked_name(prompt.task)
        except StudyError as error:
            raise InputError(f"{str(path)!r}: {error}; say another name with --task") from None
        yield Given(path, prompt, read.kind)


def _places(paths: tuple[Path, ...]) -> list[Path]:
    """Files, and folders that are prompts; a folder of PEFT folders stands for what is in it."""
    if not paths:
        raise InputError("no file or folder was given")
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir() or (path / CONFIG).is_file():
            found.append(path)
        elif (path / "task_prompt").is_file():
            found.append(path / "task_prompt")
        else:
            found += [place for place in find_prompts([path]) if isinstance(place, Path)]
    return found


def _name(path: Path) -> str:
    """A task's name by the file's, or by the folder's where the file has one of the usual names."""
    path = path.resolve()
    if path.is_dir():
        return path.name
    return path.parent.name if path.stem in USUAL else path.stem


def _check(given: list[Given], study: Study) -> None:
    """Raises InputError: a trial twice, another width than the study's, over a prompt tuned here."""
    seen: dict[tuple[str, int], Path] = {}
    width: Mapping[str, Any] = {}
    for task, seed in study.prompts():
        rows = load_prompt(study.prompt_folder(task, seed)).rows
        width = {"of": f"the study's prompt {task}", "is": rows.shape[1]}
        break
    for one in given:
        trial = one.prompt.task, one.prompt.seed
        if trial in seen:
            raise InputError(
                f"{str(seen[trial])!r} and {str(one.path)!r} are both task {trial[0]!r}, seed {trial[1]}; "
                "import them one by one with --task and --seed"
            )
        seen[trial] = one.path
        width = width or {"of": str(one.path), "is": one.prompt.rows.shape[1]}
        if one.prompt.rows.shape[1] != width["is"]:
            raise InputError(
                f"{str(one.path)!r} is {one.prompt.rows.shape[1]} wide and {width['of']} {width['is']}: "
                "they are of different backbones"
            )
        _check_free(one, study)


def _check_free(one: Given, study: Study) -> None:
    folder = study.prompt_folder(one.prompt.task, one.prompt.seed)
    if not (folder / CONFIG).is_file():
        return
    there = load_prompt(folder)
    if there.fingerprint != one.prompt.fingerprint and "imported_from" not in there.provenance:
        raise PromptError(
            f"{str(folder)!r} is a prompt that was tuned in this study; choose another --task or --seed for "
            f"{str(one.path)!r}"
        )


def _problems(given: list[Given], model: str) -> list[str]:
    """Lines about prompts that name another backbone than the study's."""
    lines = []
    for one in given:
        named = str(one.prompt.provenance.get("model") or "")
        if named and _last(named) != _last(model):
            lines.append(f"{one.path}: says that it is of {named}, and is imported as one of {model}")
    return lines


def _last(model: str) -> str:
    """Hub ids and local folders of one model differ in what stands before the last slash."""
    return model.rstrip("/\\").replace("\\", "/").rpartition("/")[2].lower()
