"""--executor, --workers and --address: what the study is opened with, and that the executor is let go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from transferscope.cli import main
from transferscope.errors import StudyError
from transferscope.executors.processes import Processes

COMMANDS = [
    ["run", "s"],
    ["rank", "t", "--study", "s"],
    *([verb, "--study", "s"] for verb in ("tune", "extract", "compare", "measure")),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_the_study_is_opened_with_the_executor(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    closed: list[Processes] = []

    def open_study(path: Path, *, executor: Any, **channels: Any) -> Any:
        opened.append(executor)
        assert not closed
        raise StudyError("far enough")

    monkeypatch.setattr("transferscope.distribution.open_study", open_study)
    monkeypatch.setattr(Processes, "close", lambda self: closed.append(self))
    result = CliRunner().invoke(main, [*command, "--executor", "processes", "--workers", "3"])
    assert (result.exit_code, result.stderr) == (2, "Error: far enough\n")
    (executor,) = opened
    assert isinstance(executor, Processes)
    assert executor.workers == 3
    assert closed == [executor]
