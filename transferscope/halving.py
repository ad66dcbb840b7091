"""Batches that do not fit in memory: halved when it runs out, and each example is taken in once."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from transferscope.errors import BackboneError

B = TypeVar("B")
T = TypeVar("T")
Report = Callable[[str], None]

# How the allocators say it; the CUDA one has an exception of its own, which is a RuntimeError too.
_SAID = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the host, has no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)


class Ledger:
    """What a pass has done for the examples at hand, so that a pass begun again does nothing twice.

    The deeds of a pass (a layer's values added to a sum, say) come in a fixed order and have numbers. When a
    pass breaks off, the deeds before it are done for all its examples: its halves leave those out. Nothing is
    staged, so this costs no memory. A deed must happen wholly or not at all.
    """

    def __init__(self) -> None:
        self._skip = self.reached = 0

    def begin(self, skip: int) -> None:
        """A pass begins, of examples for which the deeds before number ``skip`` are done."""
        self._skip = self.reached = skip

    def once(self, number: int, deed: Callable[[], object]) -> None:
        """Do it, unless it is done."""
        if number >= self._skip:
            deed()
            self.reached = number + 1


class Fitting:
    """How many rows fit into a forward pass of one model on its devices, as far as failures have told.

    ``rows`` has the most that are tried, by kind of work ("tuning", say): none until memory ran out once.
    ``report`` gets a line when it does; by default it is a RuntimeWarning.
    """

    def __init__(self, report: Report | None = None) -> None:
        self.report: Report = report or _warn
        self.rows: dict[str, int] = {}

    def run(
        self,
        work: str,
        batch: B,
        step: Callable[[B], T],
        *,
        beside: int = 0,
        ledger: Ledger | None = None,
    ) -> list[T]:
        """``step`` on a batch; where memory runs out, on its halves, and so on. Results in order.

        Args:
            batch: a record of tensors and tuples that have an item an example, as `templates.Batch`.
            beside: rows that an example takes in a pass beside its tokens (those of the prompt).
            ledger: of a step that adds to something; without it a step that fails must leave no trace.

        Raises:
            BackboneError: a single example does not fit. Whatever else ``step`` raises.
        """
        found: list[T] = []
        left = [(batch, 0)]
        while left:
            piece, skip = left.pop(0)
            size = max(1, self.rows.get(work, _rows(piece, beside)) // _width(piece, beside))
            if size < _count(piece):
                left[:0] = [(part, skip) for part in pieces(piece, size)]
                continue
            if ledger is not None:
                ledger.begin(skip)
            failed = _try(step, piece, found)
            if not failed:
                continue
            # Only here: while the error was handled, it held the pass that failed, and with it the memory.
            _release()
            self._shrink(work, piece, beside, failed)
            done = skip if ledger is None else ledger.reached
            left[:0] = [(part, done) for part in pieces(piece, -(-_count(piece) // 2))]
        return found

    def over(
        self,
        work: str,
        batches: Iterable[B],
        step: Callable[[B], T],
        *,
        beside: int = 0,
        ledger: Ledger | None = None,
    ) -> list[T]:
        """`run` on one batch after another; all results in order."""
        return [one for batch in batches for one in self.run(work, batch, step, beside=beside, ledger=ledger)]

    def _shrink(self, work: str, piece: Any, beside: int, failed: str) -> None:
        count, width = _count(piece), _width(piece, beside)
        if count == 1:
            raise BackboneError(
                f"memory ran out in {work} with one text of {width} rows, prompt rows counted ({failed}). "
                "Make texts shorter (max_length) or the model smaller (dtype: bfloat16, quantization: 4bit), "
                "or spread it over devices (device_map: auto)."
            )
        self.rows[work] = -(-count // 2) * width
        self.report(
            f"memory ran out in {work} with {count} texts of {width} rows ({failed}): run again in halves, "
            f"and with at most {self.rows[work]} rows from here on"
        )

    def backward(
        self,
        work: str,
        batch: B,
        loss: Callable[[B], Tensor],
        parameters: Sequence[Tensor],
        *,
        beside: int = 0,
        summed: bool = False,
    ) -> None:
        """Add the gradient of a batch's mean loss to the parameters' gradients, as one pass or as several.

        A piece counts by its share of what the mean is over: target tokens, or examples; of a loss that is
        ``summed`` over examples it counts whole. So the gradient is that of the whole batch, up to rounding.
        """

        def step(piece: B) -> None:
            before = [None if p.grad is None else p.grad.clone() for p in parameters]
            try:
                value = loss(piece)
                (value if summed or piece is batch else value * _share(piece, batch)).backward()
            except BaseException:
                # A backward pass that breaks off has reached some parameters.
                for parameter, gradient in zip(parameters, before, strict=True):
                    parameter.grad = gradient
                raise

        self.run(work, batch, step, beside=beside)


def pieces(batch: B, size: int) -> list[B]:
    """A batch as batches of at most ``size`` examples, in order; they stay padded as they are."""
    return [_cut(batch, start, start + size) for start in range(0, _count(batch), size)]


def _cut(batch: B, start: int, stop: int) -> B:
    fields = {one.name: getattr(batch, one.name) for one in dataclasses.fields(batch)}  # type: ignore[arg-type]
    cut = {name: value if value is None else value[start:stop] for name, value in fields.items()}
    return dataclasses.replace(batch, **cut)  # type: ignore[type-var]


def _try(step: Callable[[B], T], piece: B, found: list[T]) -> str:
    """Run it; what the allocator said if memory ran out, else an empty text."""
    try:
        found.append(step(piece))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__
    return ""


def _count(batch: Any) -> int:
    return len(batch.ids)


def _width(batch: Any, beside: int) -> int:
    """Rows of one example: its tokens, those to be written, and those beside."""
    targets = getattr(batch, "targets", None)
    return int(batch.ids.shape[1]) + beside + (0 if targets is None else int(targets.shape[1]))


def _rows(batch: Any, beside: int) -> int:
    return _count(batch) * _width(batch, beside)


def _share(piece: Any, batch: Any) -> Any:
    if getattr(batch, "targets", None) is None:
        return _count(piece) / _count(batch)
    return (piece.targets >= 0).sum() / (batch.targets >= 0).sum()  # behind a target's end stands -100


def _release() -> None:
    """Give back what the allocator keeps: pieces of it may be too small for what comes."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _warn(line: str) -> None:
    warnings.warn(line, RuntimeWarning, stacklevel=4)
