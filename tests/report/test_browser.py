"""The page in a real browser: headless Chromium, from a file: address, with nothing else to be reached."""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.report_studies import HOSTILE, write_study
from transferscope.report import write_report

if importlib.util.find_spec("playwright") is None:
    pytest.skip("needs playwright, to drive a browser: pip install playwright", allow_module_level=True)
pytest.importorskip("plotly", reason="needs the extra report")

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Route, sync_playwright

NAMES = tuple(f"task_{i}" for i in range(8))
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
# An idle machine opens it in less than 2 s, of which the browser works 1.4; the limits are for busy machines.
# `pytest -rP` prints what it took.
OPENS_IN, WORKS_FOR, ANSWERS_IN = 10_000, 3_000, 3_000  # milliseconds
NAMED = "all => all.map((one) => one.id || one.textContent)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium: scripts/setup --browser installs it")
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # root has no sandbox to put the browser in
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if root else []
        started = playwright.chromium.launch(executable_path=program, args=arguments)
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    return write_report(write_study(folder, NAMES, with_correlation=True, weak=["task_5"]))


@dataclass
class Window:
    """An open page, and what went wrong in it: errors, warnings, dialogs, requests beside the file itself."""

    page: Page
    wrong: list[str]


@contextmanager
def opened(browser: Browser, file: Path, size: str = "desktop", **options: Any) -> Iterator[Window]:
    """The page, drawn; the network is blocked."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    wrong: list[str] = []

    def stop(route: Route) -> None:
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            route.abort()

    def asked(request: Request) -> None:
        if request.url != file.as_uri() and not request.url.startswith(("data:", "blob:")):
            wrong.append(f"asked for {request.url}")

    def told(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            wrong.append(f"console: {message.text}")

    context.route("**/*", stop)
    page = context.new_page()
    page.on("request", asked)
    page.on("console", told)
    page.on("pageerror", lambda error: wrong.append(f"page error: {error}"))
    page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-drawn=yes]", timeout=OPENS_IN * 3)
    try:
        yield Window(page, wrong)
    finally:
        context.close()


@pytest.fixture(scope="module")
def window(browser: Browser, report: Path) -> Iterator[Window]:
    """One page at desktop width, for the tests that work in it one after another."""
    with opened(browser, report, color_scheme="light") as found:
        yield found


@pytest.fixture
def page(window: Window) -> Iterator[Page]:
    """That page; what goes wrong during a test fails it."""
    window.wrong.clear()
    yield window.page
    assert window.wrong == []


def downloaded(page: Page, figure: str) -> list[dict[str, str]]:
    with page.expect_download() as waiting:
        page.click(f"#{figure} .csv")
    path = waiting.value.path()
    return list(csv.DictReader(io.StringIO(Path(path).read_text(encoding="utf-8"))))


def rows(page: Page, where: str) -> list[str]:
    return page.locator(f"{where} tbody tr th").all_inner_texts()


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_every_picture_is_drawn_and_nothing_is_wider_than_the_window(
    browser: Browser, report: Path, size: str, scheme: str
) -> None:
    with opened(browser, report, size, color_scheme=scheme) as window:
        page = window.page
        for name in ("rank", "heat", "net", "forest", "budget", "layers", "top"):
            page.locator(f"#{name}").scroll_into_view_if_needed()
            page.wait_for_selector(f"#{name}-picture svg")
            assert page.get_attribute(f"#{name}-picture", "aria-label")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(19, 23, 28)")
        assert window.wrong == []


def test_it_opens_soon(browser: Browser, report: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})  # processor time, not that of a clock
    page.goto(report.as_uri())
    page.wait_for_selector("html[data-drawn=yes]", timeout=OPENS_IN * 3)
    found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    works = 1000 * found["TaskDuration"]
    readable = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    print(f"first text after {readable:.0f} ms, drawn with {works:.0f} ms of work")
    context.close()
    assert readable < OPENS_IN / 2
    assert works < WORKS_FOR


def test_the_target_is_changed_and_its_ranking_is_shown(page: Page) -> None:
    assert "task_0" not in rows(page, "#rank-table")
    before = page.inner_html("#rank-table")
    page.select_option("#rank-target", label="task_4")
    assert page.inner_html("#rank-table") != before
    names = rows(page, "#rank-table")
    assert sorted(name.split()[0] for name in names) == [name for name in NAMES if name != "task_4"]
    assert "task_5 weak prompt" in names
    assert page.inner_text("#rank-said").startswith("First for task_4: ")
    assert page.locator("#rank-notes li").count() >= 4
    table = downloaded(page, "rank")
    assert [row["source"] for row in table] == [name.split()[0] for name in names]
    assert {row["target"] for row in table} == {"task_4"}
    assert all(float(row["low"]) <= float(row["score"]) <= float(row["high"]) for row in table)
    page.select_option("#rank-by", label="on")
    by_on = downloaded(page, "rank")
    scores = [float(row["score"]) for row in by_on]
    assert scores == sorted(scores, reverse=True)
    assert {(row["indicator"], row["low"]) for row in by_on} == {("on", "")}


def test_a_cell_tells_its_value_to_pointer_and_keyboard(page: Page) -> None:
    page.select_option("#heat-order", "study")
    page.locator("#heat").scroll_into_view_if_needed()
    page.wait_for_selector("#heat-picture .heatmaplayer image")
    table = {(row["source"], row["target"]): float(row["value"]) for row in downloaded(page, "heat")}
    assert len(table) == 64
    page.locator("#heat-picture").scroll_into_view_if_needed()
    box = page.locator("#heat-picture .heatmaplayer image").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 2.5 / 8, box["y"] + box["height"] * 1.5 / 8)
    page.wait_for_selector("#heat-picture .hoverlayer .hovertext")
    shown = page.text_content("#heat-picture .hoverlayer .hovertext") or ""
    assert "task_1 \u2192 task_2" in shown
    assert f"{table['task_1', 'task_2']:.4f}" in shown
    page.focus("#heat-picture")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    said = page.inner_text("#heat-said")
    assert "task_1 \u2192 task_1" in said
    page.select_option("#heat-measure", label="on")
    assert {row["measure"] for row in downloaded(page, "heat")} == {"on"}


def test_the_slider_hides_arrows_and_tasks_can_be_moved(page: Page) -> None:
    page.locator("#net").scroll_into_view_if_needed()
    page.wait_for_selector("#net-picture .node")
    assert page.locator("#net-picture .node").count() == 8
    page.fill("#net-least", "0")
    assert page.locator("#net-picture .edge").count() == 56
    page.focus("#net-least")
    page.keyboard.press("End")
    assert page.locator("#net-picture .edge").count() == 1
    assert "1 of 56 arrows" in page.inner_text("#net-shown")
    (largest,) = downloaded(page, "net")
    page.fill("#net-least", "0")
    every = [float(row["value"]) for row in downloaded(page, "net")]
    assert float(largest["value"]) == max(every)
    node = page.locator("#net-picture .node").nth(3)
    place = node.get_attribute("transform")
    node.focus()
    page.keyboard.press("ArrowDown")
    moved = node.get_attribute("transform")
    assert moved != place
    page.keyboard.press("Enter")
    assert "task_3 (opinion). Its own prompt reaches 0.95" in page.inner_text("#net-said")
    assert page.locator("#net-picture .edge.faded").count() == 42  # 14 have to do with the task
    page.keyboard.press("Escape")
    assert page.locator("#net-picture .edge.faded").count() == 0
    box = node.locator("path").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y - 40, steps=4)
    page.mouse.up()
    after = node.locator("path").bounding_box()
    assert after is not None
    assert after["x"] - box["x"] == pytest.approx(60, abs=2)
    scene = page.locator("#net-picture svg > g")
    page.click("#net-in")
    assert "scale(1.3)" in (scene.get_attribute("transform") or "")
    page.click("#net-reset")
    assert "scale(1)" in (scene.get_attribute("transform") or "")
    assert node.get_attribute("transform") == place  # the same places every time
    page.select_option("#net-colour", "community")
    assert "community 1" in page.inner_text("#net-legend")


def test_the_numbers_behind_a_picture_can_be_read_as_a_table(page: Page) -> None:
    for figure in ("forest", "budget", "layers", "top"):
        page.locator(f"#{figure}").scroll_into_view_if_needed()
        page.click(f"#{figure} summary")
        page.wait_for_selector(f"#{figure} table")
        table = page.locator(f"#{figure} tbody tr").count()
        assert table == len(downloaded(page, figure)) > 0
    page.select_option("#forest-metric", "regret@1")
    assert {row["metric"] for row in downloaded(page, "forest")} == {"regret@1"}
    assert "Lower is better" in page.inner_text("#forest-said")
    page.select_option("#top-task", label="task_2")
    assert {row["task"] for row in downloaded(page, "top")} == {"task_2"}


def test_the_theme_can_be_chosen(page: Page) -> None:
    page.click("#theme")
    assert page.get_attribute("#theme", "aria-pressed") == "true"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 23, 28)"
    tick = page.evaluate("getComputedStyle(document.querySelector('#rank-picture .ytick text')).fill")
    assert tick == "rgb(230, 234, 240)"
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_paper_is_light_has_every_picture_and_no_buttons(browser: Browser, report: Path) -> None:
    with opened(browser, report, color_scheme="dark") as window:
        page = window.page
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 718, "height": 1000})
        for name in ("rank", "heat", "net", "forest", "budget", "layers", "top"):
            page.wait_for_selector(f"#{name}-picture svg")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.is_visible("nav")
        assert not page.is_visible("#rank .csv")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert len(page.pdf(format="A4")) > 20_000
        assert window.wrong == []


def test_every_control_is_reached_by_the_keyboard_and_seen(page: Page) -> None:
    wanted = set(page.locator("select, input, button, summary").evaluate_all(NAMED))
    reached = set()
    for _ in range(150):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "[document.activeElement.id || document.activeElement.textContent,"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        if name in wanted:
            assert outline == "solid", name
            reached.add(name)
    assert reached == wanted


def test_hostile_names_are_names(browser: Browser, tmp_path: Path) -> None:
    file = write_report(write_study(tmp_path, HOSTILE))
    with opened(browser, file, "phone") as window:
        page = window.page
        for name in ("rank", "heat", "net", "forest", "budget"):
            page.locator(f"#{name}").scroll_into_view_if_needed()
            page.wait_for_selector(f"#{name}-picture svg")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        for target in range(len(HOSTILE)):
            page.select_option("#rank-target", str(target))
        page.fill("#net-least", "0")
        page.click("#heat summary")
        page.wait_for_selector("#heat table")
        page.focus("#heat-picture")
        for key in ("ArrowDown", "ArrowRight", "ArrowDown"):
            page.keyboard.press(key)
        page.wait_for_timeout(300)
        hovered = page.locator("#heat-picture .hoverlayer .hovertext")
        assert hovered.count() == 1
        assert page.locator("img, iframe, [onerror], [onmouseover]").count() == 0
        assert page.locator(".picture a, svg a").count() == 0  # plotly makes links of some names
        assert page.evaluate("document.scripts.length") == 4
        assert set(rows(page, "#rank-table")) <= set(HOSTILE)
        table = downloaded(page, "heat")
        assert {row["source"].removeprefix("'") for row in table} == set(HOSTILE)
        # What a spreadsheet would compute is text there.
        assert not any(
            re.match(r"[=+\-@]", value) for row in table for value in (row["source"], row["target"])
        )
        assert window.wrong == []


def test_sixty_tasks_and_twenty_indicators_stay_usable(browser: Browser, tmp_path: Path) -> None:
    names = [f"task_{i:02d}{'_with_a_longer_name' * (i % 3)}" for i in range(60)]
    indicators = [f"indicator_{k}" for k in range(19)] + ["on"]
    folder = write_study(tmp_path, names, indicators=indicators, with_signatures=False, targets=6)
    file = write_report(folder)
    assert file.stat().st_size <= 12_000_000
    print("size (MB)", file.stat().st_size / 1e6)
    with opened(browser, file) as window:
        page = window.page
        for control, value, event in [
            ("#rank-target", "31", "change"),
            ("#heat-measure", "7", "change"),
            ("#net-measure", "9", "change"),
            ("#net-least", "0", "input"),
            ("#net-least", "190", "input"),
        ]:
            page.locator(control).scroll_into_view_if_needed()
            took = page.evaluate(
                """([control, value, event]) => {
                    const item = document.querySelector(control);
                    const start = performance.now();
                    item.value = value;
                    item.dispatchEvent(new Event(event, { bubbles: true }));
                    return performance.now() - start;
                }""",
                [control, value, event],
            )
            print(f"{control} (ms)", round(took))
            assert took < ANSWERS_IN, (control, took)
        assert len(rows(page, "#rank-table")) == 59
        assert page.locator("#net-picture .node").count() == 60
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert window.wrong == []
