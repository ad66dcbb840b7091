"""The study folder: where things lie, names that stay inside, and what is current."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transferscope.errors import StoreError, StudyError
from transferscope.store import (
    Study,
    checked_name,
    is_current,
    provenance,
    read_csv,
    save_arrays,
    write_csv,
    write_json,
    write_text,
)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "study")


def test_where_things_lie(study: Study) -> None:
    assert study.path("indicators.csv") == study.folder / "indicators.csv"
    assert study.prompt_folder("sst2", 3) == study.folder / "prompts" / "sst2" / "3"
    assert study.signature_file("sst2") == study.folder / "signatures" / "sst2.safetensors"
    assert not study.folder.exists()


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "a\0b",
        "a\nb",
        ".hidden",
        "\ud800",
        "x" * 201,
    ],
)
def test_names_that_could_leave_the_folder_are_refused(study: Study, name: str) -> None:
    for use in (checked_name, study.signature_file, lambda task: study.prompt_folder(task, 0)):
        with pytest.raises(StudyError, match="task name"):
            use(name)


def test_the_refused_name_is_in_the_message() -> None:
    with pytest.raises(StudyError, match=r"task name '\.\./x' cannot name a file"):
        checked_name("../x")


@given(st.text())
def test_a_name_is_refused_or_names_one_file_inside(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    study = Study(tmp_path_factory.getbasetemp() / "names")
    try:
        file = study.signature_file(name)
    except StudyError:
        return
    assert file.parent == study.folder / "signatures"
    assert file.name == f"{name}.safetensors"
    write_text(file, "x")
    assert name in study.signatures()
    file.unlink()


@pytest.mark.parametrize("parts", [("..",), ("a", "../../b"), ("/etc/passwd",), ("a", ""), ("a\0b",)])
def test_paths_stay_in_the_folder(study: Study, parts: tuple[str, ...]) -> None:
    with pytest.raises(StudyError, match="is not a path inside the study"):
        study.path(*parts)


def test_symbolic_links_out_of_the_folder_are_refused(study: Study, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    study.folder.mkdir()
    (study.folder / "prompts").symlink_to(outside)
    for use in (lambda: study.prompt_folder("sst2", 0), study.prompts):
        with pytest.raises(StudyError, match=r"leads out of the study, to .*outside"):
            use()


def test_a_link_of_one_task_is_refused_when_listed(study: Study, tmp_path: Path) -> None:
    (tmp_path / "outside" / "0").mkdir(parents=True)
    write_json(tmp_path / "outside" / "0" / "adapter_config.json", {})
    study.path("prompts").mkdir(parents=True)
    (study.folder / "prompts" / "sst2").symlink_to(tmp_path / "outside")
    with pytest.raises(StudyError, match=r"sst2/0 leads out"):
        study.prompts()


def test_a_study_may_itself_be_a_link_and_hold_links(tmp_path: Path) -> None:
    (tmp_path / "real" / "signatures").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text(tmp_path / "real" / "signatures" / "a.safetensors", "")
    (tmp_path / "real" / "signatures" / "b.safetensors").symlink_to("a.safetensors")
    assert Study(tmp_path / "link").signatures() == ["a", "b"]


def test_listings(study: Study) -> None:
    assert study.prompts() == []
    assert study.signatures() == []
    for task, seed in [("b", 10), ("b", 9), ("a", 0)]:
        write_json(study.prompt_folder(task, seed) / "adapter_config.json", {})
    study.path("prompts", "unfinished", "0").mkdir(parents=True)
    write_json(study.path("prompts", "a", "notes", "adapter_config.json"), {})
    for name in ("t.safetensors", ".transferscope-0-0-0.tmp", "t2.safetensors", ".x.safetensors", "t.txt"):
        write_text(study.path("signatures", name), "")
    assert study.prompts() == [("a", 0), ("b", 9), ("b", 10)]
    assert study.signatures() == ["t", "t2"]


def test_a_study_may_lie_at_an_address_and_nothing_is_asked_of_it_yet() -> None:
    study = Study("s3://bucket/study")
    assert str(study.signature_file("sst2")) == "s3://bucket/study/signatures/sst2.safetensors"
    assert str(study.prompt_folder("sst2", 3)) == "s3://bucket/study/prompts/sst2/3"


def test_a_file_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="is a file; a study is a folder"):
        Study(tmp_path / "file")


def test_clean_removes_what_the_dead_left(study: Study) -> None:
    left = study.path("signatures", ".transferscope-00000000-1-0.tmp")
    write_text(left, "half")
    os.utime(left, (0, 0))
    assert study.clean() == [left]
    assert study.clean() == []


HEADER = ("source", "value")


def test_current_is_what_was_made_from_the_same(study: Study) -> None:
    made_from = {"fingerprint": "abc", "model": "m"}
    arrays, record, table = (study.path(name) for name in ("a.safetensors", "r.json", "t.csv"))
    for path in (arrays, record, table):
        assert not is_current(path, "abc")
    save_arrays(arrays, {"a": np.ones(2)}, made_from)
    write_json(record, made_from)
    write_csv(table, HEADER, [("x", 0.5)], provenance=made_from)
    for path in (arrays, record, table):
        assert is_current(path, "abc")
        assert not is_current(path, "abd")
        assert (provenance(path) or {})["model"] == "m"


def test_a_table_changed_since_is_of_unknown_origin(study: Study) -> None:
    table = study.path("t.csv")
    write_csv(table, HEADER, [("x", 0.5)], provenance={"fingerprint": "abc"})
    write_csv(table, HEADER, [("x", 0.6)])  # as a kill before the record was written would leave it
    assert not is_current(table, "abc")
    assert read_csv(table, HEADER, numbers=("value",)) == [{"source": "x", "value": 0.6}]


def test_damage_is_not_taken_for_old_work(study: Study) -> None:
    path = study.signature_file("a")
    save_arrays(path, {"a": np.ones(50)}, {"fingerprint": "abc"})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StoreError, match=r"a\.safetensors"):
        is_current(path, "abc")
