"""Zero-shot transfer equals each prompt evaluated by hand; long rows go round; no cell is given twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from transferscope import transfer, zero_shot
from transferscope.attachment import attach
from transferscope.encoding import collate, from_token_ids
from transferscope.errors import InputError, TemplateError
from transferscope.models import wrap
from transferscope.prompts import SoftPrompt
from transferscope.tasks import Example, Task
from transferscope.transfer import COLUMNS, Cell, TransferMatrix, column, from_rows, measure, to_rows

FILL = ["movie", "film", "plot", "story", "food", "the", "a", "was", "very", "it"]


def task(name: str, words: tuple[str, ...], seed: int, **fields: Any) -> Task:
    rng = np.random.default_rng(seed)
    examples = tuple(
        Example(" ".join(rng.choice(FILL, rng.integers(1, 9))), None, i % len(words)) for i in range(24)
    )
    labels = tuple(f"class {k}" for k in range(len(words)))
    return Task(name, examples, examples[:21], labels, words, **fields)


def prompts(
    name: str, seeds: tuple[int, ...], rows: int = 2, template: str = "mask-first"
) -> list[SoftPrompt]:
    made = []
    for seed in seeds:
        rng = np.random.default_rng([seed, len(name)])
        made.append(
            SoftPrompt((0.3 * rng.standard_normal((rows, 16))).astype(np.float32), name, seed, template)
        )
    return made


TARGETS = {
    "mood": task("mood", ("good", "bad"), 0),
    "topic": task("topic", ("world", "sports", "science"), 1, metric="macro_f1"),
}
SOURCES = {"mood": prompts("mood", (3, 1)), "other": prompts("other", (1, 3), rows=4, template="prefix")}


@pytest.fixture(scope="module")
def backbone() -> Any:
    return wrap(tiny.model("bert"), tiny.tokenizer("bert"), "tiny")


@pytest.fixture(scope="module")
def measured(backbone: Any) -> TransferMatrix:
    return measure(backbone, SOURCES, TARGETS, draws=2)


def by_hand(backbone: Any, prompt: SoftPrompt, target: Task) -> tuple[list[int], list[int]]:
    """Predictions of the stock model with its whole LM head, one example at a time."""
    tokenizer, model = backbone.tokenizer, backbone.model
    words = tokenizer.convert_tokens_to_ids(list(target.words or ()))
    table = model.get_input_embeddings().weight
    rows = torch.from_numpy(prompt.rows)
    if prompt.template == "mask-first":
        rows = torch.cat([table[[tokenizer.mask_token_id]], rows])
    readout = 0 if prompt.template == "mask-first" else len(rows)
    found = []
    for example in target.dev:
        embeds = torch.cat([rows, table[tokenizer(example.text)["input_ids"]]]).unsqueeze(0)
        with torch.no_grad():
            logits = model(inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2])).logits
        found.append(int(logits[0, readout, words].argmax()))
    return found, [example.label for example in target.dev]


def macro_f1(found: list[int], labels: list[int]) -> float:
    scores = []
    for label in sorted({*found, *labels}):
        both = sum(f == label and y == label for f, y in zip(found, labels, strict=True))
        scores.append(2 * both / (found.count(label) + labels.count(label)))
    return sum(scores) / len(scores)


# Zero-shot.


def test_zero_shot_is_each_prompt_by_hand(backbone: Any, measured: TransferMatrix) -> None:
    values = set()
    for source, several in SOURCES.items():
        for prompt in several:
            for name, target in TARGETS.items():
                found, labels = by_hand(backbone, prompt, target)
                right = sum(f == y for f, y in zip(found, labels, strict=True)) / len(labels)
                expected = right if name == "mood" else macro_f1(found, labels)
                cell = (
                    measured.seeds.index(prompt.seed),
                    measured.sources.index(source),
                    measured.targets.index(name),
                )
                assert measured.per_seed[cell] == pytest.approx(expected, abs=1e-12)
                values.add(expected)
    assert len(values) > 4  # cells differ, so a wrong place would show


def test_layout_is_by_seed_source_and_target(measured: TransferMatrix) -> None:
    assert (measured.protocol, measured.seeds) == ("zero-shot", (1, 3))
    assert (measured.sources, measured.targets) == (("mood", "other"), ("mood", "topic"))
    assert measured.per_seed.shape == (2, 2, 2)
    np.testing.assert_allclose(measured.values, measured.per_seed.mean(axis=0))
    assert measured.value("other", "topic") == measured.values[1, 1]
    assert dict(measured.metrics or {}) == {"mood": "accuracy", "topic": "macro_f1"}


def test_a_column_is_the_matrix_s(backbone: Any, measured: TransferMatrix) -> None:
    steps: list[tuple[int, int, str]] = []
    cells = column(
        backbone, SOURCES, TARGETS["mood"], token_budget=16, progress=lambda *what: steps.append(what)
    )
    assert [(c.source, c.seed) for c in cells] == [("mood", 3), ("mood", 1), ("other", 1), ("other", 3)]
    for cell in cells:
        at = measured.seeds.index(cell.seed), measured.sources.index(cell.source), 0
        assert cell.value == pytest.approx(measured.per_seed[at], abs=1e-12)
        assert (cell.examples, cell.metric) == (21, "accuracy")
    assert [step[:2] for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert steps[-1][2] == "other -> mood"


def test_a_split_is_tokenised_once_for_each_number_of_rows(
    backbone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encode = zero_shot.encode

    def counting(*args: Any, **options: Any) -> Any:
        seen.append(options["prompt_rows"])
        return encode(*args, **options)

    monkeypatch.setattr(zero_shot, "encode", counting)
    column(backbone, SOURCES, TARGETS["mood"])
    assert seen == [3, 4]  # the mask row counted


def test_sources_need_not_have_the_same_seeds(backbone: Any) -> None:
    matrix = measure(
        backbone, {"a": prompts("a", (0, 1)), "b": prompts("b", (1,))}, {"mood": TARGETS["mood"]}
    )
    assert matrix.seeds == (0, 1)
    np.testing.assert_array_equal(np.isnan(matrix.per_seed[:, :, 0]), [[False, True], [False, False]])
    assert matrix.values[1, 0] == matrix.per_seed[1, 1, 0]  # the mean of those there are


def test_what_zero_shot_refuses(backbone: Any) -> None:
    mood = TARGETS["mood"]
    with pytest.raises(InputError, match=r"'mood' has no label words"):
        measure(backbone, SOURCES, {"mood": replace(mood, words=None)})
    with pytest.raises(InputError, match=r"two prompts of source 'a' have seed 1"):
        measure(backbone, {"a": prompts("a", (1, 0, 1))}, {"mood": mood})
    for sources, targets in (({}, {"mood": mood}), (SOURCES, {}), ({"a": []}, {"mood": mood})):
        with pytest.raises(InputError, match="nothing to measure"):
            measure(backbone, sources, targets)
    headless = wrap(tiny.model("bert", head=False), tiny.tokenizer("bert"), "headless")
    with pytest.raises(TemplateError, match="no language-model head"):
        measure(headless, SOURCES, {"mood": mood})


# Long rows.


def rows(*cells: tuple[str, str, str, int, float]) -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, (*cell[:4], "accuracy", cell[4]), strict=True)) for cell in cells]


def test_rows_go_round(measured: TransferMatrix) -> None:
    long = [dict(zip(COLUMNS, row, strict=True)) for row in to_rows(measured)]
    assert len(long) == 8 + 2 * (1 + 2)  # and the controls: none, and two random draws
    (again,) = from_rows(long)
    assert (again.protocol, again.sources, again.targets) == ("zero-shot", measured.sources, measured.targets)
    assert (again.seeds, again.metrics) == (measured.seeds, measured.metrics)
    np.testing.assert_array_equal(again.per_seed, measured.per_seed)
    np.testing.assert_array_equal(again.values, measured.values)
    assert list(again.controls) == ["none", "random"]
    for name, values in measured.controls.items():
        np.testing.assert_array_equal(again.controls[name], values)


def test_missing_cells_are_nan_and_not_written() -> None:
    given = rows(("z", "a", "t", 0, 0.5), ("z", "b", "u", 1, 0.25), ("z", "a", "t", 1, 0.75))
    (matrix,) = from_rows(given)
    nan = np.nan
    np.testing.assert_array_equal(matrix.per_seed, [[[0.5, nan], [nan, nan]], [[0.75, nan], [nan, 0.25]]])
    np.testing.assert_array_equal(matrix.values, [[0.625, nan], [nan, 0.25]])
    assert sorted(to_rows(matrix)) == sorted(tuple(row[key] for key in COLUMNS) for row in given)


def test_a_cell_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="transfer a -> t with seed 0 is given twice"):
        from_rows(rows(("z", "a", "t", 0, 0.5), ("z", "b", "t", 0, 0.5), ("z", "a", "t", 0, 0.5)))


def test_one_matrix_a_protocol() -> None:
    given = rows(("zero-shot", "a", "t", 0, 0.5), ("init", "b", "u", 4, 0.7), ("zero-shot", "a", "u", 0, 0.6))
    first, second = from_rows(given)
    assert (first.protocol, first.sources, first.targets, first.seeds) == (
        "zero-shot",
        ("a",),
        ("t", "u"),
        (0,),
    )
    assert (second.protocol, second.sources, second.targets, second.seeds) == ("init", ("b",), ("u",), (4,))
    assert from_rows([]) == []


def test_text_of_a_table_is_read_as_numbers() -> None:
    given = {"protocol": "z", "source": "a", "target": "t", "seed": "2", "metric": "", "value": "0.5"}
    (matrix,) = from_rows([given])
    assert (matrix.seeds, matrix.value("a", "t")) == ((2,), 0.5)
    assert dict(matrix.metrics or {}) == {"t": "accuracy"}


# Controls, relative values, errors.


def test_controls_are_prompts_by_hand_and_no_sources(backbone: Any, measured: TransferMatrix) -> None:
    nothing = SoftPrompt(np.zeros((0, 16), np.float32), "none", 0, "mask-first")
    found, labels = by_hand(backbone, nothing, TARGETS["mood"])
    expected = sum(f == y for f, y in zip(found, labels, strict=True)) / len(labels)
    assert measured.controls["none"].shape == (1, 2)
    assert measured.controls["none"][0, 0] == pytest.approx(expected, abs=1e-12)
    draws = transfer.random_prompts(backbone, 2, draws=2)
    assert measured.controls["random"].shape == (2, 2)
    assert draws[0].rows.tobytes() != draws[1].rows.tobytes()
    for draw, prompt in enumerate(draws):
        found, labels = by_hand(backbone, prompt, TARGETS["mood"])
        expected = sum(f == y for f, y in zip(found, labels, strict=True)) / len(labels)
        assert measured.controls["random"][draw, 0] == pytest.approx(expected, abs=1e-12)
    assert not {"none", "random"} & {*measured.sources}


def test_controls_have_the_shape_of_most_sources(backbone: Any) -> None:
    made = transfer.controls(
        backbone, {"a": prompts("a", (0,), rows=5), "b": prompts("b", (0, 1), rows=2)}, draws=4
    )
    assert [len(made["none"]), len(made["random"])] == [1, 4]
    assert {prompt.rows.shape for prompt in made["random"]} == {(2, 16)}
    assert made["none"][0].rows.shape == (0, 16)
    assert [prompt.seed for prompt in made["random"]] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("model_type", "template"),
    [("bert", "prefix"), ("t5", "prefix"), ("gpt2", "prefix"), ("llama", "prefix"), ("llama", "suffix")],
)
def test_no_prompt_is_the_model_alone(model_type: str, template: str) -> None:
    plain = wrap(tiny.model(model_type), tiny.tokenizer(tiny.tokenizer_kind(model_type)), "tiny")
    nothing = SoftPrompt(np.zeros((0, plain.embedding_size), np.float32), "none", 0, template)
    batch = collate(plain, from_token_ids([([5, 9, 11], 0), ([6, 7], 1)]), np.arange(2))
    attached = attach(plain, nothing)
    placed = attached.place(batch)
    torch.testing.assert_close(placed.embeds, plain.embed(batch.ids))
    assert torch.equal(placed.mask, batch.mask)
    last = batch.mask.sum(dim=1) - 1
    assert torch.equal(placed.readout, last if plain.architecture.kind == "decoder" else 0 * last)
    assert attached.forward(placed).isfinite().all()


def test_relative_values_and_errors_by_hand() -> None:
    given = rows(
        ("z", "a", "a", 0, 0.8), ("z", "a", "a", 1, 0.6), ("z", "b", "a", 0, 0.35), ("z", "b", "a", 1, 0.49),
        ("z", "a", "b", 0, 0.2), ("z", "random", "a", 0, 0.1), ("z", "random", "a", 1, 0.3),
    )  # fmt: skip
    (matrix,) = from_rows(given)
    assert (matrix.sources, matrix.targets, matrix.seeds) == (("a", "b"), ("a", "b"), (0, 1))
    np.testing.assert_allclose(matrix.own, [0.7, np.nan])
    np.testing.assert_allclose(matrix.relative, [[1.0, np.nan], [0.42 / 0.7, np.nan]])
    errors = [[0.1, np.nan], [0.07, np.nan]]  # |difference| / 2 for two seeds; one seed has none
    np.testing.assert_allclose(matrix.standard_errors, errors)
    np.testing.assert_array_equal(matrix.controls["random"], [[0.1, np.nan], [0.3, np.nan]])


def test_means_by_type_leave_the_own_prompt_and_the_controls_out() -> None:
    given = rows(
        ("z", "a", "a", 0, 0.8), ("z", "b", "a", 0, 0.6), ("z", "c", "a", 0, 0.4), ("z", "none", "a", 0, 0.0)
    )
    (matrix,) = from_rows(given)
    means = transfer.by_type(matrix, {"a": "x", "b": "x", "c": "y"})
    assert (means.same, means.different, means.same_cells, means.different_cells) == (0.6, 0.4, 1, 1)
    assert means.same_relative == pytest.approx(0.75)
    assert means.different_relative == pytest.approx(0.5)


# Going on.


def test_known_cells_are_not_measured_again_and_new_ones_are_kept_at_once(backbone: Any) -> None:
    first = column(backbone, SOURCES, TARGETS["mood"])
    known = {(cell.source, cell.seed): cell for cell in first[:2]}
    kept: list[Cell] = []

    def of(source: str, prompt: SoftPrompt) -> Cell | None:
        return known.get((source, prompt.seed))

    again = column(backbone, SOURCES, TARGETS["mood"], known=of, keep=kept.append)
    assert again == first
    assert kept == first[2:]


def test_an_unknown_protocol_is_answered_with_the_nearest(backbone: Any) -> None:
    with pytest.raises(InputError, match="zero-shot"):
        column(backbone, SOURCES, TARGETS["mood"], protocol="zeroshot")
