"""The gallery has the picture of every command line on it, and names every kind of plot there is."""

from __future__ import annotations

import re
from pathlib import Path

from transferscope import plots

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "gallery.md").read_text(encoding="utf-8")


def test_every_command_has_its_picture_and_every_picture_its_command() -> None:
    made = set(re.findall(r"^transferscope .*--plot (\S+\.png)", PAGE, re.MULTILINE))
    shown = set(re.findall(r"\]\(pictures/(\S+)\)", PAGE))
    there = {file.name for file in (DOCS / "pictures").iterdir()}
    assert made == shown == there


def test_pictures_are_small() -> None:
    assert sum(file.stat().st_size for file in (DOCS / "pictures").iterdir()) < 1_500_000


def test_every_kind_is_named() -> None:
    for kind in {kind for _, kind in plots.pairs()}:
        assert f"`{kind}`" in PAGE, kind
