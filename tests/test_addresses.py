"""Addresses: paths that stay below their start, whole writes, errors of one line without secrets."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from transferscope import files, filesystems, store
from transferscope.addresses import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, Address, is_address
from transferscope.errors import StudyError
from transferscope.store import Study


@pytest.fixture
def memory() -> Iterator[Address]:
    folder = Address(f"memory://{uuid.uuid4().hex}")
    yield folder
    MemoryFileSystem.store.clear()


@pytest.mark.parametrize("text", ["s3://b/x", "gs://b", "hf://user/repo", "memory://a", "S3://b/x"])
def test_what_is_an_address(text: str) -> None:
    assert is_address(text)
    assert isinstance(files.place(text), Address)


@pytest.mark.parametrize("text", ["study", "/a/study", "C://a", "C:\\a", "a:b", "./s3://x"])
def test_what_is_a_local_path(text: str) -> None:
    assert not is_address(text)
    assert files.place(text) == Path(text)


def test_parts_are_those_of_a_path() -> None:
    file = Address("S3://bucket//study/./a.tar.gz/")
    assert str(file) == "s3://bucket/study/a.tar.gz"
    assert (file.name, file.stem, file.suffix) == ("a.tar.gz", "a.tar", ".gz")
    assert file.parent == Address("s3://bucket/study")
    assert file.parent / "b" / "c" == Address("s3://bucket/study/b/c")
    assert file.parts == ("bucket", "study", "a.tar.gz")
    assert file.is_relative_to(Address("s3://bucket/study"))
    assert not file.is_relative_to(Address("s3://bucket/stud"))
    assert not file.is_relative_to(Address("gs://bucket/study"))
    assert Address("s3://bucket").parent == Address("s3://bucket")
    assert str(Address("file:///a/b").parent) == "file:///a"


def test_a_path_that_an_address_went_through_is_refused() -> None:
    with pytest.raises(StudyError, match="give it as a string"):
        files.place(Path("s3://bucket/study"))


def test_it_is_no_local_path() -> None:
    with pytest.raises(TypeError):
        Path(Address("s3://bucket/x"))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        os.fspath(Address("s3://bucket/x"))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "url",
    ["s3://b/a?versionId=1", "gs://b/a#1", "s3://b/a\\b", "s3://b/\0", "s3://a::b/c"],
)
def test_parts_with_signs_that_mean_something_are_refused(url: str) -> None:
    with pytest.raises(StudyError, match=r"is not used as an address: its part '.*' holds '\?', '#', '::'"):
        Address(url)


def test_parts_that_could_lead_elsewhere_are_refused() -> None:
    for lead in (lambda: Address("s3://bucket/../x"), lambda: Address("s3://bucket/x") / "../y"):
        with pytest.raises(
            StudyError, match=r"is not used as an address: its part '\.\.' could lead elsewhere"
        ):
            lead()


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "hf://"])
def test_an_address_without_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(StudyError, match="names no bucket or folder"):
        Address(url)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(StudyError) as error:
        Address("sftp://me:hunter2@host/study")
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("part", ["..", "../x", "/x", "~", "a/../../b", "a?b", "a#b", "a\\b", "a\nb"])
def test_joining_stays_below(part: str) -> None:
    study = Study("s3://bucket/study")
    with pytest.raises(StudyError):
        study.folder / part
    with pytest.raises(StudyError):
        study.path("prompts", part)


@pytest.mark.parametrize("task", ["", "..", "a/b", ".x", "a?b", "a::b", "x" * 201])
def test_names_of_tasks_are_checked_there_too(task: str) -> None:
    with pytest.raises(StudyError):
        Study("s3://bucket/study").signature_file(task)


@pytest.mark.parametrize("task", ["x*", "[a]", "50%", "s3:x", "a b", "é"])
def test_odd_names_are_names_of_one_file(memory: Address, task: str) -> None:
    study = Study(str(memory))
    store.write_text(study.signature_file(task), task)
    assert study.signatures() == [task]
    assert study.signature_file(task).read_text() == task
    assert list(memory.files()) == [f"signatures/{task}.safetensors"]


def test_files_and_folders(memory: Address) -> None:
    assert not memory.exists()
    store.write_text(memory / "a/b/c.txt", "one\r\ntwo")
    assert (memory / "a/b/c.txt").is_file()
    assert not (memory / "a/b").is_file()
    assert (memory / "a/b").is_dir()
    assert not (memory / "a/b/c.txt").is_dir()
    assert not (memory / "a/x").exists()
    assert (memory / "a/b/c.txt").read_text() == "one\ntwo"  # as Path.read_text has it
    assert (memory / "a/b/c.txt").stat().st_size == 8
    assert [*memory.iterdir()] == [memory / "a"]
    assert [*memory.glob("*/*/c.txt")] == [memory / "a/b/c.txt"]
    assert [*memory.glob("*/c.txt")] == []
    assert [*memory.glob("a/b/c.txt")] == [memory / "a/b/c.txt"]
    (memory / "a/b/c.txt").unlink()
    assert not (memory / "a").exists()
    (memory / "a/b/c.txt").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (memory / "a/b/c.txt").unlink()
    with pytest.raises(StudyError, match="not found"):
        files.read_bytes(memory / "a")


def test_moving_a_file(memory: Address) -> None:
    store.write_text(memory / "a", "x")
    store.move(memory / "a", memory / "b")
    assert list(memory.files()) == ["b"]


def test_relative_absolute_and_elsewhere(tmp_path: Path) -> None:
    study = Address("s3://bucket/study")
    assert files.inside(study, "data/x.csv") == study / "data" / "x.csv"
    assert files.inside(study, str(tmp_path)) == tmp_path
    assert files.inside(study, "gs://other/x.csv") == Address("gs://other/x.csv")
    assert files.inside(tmp_path, "s3://bucket/x") == Address("s3://bucket/x")
    assert files.inside(tmp_path, "../x") == tmp_path / "../x"
    with pytest.raises(StudyError):
        files.inside(study, "../x")


def test_arrays_and_tables_there(memory: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFERSCOPE_CACHE", str(tmp_path))
    store.save_arrays(memory / "x.safetensors", {"a": np.arange(3)}, {"fingerprint": "f"})
    arrays, meta = store.load_arrays(memory / "x.safetensors")
    assert arrays["a"].tolist() == [0, 1, 2]
    assert meta == {"fingerprint": "f"}
    assert store.is_current(memory / "x.safetensors", "f")
    store.write_csv(memory / "t.csv", ["a"], [[1]], provenance={"fingerprint": "g"})
    assert (memory / "t.csv.json").is_file()
    assert store.is_current(memory / "t.csv", "g")
    store.write_text(memory / "t.csv", "a\n2\n")  # by hand
    assert store.provenance(memory / "t.csv") is None


def test_a_file_system_that_renames_gets_a_file_beside_and_a_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Address(f"file://{tmp_path}/a/b.txt")
    seen: list[str] = []
    real = LocalFileSystem.mv

    def move(self: Any, old: str, new: str, **options: Any) -> None:
        seen.append(Path(old).name)
        assert Path(old).read_text() == "new"
        assert not Path(new).exists() or Path(new).read_text() == "old"
        real(self, old, new, **options)

    monkeypatch.setattr(LocalFileSystem, "mv", move)
    store.write_text(file, "new")
    assert file.read_text() == (tmp_path / "a/b.txt").read_text() == "new"
    assert [name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX) for name in seen] == [True]
    assert os.listdir(tmp_path / "a") == ["b.txt"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, *args: Any, **options: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(LocalFileSystem, "mv", broken)
    with pytest.raises(StudyError, match=r"cannot write file:///.*b\.txt: disk full"):
        store.write_text(Address(f"file://{tmp_path}/b.txt"), "new")
    assert os.listdir(tmp_path) == []


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    half = tmp_path / f"{TEMPORARY_PREFIX}elsewher-1-0{TEMPORARY_SUFFIX}"
    half.write_text("half")
    assert Study(f"file://{tmp_path}").clean() == []  # it may still be at work
    os.utime(half, (0, 0))
    assert Study(f"file://{tmp_path}").clean() == [Address(f"file://{half}")]
    assert not half.exists()


def test_a_store_that_shows_half_a_file_is_not_written() -> None:
    class Slow(MemoryFileSystem):
        protocol = "slowly"

    fsspec.register_implementation("slowly", Slow, clobber=True)
    with pytest.raises(StudyError, match="is seen while it is written"):
        store.write_text(Address("slowly://a/b"), "x")


def test_an_unknown_scheme_is_answered_with_the_known_ones() -> None:
    with pytest.raises(StudyError, match=r"no kind of address 's4://'.*Did you mean 's3'"):
        Address("s4://bucket/x").is_file()


@pytest.mark.parametrize(
    ("scheme", "hint"),
    [
        ("gs", r"gs:// needs the package gcsfs.*pip install 'transferscope\[remote\]' or pip install gcsfs"),
        ("az", r"az:// needs the package adlfs, which is not installed: pip install adlfs"),
    ],
)
def test_a_missing_package_is_named(scheme: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(StudyError, match=hint):
        Address(f"{scheme}://bucket/x").is_file()


def test_no_permission_is_not_taken_for_no_file(memory: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: Any, *args: Any, **options: Any) -> None:
        raise PermissionError("Forbidden\nsecond line")

    store.write_text(memory / "x", "x")
    monkeypatch.setattr(MemoryFileSystem, "info", forbidden)
    with pytest.raises(StudyError, match=r"cannot read memory://.*/x: Forbidden$"):
        (memory / "x").is_file()


def test_secrets_are_not_in_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sesame-open")
    text = "GET https://h/x?X-Amz-Signature=abc failed with sesame-open"
    assert filesystems.without_secrets(text) == "GET https://h/x?... failed with ***"
    with (
        pytest.raises(
            StudyError, match=r"cannot read s3://b/x: key \*\*\* \(credentials and endpoint come from"
        ),
        filesystems.telling("s3://b/x", "read"),
    ):
        raise RuntimeError("key sesame-open")


def test_the_hub_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client keeps listings, which would hide what another process wrote."""
    from huggingface_hub import HfFileSystem

    asked: list[Any] = []

    def info(self: Any, path: str, refresh: bool = False, **options: Any) -> dict[str, Any]:
        asked.append((path, refresh))
        return {"type": "file", "size": 3, "blob_id": "abc"}

    monkeypatch.setattr(HfFileSystem, "info", info)
    file = Address("hf://datasets/user/repo/study/study.yaml")
    assert file.stat().version == "blob_id=abc;size=3;ino="
    assert asked == [("datasets/user/repo/study/study.yaml", True)]


def test_the_hub_refuses_to_be_written_without_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfFileSystem

    def refused(self: Any, *args: Any, **options: Any) -> None:
        raise PermissionError("401 Client Error")

    monkeypatch.setattr(HfFileSystem, "pipe_file", refused)
    with pytest.raises(
        StudyError, match=r"cannot write hf://user/repo/x: 401 Client Error \(writing needs HF_TOKEN"
    ):
        store.write_text(Address("hf://user/repo/x"), "x")
