"""A CSV table of measured transfer into a study."""

from __future__ import annotations

from pathlib import Path

import pytest

from transferscope import cells, importers, transfer
from transferscope.errors import InputError, StudyError
from transferscope.exporters import export
from transferscope.importers import ImportReport, transfer_table
from transferscope.importers.transfer_table import import_transfer
from transferscope.store import Study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "study.yaml").write_text("model: m\ntasks:\n  a: {train: a.csv}\n  b: {train: b.csv}\n")
    return tmp_path


def put(study: Path, text: str) -> Path:
    path = study / "results.csv"
    path.write_text(text)
    return path


def test_a_full_table(study: Path) -> None:
    file = put(
        study,
        "value,target,source,protocol,seed,metric,note\n"
        "0.5,a,b,zero-shot,0,accuracy,x\n0.6,a,b,zero-shot,1,accuracy,\n0.7,b,b,init,0,macro_f1,\n"
        "0.25,a,random,zero-shot,2,accuracy,\n0.2,a,none,zero-shot,0,accuracy,\n",
    )
    report = import_transfer(file, study=study / "study.yaml")
    assert (report.cells, report.random, report.tasks, report.problems) == (3, 2, ("a", "b"), ())
    by_protocol = {matrix.protocol: matrix for matrix in transfer.from_rows(cells.read_table(Study(study)))}
    assert by_protocol["zero-shot"].value("b", "a") == pytest.approx(0.55)
    assert by_protocol["zero-shot"].seeds == (0, 1)
    assert by_protocol["zero-shot"].controls["random"][0, 0] == 0.25
    assert by_protocol["init"].metrics == {"b": "macro_f1"}


def test_seed_and_metric_may_be_left_out(study: Path) -> None:
    import_transfer(put(study, "protocol,source,target,value\nzero-shot,a,b,0.5\n"), study=study)
    assert cells.read_table(Study(study)) == [
        {
            "protocol": "zero-shot",
            "source": "a",
            "target": "b",
            "seed": 0.0,
            "metric": "accuracy",
            "value": 0.5,
        }
    ]
    import_transfer(put(study, "protocol,source,target,seed,metric,value\ninit,a,b,,,0.25\n"), study=study)
    rows = {row["protocol"]: row for row in cells.read_table(Study(study))}
    assert (rows["init"]["seed"], rows["init"]["metric"]) == (0, "accuracy")
    assert rows["zero-shot"]["value"] == 0.5


def test_what_is_odd_is_told(study: Path) -> None:
    file = put(study, "protocol,source,target,value\nzero-shot,a,b,\nzero-shot,z,b,0.5\nzero-shot,b,b,nan\n")
    report = import_transfer(file, study=study)
    assert report.cells == 1
    assert report.problems == (
        "results.csv, row 2: no value for a -> b; left out",
        "results.csv, row 4: no value for b -> b; left out",
        "z: has results and is no task of the study",
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("source,target,value\na,b,1\n", "column protocol missing"),
        ("", "column protocol, source, target, value missing"),
        ("protocol,source,target,value\n", "has no results"),
        (
            "protocol,source,target,value\nzeroshot,a,b,1\n",
            r"row 2: unknown protocol .* Did you mean 'zero-shot'",
        ),
        ("protocol,source,target,value\nzero-shot,,b,1\n", "row 2: protocol, source and target are needed"),
        ("protocol,source,target,value\nzero-shot,a,b,x\n", "line 2: value is 'x'"),
        ("protocol,source,target,seed,value\nzero-shot,a,b,0.5,1\n", "row 2: seed is 0.5"),
        ("protocol,source,target,seed,value\nzero-shot,a,b,-1,1\n", "row 2: seed is -1"),
        ("protocol,source,target,seed,value\nzero-shot,a,b,inf,1\n", "row 2: seed is inf"),
        ("protocol,source,target,value\n" + 2 * "zero-shot,a,b,1\n", "given twice"),
    ],
)
def test_tables_that_are_refused(study: Path, text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        import_transfer(put(study, text), study=study)
    assert not (study / "transfer.csv").exists()


def test_a_study_or_a_table_that_is_not_there(study: Path) -> None:
    with pytest.raises(StudyError, match="no study file"):
        import_transfer(study / "x.csv", study=study / "none")
    with pytest.raises(StudyError, match=r"x\.csv not found"):
        import_transfer(study / "x.csv", study=study)


def test_names_are_those_of_the_library() -> None:
    assert transfer_table.COLUMNS == transfer.COLUMNS
    assert transfer_table.PROTOCOLS == (transfer.ZERO_SHOT, transfer.LINEAR_PROBE, transfer.INIT)


def test_importers_are_found_by_name() -> None:
    assert importers.names() == ["prompt-transferability", "prompts", "transfer"]
    assert importers.get("transfer").function is import_transfer
    with pytest.raises(InputError, match=r"no importer 'transfers'\. Did you mean 'transfer'"):
        importers.get("transfers")


def test_a_report_as_text() -> None:
    report = ImportReport("x", "s", "m", ("a", "b"), 2, 4, 2, 1, 0, ("f.json: empty", "g.json: broken"))
    table = export(report, "table")
    assert (
        table.index("f.json: empty") < table.index("g.json: broken") < table.index("Imported into s, model m")
    )
    assert "4" in next(line for line in table.splitlines() if line.startswith("results in transfer.csv"))
    lines = export(report, "csv").splitlines()
    assert lines[0] == "what,number,text"
    assert lines[-1] == "problem,,g.json: broken"
    assert "not as expected" not in export(ImportReport("x", "s", "m"), "table")
    assert '"apart": 1' in export(report, "json")
