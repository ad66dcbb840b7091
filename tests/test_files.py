"""Files are whole or not there, whatever kills the writer; damage is found and named."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from transferscope import files
from transferscope.errors import StoreError, StudyError

WRITER = """
import sys
from transferscope.files import write_bytes
letter = 0
while True:
    write_bytes(sys.argv[1], bytes([65 + letter % 26]) * 300_000)
    letter += 1
    print(letter, flush=True)
"""


def start_writer(target: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    moment = random.Random(7)
    for _ in range(6):
        process = start_writer(target)
        time.sleep(moment.random() * 0.05)
        kill(process)
        content = target.read_bytes()
        assert len(content) == 300_000
        assert len(set(content)) == 1
    files.remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["file.bin"]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    process = start_writer(tmp_path / "x")
    other = f"{files.TEMPORARY_PREFIX}{files._HOST}-{process.pid}-0{files.TEMPORARY_SUFFIX}"
    mine = f"{files.TEMPORARY_PREFIX}{files._HOST}-{os.getpid()}-0{files.TEMPORARY_SUFFIX}"
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    for name in (other, mine, "file.tmp"):
        (folder / name).write_bytes(b"half")
    process.send_signal(signal.SIGSTOP)
    assert files.remove_leftovers(folder) == []
    kill(process)
    assert files.remove_leftovers(folder) == [folder / other]
    assert sorted(os.listdir(folder)) == sorted([mine, "file.tmp"])


def test_leftovers_of_other_machines_go_after_a_day(tmp_path: Path) -> None:
    new = tmp_path / f"{files.TEMPORARY_PREFIX}elsewher-1-0{files.TEMPORARY_SUFFIX}"
    old = tmp_path / f"{files.TEMPORARY_PREFIX}elsewher-2-0{files.TEMPORARY_SUFFIX}"
    for path in (new, old):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    assert files.remove_leftovers(tmp_path) == [old]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    files.write_bytes(target, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_content_reaches_the_disk_before_its_name_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spy(handle: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", spy)
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b)))
    files.write_bytes(tmp_path / "new" / "file", b"x")
    assert calls == ["file", "rename", "folder"]


def test_files_get_the_ordinary_mode(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    files.write_bytes(tmp_path / "ours", b"")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


DTYPES = st.sampled_from(["?", "i1", "u1", "i2", "i4", "i8", "u8", "f2", "f4", "f8", ">f4", ">i8"])
ARRAYS = DTYPES.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0, max_side=3)))


@given(st.dictionaries(st.text(min_size=1).filter(lambda n: n != "__metadata__"), ARRAYS, max_size=3))
def test_arrays_come_back(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path_factory.mktemp("arrays") / "a.safetensors"
    files.save_arrays(path, arrays, {"names": tuple(arrays)})
    loaded, metadata = files.load_arrays(path)
    assert metadata == {"names": list(arrays)}
    assert set(loaded) == set(arrays)
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(loaded[name], array, strict=array.dtype.isnative)


def test_transposed_and_sliced_arrays_come_back(tmp_path: Path) -> None:
    whole = np.arange(24.0).reshape(4, 6)
    files.save_arrays(tmp_path / "a.safetensors", {"t": whole.T, "s": whole[::2, 1::3]})
    loaded, _ = files.load_arrays(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(loaded["t"], whole.T)
    np.testing.assert_array_equal(loaded["s"], whole[::2, 1::3])


def test_the_same_arrays_make_the_same_bytes(tmp_path: Path) -> None:
    a, b = np.ones(3), np.zeros(2, bool)
    files.save_arrays(tmp_path / "1.safetensors", {"a": a, "b": b}, {"x": 1, "y": 2})
    files.save_arrays(tmp_path / "2.safetensors", {"b": b, "a": a}, {"y": 2, "x": 1})
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([object()]), np.ones(2, complex)])
def test_other_dtypes_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(TypeError, match="array 'bad' has dtype"):
        files.save_arrays(tmp_path / "a.safetensors", {"bad": array})
    assert os.listdir(tmp_path) == []


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    files.save_arrays(path, {"a": np.arange(100.0)}, {"fingerprint": "abc"})
    return path


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_named(saved: Path, share: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(StoreError, match=r"a\.safetensors is not a whole safetensors file"):
        files.load_arrays(saved)


def test_any_changed_byte_is_found(saved: Path) -> None:
    data = saved.read_bytes()
    for at in range(8, len(data), 37):
        changed = bytearray(data)
        changed[at] ^= 1
        saved.write_bytes(bytes(changed))
        try:
            _, metadata = files.load_arrays(saved)
        except StoreError:
            continue
        assert metadata == {}  # the name of our key was hit: now it is a file of others, so of unknown origin


def test_another_format_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    record = {"format_version": 99, "content": "", "metadata": {}}
    save_file({"a": np.ones(2)}, path, {files.METADATA_KEY: json.dumps(record)})
    with pytest.raises(StoreError, match=r"a\.safetensors has format version 99; .* reads 1"):
        files.load_arrays(path)


@pytest.mark.parametrize("record", ["{", "[]", "{}", "3", '{"format_version": 1}'])
def test_damaged_metadata_is_named(tmp_path: Path, record: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": np.ones(2)}, path, {files.METADATA_KEY: record})
    with pytest.raises(StoreError, match=r"a\.safetensors: its metadata is damaged"):
        files.load_arrays(path)


def test_files_of_others_have_no_metadata(tmp_path: Path) -> None:
    save_file({"a": np.ones(2)}, tmp_path / "a.safetensors", {"format": "pt"})
    arrays, metadata = files.load_arrays(tmp_path / "a.safetensors")
    assert metadata == {}
    assert arrays["a"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "read", [files.load_arrays, files.read_json, lambda path: files.read_csv(path, ["a"])]
)
def test_a_missing_file_is_named(tmp_path: Path, read: Any) -> None:
    with pytest.raises(StudyError, match=r"nowhere\.x not found"):
        read(tmp_path / "nowhere.x")


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True], "ü": {"b": "x\ny"}}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value
    files.write_json(tmp_path / "b.json", {"nan": math.nan}, versioned=True)
    assert json.loads((tmp_path / "b.json").read_text()) == {"format_version": 1, "nan": None}


@pytest.mark.parametrize("text", [b"", b'{"a": 1', b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_is_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(StoreError, match=r"a\.json is not valid JSON"):
        files.read_json(tmp_path / "a.json")


def test_json_of_another_format_version_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"format_version": 2}')
    with pytest.raises(StoreError, match=r"a\.json has format version 2"):
        files.read_json(tmp_path / "a.json")


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.lists(st.tuples(TEXTS, TEXTS, st.floats())))
def test_tables_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, float]]
) -> None:
    path = tmp_path_factory.mktemp("tables") / "t.csv"
    files.write_bytes(path, files.csv_bytes(("source", "target", "value"), rows))
    table = files.read_csv(path, ("source", "target", "value"), numbers=("value",))
    assert [(row["source"], row["target"]) for row in table] == [row[:2] for row in rows]
    np.testing.assert_array_equal([row["value"] for row in table], [row[2] for row in rows])


def test_tables_are_plain_text() -> None:
    rows = [("a", np.float64(0.1)), ("b,c", np.float32(0.5)), ("d", None), ("e", math.nan)]
    assert files.csv_bytes(("name", "value"), rows) == b'name,value\na,0.1\n"b,c",0.5\nd,\ne,nan\n'


def test_a_ragged_row_is_not_written() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells under 2 columns"):
        files.csv_bytes(("a", "b"), [("x",)])


def test_columns_in_any_order_with_others_between(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffnote,value,name\r\nx,,a\r\n\r\ny,2e-3,b\r\n".encode())
    first, second = files.read_csv(path, ("name", "value"), numbers=("value",))
    assert math.isnan(first.pop("value"))
    assert (first, second) == ({"name": "a"}, {"name": "b", "value": 0.002})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,value\na,1\n", r"t\.csv: column target missing; found: source, value"),
        ("", "column source, target, value missing; found: nothing"),
        ("source,target,value\na,b\n", r"t\.csv, line 2: 2 cells under 3 columns"),
        ("source,target,value\na,b,1\na,b,high\n", r"t\.csv, line 3: value is 'high', which is not a number"),
        ('source,target,value\n"a', "is not a CSV table"),
        (b"\xff\xfe\x00", "is not a CSV table"),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StudyError, match=message):
        files.read_csv(tmp_path / "t.csv", ("source", "target", "value"), numbers=("value",))
