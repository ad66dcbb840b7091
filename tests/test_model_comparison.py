"""Two models over the same tasks: agreement of matrices, prompts through shared words, texts, neurons."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

import indicators
from tests import tiny
from tests.test_pipeline import write_study
from transferscope import store
from transferscope.cli import main
from transferscope.errors import InputError
from transferscope.exporters import export
from transferscope.model_comparison import compare_models, shared_words
from transferscope.models import wrap
from transferscope.pipeline import open_study


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same tasks on two random BERTs of different widths and depths."""
    folder = tmp_path_factory.mktemp("models")
    a, b = write_study(folder / "a"), write_study(folder / "b")
    wide = tiny.model("bert", seed=1, hidden_size=24, intermediate_size=40, num_hidden_layers=3)
    wide.save_pretrained(b / "model")
    return a, b


@pytest.fixture(scope="module")
def compared(studies: tuple[Path, Path]) -> Any:
    return compare_models(*map(open_study, studies), permutations=99)


def test_agreement_is_spearman_of_the_two_matrices(compared: Any, studies: tuple[Path, Path]) -> None:
    assert compared.tasks == ("films", "food", "pets")
    a, b = ({m.indicator: m for m in open_study(path).compare()} for path in studies)
    off = ~np.eye(3, dtype=bool)
    for one in compared.agreements:
        left, right = a[one.indicator].values[off], b[one.indicator].values[off]
        ranks = [np.argsort(np.argsort(side)) for side in (left, right)]
        if len(set(left.round(12))) == len(set(right.round(12))) == 6:  # no ties
            assert one.similarity.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
        assert one.similarity.exact  # three tasks have six orders
        assert one.similarity.p_value >= 1 / 6
    assert {"on", "prompt_cosine_mean_token"} <= {one.indicator for one in compared.agreements}


def test_a_model_agrees_with_itself(studies: tuple[Path, Path]) -> None:
    same = compare_models(open_study(studies[0]), open_study(studies[0]), ["on_raw"], permutations=99)
    (one,) = same.agreements
    assert one.similarity.spearman == pytest.approx(1.0)
    assert same.prompts is not None
    assert same.prompts.found == 1.0
    np.testing.assert_allclose(np.diag(same.prompts.values), 1.0)
    assert same.texts == pytest.approx(dict.fromkeys(same.tasks, 1.0))
    assert same.neurons is not None
    # A neuron that is the same in all tasks correlates with nothing.
    assert same.neurons.correlation > 0.95 > same.neurons.baseline_mean


def test_prompts_are_compared_through_words_that_both_know(compared: Any, studies: tuple[Path, Path]) -> None:
    a, b = map(open_study, studies)
    words = shared_words(a.backbone, b.backbone)
    assert compared.prompts.anchors == len(words) > 50
    tables = [p.backbone.model.get_input_embeddings().weight.detach().double().numpy() for p in (a, b)]
    first = np.stack([prompt.rows.mean(axis=0) for prompt in a.tune()["films"]])
    second = np.stack([prompt.rows.mean(axis=0) for prompt in b.tune()["pets"]])
    expected = indicators.get("relative_prompt").function(
        first, second, tables[0][[i for i, _ in words]], tables[1][[j for _, j in words]]
    )
    assert compared.prompts.values[0, 2] == pytest.approx(expected)
    off = ~np.eye(3, dtype=bool)
    assert compared.prompts.other == pytest.approx(compared.prompts.values[off].mean())


def test_words_are_the_same_word_in_both_vocabularies() -> None:
    bert = wrap(tiny.model("bert"), tiny.tokenizer("bert"), "bert")
    causal = wrap(tiny.model("gpt2"), tiny.tokenizer("causal"), "gpt2")
    pairs = shared_words(bert, causal, most=20)
    assert len(pairs) == 20
    for left, right in pairs:
        word = bert.tokenizer.convert_ids_to_tokens(left)
        assert word == causal.tokenizer.convert_ids_to_tokens(right)
        assert word.isalpha()
    assert shared_words(bert, causal, most=20) == pairs
    assert shared_words(bert, causal, most=20, seed=1) != pairs


def test_texts_are_compared_where_the_data_are_the_same(compared: Any, studies: tuple[Path, Path]) -> None:
    assert set(compared.texts) == {"films", "food", "pets"}
    assert all(-1 <= value <= 1 for value in compared.texts.values())
    a, b = map(open_study, studies)
    task = b.task("pets")
    b._tasks["pets"] = replace(task, train=task.train[:-1])
    other = compare_models(a, b, ["on"], permutations=9)
    assert set(other.texts) == {"films", "food"}
    assert any("data differ: pets" in note for note in other.notes)


def test_too_few_tasks_in_common(studies: tuple[Path, Path], tmp_path: Path) -> None:
    b = open_study(studies[1])
    del b.settings.tasks["pets"]
    with pytest.raises(InputError, match=r"at least 3 tasks, and these studies have 2 in common"):
        compare_models(open_study(studies[0]), b)


def test_it_is_shown_in_every_format(compared: Any) -> None:
    document = json.loads(export(compared, "json"))
    assert set(document) == {
        "model_a", "model_b", "tasks", "agreements", "prompts", "texts", "neurons", "notes",
    }  # fmt: skip
    assert "p (Mantel)" in export(compared, "table")
    assert "shuffled tasks" in export(compared, "md")


def test_the_command(studies: tuple[Path, Path], tmp_path: Path) -> None:
    def call(*arguments: object) -> Any:
        return CliRunner().invoke(main, [str(one) for one in arguments])

    result = call("compare", "--models", *studies, "--indicator", "on", "--format", "json")
    assert result.exit_code == 0, result.output
    assert [one["indicator"] for one in json.loads(result.stdout)["agreements"]] in (["on"], [])
    assert call("compare", "--models", *studies, "--study", studies[0]).exit_code == 2
    settings = yaml.safe_load((studies[0] / "study.yaml").read_text())
    store.write_text(tmp_path / "s" / "study.yaml", yaml.safe_dump(settings | {"model": "../nowhere"}))
    failed = call("compare", "--models", studies[0], tmp_path / "s")
    assert failed.exit_code == 2
    assert "Traceback" not in failed.stderr
