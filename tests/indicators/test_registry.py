"""The registry: records, names, parametric names, errors, discovery, and what the package imports."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

import indicators
from indicators import Indicator, InvalidInput, UnknownIndicator
from indicators.registry import indicator
from tests.reference import REFERENCE

PACKAGE = Path(indicators.__file__).parent
RECORDS = [*indicators.records(), *indicators.parametric()]

NEW_FILE = """
from indicators.registry import indicator

@indicator("first_number", needs="prompt", symmetric=True, bounds=(0.0, 1.0), chance="0",
           self_value=None, zero_value=0.0, degenerate="none", formula="x", source="own",
           requires_equal_rows=False, rows="ordered", scale="each")
def first_number(source, target):
    return float(source[0][0])
"""


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_all_the_promised_names_are_there() -> None:
    promised = {
        "prompt_cosine_concat",
        "prompt_cosine_average",
        "prompt_cosine_mean_token",
        "prompt_cosine_position",
        "prompt_cosine_maxsim",
        "prompt_cosine_whitened",
        "prompt_euclidean_concat",
        "prompt_euclidean_average",
        "on",
        "on_raw",
        "on_jaccard",
        "skill_jaccard",
        "skill_overlap",
        "skill_on",
        "predictivity_spearman",
        "predictivity_spearman_layers",
    }
    assert promised <= set(indicators.names())
    assert "on_layers_A_B" in {record.name for record in indicators.parametric()}


def test_exported_names_are_sorted_and_exist() -> None:
    assert indicators.__all__ == sorted(indicators.__all__)
    assert all(hasattr(indicators, name) for name in indicators.__all__)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_every_indicator_is_documented_and_has_a_loop(record: Indicator) -> None:
    text = inspect.getdoc(record.function) or ""
    lines = [line for line in text.splitlines() if line.startswith((">>>", "..."))]
    assert 1 <= len(lines) <= 6, "a doctest of at most six lines"
    for fact in (
        "Formula: ",
        "Range [",
        "means closer",
        "of a source on a target" if record.convention == "score" else "symmetric",
        "by chance",
        "Degenerate: ",
        "Source: ",
    ):
        assert fact in text
    assert "[" in text.partition("Formula:")[0].partition(">>>")[0], "the shapes of the arrays"
    for field in (record.formula, record.source, record.degenerate, record.chance):
        assert field.strip()
        assert not field.endswith(".")
    assert (record.template or record.name) in REFERENCE


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_options_are_keyword_only_and_sources_come_first(record: Indicator) -> None:
    signature = inspect.signature(record.function)
    positional = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if record.convention == "score":
        assert positional == list(record.needs)
    elif len(record.needs) == 1:
        assert positional == ["source", "target"]
    else:
        assert positional == [f"{side}_{need}" for need in record.needs for side in ("source", "target")]
    assert signature.return_annotation == "float"


def test_records_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        indicators.get("on").name = "off"  # type: ignore[misc]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        UnknownIndicator, match=r"unknown indicator 'prompt_cosine_conct'.*'prompt_cosine_concat'"
    ):
        indicators.get("prompt_cosine_conct")
    with pytest.raises(UnknownIndicator, match=r"indicators\.names\(\) lists all.*on_layers_A_B"):
        indicators.get("zzz")
    assert issubclass(UnknownIndicator, ValueError)


def test_layer_names_are_resolved() -> None:
    record = indicators.get("on_layers_9_12")
    assert (record.name, record.template) == ("on_layers_9_12", "on_layers_A_B")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 12, 7))
    assert record.function(a, b) == indicators.get("on").function(a[9:12], b[9:12])
    assert "Formula" in (inspect.getdoc(record.function) or "")


@pytest.mark.parametrize("name", ["on_layers_5_3", "on_layers_3_3"])
def test_empty_layer_ranges_are_refused(name: str) -> None:
    with pytest.raises(UnknownIndicator, match=rf"'{name}' does not fit on_layers_A_B.*A < B"):
        indicators.get(name)


def test_layers_outside_the_network_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"layers 1\.\.3 are asked for: the network has layers 0\.\.2"):
        indicators.get("on_layers_1_4").function(np.ones((3, 4)), np.ones((3, 4)))


def test_layer_groups_end_with_a_short_one() -> None:
    assert indicators.layer_groups(6) == ("on_layers_0_3", "on_layers_3_6")
    assert indicators.layer_groups(2) == ("on_layers_0_2",)
    assert indicators.layer_groups(5, size=4) == ("on_layers_0_4", "on_layers_4_5")
    with pytest.raises(InvalidInput, match="size=0"):
        indicators.layer_groups(5, size=0)


def test_names_by_what_is_at_hand() -> None:
    assert set(indicators.names(needs="stimulation")) == {"on", "on_raw", "on_jaccard"}
    assert "skill_on" not in indicators.names(needs="predictivity")
    assert "skill_on" in indicators.names(needs=["stimulation", "predictivity"])
    assert indicators.names(needs=()) == ()
    scores = {record.name for record in RECORDS if record.convention == "score"}
    assert "logme" in scores
    assert set(indicators.names(symmetric=False)) - scores == {
        "skill_on",
        "prompt_cosine_maxsim",
        "pwcca",
        "task2vec_asymmetric",
    }
    assert set(indicators.names(symmetric=True)) | set(indicators.names(symmetric=False)) == set(
        indicators.names()
    )


def test_families() -> None:
    assert {record.family for record in RECORDS} == {
        "distributions",
        "label_scores",
        "neuron_scores",
        "neurons",
        "prompt_space",
        "representations",
        "specificity",
        "task_embeddings",
        "transport",
        "updates",
    }


def test_a_name_is_not_given_twice() -> None:
    def on(source: object, target: object) -> float:
        return 0.0

    with pytest.raises(ValueError, match=r"indicator 'on' is defined in indicators\.neurons already"):
        indicator(
            "on",
            needs="prompt",
            symmetric=True,
            bounds=(0.0, 1.0),
            chance="0",
            self_value=None,
            zero_value=0.0,
            degenerate="none",
            formula="0",
            source="own",
            requires_equal_rows=False,
            rows="free",
            scale="each",
        )(on)


def test_a_new_file_is_discovered_by_itself(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "indicators", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "indicators" / "new_family.py").write_text(NEW_FILE)
    code = (
        "import indicators; r = indicators.get('first_number'); print(r.family, r.function([[3.0]], [[1.0]]))"
    )
    assert run(code, tmp_path) == "new_family 3.0"


def test_importing_is_light(tmp_path: Path) -> None:
    heavy = ["torch", "transformers", "transferscope", "sklearn", "scipy.spatial", "scipy.stats"]
    code = f"import sys, indicators; print([m for m in {heavy} if m in sys.modules])"
    assert run(code, PACKAGE.parent) == "[]"


def test_the_package_stands_alone() -> None:
    allowed = {"numpy", "scipy", "sklearn", "ot", "indicators"}
    forbidden = {"logging", "time", "datetime", "os", "pathlib", "io", "random"}
    for file in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for root in (module.partition(".")[0] for module in modules):
                assert root in allowed or root in sys.stdlib_module_names, f"{file.name} imports {root}"
                assert root not in forbidden, f"{file.name} imports {root}"


def test_matrix_of_nothing_and_of_a_loop() -> None:
    assert indicators.matrix("on", []).shape == (0, 0)
    assert indicators.matrix("on", [np.ones((1, 2))], []).shape == (1, 0)
    prompts = list(np.random.default_rng(1).normal(size=(3, 4, 5)))
    values = indicators.matrix("prompt_euclidean_average", prompts)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, values.T)


def test_errors_name_the_pair_and_both_shapes() -> None:
    prompts = [np.ones((2, 4)), np.ones((2, 4)), np.ones((2, 5))]
    with pytest.raises(InvalidInput, match=r"source prompt 0 is \[2, 4\] and target prompt 2 is \[2, 5\]"):
        indicators.matrix("prompt_cosine_concat", prompts)
    with pytest.raises(
        InvalidInput, match=r"prompt_euclidean_average, source 0 and target 2: source prompt is \[2, 4\]"
    ):
        indicators.matrix("prompt_euclidean_average", prompts)


def test_several_needs_are_a_tuple_per_task() -> None:
    ones = np.ones((2, 5))
    record = indicators.get("skill_on")
    assert record.value((ones, ones), (ones, ones)) == 1.0
    with pytest.raises(InvalidInput, match=re.escape("skill_on needs a tuple (stimulation, predictivity)")):
        record.value(ones, ones)
    with pytest.raises(InvalidInput, match=re.escape("skill_on needs a tuple (stimulation, predictivity)")):
        indicators.matrix("skill_on", [ones])


WITHOUT = """
import sys
for name in ("torch", "transformers", "ot", "pandas", "safetensors", "transferscope"):
    sys.modules[name] = None  # importing it fails
import indicators
print(len(indicators.records()))
print(indicators.get("logme").function([[0.0], [0.1], [1.0], [1.1]], [0, 0, 1, 1]) < 1)
"""


def test_the_package_needs_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
    )
    assert done.stdout.split() == [str(len(indicators.records())), "True"]
