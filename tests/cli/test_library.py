"""transferscope library: add, list, query, pairs and check on small studies, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.test_library import several
from transferscope.cli import main
from transferscope.comparison import compare
from transferscope.library import Library
from transferscope.signatures import save_signature


def call(*args: Any) -> Result:
    return CliRunner().invoke(main, ["library", *(str(arg) for arg in args)])


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    for one in several():
        save_signature(one, folder / "signatures" / f"{one.task}.safetensors")
    return folder


@pytest.fixture
def folder(study: Path, tmp_path: Path) -> Path:
    result = call("add", study, "--library", tmp_path / "library")
    assert result.exit_code == 0, result.stderr
    return tmp_path / "library"


def test_add_says_what_was_added_and_is_repeated_in_vain(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    first, again = (call("add", study, "--library", folder) for _ in range(2))
    assert "5 added, 0 replaced, 0 there already; 5 in all" in first.stderr
    assert "0 added, 0 replaced, 5 there already; 5 in all" in again.stderr
    assert first.stdout == again.stdout == ""
    more = call("add", study, "--library", folder, "--prefix", "mine/")
    assert more.exit_code == 0
    assert Library.open(folder).tasks[5:] == ("mine/a", "mine/b", "mine/c", "mine/d", "mine/e")


def test_a_changed_signature_takes_the_place_of_the_stored_one(study: Path, folder: Path) -> None:
    changed = replace(several()[1], seeds=(7,))
    save_signature(changed, study / "signatures" / "b.safetensors")
    refused = call("add", study, "--library", folder)
    assert refused.exit_code == 2
    assert "holds another 'b'" in refused.stderr
    assert (
        "0 added, 1 replaced, 4 there already" in call("add", study, "--library", folder, "--replace").stderr
    )
    assert {entry.task: entry.seeds for entry in Library.open(folder).entries}["b"] == (7,)


def test_list(folder: Path) -> None:
    record = json.loads(call("list", "--library", folder, "--format", "json").stdout)
    assert (record["layers"], record["neurons"], record["width"]) == (4, 10, 6)
    assert [task["task"] for task in record["tasks"]] == list("abcde")
    assert record["tasks"][2]["trials"] == 4
    assert (
        "5 tasks of the backbone fingerprint: 4 layers of 10 neurons."
        in call("list", "--library", folder).stdout
    )


def test_query_prints_the_values_of_compare(folder: Path, study: Path) -> None:
    (expected,) = compare(several(), ["skill_overlap"])
    of_a = dict(zip(expected.tasks, expected.values[0], strict=True))
    options = ("--library", folder, "-k", 3, "--indicator", "skill_overlap", "--format")
    stored = json.loads(call("query", "a", *options, "json").stdout)
    given = json.loads(call("query", "a", "--study", study, *options, "json").stdout)
    assert stored == given
    assert (stored["target"], stored["indicator"], stored["compared"]) == ("a", "skill_overlap", 4)
    assert len(stored["matches"]) == 3
    assert all(match["value"] == pytest.approx(of_a[match["task"]]) for match in stored["matches"])
    rows = list(csv.DictReader(io.StringIO(call("query", "a", *options, "csv").stdout)))
    assert [row["task"] for row in rows] == [match["task"] for match in stored["matches"]]
    assert rows[0]["indicator"] == "skill_overlap"
    shown = call("query", "a", "--library", folder, "--itself").stdout
    assert "Nearest to a by on, of 5 stored tasks" in shown
    assert "No transfer was measured" in shown


def test_pairs_are_a_numpy_file_with_names_beside(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "on.npy"
    result = call("pairs", "--library", folder, "--out", out)
    assert result.exit_code == 0, result.stderr
    (expected,) = compare(several(), ["on"])
    np.testing.assert_allclose(np.load(out), expected.values, atol=1e-6)
    beside = json.loads(Path(f"{out}.json").read_text())
    assert (beside["indicator"], beside["tasks"]) == ("on", list("abcde"))
    assert "(5 x 5)" in result.stderr


def test_check(folder: Path) -> None:
    assert "5 signatures, every file is as it was written" in call("check", "--library", folder).stderr
    (path,) = folder.rglob("skills.npy")
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    result = call("check", "--library", folder)
    assert result.exit_code == 1
    assert "skills.npy" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("query", "z", "--library", "LIBRARY"), "the library has no task 'z'. Available: a, b, c, d, e."),
        (
            ("query", "z", "--library", "LIBRARY", "--study", "STUDY"),
            "no signature of 'z'. Available: a",
        ),
        (("query", "a", "--library", "LIBRARY", "--indicator", "on_raw"), "cannot compute 'on_raw'"),
        (("query", "a", "--library", "NONE"), "no signature library"),
        (("add", "NONE", "--library", "LIBRARY"), "no study"),
        (("pairs", "--library", "LIBRARY", "--out", "pairs.txt"), "to a .npy file"),
        (("add", "--library", "LIBRARY"), "STUDY"),
    ],
)
def test_what_the_user_got_wrong(args: tuple[str, ...], message: str, study: Path, folder: Path) -> None:
    places = {"LIBRARY": folder, "STUDY": study, "NONE": study / "none"}
    result = call(*(places.get(arg, arg) for arg in args))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_every_subcommand_has_an_example() -> None:
    for name in ("add", "list", "query", "pairs", "check"):
        assert f"transferscope library {name}" in call(name, "--help").output


def test_a_query_of_the_library_needs_no_torch(folder: Path) -> None:
    """The signatures of a study do, but thousands of queries of what is stored should start quickly."""
    script = (
        "import sys; from transferscope.library import Library; "
        f"Library.open({str(folder)!r}).query('a'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
