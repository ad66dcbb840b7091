"""The report: one HTML file of what a study has, that works offline (`transferscope report`).

`collect` reads the study, `render` makes the page, `write_report` does both and writes the file.
"""

from __future__ import annotations

from transferscope.report.data import StudyReport, collect
from transferscope.report.render import available, render, require, write_report

__all__ = ["StudyReport", "available", "collect", "render", "require", "write_report"]
