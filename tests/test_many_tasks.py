"""The benchmark of many tasks runs at a small size, and finds what its random tasks were made with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.test_benchmarks import load
from transferscope.comparison import compare
from transferscope.library import Library


def test_the_stages_of_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = load("many_tasks")
    monkeypatch.setattr(bench, "FAMILIES", 3)
    monkeypatch.setattr(bench, "peak", lambda: 1e11)  # measuring it takes seconds
    tasks = list(bench.signatures(12))
    Library(tmp_path).add(tasks)
    found = bench.query(tmp_path)
    assert found["of_its_family"] == 3  # of 11 others, 10 of which are shown
    one = bench.pairs(tmp_path, "gemm", "on")
    (expected,) = compare(tasks, ["on"])
    np.testing.assert_allclose(np.load(tmp_path / "pairs.npy"), expected.values, atol=1e-6)
    assert one["kernel"] == "gemm"
    assert one["product_share"] > 0
