"""Which plots there are, where they are written, and what the errors say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import plot_records as made
import pytest
from matplotlib.figure import Figure

from transferscope import plots
from transferscope.errors import InputError
from transferscope.plots import registry


def test_a_plot_is_one_decorated_function() -> None:
    class Record:
        pass

    @plots.plotter(Record, kind="nothing")
    def nothing(record: Record) -> Figure:
        return Figure(figsize=(1, 2))

    try:
        assert plots.kinds(Record()) == ("nothing",)
        assert plots.plot(Record(), types={"a": "b"}).get_size_inches().tolist() == [1, 2]
    finally:
        del registry._PLOTS[Record]


def test_the_first_kind_is_the_default_and_a_list_goes_by_its_elements() -> None:
    assert plots.kinds(made.transfer(3)) == ("heatmap", "relative")
    assert plots.kinds([made.indicator(3)]) == ("heatmap",)
    assert plots.kinds("text") == ()
    assert ("Ranking", "ranking") in plots.pairs()


def test_errors_name_what_there_is() -> None:
    with pytest.raises(InputError, match=r"no plot of a str\. Available: .*Ranking"):
        plots.plot("text")
    with pytest.raises(InputError, match=r"a TransferMatrix has no plot 'relativ'\. Did you mean 'relative'"):
        plots.plot(made.transfer(3), "relativ")
    with pytest.raises(InputError, match="the list of records is empty"):
        plots.plot([])


@pytest.mark.parametrize("ending", plots.ENDINGS)
def test_files_are_what_their_ending_says(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending.upper()}"
    plots.write(plots.plot(made.ranking(3)), path)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert path.read_bytes().startswith(start)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("name", "said"), [("a.jpg", r"the ending \.jpg"), ("a", "no ending")])
def test_another_ending_is_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(InputError, match=f"{said}.*Available: pdf, png, svg"):
        plots.write(plots.plot(made.ranking(3)), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_svg_has_a_title_and_no_markup_from_names() -> None:
    text = plots.render(plots.plot(made.graph_report(5)), "svg").decode()
    assert "<dc:title>The task graph by zero-shot</dc:title>" in text
    assert "<b>" not in text


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else found(name, *rest)
    )
    with pytest.raises(InputError, match=r"pip install 'transferscope\[plot\]'"):
        plots.plot(made.ranking(3))
