"""Ordering: task types first, measured sources first, races; and the options of `rank` that ask for it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from transferscope import ordering
from transferscope.cli import main
from transferscope.comparison import IndicatorMatrix
from transferscope.errors import InputError
from transferscope.exporters import export
from transferscope.ordering import by_known, remeasured
from transferscope.prompts import SoftPrompt, save_prompt
from transferscope.ranking import Ranking, measured_only, rank, rank_prompts, rank_values
from transferscope.signatures import Signature
from transferscope.transfer import PROTOCOLS, TransferMatrix


def rows(angle: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Prompt rows that point `angle` away from the first axis."""
    return np.tile(np.array([np.cos(angle), np.sin(angle), 0.0], np.float32), (2, 1))


def pool(**angles: float) -> dict[str, Signature]:
    """Tasks with two equal trials; by prompts near comes before middle, and middle before far."""
    angles = angles or {"target": 0.0, "near": 0.2, "far": 1.2, "middle": 0.7}
    return {task: signature(task, angle) for task, angle in angles.items()}


def signature(task: str, angle: float) -> Signature:
    stimulation = np.ones((2, 1, 4), np.float32)
    return Signature(
        task=task,
        seeds=(0, 1),
        model="fingerprint",
        prompts=np.stack([rows(angle)] * 2),
        stimulation=stimulation,
        active=stimulation > 0,
        provenance={"model": "tiny"},
    )


def write(folder: Path, angle: float, task: str) -> Path:
    save_prompt(SoftPrompt(rows(angle), task, provenance={"model": "hub/tiny"}), folder)
    return folder


def order(found: Ranking) -> list[str]:
    return [source.source for source in found.sources]


TYPES = {"target": "x", "near": "y", "far": "x", "middle": "x"}


def column(**values: float) -> TransferMatrix:
    """Measured transfer from these sources to the target."""
    sources = tuple(values)
    cells = np.array([[value] for value in values.values()])
    return TransferMatrix("zero-shot", sources, ("target",), cells, cells[None])


def note(found: Ranking, beginning: str) -> str:
    (one,) = [note for note in found.notes if note.startswith(beginning)]
    return one


def test_the_same_type_comes_first_and_the_score_orders_within() -> None:
    plain = rank("target", pool(), types=TYPES)
    found = rank("target", pool(), types=TYPES, prefer_same_type=True)
    assert order(plain) == ["near", "middle", "far"]
    assert order(found) == ["middle", "far", "near"]
    assert [source.rank for source in found.sources] == [1, 2, 3]
    by_name = {source.source: source for source in plain.sources}
    for source in found.sources:  # intervals and ties are those of the score
        assert source == replace(by_name[source.source], rank=source.rank)
    said = note(found, "Sorted by type first")
    assert "the target's type, x (middle, far)" in said
    assert said.endswith("whose best is near.")


def test_the_same_type_first_for_tables_and_folders(tmp_path: Path) -> None:
    values = np.array([[1.0, 0.2, 0.9], [0.5, 1.0, 0.3], [0.7, 0.1, 1.0]])
    matrix = IndicatorMatrix("on", ("a", "b", "c"), values)
    types = {"a": "x", "b": "x", "c": "y"}
    assert order(rank_values("a", [matrix], types=types)) == ["c", "b"]
    assert order(rank_values("a", [matrix], types=types, prefer_same_type=True)) == ["b", "c"]
    target = write(tmp_path / "target", 0.0, "target")
    sources = [write(tmp_path / name, angle, name) for name, angle in {"near": 0.2, "far": 1.2}.items()]
    assert order(rank_prompts(target, sources, types=TYPES)) == ["near", "far"]
    assert order(rank_prompts(target, sources, types=TYPES, prefer_same_type=True)) == ["far", "near"]


def test_no_source_of_the_target_s_type_leaves_the_order_of_the_score() -> None:
    types = {**TYPES, "target": "z"}
    found = rank("target", pool(), types=types, prefer_same_type=True)
    assert order(found) == ["near", "middle", "far"]
    assert note(found, "No source is of the target's type, z")


@pytest.mark.parametrize("unknown", ["target", "far"])
def test_types_that_are_needed_and_not_known_are_named(unknown: str) -> None:
    types = {name: kind for name, kind in TYPES.items() if name != unknown}
    with pytest.raises(InputError, match=f"type of the target and of every source; .* of: {unknown}$"):
        rank("target", pool(), types=types, prefer_same_type=True)


def test_the_first_k_are_ordered_by_what_is_known_of_them() -> None:
    transfer = column(near=0.4, middle=0.6, far=0.9)
    found = rank("target", pool(), transfer=transfer, measure=2)
    assert order(found) == ["middle", "near", "far"]  # far transfers best, but was not among the first two
    assert [source.basis for source in found.sources] == ["measured", "measured", "predicted"]
    assert [source.rank for source in found.sources] == [1, 2, 3]
    assert "2 of 3 sources (middle, near)" in note(found, "Measured:")
    assert "A better one may be among those only predicted." in note(
        found, "First by what was measured: middle, 0.6000."
    )
    assert not [note for note in found.notes if "prediction;" in note or "regret" in note]


def test_types_choose_what_is_measured() -> None:
    transfer = column(near=0.9, middle=0.5, far=0.6)
    found = rank("target", pool(), transfer=transfer, types=TYPES, prefer_same_type=True, measure=2)
    assert order(found) == ["far", "middle", "near"]
    assert not [note for note in found.notes if "type and score" in note]


def test_where_all_are_measured_the_prediction_can_be_judged() -> None:
    transfer = column(near=0.4, middle=0.6, far=0.9)
    found = rank("target", pool(), transfer=transfer, measure=10)
    assert order(found) == ["far", "middle", "near"]
    assert note(found, "Measured: all 3 sources")
    said = note(found, "First by what was measured: far, 0.9000.")
    assert said.endswith("The first by prediction, near, reaches 0.4000.")
    none = rank("target", pool())
    random = remeasured(none, {"near": 0.4, "middle": 0.6, "far": 0.9}).baselines[0]
    assert none.baselines[0].measured is None
    assert random.measured == pytest.approx(1.9 / 3)


def test_equal_values_stay_in_the_predicted_order() -> None:
    found = rank("target", pool(), transfer=column(near=0.5, middle=0.5, far=0.5), measure=3)
    assert order(found) == ["near", "middle", "far"]


def test_a_race_puts_survivors_first_and_says_what_it_spent() -> None:
    found = remeasured(
        rank("target", pool()),
        {"near": 0.6, "middle": 0.8, "far": 0.9},
        examples={"near": 100, "middle": 100, "far": 32},
        dropped={"near": None, "middle": None, "far": 1},
        spent=232,
        exhaustive=300,
    )
    assert order(found) == ["middle", "near", "far"]  # far was dropped: its .9 is of 32 examples
    assert [source.examples for source in found.sources] == [100, 100, 32]
    assert "Left at the end: middle, near, which the race does not tell apart." in note(
        found, "Raced: 3 of 3"
    )
    assert "232 of the 300" in note(found, "Forward passes")
    assert "(77%)" in note(found, "Forward passes")
    assert "among those left out before the last example" in note(found, "First by what was measured: middle")


def test_a_race_that_dropped_nobody_measured_everything() -> None:
    values = {"near": 0.6, "middle": 0.8, "far": 0.9}
    examples, left = dict.fromkeys(values, 100), dict.fromkeys(values)
    found = remeasured(
        rank("target", pool()), values, examples=examples, dropped=left, spent=300, exhaustive=300
    )
    assert order(found) == ["far", "middle", "near"]
    assert note(found, "First by what was measured: far").endswith("near, reaches 0.6000.")


def test_later_rounds_stand_above_earlier_ones_and_predictions_below() -> None:
    found = remeasured(
        rank("target", pool(target=0.0, a=0.1, b=0.2, c=0.3, d=0.4)),
        {"a": 0.9, "b": 0.5, "c": 0.6},
        dropped={"a": 1, "b": None, "c": 2},
    )
    assert order(found) == ["b", "c", "a", "d"]
    assert "The other 1 are only predicted" in note(found, "Raced: 3 of 4 sources")


def test_measuring_that_cannot_be() -> None:
    found = rank("target", pool(), transfer=column(near=0.4))
    with pytest.raises(InputError, match=r"first 2 sources for 'target' .* none is known of: middle$"):
        by_known(found, 2)
    with pytest.raises(InputError, match="0 sources to measure: at least one"):
        by_known(found, 0)
    with pytest.raises(InputError, match=r"'naer' is not in the ranking. Did you mean 'near'"):
        remeasured(found, {"naer": 0.5})
    with pytest.raises(InputError, match="value of 'near' is nan"):
        remeasured(found, {"near": float("nan")})
    with pytest.raises(InputError, match="at least one value"):
        remeasured(found, {})
    assert ordering.first(found, 2) == ("near", "middle")
    assert ordering.first(found, 20) == ("near", "middle", "far")
    assert order(by_known(found, 1)) == ["near", "middle", "far"]


def test_a_target_without_a_prompt_is_ranked_by_what_was_measured_alone() -> None:
    found = measured_only(
        "new",
        {"a": 0.5, "b": 0.7, "c": 0.6},
        model="tiny",
        types={"new": "x", "a": "x", "b": "y", "c": "y"},
        own={"a": 0.9, "b": 0.8, "c": 0.7},
        examples={"a": 32, "b": 100, "c": 100},
        dropped={"a": 1, "b": None, "c": None},
        spent=232,
        exhaustive=300,
    )
    assert order(found) == ["b", "c", "a"]
    assert found.indicator is None
    assert all(source.score is None and source.basis == "measured" for source in found.sources)
    assert [source.type for source in found.sources] == ["y", "y", "x"]
    assert {b.name: b.best for b in found.baselines} == {
        "random": None,
        "same_type": ("a",),
        "own_performance": ("a",),
    }
    assert found.baselines[0].measured is None  # values of different examples are not averaged
    assert not [note for note in found.notes if "prediction" in note]
    whole = measured_only("new", {"a": 0.5, "b": 0.7}, spent=200, exhaustive=200)
    assert whole.baselines[0].measured == pytest.approx(0.6)
    assert note(whole, "First by what was measured: b, 0.7000.").endswith("0.7000.")


class FakeStudy:
    """Stands in for a study: keeps what it is asked for."""

    def __init__(self, answer: Ranking) -> None:
        self.answer = answer
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    def rank(self, target: str, **options: Any) -> Ranking:
        self.asked.append((target, options))
        return self.answer


def call(*args: Any) -> Result:
    return CliRunner().invoke(main, ["rank", *map(str, args)])


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ([], {}),
        (["--measure", "3"], {"measure": 3}),
        (["--race"], {"race": True}),
        (["--measure", "3", "--adaptive"], {"measure": 3, "adaptive": True}),
        (
            ["--race", "--measure", "2", "--prefer-same-type"],
            {"race": True, "measure": 2, "prefer_same_type": True},
        ),
        (
            ["--protocol", "linear-probe", "--indicator", "on"],
            {"protocol": "linear-probe", "indicator": "on"},
        ),
    ],
)
def test_a_study_is_asked_for_what_is_given(
    monkeypatch: pytest.MonkeyPatch, given: list[str], changed: dict[str, Any]
) -> None:
    study = FakeStudy(rank("target", pool()))
    monkeypatch.setattr("transferscope.pipeline.open_study", lambda path, **channels: study)
    result = call("target", "--study", "s", "--format", "json", *given)
    assert result.exit_code == 0
    assert result.stdout == export(study.answer, "json") + "\n"
    defaults = {
        "indicator": None,
        "measure": None,
        "race": False,
        "adaptive": False,
        "prefer_same_type": False,
        "protocol": None,
    }
    assert study.asked == [("target", {**defaults, **changed})]


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Path]:
    """CSV files: one indicator's values for the target a, measured transfer of b and c, types."""
    texts = {
        "indicators": "indicator,source,target,value\non,b,a,.5\non,c,a,.7\non,d,a,.1\non,a,a,1\n",
        "transfer": "protocol,source,target,seed,metric,value\nzero-shot,b,a,0,accuracy,.9\n"
        "zero-shot,c,a,0,accuracy,.8\n",
        "types": "task,type\na,x\nb,x\nc,y\nd,x\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    return {name: tmp_path / f"{name}.csv" for name in texts}


def test_tables_are_measured_from_the_transfer_file(tables: dict[str, Path]) -> None:
    files = [
        "--indicators",
        tables["indicators"],
        "--transfer",
        tables["transfer"],
        "--types",
        tables["types"],
    ]
    result = call("a", *files, "--measure", "2", "--format", "csv")
    assert result.exit_code == 0
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["source"], row["basis"]) for row in rows] == [
        ("b", "measured"),
        ("c", "measured"),
        ("d", "predicted"),
    ]
    typed = call("a", *files, "--prefer-same-type", "--format", "csv")
    assert [row["source"] for row in csv.DictReader(io.StringIO(typed.stdout))] == ["b", "d", "c"]
    missing = call("a", *files, "--measure", "3")
    assert missing.exit_code == 2
    assert "none is known of: d" in missing.stderr


def test_prompts_are_measured_from_the_transfer_file(tmp_path: Path) -> None:
    target = write(tmp_path / "target", 0.0, "target")
    for name, angle in {"near": 0.2, "far": 1.2}.items():
        write(tmp_path / "pool" / name, angle, name)
    file = tmp_path / "transfer.csv"
    file.write_text(
        "protocol,source,target,seed,metric,value\nzero-shot,near,target,0,accuracy,.3\n"
        "zero-shot,far,target,0,accuracy,.6\n"
    )
    found = call(
        target, "--prompts", tmp_path / "pool", "--transfer", file, "--measure", "2", "--format", "csv"
    )
    assert [row["source"] for row in csv.DictReader(io.StringIO(found.stdout))] == ["far", "near"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--indicators", "indicators", "--race"], "--race, --adaptive and --protocol go with --study"),
        (["--indicators", "indicators", "--protocol", "zero-shot"], "and --protocol go with --study"),
        (["--study", "s", "--adaptive"], "--adaptive goes with --measure K, and not with --race"),
        (["--study", "s", "--race", "--measure", "2", "--adaptive"], "and not with --race"),
        (["--indicators", "indicators", "--measure", "2"], "--measure needs --transfer FILE"),
        (["--indicators", "indicators", "--transfer", "transfer", "--measure", "0"], "0 is not in the range"),
        (["--study", "s", "--transfer", "transfer"], "--types and --transfer with it or --indicators"),
        (["--indicators", "indicators", "--prefer-same-type"], "it is not known of: a, b, c, d"),
    ],
)
def test_options_that_do_not_go_together(tables: dict[str, Path], given: list[str], message: str) -> None:
    result = call("a", *(tables.get(word, word) for word in given))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_the_protocols_of_the_verb_are_those_of_the_library() -> None:
    option = next(one for one in main.get_command(None, "rank").params if one.name == "protocol")  # type: ignore[arg-type,union-attr]
    assert set(option.type.choices) == set(PROTOCOLS) - {"init"}  # type: ignore[attr-defined]
