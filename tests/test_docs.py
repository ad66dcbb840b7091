"""The documentation under test: names that exist are named, and what is shown as code runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from click.testing import CliRunner

import indicators
from indicators import registry
from transferscope import architectures
from transferscope.cli import main
from transferscope.models import wrap
from transferscope.settings import StudySettings, parse_settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
STUDY_PAGE = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")


def block(text: str, language: str, containing: str) -> str:
    """The one fenced block of a language that contains some text."""
    found = [b for b in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if containing in b]
    assert len(found) == 1
    return str(found[0])


@pytest.mark.parametrize("name", main.list_commands(None))  # type: ignore[arg-type]
def test_every_command_is_in_the_readme_and_has_an_example(name: str) -> None:
    assert f"transferscope {name}" in README
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert f"transferscope {name}" in result.output


@pytest.mark.parametrize("record", [*indicators.records(), *indicators.parametric()], ids=lambda r: r.name)
def test_every_indicator_is_in_the_readme(record: indicators.Indicator) -> None:
    assert f"`{record.name}`" in README


@pytest.mark.parametrize("name", architectures.names())
def test_every_architecture_is_in_the_readme(name: str) -> None:
    assert re.search(rf"Models:.*\b{name}\b", README)


@pytest.mark.parametrize("text", [README, STUDY_PAGE], ids=["README", "docs/study.md"])
def test_study_files_that_are_shown_are_valid(text: str) -> None:
    shown = yaml.safe_load(block(text, "yaml", "roberta-base"))
    settings = parse_settings(shown)
    assert settings.model.name == "roberta-base"
    assert settings.seeds == (0, 1, 2)
    assert settings.tasks["sst2"].dataset == "glue"


def test_the_study_of_a_new_task_and_others_prompts_is_valid() -> None:
    settings = parse_settings(yaml.safe_load(block(README, "yaml", "adapters/imdb")))
    assert [name for name, spec in settings.tasks.items() if spec.has_data] == ["mine"]


@pytest.mark.parametrize("field", StudySettings.model_fields)
def test_every_field_of_a_study_is_documented(field: str) -> None:
    assert f"| `{field}` |" in STUDY_PAGE


def test_the_indicator_of_the_readme_is_found_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_RECORDS", dict(registry._RECORDS))
    exec(block(README, "python", "prompt_norm_ratio"), {"__name__": "indicators.example"})
    assert "prompt_norm_ratio" in indicators.names(needs="prompt")
    prompts = [np.ones((2, 4)), 3 * np.ones((2, 4))]
    np.testing.assert_allclose(indicators.matrix("prompt_norm_ratio", prompts), [[1, 1 / 3], [1 / 3, 1]])


def test_the_architecture_of_the_readme_makes_the_model_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "_TABLE", list(architectures._TABLE))
    exec(block(README, "python", "register(Architecture("), {})
    config = transformers.OPTConfig(
        vocab_size=50,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    backbone = wrap(transformers.OPTForCausalLM(config))
    assert (backbone.layers, backbone.neurons) == (2, 24)
    hidden = backbone.hidden(torch.randn(1, 5, 16), torch.ones(1, 5, dtype=torch.int64))
    assert hidden.shape == (1, 5, 16)


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_run(example: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(example), "--steps", "2"], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "sources for" in done.stdout
