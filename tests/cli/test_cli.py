"""The command line: what it calls, what it prints and where, exit statuses, and what it must not import."""

from __future__ import annotations

import builtins
import contextlib
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

import indicators
import transferscope
from transferscope import architectures
from transferscope import cli as package
from transferscope.cli import main
from transferscope.comparison import IndicatorMatrix, compare_folders, from_rows
from transferscope.errors import StoreError, StudyError
from transferscope.exporters import export
from transferscope.prompts import SoftPrompt, save_prompt
from transferscope.ranking import RankedSource, Ranking, rank_prompts

VERBS = (
    "choose", "compare", "correlate", "demo", "export", "extract", "graph", "import",
    "library", "list", "measure", "neurons", "origin", "perturb", "project", "prune", "rank", "report", "run",
    "tune",
)  # fmt: skip


def call(*args: Any) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


class FakePipeline:
    """Stands in for a study: notes what is asked of it."""

    ranking = Ranking(
        "a", "tiny", "on", (RankedSource(1, "b", 0.5, None, None, None, None, None),), (), ("note",)
    )
    matrices = (IndicatorMatrix("on", ("a", "b"), np.eye(2)),)
    types: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.error: BaseException | None = None

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        self.report("working")
        self.progress("tune", 1, 2, "a")
        if self.error is not None:
            raise self.error

    def open(self, path: Path, *, report: Any, progress: Any) -> FakePipeline:
        self.path, self.report, self.progress = path, report, progress
        return self

    def tune(self, tasks: Any = None) -> None:
        self._note("tune", tasks)

    def given(self, tasks: Any = None) -> list[str]:
        return []

    def extract(self, tasks: Any = None) -> None:
        self._note("extract", tasks)

    def compare(self, names: Any = None) -> list[IndicatorMatrix]:
        self._note("compare", names)
        return list(self.matrices)

    def run(self) -> Ranking:
        self._note("run")
        return self.ranking

    def rank(self, target: str, **options: Any) -> Ranking:
        self._note("rank", target, options)
        return self.ranking


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    fake = FakePipeline()
    monkeypatch.setattr("transferscope.pipeline.open_study", fake.open)
    return fake


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Three PEFT prompt folders: target, near, far."""
    for name, angle in {"target": 0.0, "near": 0.2, "far": 1.2}.items():
        rows = np.tile(np.array([np.cos(angle), np.sin(angle), 0.0], np.float32), (2, 1))
        save_prompt(SoftPrompt(rows, name, provenance={"model": "hub/tiny"}), tmp_path / name)
    return tmp_path


def test_help_lists_every_command() -> None:
    result = call("--help")
    assert result.exit_code == 0
    assert [verb for verb in VERBS if f"\n  {verb} " not in result.output] == []
    assert tuple(main.list_commands(click.Context(main))) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_each_command_has_help_with_an_example_that_parses_as_its_own(verb: str) -> None:
    result = call(verb, "--help")
    assert result.exit_code == 0
    assert f"\n  transferscope {verb}" in result.output


def test_version() -> None:
    assert call("--version").output.strip().endswith(transferscope.__version__)


@pytest.mark.parametrize(
    "command", [["--help"], ["rank", "--help"], ["list", "indicators"], ["list", "architectures"]]
)
def test_light_commands_import_nothing_heavy(command: list[str]) -> None:
    code = (
        "import sys, time\nfrom transferscope.cli import main\n"
        f"try: main({command!r})\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'pandas'} & set(sys.modules)\n"
        "light = {'numpy', 'rich', 'pydantic', 'scipy'} & set(sys.modules)\n"
        "print(sorted(heavy), sorted(light), time.process_time(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, light, seconds = done.stderr.strip().rsplit("] ", 2)[0] + "]", done.stderr, done.stderr.split()[-1]
    assert heavy.startswith("[]")
    if "--help" in command:
        assert light.startswith("[] []")
        assert float(seconds) < 0.5


def test_rank_of_a_study(study: FakePipeline) -> None:
    result = call("rank", "a", "--study", "my-study", "--indicator", "on", "--format", "json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads(export(study.ranking, "json"))
    assert "working" in result.stderr
    assert study.path == Path("my-study")
    asked = {"measure": None, "race": False, "adaptive": False, "prefer_same_type": False, "protocol": None}
    assert study.calls == [("rank", "a", {"indicator": "on", **asked})]


def test_compare_of_a_study(study: FakePipeline) -> None:
    result = call("compare", "--study", "s", "--indicator", "on", "--indicator", "on_raw", "--format", "csv")
    assert result.stdout == export(list(study.matrices), "csv") + "\n"
    assert study.calls == [("compare", ["on", "on_raw"])]


@pytest.mark.parametrize("verb", ["tune", "extract"])
def test_tune_and_extract(study: FakePipeline, verb: str) -> None:
    assert call(verb, "--study", "s").exit_code == 0
    assert call(verb, "a", "b", "--study", "s").exit_code == 0
    assert study.calls == [(verb, None), (verb, ["a", "b"])]


def test_run_prints_what_the_study_came_to(study: FakePipeline) -> None:
    result = call("run", "my-study", "--format", "md")
    assert result.stdout == export(study.ranking, "md") + "\n"
    assert (study.path, study.calls) == (Path("my-study"), [("run",)])


def test_demo_tells_what_it_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run_demo(out: Path, *, seed: int, report: Any, progress: Any) -> tuple[Path, int]:
        report("tuning")
        return out, seed

    monkeypatch.setattr("transferscope.demo.run.run_demo", run_demo)
    monkeypatch.setattr(
        "transferscope.demo.story.tell", lambda demo, width: f"found {demo[0].name} {demo[1]}"
    )
    result = call("demo", "--out", tmp_path / "study", "--seed", "3")
    assert (result.stdout, result.stderr) == ("found study 3\n", "tuning\n")


def test_quiet_keeps_stderr_empty(study: FakePipeline) -> None:
    result = call("--quiet", "rank", "a", "--study", "s")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "b" in result.stdout


def test_output_goes_to_a_file(study: FakePipeline, tmp_path: Path) -> None:
    file = tmp_path / "ranking.json"
    result = call("rank", "a", "--study", "s", "--format", "json", "--output", file)
    assert result.stdout == ""
    assert json.loads(file.read_text())["target"] == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["ranking.json"]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (StudyError("no task 'x'. Did you mean 'a'?"), 2, "Error: no task 'x'. Did you mean 'a'?"),
        (StoreError("x is damaged"), 1, "Error: x is damaged"),
        (RuntimeError("boom"), 1, "Error: unexpected RuntimeError: boom (transferscope --verbose COMMAND"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to go on"),
    ],
)
def test_errors_are_one_line_and_an_exit_status(
    study: FakePipeline, error: BaseException, status: int, message: str
) -> None:
    study.error = error
    result = call("rank", "a", "--study", "s")
    assert result.exit_code == status
    last = result.stderr.splitlines()[1:]  # after "working"
    assert len(last) == 1
    assert last[0].startswith(message)
    assert result.stdout == ""
    assert "Traceback" not in result.output


def test_verbose_shows_the_traceback(study: FakePipeline) -> None:
    study.error = RuntimeError("boom")
    result = call("--verbose", "rank", "a", "--study", "s")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "in _note" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["rnak"], "no command 'rnak'. Did you mean 'rank'?"),
        (["rank", "a"], "give one of --study DIR, --prompts DIR"),
        (["rank", "a", "--study", "s", "--format", "xml"], "'xml' is not one of"),
        (["compare"], "give one of --study DIR, --prompts DIR"),
        (["tune"], "Missing option '--study'"),
        (["list", "tasks"], "'list tasks' needs --study DIR"),
        (
            ["list", "formats", "--needs", "prompt"],
            "--needs and --symmetric/--asymmetric go with 'list indicators'",
        ),
        (["run", "s", "--workers", "2"], "--workers and --address go with --executor"),
        (["tune", "--study", "s", "--executor", "rya"], "no executor 'rya'. Did you mean 'ray'?"),
        (
            ["measure", "--study", "s", "--executor", "processes", "--address", "auto"],
            "the executor 'processes' has no option 'address'; it goes with ray",
        ),
        (["--quiet", "--verbose", "list", "formats"], "--verbose and --quiet exclude each other"),
    ],
)
def test_usage_errors_are_2(args: list[str], message: str) -> None:
    result = call(*args)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_a_study_that_is_not_there(tmp_path: Path) -> None:
    result = call("rank", "a", "--study", tmp_path / "none")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: no study")


def test_rank_of_prompt_folders(prompts: Path) -> None:
    folders = [prompts / "far", prompts / "near"]
    types = prompts / "types.csv"
    types.write_text("task,type\ntarget,x\nnear,x\nfar,y\n")
    result = call("rank", prompts / "target", "--prompts", *folders, "--types", types, "--format", "json")
    expected = rank_prompts(prompts / "target", folders, types={"target": "x", "near": "x", "far": "y"})
    assert json.loads(result.stdout) == json.loads(export(expected, "json"))
    assert [source.source for source in expected.sources] == ["near", "far"]
    keys = {"rank", "source", "score", "low", "high", "ties_with_best", "measured"}
    keys |= {"basis", "examples", "type", "tied_by_evidence"}
    assert set(json.loads(result.stdout)["sources"][0]) == keys


def test_rank_of_one_folder_that_holds_all(prompts: Path) -> None:
    result = call("rank", prompts / "target", "--prompts", prompts, "--format", "csv")
    assert [row["source"] for row in csv.DictReader(io.StringIO(result.stdout))] == ["near", "far"]


@pytest.mark.parametrize(
    ("text", "message"), [("task,kind\na,b\n", "column type missing"), ("task,type\na,\n", "both are needed")]
)
def test_a_bad_types_file(prompts: Path, text: str, message: str) -> None:
    types = prompts / "types.csv"
    types.write_text(text)
    result = call("rank", prompts / "target", "--prompts", prompts, "--types", types)
    assert result.exit_code == 2
    assert "types.csv" in result.stderr
    assert message in result.stderr


def test_prompts_do_not_have_what_neuron_indicators_need(prompts: Path) -> None:
    result = call("rank", prompts / "target", "--prompts", prompts, "--indicator", "on")
    assert result.exit_code == 2
    assert "needs stimulation" in result.stderr
    assert "transferscope extract" in result.stderr


def test_compare_of_prompt_folders(prompts: Path) -> None:
    result = call("compare", "--prompts", prompts / "near", prompts / "far", "--format", "csv")
    expected = compare_folders([prompts / "near", prompts / "far"])
    found = from_rows(csv.DictReader(io.StringIO(result.stdout)))
    assert [m.indicator for m in found] == [m.indicator for m in expected]
    np.testing.assert_array_equal(found[0].values, expected[0].values)


def listed(*args: str) -> list[dict[str, Any]]:
    result = call("list", *args, "--format", "json")
    assert result.exit_code == 0
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def test_list_indicators() -> None:
    names = [row["name"] for row in listed("indicators")]
    assert names == [record.name for record in (*indicators.records(), *indicators.parametric())]
    prompt = {row["name"] for row in listed("indicators", "--needs", "prompt", "--asymmetric")}
    assert prompt == set(indicators.names(needs="prompt", symmetric=False))
    details = {row["field"]: row["value"] for row in listed("indicators", "on_layers_3_6")}
    assert details["name"] == "on_layers_3_6"
    assert details["formula"]


def test_list_architectures_and_formats() -> None:
    assert [row["name"] for row in listed("architectures")] == list(architectures.names())
    assert {"name": "json", "of": "Ranking"} in listed("formats")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["indicators", "on_rwa"], "Did you mean 'on_raw'"),
        (["indicators", "--needs", "promt"], "Did you mean 'prompt'?"),
        (["architectures", "berd"], "Did you mean 'bert'?"),
    ],
)
def test_list_of_an_unknown_name(args: list[str], message: str) -> None:
    result = call("list", *args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_list_tasks_of_a_study(tmp_path: Path) -> None:
    settings = "model: tiny\ntasks:\n  a: {path: a.jsonl, text: t, label: l, type: sentiment}\n"
    (tmp_path / "study.yaml").write_text(settings)
    (row,) = listed("tasks", "--study", str(tmp_path))
    assert (row["name"], row["type"], row["prompts"], row["signature"]) == ("a", "sentiment", 0, False)


def test_help_works_after_every_command_was_imported() -> None:
    """A command's file becomes an attribute of the package: none may hide a name that the group uses."""
    for name in main.list_commands(None):  # type: ignore[arg-type]
        assert main.get_command(None, name) is not None  # type: ignore[arg-type]
    assert CliRunner().invoke(main, ["--help"]).exit_code == 0
    public = {name for name in vars(package) if not name.startswith("_")}
    assert not public & set(vars(builtins))


def test_rank_a_table_of_ones_own(tmp_path: Path) -> None:
    values, moved, types = tmp_path / "values.csv", tmp_path / "transfer.csv", tmp_path / "types.csv"
    values.write_text("indicator,source,target,value\non,a,c,0.2\non,b,c,0.9\n")
    moved.write_text(
        "protocol,source,target,seed,metric,value\nzero-shot,a,c,0,accuracy,0.8\nzero-shot,b,c,0,accuracy,0.6\n"
    )
    types.write_text("task,type\na,x\nb,y\nc,x\n")
    result = CliRunner().invoke(
        main,
        [
            "rank",
            "c",
            "--indicators",
            str(values),
            "--transfer",
            str(moved),
            "--types",
            str(types),
            "--format",
            "json",
        ],
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [(source["source"], source["measured"]) for source in found["sources"]] == [("b", 0.6), ("a", 0.8)]
    assert {baseline["name"] for baseline in found["baselines"]} >= {"random", "same_type"}
    wrong = CliRunner().invoke(main, ["rank", "d", "--indicators", str(values)])
    assert wrong.exit_code == 2
    assert "no target 'd' in the table" in wrong.stderr


TERMINAL = """
import click, sys
from transferscope.cli.messages import channels
from transferscope.cli.options import emit
from transferscope.exporters import Table

@click.command()
def command():
    report, progress = channels()
    for done in range(3):
        progress("tune", done, 3, "working")
    emit(Table(("name",), (("the result",),)), "table", None)

command()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_progress_is_off_the_terminal_before_the_result() -> None:
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = bytearray()
    with contextlib.suppress(OSError):  # Linux says "no more" with an error
        while data := os.read(ours, 1024):
            shown.extend(data)
    os.close(ours)
    assert process.wait() == 0, shown.decode()
    text = shown.decode()
    assert "working" in text
    assert "the result" in text
    assert "working" not in text[text.index("the result") :]
    assert "tune" not in text[text.index("the result") :]


def test_compare_a_table_of_ones_own(tmp_path: Path) -> None:
    values = tmp_path / "values.csv"
    values.write_text("indicator,source,target,value\non,a,b,0.2\non,b,a,0.9\non_raw,a,b,0.5\n")
    result = call("compare", "--indicators", values, "--indicator", "on", "--format", "csv")
    assert result.exit_code == 0, result.output
    rows = [row for row in csv.DictReader(io.StringIO(result.stdout)) if row["source"] != row["target"]]
    assert [(row["indicator"], row["source"], row["value"]) for row in rows] == [
        ("on", "a", "0.2"),
        ("on", "b", "0.9"),
    ]
    wrong = call("compare", "--indicators", values, "--indicator", "onn")
    assert wrong.exit_code == 2
    assert "has no indicator 'onn'. Did you mean 'on'" in wrong.stderr
