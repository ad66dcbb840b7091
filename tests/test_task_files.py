"""Readers of jsonl, csv, tsv and Hugging Face data: strange texts come back, damage is named by place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transferscope.errors import TaskError
from transferscope.task_files import nearest, read_file, read_hub, read_saved, read_split

FIELDS = ("text", "label")
# All of Unicode that UTF-8 can hold, with what trips line and quote handling made likely.
TEXTS = st.text(st.one_of(st.sampled_from("\"'\\,\t\n\r\u2028\x85\ufeff\x00 "), st.characters(codec="utf-8")))
TABLES = st.lists(st.tuples(TEXTS, st.sampled_from(["no", "yes"])), min_size=1, max_size=5)
in_one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150
)


def _write(path: Path, rows: list[Any], delimiter: str = ",", quoting: Any = csv.QUOTE_MINIMAL) -> Path:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter, quoting=quoting).writerows([FIELDS, *rows])
    path.write_bytes(buffer.getvalue().encode())
    return path


def _read(path: Path) -> list[tuple[Any, ...]]:
    table = read_file(path, FIELDS)
    return list(zip(table.column("text"), table.column("label"), strict=True))


@in_one_folder
@given(rows=TABLES, ascii_only=st.booleans())
def test_jsonl_brings_back_any_text(tmp_path: Path, rows: list[tuple[str, str]], ascii_only: bool) -> None:
    lines = [json.dumps(dict(zip(FIELDS, row, strict=True)), ensure_ascii=ascii_only) for row in rows]
    path = tmp_path / "x.jsonl"
    path.write_bytes("\n".join(lines).encode())
    assert _read(path) == rows


@in_one_folder
@given(rows=TABLES)
def test_csv_brings_back_any_text(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    assert _read(_write(tmp_path / "x.csv", rows)) == rows


@in_one_folder
@given(rows=TABLES)
def test_tsv_brings_back_any_text_or_says_that_it_has_two_readings(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    path = _write(tmp_path / "x.tsv", rows, delimiter="\t")
    two_readings = any("\t" in text and ("\n" in text or "\r" in text) for text, _ in rows)
    try:
        read = _read(path)
    except TaskError:
        assert two_readings
    else:
        assert read == rows


def test_bare_quotes_of_a_tsv_file_are_text(tmp_path: Path) -> None:
    path = tmp_path / "glue.tsv"
    path.write_text('text\tlabel\n"Oh" , he said\t1\n" what a film\t0\n', encoding="utf-8")
    assert _read(path) == [('"Oh" , he said', "1"), ('" what a film', "0")]


def test_a_tsv_file_with_two_readings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text('text\tlabel\nfine\t1\n"I am\t0\nthe end"\t1\n', encoding="utf-8")
    with pytest.raises(TaskError, match=r"x\.tsv, line 3: a quote may open .*; use csv"):
        _read(path)


def test_byte_order_mark_blank_lines_case_and_gzip(tmp_path: Path) -> None:
    (tmp_path / "a.CSV").write_bytes(b"\xef\xbb\xbftext,label\r\nx,1\r\n\r\ny,0\r\n")
    assert _read(tmp_path / "a.CSV") == [("x", "1"), ("y", "0")]
    (tmp_path / "a.jsonl.gz").write_bytes(
        gzip.compress(b'{"text": "x", "label": 1}\n\n{"label": 0, "text": "y"}')
    )
    assert _read(tmp_path / "a.jsonl.gz") == [("x", 1), ("y", 0)]


def test_a_long_text_is_no_trouble_and_the_csv_modules_limit_is_put_back(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    assert _read(_write(tmp_path / "x.csv", [("x" * (limit + 1), "1")]))[0][0] == "x" * (limit + 1)
    assert csv.field_size_limit() == limit


def test_lines_are_counted_through_quoted_newlines_and_blank_lines(tmp_path: Path) -> None:
    table = read_file(_write(tmp_path / "x.csv", [("a\nb\nc", "1"), ("d", "0")]), FIELDS)
    assert [table.place(row) for row in range(2)] == ["line 2", "line 5"]
    (tmp_path / "x.jsonl").write_text('\n{"text": "a"}\n\n{"text": "b"}\n', encoding="utf-8")
    table = read_file(tmp_path / "x.jsonl", ["text"])
    assert table.at(1) == f"{tmp_path / 'x.jsonl'}, line 4"


DAMAGED = [
    ("x.jsonl", b'{"text": "a", "label": 1}\n{"text": "b",\n', r"x\.jsonl, line 2: not JSON: "),
    ("x.jsonl", b'["a", 1]\n', r"x\.jsonl, line 1: expected a JSON object \{\.\.\.\}, found \[\"a\", 1\]"),
    (
        "x.jsonl",
        b'{"txt": "a", "label": 1}\n',
        r"line 1: no field 'text'\. Did you mean 'txt'\? Available: label, txt",
    ),
    ("x.jsonl", b'{"text": "a"}\n', r"x\.jsonl, line 1: no field 'label'\. Available: text\."),
    ("x.jsonl", b'{"text": "a", "label": 1}\n{"text": "\xff"}', r"x\.jsonl, line 2: not UTF-8 text; save"),
    ("x.jsonl", b"[" * 100_000, r"x\.jsonl, line 1: not JSON"),
    ("x.csv", b"txt,label\na,1\n", r"x\.csv, line 1 \(header\): no field 'text'\. Did you mean 'txt'\?"),
    ("x.csv", b"text,text,label\na,b,1\n", r"x\.csv, line 1 \(header\): the field 'text' stands there twice"),
    (
        "x.csv",
        b"text,label\na,b,1\n",
        r"x\.csv, line 2: 3 values where the header has 2 \(a text that holds ','",
    ),
    ("x.csv", b"text,label\na,1\nb\n", r"x\.csv, line 3: 1 values where the header has 2"),
    ("x.csv", b'text,label\na,1\n"b,0\nc,1\n', r"x\.csv, line 3: unexpected end of data"),
    (
        "x.tsv",
        b"text\tlabel\na\tb\t1\n",
        r"x\.tsv, line 2: 3 values where the header has 2 \(a text that holds '\\t'",
    ),
    ("x.csv.gz", b"text,label\na,1\n", r"x\.csv\.gz: not a whole gzip file \("),
    ("x.csv.gz", gzip.compress(b"text,label\na,1\n")[:-9], r"x\.csv\.gz: not a whole gzip file \("),
    (
        "x.cvs",
        b"",
        r"x\.cvs: unknown kind of file\. Did you mean '\.csv'\? Available: \.csv, \.jsonl, \.tsv\.",
    ),
]


@pytest.mark.parametrize(("name", "data", "message"), DAMAGED, ids=[message[:30] for *_, message in DAMAGED])
def test_damage_is_named_by_file_and_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TaskError, match=message):
        read_file(tmp_path / name, FIELDS)


def test_missing_files_are_answered_with_their_neighbours(tmp_path: Path) -> None:
    (tmp_path / "reviews.jsonl").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(
        TaskError, match=r"no such file\. Did you mean 'reviews\.jsonl'\? Available: .*reviews"
    ):
        read_file(tmp_path / "review.jsonl", FIELDS)
    with pytest.raises(TaskError, match=r"no such file, and there is no folder .*nowhere"):
        read_file(tmp_path / "nowhere" / "review.jsonl", FIELDS)
    with pytest.raises(TaskError, match=r"folder\.csv: this is not a file"):
        read_file(tmp_path / "folder.csv", FIELDS)


def test_long_lists_of_names_are_cut_to_the_nearest() -> None:
    said = nearest("class 7x", [f"class {i}" for i in range(300)])
    assert said.startswith("Did you mean 'class 7'? Available: ")
    assert said.endswith("(the nearest of 300).")
    assert said.count(",") == 19


def test_folders_of_save_to_disk(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features(
        {"text": Value("string"), "label": ClassLabel(names=["no", "yes"]), "id": Value("int64")}
    )
    data = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0], "id": [5, 6]}, features=features)
    DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "both")
    data.save_to_disk(tmp_path / "one")
    assert list(read_saved(tmp_path / "both")) == ["train", "test"]
    splits = read_saved(tmp_path / "one")
    table = read_split(splits, "train", "one", FIELDS)
    assert (table.size, table.names, table.at(1)) == (
        2,
        {"label": ("no", "yes")},
        "one, split 'train', row 1",
    )
    assert table.column("text") == ["a", "b"]
    assert table.column("label", [1]) == [0]
    with pytest.raises(TaskError, match=r"one: no split 'trian'\. Did you mean 'train'\? Available: train\."):
        read_split(splits, "trian", "one", FIELDS)
    with pytest.raises(
        TaskError, match=r"split 'train': no field 'txt'\. Did you mean 'text'\? Available: id, label"
    ):
        read_split(splits, "train", "one", ["txt"])
    with pytest.raises(TaskError, match=r"two: no such folder\. Available: both, one\."):
        read_saved(tmp_path / "two")
    with pytest.raises(TaskError, match="not a folder written by save_to_disk: "):
        read_saved(tmp_path)


def test_a_data_set_that_does_not_load_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("Config name is missing.\nPlease pick one of many")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(TaskError, match=r"^dataset 'glue' cannot be loaded: Config name is missing\.$"):
        read_hub("glue", None, None)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TaskError, match=r"pip install 'transferscope\[data\]'"):
        read_hub("glue", None, None)
    with pytest.raises(TaskError, match=r"pip install 'transferscope\[data\]'"):
        read_saved(tmp_path)
