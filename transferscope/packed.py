"""Sets of neurons as bits, a row of bytes for each set, and how many neurons two sets share.

All counts here are exact whole numbers, whatever they are made with: bits counted one by one, a float32
matrix product of 0/1 blocks, or faiss where it is installed.
"""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indicators.kernels import EXACT_FLOAT32
from transferscope.errors import InputError, suggest

Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Numbers = NDArray[Any]

WORD = 8  # rows are whole words of so many bytes: words are counted faster than bytes
ROWS_AT_ONCE = 256  # rows that stay in a core's cache while their bits are counted
BYTES_AT_ONCE = 1024  # of each row, as 0/1 numbers, in one matrix product
SAMPLE = 128  # rows that tell which kernel is the faster


def width(cells: int) -> int:
    """Bytes of a row of so many cells."""
    return -(-cells // (8 * WORD)) * WORD


def pack(sets: Bools) -> Bytes:
    """Sets [R, ...] of booleans as uint8 [R, B], B = `width` of the cells; bits that are no cell are 0.

    >>> pack(np.array([[True, False, True]])).tolist()
    [[160, 0, 0, 0, 0, 0, 0, 0]]
    """
    flat = sets.reshape(len(sets), -1)
    rows = np.zeros((len(flat), width(flat.shape[1])), np.uint8)
    bits = np.packbits(flat, axis=1)
    rows[:, : bits.shape[1]] = bits
    return rows


def sizes(rows: Bytes) -> Floats:
    """How many cells each row [n, B] holds, float64 [n]."""
    found = np.empty(len(rows))
    for first in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(first, first + ROWS_AT_ONCE)
        found[part] = np.bitwise_count(_words(rows[part])).sum(axis=1, dtype=np.int64)
    return found


def shared_with(queries: Bytes, rows: Bytes) -> Floats:
    """How many cells each of a few queries [Q, B] shares with each row [n, B], float64 [Q, n]."""
    found, wanted = np.empty((len(queries), len(rows))), _words(queries)
    for first in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(first, first + ROWS_AT_ONCE)
        words = _words(rows[part])
        for number, query in enumerate(wanted):
            found[number, part] = np.bitwise_count(words & query).sum(axis=1, dtype=np.int64)
    return found


def shared(left: Bytes, right: Bytes, kernel: str = "gemm") -> Numbers:
    """How many cells each row of a block [m, B] shares with each of another [n, B], [m, n].

    `kernel` "gemm" or "faiss": the same numbers. Raises InputError for another one, or one not installed.
    """
    known = kernels()
    if kernel not in known:
        hint = " (faiss comes with the package faiss-cpu)" if kernel == "faiss" else ""
        raise InputError(f"no kernel {kernel!r} here{hint}. {suggest(kernel, known)}")
    return known[kernel](left, right)


def kernels() -> Mapping[str, Callable[[Bytes, Bytes], Numbers]]:
    """The ways to count that can be used here, by name."""
    return {"gemm": _by_product} | ({"faiss": _by_faiss} if _faiss() is not None else {})


def fastest(rows: Bytes) -> str:
    """The kernel that takes the least time for the first of these rows [n, B] with themselves."""
    known = kernels()
    sample = np.ascontiguousarray(rows[:SAMPLE])
    if len(known) == 1 or not len(sample):
        return "gemm"
    return min(known, key=lambda name: min(_seconds(known[name], sample) for _ in range(2)))


def _seconds(count: Callable[[Bytes, Bytes], Numbers], rows: Bytes) -> float:
    start = time.perf_counter()
    count(rows, rows.copy())
    return time.perf_counter() - start


def _by_product(left: Bytes, right: Bytes) -> Numbers:
    """A float32 matrix product, some cells at a time, so that memory does not grow with the network."""
    exact = np.float32 if 8 * left.shape[1] < EXACT_FLOAT32 else np.float64
    found = np.zeros((len(left), len(right)), exact)
    for first in range(0, left.shape[1], BYTES_AT_ONCE):
        part = slice(first, first + BYTES_AT_ONCE)
        a = _as_numbers(left[:, part])
        # One array with itself is half the work: BLAS then makes one triangle.
        b = a if right is left else _as_numbers(right[:, part])
        found += a @ b.T
    return found


def _as_numbers(rows: Bytes) -> NDArray[np.float32]:
    return np.unpackbits(rows, axis=1).astype(np.float32)


def _by_faiss(left: Bytes, right: Bytes) -> Numbers:
    """By Hamming distances H: |A and B| = (|A| + |B| - H) / 2."""
    faiss = _faiss()
    a, b = np.ascontiguousarray(left), np.ascontiguousarray(right)
    apart = np.empty((len(a), len(b)), np.int32)
    pointers = [faiss.swig_ptr(array) for array in (a, b, apart)]
    faiss.hammings(*pointers[:2], len(a), len(b), a.shape[1], pointers[2])
    return (sizes(a)[:, None] + sizes(b)[None, :] - apart) / 2


def _faiss() -> Any:
    """The module faiss, or None where it is not installed or has no Hamming distances of two blocks."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its generated wrappers warn of their own make
            module = importlib.import_module("faiss")
    except ImportError:
        return None
    return module if hasattr(module, "hammings") and hasattr(module, "swig_ptr") else None


def _words(rows: Bytes) -> NDArray[np.uint64]:
    return np.ascontiguousarray(rows).view(np.uint64)
