"""The automatic token budget: 8192 on a CPU, by free memory on a GPU, what is written where it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from tests.test_pipeline import write_study
from transferscope import token_budget
from transferscope.encoding import TOKEN_BUDGET
from transferscope.errors import StudyError
from transferscope.models import wrap
from transferscope.pipeline import open_study
from transferscope.settings import parse_settings
from transferscope.token_budget import MOST, automatic, of_memory
from transferscope.workspace import Workspace

GIB = 2**30
ROBERTA: dict[str, Any] = {"hidden": 768, "neurons": 3072, "vocabulary": 50265, "itemsize": 4}
LLAMA_8B: dict[str, Any] = {"hidden": 4096, "neurons": 14336, "vocabulary": 128256, "itemsize": 4}


@pytest.mark.parametrize(
    ("free", "sizes", "budget"),
    [
        (0, ROBERTA, 8192),
        (14 * GIB, ROBERTA, 8192),
        (40 * GIB, ROBERTA, 16384),
        (135 * GIB, ROBERTA, 65536),
        (100 * GIB, LLAMA_8B, 16384),
        (135 * GIB, ROBERTA | {"vocabulary": 0}, 131072),
        (10_000 * GIB, ROBERTA, MOST),
    ],
)
def test_the_budget_by_memory(free: int, sizes: dict[str, Any], budget: int) -> None:
    assert of_memory(free, **sizes) == budget


def test_it_fits_and_the_next_power_would_not() -> None:
    row = 4 * (8 * 768 + 12 * 3072 + 50265)
    for free in range(20 * GIB, 200 * GIB, 7 * GIB):
        budget = of_memory(free, **ROBERTA)
        assert TOKEN_BUDGET <= budget <= MOST
        assert budget == TOKEN_BUDGET or budget * row <= free / 4
        assert budget == MOST or 2 * budget * row > free / 4


def test_a_cpu_keeps_what_it_had() -> None:
    assert automatic(wrap(tiny.model("bert"))) == TOKEN_BUDGET == 8192


def test_auto_is_what_is_not_said() -> None:
    fields: dict[str, Any] = {"model": "m", "tasks": {"a": {"train": "a.jsonl"}}}
    for given in ({}, {"token_budget": "auto"}):
        assert not parse_settings(fields | given).has_token_budget
        assert parse_settings(fields | given).token_budget == 8192
    said = parse_settings(fields | {"token_budget": 8192})
    assert said.has_token_budget
    with pytest.raises(StudyError, match=r"token_budget: .*'much'"):
        parse_settings(fields | {"token_budget": "much"})
    with pytest.raises(StudyError, match=r"token_budget: .*63"):
        parse_settings(fields | {"token_budget": 63})


def test_a_study_takes_what_is_said_else_what_the_device_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_budget, "automatic", lambda backbone: 4096)
    study = write_study(tmp_path / "study", seeds=1)
    assert open_study(study).token_budget == 4096
    said = write_study(tmp_path / "said", seeds=1, token_budget=100)

    def no_model(_: Workspace) -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(Workspace, "backbone", property(no_model))
    assert open_study(said).token_budget == 100


@pytest.mark.gpu
def test_a_gpu_has_at_least_what_a_cpu_has() -> None:
    backbone = wrap(tiny.model("bert").to("cuda"))
    assert automatic(backbone) >= TOKEN_BUDGET
    before = token_budget._free(backbone.device)
    held = torch.empty(GIB, dtype=torch.uint8, device="cuda")
    del held  # held by the allocator still, and ours to use
    assert token_budget._free(backbone.device) == pytest.approx(before, abs=GIB / 4)
