"""What is kept and current is silent; what is not says once why it is made again."""

from __future__ import annotations

from transferscope.staleness import is_current, say_again

INPUTS = {"model": "a", "settings": {"steps": 10}, "seeds": (0, 1)}


def test_what_was_made_from_the_same_is_current_and_nothing_is_said() -> None:
    lines: list[str] = []
    # As it is read from a file: JSON has lists alone.
    assert is_current({"inputs": {**INPUTS, "seeds": [0, 1]}}, INPUTS, lines.append, "tuning pets")
    assert lines == []


def test_one_line_says_all_that_changed() -> None:
    lines: list[str] = []
    now = {"model": "b", "settings": {"steps": 20}, "seeds": (0, 1)}
    assert not is_current({"inputs": INPUTS}, now, lines.append, "tuning pets")
    assert lines == ['tuning pets again: model: was "a", now "b"; settings.steps: was 10, now 20']


def test_what_does_not_say_what_it_was_made_from_is_made_again() -> None:
    for provenance in ({}, {"inputs": None}):
        lines: list[str] = []
        assert not is_current(provenance, {"model": "a"}, lines.append, "tuning pets")
        assert lines == ['tuning pets again: model: new, "a"']


def test_nothing_is_said_where_nothing_changed() -> None:
    lines: list[str] = []
    say_again(lines.append, "measuring", [])
    assert lines == []
