"""What the benchmarks of a whole model share: a model and texts of stated sizes, counts of operations, the
machine's own matrix product, turns and their medians, and the peak of memory of one side in its own process.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from transferscope import products
from transferscope.encoding import Encoded
from transferscope.models import Backbone, wrap

# Share of the sentences of SST-2: tokens at most (4,000 of train, specials counted, WordPiece vocabulary of
# BERT). Lengths are drawn linearly between them.
QUANTILES = {
    0.0: 4, 0.1: 11, 0.2: 15, 0.3: 18, 0.4: 21, 0.5: 24, 0.6: 27, 0.7: 31, 0.8: 35, 0.9: 41, 0.95: 46,
    0.99: 56, 1.0: 78,
}  # fmt: skip
WORDS = (101, 100)  # two words of the vocabulary that stand for the classes
SIZES = {
    "base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
}


def configuration(size: str = "base", layers: int | None = None) -> Any:
    """The configuration of a RoBERTa of one of SIZES (base: 125 M parameters), or fewer ``layers`` of it."""
    options: dict[str, Any] = {**SIZES[size], **({} if layers is None else {"num_hidden_layers": layers})}
    return transformers.RobertaConfig(
        vocab_size=50265 if size == "base" else 500, max_position_embeddings=514, type_vocab_size=1,
        layer_norm_eps=1e-5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **options,
    )  # fmt: skip


def backbone_of(
    size: str = "base", device: str = "cpu", layers: int | None = None, seed: int = 0
) -> Backbone:
    """A model of this `configuration` with random weights."""
    torch.manual_seed(seed)
    model = transformers.RobertaForMaskedLM(configuration(size, layers))
    return wrap(model.to(device), name=f"random RoBERTa {size}")


def texts(examples: int, vocabulary: int, seed: int = 0) -> list[tuple[list[int], int]]:
    """Random token ids with the lengths of SST-2, labels in turns."""
    rng = np.random.default_rng(seed)
    lengths = np.interp(rng.random(examples), [*QUANTILES], [*QUANTILES.values()]).round().astype(int)
    return [([0, *rng.integers(4, vocabulary, n - 2).tolist(), 2], i % 2) for i, n in enumerate(lengths)]


def prompt_of(backbone: Backbone, rows: int, seed: int = 0) -> Tensor:
    """Random prompt rows [rows, E] float32, the mask row among them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(rows, backbone.embedding_size, generator=generator) * 0.05
    return drawn.to(backbone.device)


def forward_flops(config: Any, batch: int, rows: int, *, head_rows: int = 0, head_words: int = 0) -> int:
    """Multiplications and additions of the matrix products of one forward pass over [batch, rows].

    Per layer 4 products D x D and 2 of D x N by row, and attention's two products of rows x rows. The head,
    where it is read (``head_rows`` of each example): D x D, then D x ``head_words``.
    """
    wide, inner = config.hidden_size, config.intermediate_size
    layer = batch * rows * 2 * (4 * wide * wide + 2 * wide * inner) + batch * 4 * rows * rows * wide
    head = batch * head_rows * 2 * wide * (wide + head_words)
    return config.num_hidden_layers * layer + head


def grouped_flops(config: Any, data: Encoded, groups: Sequence[np.ndarray], prompt: int, **head: int) -> int:
    """`forward_flops` of these batches, padding counted: it is computed."""
    lengths = data.lengths
    return sum(forward_flops(config, len(g), prompt + int(lengths[g].max()), **head) for g in groups)


def product_rate(config: Any, rows: int, device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of the machine's matrix product at the model's shapes, each as often as it occurs.

    On a CPU the faster of PyTorch's two, MKL's and oneDNN's.
    """
    kernels: list[Callable[[Tensor, Tensor], Tensor]] = [lambda a, b: torch.mm(a, b.T)]
    if device.type == "cpu" and products.mkl_is_slower():
        kernels.append(lambda a, b: products.multiply(a, b, None))
    return max(_rate(config, rows, device, dtype, kernel) for kernel in kernels)


def _rate(
    config: Any, rows: int, device: torch.device, dtype: torch.dtype, kernel: Callable[[Tensor, Tensor], Any]
) -> float:
    wide, inner = config.hidden_size, config.intermediate_size
    operations, seconds = 0, 0.0
    for count, (n, m) in ((4, (wide, wide)), (1, (wide, inner)), (1, (inner, wide))):
        a, b = (torch.randn(shape, device=device, dtype=dtype) for shape in ((rows, n), (m, n)))
        for turn in range(3):  # the first warms up
            spent = timed(lambda a=a, b=b: kernel(a, b), device)
            if turn:
                seconds += count * spent / 2
        operations += count * 2 * rows * n * m
    return operations / seconds


def timed(work: Callable[[], Any], device: torch.device | None = None) -> float:
    """Seconds of a piece of work: of a GPU by the clock, waited for; of one thread its own processor time.

    Processor time is what a shared machine leaves alone.
    """
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def turns(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each piece of work, taken in turns, so that what disturbs one disturbs the others."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            seconds[name].append(timed(work))
    return seconds


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the ratios turn by turn."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def peak_of(script: str, *arguments: str) -> int:
    """Bytes that a script took at most, in a fresh process: its own ``peak_bytes``.

    Start it while this process is small: on Linux a child's peak begins with its parent's.
    """
    done = subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout)["peak_bytes"])


def own_peak() -> int:
    """Bytes that this process held in memory at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class LiveTensors(TorchDispatchMode):
    """While open, ``peak`` is the most bytes at once of tensors that operations made and that were alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = {
            one.untyped_storage()._cdata for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)
        }
        for one in tree_leaves(found):
            if isinstance(one, Tensor):
                self._count(one.untyped_storage(), given)
        return found

    def _count(self, storage: Any, given: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in given:  # a view, or a result written in place
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
