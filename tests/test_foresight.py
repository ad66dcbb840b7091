"""A study of a quantised model: what it is refused is said before hours of tuning, and the rest is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tests.test_distribution import Here
from tests.test_pipeline import write_study
from transferscope import distribution, models, store, workspace
from transferscope.cli import main
from transferscope.pipeline import open_study
from transferscope.quantization import declared
from transferscope.signatures import load_signature


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A study of a model that says that it is in 4 bits, without bitsandbytes, run."""
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch)
        folder = write_study(
            tmp_path_factory.mktemp("refused") / "study",
            model={"name": "model", "quantization": "4bit"},
            transfer={"random_draws": 0},
        )
        lines: list[str] = []
        open_study(folder, report=lines.append).run()
        store.write_text(folder.parent / "said", "\n".join(lines))
        yield folder


def pretend(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(models, "quantizing", lambda kind, dtype, place: {})
    patch.setattr(models, "kind_of", lambda model: "4bit")


@pytest.fixture
def study(refused: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, not run yet."""
    pretend(monkeypatch)
    return write_study(tmp_path / "study", model={"name": "model", "quantization": "4bit"})


def change(study: Path, **settings: Any) -> None:
    raw = yaml.safe_load((study / "study.yaml").read_text())
    store.write_text(study / "study.yaml", yaml.safe_dump(raw | settings))


def test_the_refusal_is_the_first_line_of_a_run_and_is_said_once(refused: Path) -> None:
    lines = (refused.parent / "said").read_text().splitlines()
    assert lines[0].startswith("no predictivity of 'model': its quantised weights make it another network")
    assert lines[0].endswith("set signatures: {quantized: true}")
    assert sum("no predictivity" in line for line in lines) == 1
    assert sum(line.startswith("tuned ") for line in lines) == 6


def test_a_run_goes_on_with_what_needs_no_predictivity(refused: Path) -> None:
    signature = load_signature(refused / "signatures" / "films.safetensors")
    assert signature.predictivity is None
    assert "signatures: {quantized: true}" in signature.provenance["without"]
    rows = store.read_csv(refused / "indicators.csv", ("indicator",))
    found = {row["indicator"] for row in rows}
    assert {"on", "prompt_cosine_mean_token"} <= found
    assert not {"skill_on", "predictivity_spearman"} & found
    assert (refused / "correlation.json").is_file()
    assert len(store.read_csv(refused / "transfer.csv", ("target",))) == 3 * 7


def test_a_finished_study_says_no_more(refused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "load_backbone", lambda *a, **k: pytest.fail("the model was loaded"))
    lines: list[str] = []
    open_study(refused, report=lines.append).run()
    assert lines == []


def test_workers_say_it_no_second_time(study: Path) -> None:
    lines: list[str] = []
    distribution.open_study(study, executor=Here(), report=lines.append).extract(["films", "food"])
    assert sum("no predictivity" in line for line in lines) == 1
    assert "no predictivity" in lines[0]


def test_with_the_setting_there_is_predictivity(study: Path) -> None:
    change(study, signatures={"quantized": True})
    lines: list[str] = []
    found = open_study(study, report=lines.append).extract(["films"])["films"]
    assert found.predictivity is not None
    assert not [line for line in lines if "no predictivity" in line]


def test_an_indicator_of_predictivity_ends_the_run_before_it_tunes(study: Path) -> None:
    change(study, indicators=["on", "skill_on", "predictivity_spearman"])
    done = CliRunner().invoke(main, ["run", str(study)])
    assert done.exit_code == 2
    message = (
        "indicators skill_on, predictivity_spearman read predictivity, and there will be no predictivity"
    )
    assert message in " ".join(done.output.split())
    assert not (study / "prompts").exists()


def test_the_plan_says_it(study: Path) -> None:
    done = CliRunner().invoke(main, ["run", str(study), "--dry-run", "--format", "json"])
    assert done.exit_code == 0, done.output
    notes = json.loads(done.stdout)["notes"]
    assert sum("no predictivity of 'model'" in n and "signatures: {quantized: true}" in n for n in notes) == 1
    change(study, signatures={"quantized": True})
    done = CliRunner().invoke(main, ["run", str(study), "--dry-run", "--format", "json"])
    assert not any("no predictivity" in note for note in json.loads(done.stdout)["notes"])


def test_a_model_that_others_quantised_is_known_by_its_configuration(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    config = study / "model" / "config.json"
    quantised = {"quant_method": "gptq", "bits": 4}
    store.write_json(config, json.loads(config.read_text()) | {"quantization_config": quantised})
    change(study, indicators=["skill_on"])
    done = CliRunner().invoke(main, ["run", str(study)])
    assert done.exit_code == 2
    assert "its quantised weights make it another network" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (None, None),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}, "8bit"),
        ({"quant_method": "bitsandbytes", "_load_in_4bit": True, "load_in_8bit": False}, "4bit"),
        ({"quant_method": "awq"}, "awq"),
    ],
)
def test_what_a_configuration_says(config: dict[str, Any] | None, kind: str | None) -> None:
    assert declared(config) == kind
