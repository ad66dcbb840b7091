"""The page without a browser: it loads nothing, names stay text, and it can be read."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.report_studies import HOSTILE, write_study
from transferscope.cli import main
from transferscope.errors import InputError
from transferscope.report import StudyReport, available, collect, render, write_report

pytest.importorskip("plotly", reason="needs the extra report")
REPOSITORY = Path(__file__).resolve().parents[2]
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """Elements with their attributes, in order, and the text inside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif not self._open or self._open[-1] != "style":
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> StudyReport:
    return collect(write_study(tmp_path_factory.mktemp("study"), [f"task_{i}" for i in range(6)]))


@pytest.fixture(scope="module")
def text(report: StudyReport) -> str:
    return render(report)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(render(collect(write_study(tmp_path_factory.mktemp("hostile"), HOSTILE))))


def test_the_same_record_gives_the_same_page(report: StudyReport, text: str) -> None:
    assert render(report) == text


def test_a_small_study_is_a_file_of_at_most_six_megabytes(text: str) -> None:
    assert len(text.encode()) <= 6_000_000


def test_the_page_loads_nothing(page: Page) -> None:
    for tag, attributes in page.elements:
        assert "src" not in attributes, (tag, attributes)
        assert tag not in {"iframe", "object", "embed", "form", "base"}
        target = attributes.get("href")
        assert target is None or target.startswith("#") or target == "data:,", (tag, attributes)
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert not re.search(r"script-src[^;]*unsafe", policy)


def test_the_policy_allows_the_scripts_of_the_page_and_no_other(page: Page) -> None:
    (policy,) = [str(m["content"]) for m in page.all("meta") if "http-equiv" in m]
    allowed = set(re.findall(r"'(sha256-[^']+)'", policy))
    run = [script for attributes, script in page.scripts if attributes.get("type") != "application/json"]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in run]
    assert len(run) == 3
    assert {f"sha256-{digest}" for digest in digests} == allowed


def test_the_numbers_are_in_the_page(report: StudyReport, page: Page) -> None:
    (data,) = [script for attributes, script in page.scripts if attributes.get("id") == "study"]
    assert json.loads(data) == json.loads(json.dumps(report.data))


def test_names_make_no_elements_and_no_attributes(page: Page, hostile: Page) -> None:
    # Rows and options differ with the tasks; no other kind of element or attribute comes with a name.
    def kinds(one: Page) -> set[tuple[str, str]]:
        return {(tag, name) for tag, attributes in one.elements for name in attributes}

    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in page.elements}
    assert kinds(hostile) - kinds(page) <= {("th", "class")}
    assert not any(name.startswith("on") for _, name in kinds(hostile))
    shown = "".join(hostile.texts)
    for name in HOSTILE:
        assert name in shown
    assert len(hostile.scripts) == len(page.scripts)


def test_names_are_no_templates(hostile: Page) -> None:
    assert "{{ 7 * 7 }}" in "".join(hostile.texts)
    assert "49 {% raw %}" not in "".join(hostile.texts)


def test_our_scripts_write_no_markup() -> None:
    folder = resources.files("transferscope.report") / "assets"
    for file in folder.iterdir():
        if file.name.endswith(".js"):
            source = file.read_text(encoding="utf-8")
            for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch("):
                assert word not in source, (file.name, word)


def test_every_control_has_a_label_and_every_picture_a_name(page: Page) -> None:
    labelled = {one["for"] for one in page.all("label")}
    for tag in ("select", "input"):
        for control in page.all(tag):
            assert control["id"] in labelled, control
    pictures = [one for one in page.all("div") if one.get("role") == "img"]
    assert len(pictures) == 7
    assert all(one.get("aria-label") for one in pictures)
    assert all(one.get("type") == "button" for one in page.all("button"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_headings_and_landmarks(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for landmark in ("header", "nav", "main", "footer"):
        assert len(page.all(landmark)) == 1
    targets = {attributes.get("id") for _, attributes in page.elements}
    assert {str(one["href"])[1:] for one in page.all("a")} <= targets
    assert page.all("html")[0]["lang"] == "en"


def themes() -> dict[str, dict[str, str]]:
    css = (resources.files("transferscope.report") / "assets" / "style.css").read_text(encoding="utf-8")
    colour = "(#[0-9a-f]{6})"
    found = re.findall(rf"(--[\w-]+): var\(--light, {colour}\) var\(--dark, {colour}\);", css)
    return {
        "light": {name: light for name, light, _ in found},
        "dark": {name: dark for name, _, dark in found},
    }


def test_every_colour_that_is_used_has_a_light_and_a_dark_one() -> None:
    css = (resources.files("transferscope.report") / "assets" / "style.css").read_text(encoding="utf-8")
    light, dark = themes().values()
    assert set(re.findall(r"var\((--[\w-]+)\)", css)) == set(light)
    assert light["--page"] != dark["--page"]


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_and_focus_be_seen(theme: str) -> None:
    colours = themes()[theme]
    for text, ground in [
        ("--text", "--page"),
        ("--text", "--card"),
        ("--text", "--button"),
        ("--muted", "--page"),
        ("--muted", "--card"),
        ("--link", "--page"),
        ("--link", "--card"),
        ("--warning", "--warning-card"),
    ]:
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for ground in ("--page", "--card"):
        assert contrast(colours["--focus"], colours[ground]) >= 3


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    without = lambda name, *rest: None if name == "plotly" else found(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    assert not available()
    with pytest.raises(InputError, match=r"transferscope\[report\]"):
        write_report(tmp_path)


def test_the_command_writes_the_page_into_the_study_or_where_it_is_told(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", ["a", "b", "c"])
    done = CliRunner().invoke(main, ["report", str(folder)])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(folder / "report.html")
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    elsewhere = tmp_path / "new" / "page.html"
    done = CliRunner().invoke(main, ["report", str(folder / "study.yaml"), "--out", str(elsewhere)])
    assert done.exit_code == 0, done.output
    assert elsewhere.read_bytes() == (folder / "report.html").read_bytes()
    done = CliRunner().invoke(main, ["report", str(folder), "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "is a folder" in done.stderr
    done = CliRunner().invoke(main, ["report", str(tmp_path / "nothing")])
    assert done.exit_code == 2


def test_the_name_of_the_page_is_the_name_of_the_study(tmp_path: Path, report: StudyReport) -> None:
    assert report.name.startswith("study")
    assert collect(write_study(tmp_path / "my study", ["a", "b"])).name == "my study"


def run_setup(folder: Path, programs: dict[str, str]) -> Any:
    """`scripts/setup --browser` where only these programs and the plain tools of a shell are found."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "cat", "cksum", "rm"):
        (tools / name).symlink_to(shutil.which(name) or "")
    for name, text in programs.items():
        (tools / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tools / name).chmod(0o755)
    environment = {"PATH": str(tools), "VENV": str(folder / "venv"), "PYTHON": str(folder / "no-python")}
    return subprocess.run(
        [str(REPOSITORY / "scripts/setup"), "--browser"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_setup_says_which_programs_a_user_has_to_install(tmp_path: Path) -> None:
    done = run_setup(tmp_path, {"id": "echo 1000"})
    assert done.returncode == 1
    assert "apt-get install chromium graphviz" in done.stderr


def test_setup_installs_what_is_missing_as_root(tmp_path: Path) -> None:
    called = tmp_path / "called"
    done = run_setup(tmp_path, {"id": "echo 0", "apt-get": f'echo "$@" >>{called}', "dot": "true"})
    assert called.read_text().splitlines() == ["update", "install -y --no-install-recommends chromium"]
    assert "needs Python 3.11" in done.stderr  # and then goes on with the environment


def test_setup_leaves_a_complete_system_alone(tmp_path: Path) -> None:
    called = tmp_path / "called"
    programs = {"id": "echo 0", "apt-get": f"echo called >>{called}", "dot": "true", "chromium": "true"}
    run_setup(tmp_path, programs)
    assert not called.exists()
