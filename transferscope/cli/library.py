"""transferscope library: thousands of stored signatures, and which of them are nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from transferscope.cli.messages import channels, finish, report
from transferscope.cli.options import PlaceType, emit, output_options, study_option

FOLDER = click.Path(file_okay=False, path_type=Path)
library_option = click.option(
    "--library", "folder", type=FOLDER, required=True, metavar="DIR", help="The library's folder."
)
indicator_option = click.option(
    "--indicator", default="on", show_default=True, metavar="NAME",
    help="on, on_jaccard, skill_jaccard, skill_overlap or prompt_cosine_mean_token.",
)  # fmt: skip


@click.group("library")
def command() -> None:
    """Signatures of many tasks of one model in a folder, searched without loading them all.

    A library keeps of each signature what these indicators read: on, on_jaccard, skill_jaccard,
    skill_overlap, prompt_cosine_mean_token. Values are those of `transferscope compare`.

    \b
    transferscope library add study-a study-b --library signatures
    transferscope library query sst2 --library signatures -k 5
    transferscope library query mine --study my-study --library signatures
    transferscope library pairs --library signatures --out on.npy
    """


@command.command("add")
@click.argument("studies", nargs=-1, required=True, metavar="STUDY...", type=PlaceType())
@library_option
@click.option("--prefix", default="", metavar="TEXT", help="Put before the names of these tasks.")
@click.option("--replace", is_flag=True, help="Take the place of other signatures of these names.")
def add(studies: tuple[Path, ...], folder: Path, prefix: str, replace: bool) -> None:
    """Add the signatures that are in study folders; those that are there already are left out.

    The library is made if it is not there. An addition that was killed is finished by the same command.

    \b
    transferscope library add study-a --library signatures --prefix a/
    """
    from transferscope.library import Library

    say, progress = channels()
    library = Library(folder)
    done = library.add(studies, prefix=prefix, replace=replace, progress=progress)
    say(
        f"{folder}: {len(done.added)} added, {len(done.replaced)} replaced, {len(done.present)} there "
        f"already; {len(library)} in all"
    )


@command.command("list")
@library_option
@output_options
def list_(folder: Path, format_: str, output: Path | None) -> None:
    """The tasks of a library: type, trials, what is known of each, and the file it came from.

    \b
    transferscope library list --library signatures --format csv
    """
    from transferscope.library import Library

    emit(Library.open(folder).contents, format_, output)


@command.command("query")
@click.argument("task")
@library_option
@study_option(required=False)
@click.option("-k", "k", type=click.IntRange(1), default=10, show_default=True, help="How many.")
@indicator_option
@click.option("--itself", is_flag=True, help="With the stored copy of TASK among the answers.")
@output_options
def query(
    task: str,
    folder: Path,
    study: Path | None,
    k: int,
    indicator: str,
    itself: bool,
    format_: str,
    output: Path | None,
) -> None:
    """The K stored tasks nearest to TASK, of the library itself or, with --study, of a study.

    \b
    transferscope library query sst2 --library signatures -k 5 --indicator skill_overlap
    transferscope library query mine --study my-study --library signatures --format json
    """
    from transferscope.library import Library

    asked: Any = task if study is None else _signature(study, task)
    emit(Library.open(folder).query(asked, k, indicator, itself=itself), format_, output)


def _signature(path: Path, task: str) -> Any:
    """A task's signature as it lies in a study."""
    from transferscope.errors import StudyError, suggest
    from transferscope.library import study_of
    from transferscope.signatures import load_signature

    study = study_of(path)
    if task not in study.signatures():
        raise StudyError(f"{study.folder} has no signature of {task!r}. {suggest(task, study.signatures())}")
    return load_signature(study.signature_file(task))


@command.command("pairs")
@library_option
@indicator_option
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="FILE.npy",
    help="float32 [n, n]; the names go to FILE.npy.json.",
)  # fmt: skip
def pairs(folder: Path, indicator: str, out: Path) -> None:
    """All pairs of the stored tasks as a numpy array in a file, for thousands of them.

    \b
    transferscope library pairs --library signatures --indicator on --out on.npy
    """
    from transferscope import store
    from transferscope.library import Library

    say, progress = channels()
    library = Library.open(folder)
    found = library.all_pairs(indicator, out=out, progress=progress)
    beside = {"indicator": indicator, "model": library.index.model, "tasks": found.tasks}
    store.write_json(Path(f"{out}.json"), beside)
    finish()
    say(f"wrote {out} ({len(found.tasks)} x {len(found.tasks)}) and {out}.json")


@command.command("check")
@library_option
def check(folder: Path) -> None:
    """Read every file of a library and compare it with its checksum; exit status 1 if one is damaged.

    \b
    transferscope library check --library signatures
    """
    from transferscope.errors import StoreError
    from transferscope.library import Library

    library = Library.open(folder)
    if bad := library.damaged():
        raise StoreError(f"damaged or missing in {folder}: {', '.join(bad)}; make the library again")
    report(f"{folder}: {len(library)} signatures, every file is as it was written")
