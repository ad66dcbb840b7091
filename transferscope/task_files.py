"""Readers of labelled texts: jsonl, csv and tsv files, Hugging Face data sets, folders of `save_to_disk`."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from transferscope.errors import TaskError, suggest
from transferscope.files import Place, local, local_folder

SUFFIXES = (".jsonl", ".csv", ".tsv")
_SHOWN = 20  # an error lists at most so many names


@dataclass(frozen=True)
class Table:
    """One split as it was found: S rows, read by column, each row with a place that an error can name.

    `names` holds the class names of columns that know theirs (a `ClassLabel`); their values are then indices.
    """

    where: str
    size: int
    place: Callable[[int], str]
    fetch: Callable[[str, Sequence[int]], list[Any]]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def column(self, name: str, rows: Sequence[int] | None = None) -> list[Any]:
        """The values of one column, of all S rows or of those asked for."""
        return self.fetch(name, range(self.size) if rows is None else rows)

    def at(self, row: int) -> str:
        """Where a row stands, for an error: `reviews.csv, line 7`."""
        return f"{self.where}, {self.place(row)}"


def nearest(name: str, allowed: Iterable[str]) -> str:
    """`suggest`, with a long list of names cut to the nearest ones."""
    names = sorted(set(allowed))
    if len(names) <= _SHOWN:
        return suggest(name, names)
    near = difflib.get_close_matches(name, names, n=_SHOWN, cutoff=0.0)
    return f"{suggest(name, near)[:-1]} (the nearest of {len(names)})."


def is_file_name(name: str) -> bool:
    """Whether a name ends like a file that `read_file` reads."""
    return name.lower().removesuffix(".gz").endswith(SUFFIXES)


def read_file(path: Place, fields: Sequence[str]) -> Table:
    """The named fields of a `.jsonl`, `.csv` or `.tsv` file in UTF-8, possibly gzipped (`.csv.gz`).

    Raises TaskError: no such file, unknown suffix, not UTF-8, a bad line, a field that is not there.
    """
    name = path.name.lower().removesuffix(".gz")
    suffix = next((known for known in SUFFIXES if name.endswith(known)), None)
    if suffix is None:
        raise TaskError(f"{path}: unknown kind of file. {suggest(Path(name).suffix, SUFFIXES)}")
    text = _text(path)
    if suffix == ".jsonl":
        lines = list(_json_rows(path, text, fields))
    elif suffix == ".csv":
        lines = _pick(path, _csv_rows(path, text, ","), fields)
    else:
        lines = _pick(path, _tsv_rows(path, text), fields)
    columns = {name: [row[i] for _, row in lines] for i, name in enumerate(fields)}
    return Table(
        where=str(path),
        size=len(lines),
        place=lambda row: f"line {lines[row][0]}",
        fetch=lambda name, rows: [columns[name][row] for row in rows],
    )


def _text(path: Place) -> str:
    if not path.is_file():
        raise TaskError(f"{path}: {_not_there(path, 'file')}")
    data = local(path).read_bytes()
    if path.name.lower().endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise TaskError(f"{path}: not a whole gzip file ({error})") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TaskError(f"{path}, line {line}: not UTF-8 text; save the file in UTF-8") from error


def _not_there(path: Place, kind: str) -> str:
    """What to say of a missing file or folder: what stands beside it."""
    if path.exists():
        return f"this is not a {kind}"
    if not path.parent.is_dir():
        return f"no such {kind}, and there is no folder {path.parent}"
    beside = [
        p.name for p in path.parent.iterdir() if (is_file_name(p.name) if kind == "file" else p.is_dir())
    ]
    return f"no such {kind}. {nearest(path.name, beside)}"


Row = tuple[int, list[Any]]  # the line where it begins, its values


def _json_rows(path: Place, text: str, fields: Sequence[str]) -> Iterator[Row]:
    # Not splitlines(): JSON allows U+2028 and its kin inside strings, where they end no line.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise TaskError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise TaskError(
                f"{path}, line {number}: expected a JSON object {{...}}, found {line.strip()[:40]}"
            )
        for name in fields:
            if name not in row:
                raise TaskError(f"{path}, line {number}: no field {name!r}. {nearest(name, row)}")
        yield number, [row[name] for name in fields]


def _pick(path: Place, rows: list[Row], fields: Sequence[str]) -> list[Row]:
    """The named columns of rows whose first one is the header."""
    if not rows:
        return []
    line, header = rows[0]
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise TaskError(f"{path}, line {line} (header): the field {twice!r} stands there twice")
    for name in fields:
        if name not in header:
            raise TaskError(f"{path}, line {line} (header): no field {name!r}. {nearest(name, header)}")
    places = [header.index(name) for name in fields]
    return [(number, [row[i] for i in places]) for number, row in rows[1:]]


def _csv_rows(
    path: Place, text: str, delimiter: str, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
) -> list[Row]:
    """All records, the header first, each with its line; every record has as many values as the header."""
    # Strict, since otherwise a quote that is never closed swallows the rest of the file without a word.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    rows: list[Row] = []
    begin = 1
    limit = csv.field_size_limit(sys.maxsize)  # the module's own limit is 128 KiB a text
    try:
        for row in reader:
            if row:
                rows.append((begin, row))
            if row and len(row) != len(rows[0][1]):
                found = f"{len(row)} values where the header has {len(rows[0][1])}"
                raise TaskError(
                    f"{path}, line {begin}: {found} (a text that holds {delimiter!r} needs quotes)"
                )
            begin = reader.line_num + 1
    except csv.Error as error:
        raise TaskError(f"{path}, line {begin}: {error} (quotes inside a quoted text are doubled)") from error
    finally:
        csv.field_size_limit(limit)
    return rows


def _tsv_rows(path: Place, text: str) -> list[Row]:
    """Records of a tsv file: quotes count as in csv if the whole file reads so, else (GLUE) they are text."""
    if '"' not in text:
        return _csv_rows(path, text, "\t", csv.QUOTE_NONE)
    try:
        plain = _csv_rows(path, text, "\t", csv.QUOTE_NONE)
    except TaskError:
        return _csv_rows(path, text, "\t")
    try:
        quoted = _csv_rows(path, text, "\t")
    except TaskError:
        return plain
    if len(quoted) != len(plain):
        line = next(a[0] for a, b in zip(plain, quoted, strict=False) if a[1] != b[1] and _spans(b[1]))
        raise TaskError(
            f"{path}, line {line}: a quote may open a text of several lines or be part of it; use csv"
        )
    return quoted


def _spans(row: list[str]) -> bool:
    return any("\n" in value or "\r" in value for value in row)


def read_hub(name: str, config: str | None, revision: str | None) -> dict[str, Any]:
    """The splits of a data set on the Hub, by name. Code that comes with a data set is never run.

    Raises TaskError: `datasets` is not installed, or whatever keeps it from loading this data set.
    """
    library = _datasets()
    try:
        found = library.load_dataset(name, config, revision=revision)
    except Exception as error:  # the Hub's client raises exceptions of its own and of several other libraries
        raise TaskError(f"dataset {name!r} cannot be loaded: {_first_line(error)}") from error
    return _splits(found)


def read_saved(path: Place) -> dict[str, Any]:
    """The splits of a folder written by `save_to_disk`, by name; a lone `Dataset` is called `train`.

    Raises TaskError: `datasets` is not installed, no such folder, or no saved data set in it.
    """
    if not path.is_dir():
        raise TaskError(f"{path}: {_not_there(path, 'folder')}")
    library = _datasets()
    try:
        found = library.load_from_disk(str(local_folder(path)))
    except Exception as error:  # a damaged folder shows itself as an error of arrow, json or the file system
        raise TaskError(f"{path}: not a folder written by save_to_disk: {_first_line(error)}") from error
    return _splits(found)


def _datasets() -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        needs = "this task needs the library 'datasets': pip install 'transferscope[data]'"
        raise TaskError(needs) from error
    module: ModuleType = datasets
    return module


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _splits(found: Any) -> dict[str, Any]:
    return dict(found) if isinstance(found, dict) else {"train": found}


def read_split(splits: Mapping[str, Any], split: str, source: str, fields: Sequence[str]) -> Table:
    """The named fields of one split of a Hugging Face data set; `source` says whose, for people.

    Raises TaskError: no such split, or a field that it does not have.
    """
    if split not in splits:
        raise TaskError(f"{source}: no split {split!r}. {nearest(split, splits)}")
    data = splits[split]
    where = f"{source}, split {split!r}"
    for name in fields:
        if name not in data.column_names:
            raise TaskError(f"{where}: no field {name!r}. {nearest(name, data.column_names)}")
    # Only a ClassLabel has names.
    names = {name: getattr(data.features[name], "names", None) for name in fields}

    def fetch(name: str, rows: Sequence[int]) -> list[Any]:
        # The whole is not read where a sample will do: these data sets may have millions of texts.
        chosen = data.select_columns([name])
        chosen = chosen if len(rows) == len(data) else chosen.select(rows)
        return list(chosen.to_dict()[name])

    classes = {name: tuple(known) for name, known in names.items() if known}
    return Table(where, len(data), lambda row: f"row {row}", fetch, classes)
