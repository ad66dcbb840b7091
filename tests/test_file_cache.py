"""The cache of what lies at addresses: by version, whole, shared by processes, no larger than it may be."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from transferscope import file_cache, store
from transferscope.addresses import Address
from transferscope.errors import StoreError, StudyError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRANSFERSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "files"


@pytest.fixture
def folder() -> Iterator[Address]:
    yield Address(f"memory://{uuid.uuid4().hex}")
    MemoryFileSystem.store.clear()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is downloaded."""
    names: list[str] = []
    real = Address.download

    def download(self: Address, target: Path) -> None:
        names.append(self.name)
        real(self, target)

    monkeypatch.setattr(Address, "download", download)
    return names


def entries(cache: Path) -> list[str]:
    return sorted(one.name for one in cache.iterdir() if one.is_dir())


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRANSFERSCOPE_CACHE", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert file_cache.cache_folder() == tmp_path / "transferscope"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert file_cache.cache_folder() == Path.home() / ".cache" / "transferscope"


def test_a_version_is_fetched_once(cache: Path, folder: Address, fetched: list[str]) -> None:
    store.write_text(folder / "a.txt", "one")
    first = file_cache.local_file(folder / "a.txt")
    assert (first.name, first.read_text()) == ("a.txt", "one")
    assert file_cache.local_file(folder / "a.txt") == first
    assert fetched == ["a.txt"]


def test_another_version_is_fetched_again(cache: Path, folder: Address, fetched: list[str]) -> None:
    store.write_text(folder / "a.txt", "one")
    first = file_cache.local_file(folder / "a.txt")
    store.write_text(folder / "a.txt", "two")  # as long as the one before
    second = file_cache.local_file(folder / "a.txt")
    assert (first.read_text(), second.read_text()) == ("one", "two")
    assert fetched == ["a.txt", "a.txt"]


def test_two_addresses_with_one_content_are_two(cache: Path, folder: Address) -> None:
    for name in ("a", "b"):
        store.write_text(folder / name / "x", "same")
    assert file_cache.local_file(folder / "a/x") != file_cache.local_file(folder / "b/x")


def test_a_folder_with_all_below(cache: Path, folder: Address, fetched: list[str]) -> None:
    for name in ("config.json", "weights/1.bin"):
        store.write_text(folder / "model" / name, name)
    here = file_cache.local_folder(folder / "model")
    assert here.name == "model"
    assert {str(p.relative_to(here)): p.read_text() for p in here.rglob("*") if p.is_file()} == {
        "config.json": "config.json",
        "weights/1.bin": "weights/1.bin",
    }
    assert file_cache.local_folder(folder / "model") == here
    assert len(fetched) == 2
    store.write_text(folder / "model/config.json", "other")
    assert (file_cache.local_folder(folder / "model") / "config.json").read_text() == "other"
    assert len(entries(cache)) == 2


def test_the_time_of_a_copy_is_that_of_the_file(cache: Path, folder: Address) -> None:
    store.write_text(folder / "a", "x")
    assert file_cache.local_file(folder / "a").stat().st_mtime == pytest.approx(
        (folder / "a").stat().st_mtime
    )


def test_what_is_not_there(cache: Path, folder: Address) -> None:
    with pytest.raises(FileNotFoundError):
        file_cache.local_file(folder / "a")
    with pytest.raises(FileNotFoundError):
        file_cache.local_folder(folder)


def test_a_file_written_while_it_is_read_is_read_again(
    cache: Path, folder: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_text(folder / "a", "one")
    real, times = Address.download, []

    def download(self: Address, target: Path) -> None:
        real(self, target)
        times.append(1)
        if len(times) == 1:
            store.write_text(self, "two")

    monkeypatch.setattr(Address, "download", download)
    assert file_cache.local_file(folder / "a").read_text() == "two"
    assert len(entries(cache)) == 1  # the mixture was not kept

    def always(self: Address, target: Path) -> None:
        real(self, target)
        store.write_text(self, "new")

    monkeypatch.setattr(Address, "download", always)
    monkeypatch.setattr(file_cache, "TRIES", 2)
    store.write_text(folder / "a", "zzz")
    with pytest.raises(StoreError, match="written again and again"):
        file_cache.local_file(folder / "a")


def test_half_a_download_is_not_kept(cache: Path, folder: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_text(folder / "a", "whole")
    monkeypatch.setattr(Address, "download", lambda self, target: target.write_text("wh"))
    with pytest.raises(StoreError, match="2 bytes came of 5"):
        file_cache.local_file(folder / "a")
    assert entries(cache) == []


def test_several_fetch_the_same_at_once(cache: Path, folder: Address) -> None:
    for i in range(4):
        store.write_text(folder / "model" / str(i), "x" * 1000)
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda _: file_cache.local_folder(folder / "model"), range(8))]
    assert len(set(found)) == 1
    assert len(list(found[0].iterdir())) == 4
    assert len(entries(cache)) == 1


def test_what_was_not_used_for_longest_goes_first(
    cache: Path, folder: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFERSCOPE_CACHE_GB", "2.5e-6")  # 2500 bytes
    made: dict[str, Path] = {}
    for age, name in ((50_000, "old"), (40_000, "older-but-used"), (30_000, "middle"), (0, "new")):
        store.write_text(folder / name, "x" * 1000)
        made[name] = file_cache.local_file(folder / name)
        os.utime(made[name].parent, (time.time() - age,) * 2)
    file_cache.local_file(folder / "older-but-used")  # now
    removed = file_cache.evict()
    assert removed == [made["old"].parent, made["middle"].parent]
    assert {name for name, file in made.items() if file.is_file()} == {"older-but-used", "new"}
    assert len(entries(cache)) == 2


def test_what_was_used_lately_stays_and_what_the_killed_left_goes(
    cache: Path, folder: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFERSCOPE_CACHE_GB", "0")
    store.write_text(folder / "a", "x")
    file = file_cache.local_file(folder / "a")
    for name, age in ((".partial-1-a", 90_000), (".partial-2-b", 10)):
        (cache / name).mkdir()
        os.utime(cache / name, (time.time() - age,) * 2)
    assert file_cache.evict() == []
    assert file.is_file()
    assert entries(cache) == sorted([".partial-2-b", file.parent.name])


@pytest.mark.parametrize("value", ["ten", "-1", "inf", "nan"])
def test_a_limit_that_is_no_size(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFERSCOPE_CACHE_GB", value)
    with pytest.raises(StudyError, match="TRANSFERSCOPE_CACHE_GB should be a number"):
        file_cache.limit()


def test_a_cache_that_cannot_be_written(folder: Address, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRANSFERSCOPE_CACHE", str(tmp_path / "file"))
    store.write_text(folder / "a", "x")
    with pytest.raises(StudyError, match=r"cannot write in the cache folder .* \(Not a directory\)"):
        file_cache.local_file(folder / "a")
