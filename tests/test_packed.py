"""Packed sets: what is packed comes back, and every way of counting gives the numbers of plain booleans."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transferscope import packed
from transferscope.errors import InputError

SHAPES = [(1, 1), (3, 7), (2, 32), (5, 13), (12, 96)]


def sets(rows: int, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, *shape)) < 0.4


def by_hand(left: np.ndarray, right: np.ndarray) -> list[list[int]]:
    return [[int((a & b).sum()) for b in right] for a in left]


def fake_faiss() -> Any:
    """What is used of faiss, in numpy: Hamming distances written to an array that is given."""

    def hammings(a: Any, b: Any, na: int, nb: int, width: int, apart: Any) -> None:
        assert (a.shape, b.shape) == ((na, width), (nb, width))
        apart[:] = np.bitwise_count(a[:, None] ^ b[None]).sum(axis=2)

    return SimpleNamespace(hammings=hammings, swig_ptr=lambda array: array)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 150), st.integers(0, 9))
def test_packed_rows_are_whole_words_and_hold_the_cells_and_nothing_else(
    rows: int, layers: int, neurons: int, seed: int
) -> None:
    given_sets = sets(rows, (layers, neurons), seed)
    found = packed.pack(given_sets)
    cells = layers * neurons
    assert found.shape == (rows, packed.width(cells))
    assert found.shape[1] % packed.WORD == 0
    assert 0 <= found.shape[1] * 8 - cells < 64
    bits = np.unpackbits(found, axis=1)
    np.testing.assert_array_equal(bits[:, :cells], given_sets.reshape(rows, -1))
    assert not bits[:, cells:].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_sizes_and_shared_neurons_are_those_of_the_booleans(shape: tuple[int, int]) -> None:
    left, right = sets(4, shape, 1), sets(600, shape, 2)
    a, b = packed.pack(left), packed.pack(right)
    assert packed.sizes(b).tolist() == right.sum(axis=(1, 2)).tolist()
    expected = by_hand(left, right)
    assert packed.shared_with(a, b).tolist() == expected
    assert packed.shared(a, b).tolist() == expected
    assert packed.shared(b, b)[:4].tolist() == by_hand(right[:4], right)


def test_a_product_of_several_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = sets(5, (4, 100), 1), sets(6, (4, 100), 2)
    monkeypatch.setattr(packed, "BYTES_AT_ONCE", 16)
    assert packed.shared(packed.pack(left), packed.pack(right)).tolist() == by_hand(left, right)


def test_counts_that_float32_cannot_hold_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = packed.pack(np.ones((1, 1, 64), bool))
    monkeypatch.setattr(packed, "EXACT_FLOAT32", 64)
    assert packed.shared(rows, rows).dtype == np.float64
    monkeypatch.setattr(packed, "EXACT_FLOAT32", 65)
    assert packed.shared(rows, rows).dtype == np.float32


def test_faiss_counts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", fake_faiss())
    left, right = sets(5, (3, 70), 1), sets(6, (3, 70), 2)
    assert packed.shared(packed.pack(left), packed.pack(right), "faiss").tolist() == by_hand(left, right)


def test_the_real_faiss_counts_the_same() -> None:
    if "faiss" not in packed.kernels():
        pytest.skip("faiss is not installed")
    left, right = sets(50, (12, 96), 1), sets(60, (12, 96), 2)
    assert packed.shared(packed.pack(left), packed.pack(right), "faiss").tolist() == by_hand(left, right)


def test_without_faiss_there_is_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    rows = packed.pack(sets(2, (2, 8)))
    assert list(packed.kernels()) == ["gemm"]
    assert packed.fastest(rows) == "gemm"
    with pytest.raises(InputError, match=r"no kernel 'faiss' here \(.*faiss-cpu\). Available: gemm"):
        packed.shared(rows, rows, "faiss")
    with pytest.raises(InputError, match=r"no kernel 'gem' here. Did you mean 'gemm'"):
        packed.shared(rows, rows, "gem")


def test_a_module_that_only_is_called_faiss_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", SimpleNamespace())
    assert list(packed.kernels()) == ["gemm"]


@pytest.mark.parametrize("quick", ["gemm", "faiss"])
def test_the_kernel_that_takes_less_time_is_taken(quick: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", fake_faiss())
    slow = {name: count for name, count in packed.kernels().items() if name != quick}
    monkeypatch.setattr(packed, "_seconds", lambda count, rows: float(count in slow.values()))
    assert packed.fastest(packed.pack(sets(4, (2, 8)))) == quick
