"""The files of a library: additions survive a kill, writers take turns, what is damaged is found."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_comparison import WIDTH, signature
from tests.test_library import INDICATORS, library, several, snapshot, written
from transferscope import segments, store
from transferscope.comparison import compare
from transferscope.errors import (
    SignatureError,
    StoreError,
    StudyError,
)
from transferscope.library import Library
from transferscope.signatures import save_signature

__all__ = ["library", "written"]  # the fixtures


def test_what_is_there_is_not_added_again(library: Library) -> None:
    before = snapshot(library.study.folder)
    done = library.add(several())
    assert (done.added, done.present, done.replaced) == ((), tuple("abcde"), ())
    assert snapshot(library.study.folder) == before


def test_a_name_that_is_taken_is_refused_prefixed_or_replaced(library: Library) -> None:
    other = signature("b", 66)
    with pytest.raises(
        SignatureError, match=r"holds another 'b', of a signature: give .* a prefix, or replace"
    ):
        library.add([other])
    assert library.add([other], prefix="mine/").added == ("mine/b",)
    with pytest.raises(SignatureError, match="holds another 'f'"):
        library.add([signature("f", 1), signature("f", 2)], replace=True)

    assert library.add([other], replace=True).replaced == ("b",)
    assert sorted(library.tasks) == ["a", "b", "c", "d", "e", "mine/b"]
    (expected,) = compare([several()[0], other], ["on"])
    values = {match.task: match.value for match in Library.open(library.study.folder).query("a", 9).matches}
    assert values["b"] == values["mine/b"] == pytest.approx(expected.values[0, 1])


def test_studies_are_read_file_by_file(tmp_path: Path) -> None:
    study = tmp_path / "study"
    for one in several():
        save_signature(one, study / "signatures" / f"{one.task}.safetensors")
    (study / "study.yaml").write_text("tasks: {}")
    library = Library(tmp_path / "library")
    steps: list[Any] = []
    assert library.add([study / "study.yaml"], progress=lambda *step: steps.append(step)).added == tuple(
        "abcde"
    )
    assert steps[-1] == ("add study", 5, 5, "e")
    assert library.entries[0].source == str(study / "signatures" / "a.safetensors")
    assert library.entries[2].seeds == (0, 1, 2, 3)
    assert library.query("a", 1) == Library.open(tmp_path / "library").query(several()[0], 1)
    with pytest.raises(StudyError, match="no study"):
        library.add([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match="has no signatures: `transferscope extract"):
        library.add([tmp_path / "empty"])


def test_full_segments_are_written_as_they_fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "FULL", 1)

    def until_c() -> Any:
        yield from several()[:2]
        raise KeyboardInterrupt

    library = Library(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        library.add(until_c())
    assert Library.open(tmp_path).tasks == ("a", "b")
    assert library.add(several()).added == ("c", "d", "e")
    assert len(library.index.segments) == 5


@pytest.mark.parametrize("at", range(12))
@pytest.mark.parametrize("many", [False, True])
def test_a_kill_leaves_the_library_before_or_after(
    library: Library, at: int, many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each write of an addition, and of one that puts segments together: nothing is half there."""
    folder, write, count = library.study.folder, store.write_bytes, 0
    if many:
        monkeypatch.setattr(segments, "MOST_SMALL", 2)

    def killed(path: Any, data: bytes) -> None:
        nonlocal count
        if count == at:
            raise KeyboardInterrupt
        count += 1
        write(path, data)

    def killed_text(path: Any, value: Any, *, versioned: bool = False) -> None:
        killed(path, json.dumps({"format_version": 1, **store.json_ready(value)}).encode())

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_bytes", killed)
        patch.setattr(store, "write_json", killed_text)
        try:
            library.add([signature("new", 10)])
            finished = True
        except KeyboardInterrupt:
            finished = False
    assert finished == (at > (10 if many else 5))
    after = Library.open(folder)
    assert after.tasks == (*"abcde", "new") if finished else tuple("abcde")
    assert after.damaged() == []

    assert after.add([signature("new", 10)]).present == (("new",) if finished else ())
    assert sorted(after.tasks) == ["a", "b", "c", "d", "e", "new"]
    named = {segment.name for segment in after.index.segments}
    if not finished:
        assert {path.name for path in (folder / "segments").iterdir()} == named


def test_two_writers_lose_nothing(library: Library) -> None:
    other = Library.open(library.study.folder)
    library.add([signature("f", 10)])
    other.add([signature("g", 11)])
    assert sorted(other.tasks) == sorted(Library.open(library.study.folder).tasks) == sorted("abcdefg")
    library_before = Library.open(library.study.folder)
    other.add([signature("h", 12)])
    with pytest.raises(SignatureError, match="holds another 'h'"):
        library_before.add([signature("h", 13)])


def test_a_reader_keeps_what_it_opened(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, before = Library.open(library.study.folder), library.query("a", 9)
    monkeypatch.setattr(segments, "MOST_SMALL", 1)
    library.add([signature("f", 10)])
    assert len(library.index.segments) == 1
    assert reader.query("a", 9) == before


def test_many_small_segments_are_put_together_and_replaced_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "MOST_SMALL", 3)
    library = Library(tmp_path)
    for one in several()[:3]:
        library.add([one])
    library.add([signature("b", 66)], replace=True)
    assert len(library.index.segments) == 1
    assert library.index.segments[0].dropped == frozenset()
    rows = np.load(tmp_path / "segments" / library.index.segments[0].name / "active.npy")
    assert len(rows) == 3 + 3 + 4  # a, the new b, c
    tasks = [signature("b", 66) if one.task == "b" else one for one in several()[:3]]
    for indicator in INDICATORS:
        (expected,) = compare(tasks, [indicator])
        found = library.all_pairs(indicator)
        order = [found.tasks.index(task) for task in expected.tasks]
        np.testing.assert_allclose(found.values[np.ix_(order, order)], expected.values, atol=1e-6)
    assert library.damaged() == []


# damage


def first_segment(library: Library) -> Path:
    return library.study.folder / "segments" / library.index.segments[0].name


def pickled() -> bytes:
    page = io.BytesIO()
    np.save(page, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return page.getvalue()


def other_array(array: np.ndarray) -> bytes:
    page = io.BytesIO()
    np.save(page, array)
    return page.getvalue()


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("active.npy", lambda data: data[:-1], "active.npy is not a whole array"),
        ("active.npy", lambda data: b"", "active.npy is not a whole array"),
        ("active.npy", lambda data: pickled(), "active.npy is not a whole array"),
        (
            "skills.npy",
            lambda data: other_array(np.zeros((2, 9), np.uint8)),
            r"uint8 \[2, 9\], and uint8 \[2, 8\]",
        ),
        ("directions.npy", lambda data: other_array(np.zeros((4, WIDTH))), "holds float64 .* float32"),
        (
            "directions.npy",
            lambda data: other_array(np.zeros((4, WIDTH), np.float32, order="F")),
            "directions.npy holds float32",
        ),
        ("entries.json", lambda data: data.replace(b'"a"', b'"z"'), "does not fit its checksum"),
    ],
)
def test_a_damaged_segment_is_found_on_opening(
    library: Library, file: str, change: Callable[[bytes], bytes], message: str
) -> None:
    path = first_segment(library) / file
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(StoreError, match=message):
        Library.open(library.study.folder)


@pytest.mark.parametrize("file", ["active.npy", "entries.json"])
def test_a_missing_file_is_said(library: Library, file: str) -> None:
    (first_segment(library) / file).unlink()
    with pytest.raises(StoreError, match=file):
        Library.open(library.study.folder)
    assert library.damaged() == [f"segments/{library.index.segments[0].name}/{file}"]


def test_a_changed_bit_is_found_by_a_check(library: Library) -> None:
    path = first_segment(library) / "active.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert Library.open(library.study.folder).damaged() == [str(path.relative_to(library.study.folder))]


def test_numbers_that_are_not_finite_are_never_a_value(library: Library) -> None:
    path = first_segment(library) / "directions.npy"
    array = np.load(path)
    array[0, 0] = np.nan
    np.save(path, array)
    damaged = Library.open(library.study.folder)
    with pytest.raises(StoreError, match="not finite, so it is damaged: `transferscope library check`"):
        damaged.query("d", 3, "prompt_cosine_mean_token")
    with pytest.raises(StoreError, match="not finite"):
        damaged.all_pairs("prompt_cosine_mean_token")
    assert damaged.query("d", 3).matches


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index["segments"][0].update(name="../../elsewhere"), "segments.0.name"),
        (lambda index: index.update(layers=0), "layers"),
        (lambda index: index.update(kind="study"), "kind"),
        (lambda index: index.pop("model"), "model"),
        (lambda index: index.update(more=1), "more"),
        (lambda index: index.update(format_version=99), "format version 99"),
    ],
)
def test_a_foreign_index_is_refused(library: Library, change: Callable[[Any], Any], message: str) -> None:
    path = library.study.folder / "library.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    with pytest.raises(StoreError, match=message):
        Library.open(library.study.folder)


def test_an_index_that_is_no_json_or_of_another_rate(library: Library) -> None:
    path = library.study.folder / "library.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(index | {"rate": 0.1}))
    with pytest.raises(StudyError, match=r"rate of 0.1: this version reads 0.2"):
        Library.open(library.study.folder)
    path.write_text("{")
    with pytest.raises(StoreError, match="not valid JSON"):
        Library.open(library.study.folder)


def test_a_segment_behind_a_link_is_refused(library: Library, tmp_path: Path) -> None:
    folder = first_segment(library)
    shutil.move(folder, tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StudyError, match="leads out of the study"):
        Library.open(library.study.folder)
