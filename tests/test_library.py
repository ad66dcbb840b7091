"""Libraries: values are those of `compare`, and what cannot be asked or does not fit is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indicators import names
from tests.test_comparison import LAYERS, NEURONS, WIDTH, signature
from transferscope import block_pairs, nearest, needs, packed, segments, sketches
from transferscope.comparison import compare
from transferscope.errors import (
    IndicatorInputError,
    InputError,
    SignatureError,
    StudyError,
)
from transferscope.library import Library
from transferscope.signatures import Signature

INDICATORS = tuple(sketches.MEASURES)


def several(**changes: Any) -> list[Signature]:
    """Tasks of one and of several trials; the second has one subtask more."""
    rng = np.random.default_rng(9)
    two = 0.5 + rng.integers(0, 20, (1, 2, LAYERS, NEURONS)) / 40
    two[0, 0, 0, :3] = np.nan
    return [
        signature("a", 1, **changes),
        signature("b", 2, trials=1, **({"predictivity": two} | changes)),
        signature("c", 3, trials=4, **changes),
        signature("d", 4, trials=1, **changes),
        signature("e", 5, trials=2, **changes),
    ]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five tasks in two segments."""
    made = Library(tmp_path_factory.mktemp("library"))
    made.add(several()[:2])
    made.add(several()[2:])
    return made.study.folder


@pytest.fixture
def library(written: Path, tmp_path: Path) -> Library:
    """A copy of it, for one test."""
    return Library.open(shutil.copytree(written, tmp_path / "library"))


def snapshot(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found.pop(segments.LOCK, None)
    return found


# values


@pytest.mark.parametrize("indicator", INDICATORS)
def test_a_query_gives_the_values_of_compare(library: Library, indicator: str) -> None:
    (expected,) = compare(several(), [indicator])
    for i, one in enumerate(several()):
        for asked in (one, one.task):
            found = library.query(asked, 10, indicator, itself=True)
            values = {match.task: match.value for match in found.matches}
            assert values == pytest.approx(dict(zip("abcde", expected.values[i], strict=True)), abs=1e-7)
            assert [match.rank for match in found.matches] == [1, 2, 3, 4, 5]
            assert sorted(values.values(), reverse=True) == [match.value for match in found.matches]


@pytest.mark.parametrize("rows", [1, 3, 5, 100])
@pytest.mark.parametrize("indicator", INDICATORS)
def test_all_pairs_are_the_values_of_compare(library: Library, indicator: str, rows: int) -> None:
    (expected,) = compare(several(), [indicator])
    found = block_pairs.all_pairs(library._stored, indicator, rows=rows)
    assert found.tasks == expected.tasks
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, expected.values, atol=1e-6)


@pytest.mark.parametrize("indicator", INDICATORS)
def test_a_query_read_in_small_pieces_is_the_same(
    library: Library, indicator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = library.query("c", 10, indicator)
    monkeypatch.setattr(nearest, "ROWS_AT_ONCE", 3)
    assert library.query("c", 10, indicator) == whole


def test_what_a_measure_reads_is_what_the_registry_says() -> None:
    for name, measure in sketches.MEASURES.items():
        record = needs.record(name)
        assert record.needs == (measure.need,)
        assert record.symmetric
        assert record.higher_is_closer


def test_degenerate_sets_are_as_in_compare(tmp_path: Path) -> None:
    none = np.zeros((1, LAYERS, NEURONS), bool)
    flat = np.full((1, 1, LAYERS, NEURONS), np.nan)
    zero = np.zeros((1, 2, WIDTH), np.float32)
    tasks = [
        signature("none", 1, trials=1, active=none, predictivity=flat, prompts=zero),
        signature("all", 2, trials=1, active=~none),
        signature("some", 3),
        signature("none too", 4, trials=1, active=none, predictivity=flat),
    ]
    library = Library(tmp_path)
    library.add(tasks)
    for indicator in INDICATORS:
        (expected,) = compare(tasks, [indicator])
        np.testing.assert_allclose(library.all_pairs(indicator).values, expected.values, atol=1e-6)


def test_an_array_can_be_asked_for(library: Library) -> None:
    c = several()[2]
    by_signature = {name: library.query(c, 4, name, itself=False) for name in INDICATORS}
    given = {
        "on": c.active,
        "on_jaccard": c.active,
        "skill_jaccard": c.skill_mask(0.2),
        "skill_overlap": c.skill_mask(0.2),
        "prompt_cosine_mean_token": c.prompts,
    }
    for name, array in given.items():
        found = {match.task: match.value for match in library.query(array, 5, name).matches}
        assert set(found) == set("abcde")  # nobody knows that it is c
        for match in by_signature[name].matches:
            assert found[match.task] == pytest.approx(match.value, abs=1e-6)
    one = library.query(c.active[0], 5)
    assert one.target == "the query"
    assert one.compared == 5


def test_k_nearest_are_the_first_of_all_and_equal_ones_stand_by_name(tmp_path: Path) -> None:
    same = signature("x", 1, trials=1)
    library = Library(tmp_path)
    others = [signature(name, 1, trials=1) for name in ("r", "q", "s", "p")]
    library.add([*others, same, signature("far", 2, trials=1)])
    found = library.query("x", 3)
    assert [(match.rank, match.task) for match in found.matches] == [(1, "p"), (2, "q"), (3, "r")]
    assert found.compared == 5
    assert len(library.query("x", 99).matches) == 5
    assert library.query("x", 5).matches[-1].task == "far"
    assert library.query("x", 6, itself=True).matches[4].task == "x"


def test_the_stored_copy_is_known_by_content_not_by_name(library: Library) -> None:
    assert "a" not in [match.task for match in library.query(several()[0], 9).matches]
    other = signature("a", 77)
    assert "a" in [match.task for match in library.query(other, 9).matches]


def test_the_only_task_has_nobody_near(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add([signature("alone", 1)])
    assert library.query("alone", 3).matches == ()


def test_pairs_in_a_file_are_those_in_memory(library: Library, tmp_path: Path) -> None:
    out = tmp_path / "far" / "pairs.npy"
    steps: list[tuple[int, int]] = []
    found = library.all_pairs(
        "on", out=out, progress=lambda stage, done, total, what: steps.append((done, total))
    )
    assert isinstance(found.values, np.memmap)
    np.testing.assert_array_equal(found.values, library.all_pairs("on").values)
    np.testing.assert_array_equal(np.load(out), found.values)
    assert steps == [(1, 1)]
    with pytest.raises(InputError, match=r"to a .npy file, and '.*pairs.txt' is none"):
        library.all_pairs("on", out=tmp_path / "pairs.txt")


def test_pairs_that_fail_leave_no_file(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(packed, "shared", fail)
    with pytest.raises(KeyboardInterrupt):
        library.all_pairs("on", out=tmp_path / "out" / "pairs.npy", kernel="gemm")
    assert list((tmp_path / "out").iterdir()) == []


# what is not there


def test_tasks_without_what_is_read_are_left_out(tmp_path: Path) -> None:
    library = Library(tmp_path)
    bare = signature("bare", 1, data=False, prompts=np.zeros((3, 0, 0), np.float32))
    library.add([bare])
    assert library.index.width is None
    with pytest.raises(
        IndicatorInputError, match=r"needs prompt, and no task of the library has it: `tr.* tune`"
    ):
        library.query(several()[0], 3, "prompt_cosine_mean_token")
    library.add(several())
    assert library.index.width == WIDTH
    assert library.query("a", 9).compared == 5
    found = library.query("a", 9, "skill_overlap")
    assert found.compared == 4
    assert found.notes == ("1 stored tasks have no predictivity and are left out.",)
    assert library.all_pairs("prompt_cosine_mean_token").tasks == tuple("abcde")
    for asked in ("bare", bare):
        with pytest.raises(
            IndicatorInputError, match=r"'bare' has no predictivity: .*`transferscope extract`"
        ):
            library.query(asked, 3, "skill_overlap")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda library: library.query("a", 0), "the 0 nearest tasks are asked for: at least one"),
        (lambda library: library.query("a", 3, "onn"), "unknown indicator 'onn'. Did you mean 'on'"),
        (lambda library: library.query("a", 3, "on_raw"), "cannot compute 'on_raw': it keeps no more"),
        (lambda library: library.query("aa", 3), "no task 'aa'. Did you mean 'a'"),
        (
            lambda library: library.query(np.ones((2, 3), bool)),
            r"bool \[2, 3\] does not fit .* bool \[4, 10\]",
        ),
        (lambda library: library.query(np.ones((4, 10))), r"float64 \[4, 10\] does not fit"),
        (
            lambda library: library.query(np.full((2, 6), np.nan), 3, "prompt_cosine_mean_token"),
            r"finite floats \[P, 6\]",
        ),
        (lambda library: library.all_pairs("logme"), "cannot compute 'logme'"),
        (lambda library: library.all_pairs("on", kernel="gpu"), "no kernel 'gpu' here. Available: "),
    ],
)
def test_what_cannot_be_asked(library: Library, call: Callable[[Library], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(library)


def test_an_unknown_name_among_many_gives_the_nearest_not_all(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add(signature(f"task{number:03d}", number, trials=1) for number in range(60))
    with pytest.raises(
        SignatureError, match=r"Did you mean 'task007'.* `transferscope library list` shows all 60"
    ) as e:
        library.query("tsk007")
    assert len(str(e.value)) < 200


def test_there_is_no_library(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"no signature library in .*nothing.* \(no library.json\)"):
        Library.open(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


# what does not fit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "other"}, "of the backbone 'fingerprint' and 'x' of 'other'"),
        (
            {"active": np.ones((3, 5, NEURONS), bool), "predictivity": None},
            "4 layers of 10 neurons and 'x' 5 of 10",
        ),
        ({"prompts": np.ones((3, 4, 7), np.float32)}, "prompts are 6 wide and those of 'x' 7"),
        ({"active": np.ones((3, LAYERS, NEURONS))}, r"are float64 \[3, 4, 10\]: bool \[R, L, N\]"),
        ({"predictivity": np.ones((3, 1, LAYERS, 9))}, r"\[4, 9\] and active neurons \[4, 10\]"),
        ({"prompts": np.full((3, 4, WIDTH), np.inf, np.float32)}, "'x' hold numbers that are not finite"),
    ],
)
def test_a_signature_that_does_not_fit_is_refused(
    library: Library, changes: dict[str, Any], message: str
) -> None:
    wrong = signature("x", 8, **changes)
    before = snapshot(library.study.folder)
    with pytest.raises(SignatureError, match=message):
        library.add([wrong])
    assert snapshot(library.study.folder) == before
    with pytest.raises(SignatureError, match=message):
        library.query(wrong)
    with pytest.raises(SignatureError, match="cannot name a task"):
        library.add([several()[0]], prefix="\n")


def test_signatures_of_two_models_make_no_library(tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match="only signatures of one backbone"):
        Library(tmp_path).add([signature("a", 1), signature("b", 2, model="other")])
    with pytest.raises(StudyError, match="no signature library"):
        Library.open(tmp_path)


def test_every_indicator_of_a_library_is_in_the_registry() -> None:
    assert set(INDICATORS) <= set(names())
