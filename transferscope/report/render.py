"""The page: a template with everything in it, styles, scripts and numbers, and a policy that allows no more.

Text of the study reaches the page in two ways only: through the template, which escapes it, and as JSON in a
script element that is never run (`packing.json_for_script`), from where the scripts write it as text.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from importlib import resources

from transferscope import store
from transferscope.errors import InputError
from transferscope.report.data import StudyReport, collect
from transferscope.report.packing import json_for_script
from transferscope.workspace import Progress

DEFAULT_FILE = "report.html"
NEEDED = ("jinja2", "plotly")
# In this order they are one script: each reads what those before it define. Plotly follows it, being slow.
SCRIPTS = (
    "base.js",
    "figures.js",
    "charts.js",
    "ranking.js",
    "heatmaps.js",
    "layout.js",
    "graph.js",
    "agreement.js",
    "neurons.js",
    "start.js",
)


def available() -> bool:
    """Whether what the extra brings is installed."""
    return all(importlib.util.find_spec(name) is not None for name in NEEDED)


def require() -> None:
    """Raises InputError, which names the extra, where something of it is not installed."""
    if not available():
        raise InputError(
            "the report needs plotly and jinja2, and not both are installed: "
            "pip install 'transferscope[report]' (or pip install plotly jinja2)"
        )


def write_report(
    study: store.AnyPath, out: store.AnyPath | None = None, *, progress: Progress | None = None
) -> store.Place:
    """The report of a study folder (or study.yaml) as one HTML file; ``out`` None: report.html in the study.

    ``progress`` gets (stage, done, total, what) for each target that is ranked. Returns the file. Raises
    InputError (extra not installed, no study), StoreError (a damaged artefact).
    """
    require()
    given = store.place(study)
    folder = given if given.is_dir() else given.parent
    file = store.place(out) if out is not None else folder / DEFAULT_FILE
    if file.is_dir():
        raise InputError(f"{str(file)!r} is a folder: --out names the file to write, say {DEFAULT_FILE}")
    store.write_text(file, render(collect(study, progress)))
    return file


def render(report: StudyReport) -> str:
    """The page. The same record gives the same text."""
    require()
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    scripts = ["\n".join(_asset(name) for name in SCRIPTS), _plotly(), "drawNear();"]
    for script in scripts:
        _check_script(script)
    return environment.from_string(_asset("page.html.j2")).render(
        report=report,
        style=Markup(_asset("style.css")),
        scripts=[Markup(script) for script in scripts],
        hashes=[_hash(script) for script in scripts],
        data=Markup(json_for_script(report.data)),
    )


def _asset(name: str) -> str:
    return (resources.files("transferscope.report") / "assets" / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """plotly.js as the Python package ships it: the one file in the page that is not ours."""
    file = resources.files("plotly") / "package_data" / "plotly.min.js"
    return file.read_text(encoding="utf-8").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _check_script(text: str) -> None:
    """A browser would end a script at the first of these, or hash another text than the policy has."""
    found = [mark for mark in ("</script", "<!--", "\r", "\0") if mark in text]
    if found:
        raise InputError(
            f"a script of the report holds {found[0]!r}, which a page cannot: install another plotly"
        )


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
