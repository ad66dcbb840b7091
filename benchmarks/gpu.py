"""Extraction and tuning on a GPU: what fills it, what leaves it idle, and what fewer bits would change.

A model of the size of roberta-base with random weights, 128 prompt rows, texts with the lengths of SST-2.
Without a GPU it says so and ends. Every measuring function takes the device of its backbone, so all of them
run on a CPU, too.

    python benchmarks/gpu.py
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch
import transformers
import yardsticks
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import transferscope.demo
from transferscope import attachment
from transferscope.activations import FireCounts, Moments, Probe, capture
from transferscope.attachment import Attached
from transferscope.encoding import Encoded, Prepared, buckets, from_token_ids, prepared
from transferscope.measurement import measure
from transferscope.models import Backbone, wrap
from transferscope.settings import TuningSettings
from transferscope.streaming import CPU_TOKENS
from transferscope.tasks import Example, Task

BUDGETS = (2048, 8192, 32768, 131072)
TRIALS = (1, 2, 4, 8)
BATCH_ROWS = 8192  # of the matrix product that the model's speed is compared with


def attached_to(backbone: Backbone, rows: int) -> Attached:
    """A random prompt of some rows on a backbone."""
    return attachment.attach_rows(backbone, yardsticks.prompt_of(backbone, rows), "mask-first")


def throughput(
    attached: Attached, data: Encoded, budgets: Iterable[int], repeats: int = 3
) -> list[dict[str, Any]]:
    """Examples and operations a second of an extraction over token budgets, and its peak of memory."""
    found: list[dict[str, Any]] = []
    for budget in budgets:
        row: dict[str, Any] = {"token_budget": budget}
        try:
            row |= _extraction(attached, data, budget, repeats)
        except torch.OutOfMemoryError:
            row["out_of_memory"] = True
        found.append(row)
    return found


def _extraction(attached: Attached, data: Encoded, budget: int, repeats: int) -> dict[str, Any]:
    backbone, blank = attached.backbone, from_token_ids([([0], 0)])
    device = backbone.device

    def work() -> None:
        measure(attached, data, data, blank=blank, token_budget=budget)

    work()  # warms up
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = median(yardsticks.timed(work, device) for _ in range(repeats))
    budget = min(budget, CPU_TOKENS) if device.type == "cpu" else budget  # as measure has it
    groups = buckets(data, prompt_rows=attached.rows, token_budget=budget)
    flops = 2 * yardsticks.grouped_flops(backbone.model.config, data, groups, attached.rows)
    return {
        "examples_per_second": 2 * len(data) / seconds,  # train and dev
        "flops_per_second": flops / seconds,
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def passes(attached: Attached, data: Prepared, statistics: Moments | FireCounts | None = None) -> None:
    """Forward passes over prepared batches, with the neurons streamed into statistics, or without hooks."""
    probe, now = Probe.of(attached), {}

    def sink(layer: int, values: Tensor, gate: Tensor | None) -> None:
        placed, labels = now["batch"]
        statistics.add(layer, probe.pick(layer, values, placed), labels)  # type: ignore[union-attr]

    @contextmanager
    def hooks() -> Iterator[None]:
        if statistics is None:
            yield
        else:
            with capture(attached.backbone, sink):
                yield

    with torch.inference_mode(), hooks():
        for batch in data.batches:
            placed = attached.place(batch)
            now["batch"] = placed, batch.labels
            attached.forward(placed)


def statistics_of(attached: Attached, data: Prepared) -> tuple[Moments, FireCounts]:
    """Moments of a pass, and empty counts above their mean."""
    backbone, probe = attached.backbone, Probe.of(attached)
    shape = (backbone.layers, probe.rows, backbone.neurons)
    moments = Moments.zeros(2, shape, backbone.device)
    passes(attached, data, moments)
    return moments, FireCounts.above(moments.mean, 2)


def reduction(attached: Attached, data: Prepared, repeats: int = 3) -> dict[str, float]:
    """Seconds of the passes without hooks, with sums and squares, and with counts; in turns, medians."""
    moments, counts = statistics_of(attached, data)
    device = attached.backbone.device
    seconds: dict[str, list[float]] = {"plain": [], "moments": [], "counts": []}
    for _ in range(repeats):
        for name, statistics in (("plain", None), ("moments", moments), ("counts", counts)):
            work = lambda statistics=statistics: passes(attached, data, statistics)  # noqa: E731
            seconds[name].append(yardsticks.timed(work, device))
    return {name: median(found) for name, found in seconds.items()}


def idle_share(intervals: Sequence[tuple[float, float]]) -> float | None:
    """The share of the time from first start to last end in which no interval runs; None: there are none."""
    if not intervals:
        return None
    ordered = sorted(intervals)
    first, reached = ordered[0]
    idle = 0.0
    for start, end in ordered[1:]:
        idle += max(0.0, start - reached)
        reached = max(reached, end)
    return idle / (reached - first) if reached > first else 0.0


def launch_gaps(attached: Attached, data: Prepared) -> float | None:
    """The share of a counting pass in which no kernel runs; None without a GPU."""
    counts = statistics_of(attached, data)[1]
    on_gpu = attached.backbone.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as recorded:
        passes(attached, data, counts)
        if on_gpu:
            torch.cuda.synchronize()
    kernels = [event for event in recorded.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return idle_share([(event.time_range.start, event.time_range.end) for event in kernels])


@contextmanager
def tf32() -> Iterator[None]:
    """Matrix products of float32 in TF32 for a while, on GPUs that have it."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def fired(attached: Attached, data: Prepared) -> Tensor:
    """1[a > a_bsl] of every example and cell against the pass's own mean, [S, L, P, N] bool on the host."""
    counts = statistics_of(attached, data)[1]
    probe, found = Probe.of(attached), []
    now: dict[str, Any] = {}

    def sink(layer: int, values: Tensor, gate: Tensor | None) -> None:
        picked = probe.pick(layer, values, now["placed"]).float()
        now["layers"].append((picked > counts.thresholds[layer, : picked.shape[1]]).cpu())

    with torch.inference_mode(), capture(attached.backbone, sink):
        for batch in data.batches:
            now.update(placed=attached.place(batch), layers=[])
            attached.forward(now["placed"])
            found.append(torch.stack(now["layers"], dim=1))
    return torch.cat(found)


def flips(attached: Attached, data: Prepared) -> dict[str, float]:
    """The share of comparisons that TF32 and bfloat16 change against float32, each with its own baseline."""
    exact = fired(attached, data)
    with tf32():
        rounded = fired(attached, data)
    short = wrap(copy.deepcopy(attached.backbone.model).to(torch.bfloat16), name="bfloat16")
    half = fired(Attached(short, attached.template, attached.prompt, attached.mask_row), data)
    return {
        "tf32": float((exact != rounded).float().mean()),
        "bfloat16": float((exact != half).float().mean()),
    }


def products(backbone: Backbone) -> dict[str, float]:
    """FLOP/s of the device's matrix product at the model's shapes: float32, TF32 and bfloat16."""
    config, device = backbone.model.config, backbone.device
    found = {"float32": yardsticks.product_rate(config, BATCH_ROWS, device)}
    with tf32():
        found["tf32"] = yardsticks.product_rate(config, BATCH_ROWS, device)
    found["bfloat16"] = yardsticks.product_rate(config, BATCH_ROWS, device, torch.bfloat16)
    return found


def fused(backbone: Backbone, rows: int, batch: int = 64, repeats: int = 5) -> dict[str, float] | None:
    """Seconds of one layer's counts, eager and compiled by inductor; None without a GPU."""
    if backbone.device.type != "cuda":
        return None
    device, neurons = backbone.device, backbone.neurons
    values = torch.randn(batch, rows, neurons, device=device)
    threshold = torch.zeros(rows, neurons, device=device)
    members = torch.eye(2, device=device)[torch.arange(batch, device=device) % 2].T

    def count(values: Tensor) -> Tensor:
        return (members @ (values > threshold).flatten(1).float()).to(torch.int32)

    compiled = torch.compile(count)
    compiled(values)
    return {
        name: median(yardsticks.timed(lambda work=work: work(values), device) for _ in range(repeats))
        for name, work in (("eager", count), ("compiled", compiled))
    }


def material(size: str, device: str, examples: int = 64) -> tuple[Backbone, Task]:
    """A random RoBERTa with the demo model's tokenizer, and a task of two classes in its words."""
    folder = Path(transferscope.demo.__file__).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = yardsticks.configuration(size)
    config.vocab_size = max(config.vocab_size, len(tokenizer))
    torch.manual_seed(0)
    backbone = wrap(transformers.RobertaForMaskedLM(config).to(device), tokenizer, f"random RoBERTa {size}")
    words = [word for word in tokenizer.get_vocab() if word.isalpha()]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, size=20)) for _ in range(examples)]
    split = tuple(Example(text, None, i % 2) for i, text in enumerate(texts))
    return backbone, Task("drawn", split, split[:8], ("a", "b"), (words[0], words[1]))


def together(
    backbone: Backbone, task: Task, trials: Iterable[int], steps: int = 8
) -> list[dict[str, Any]] | str:
    """Steps a second, over all trials, of R trials tuned at once; what is not a step is taken off."""
    try:
        from transferscope.tuning_together import tune_together
    except ImportError:
        return "not in this version"

    def seconds(count: int, length: int) -> float:
        settings = TuningSettings(rows=16, steps=length, evaluate_every=length, batch_size=16)
        seeds = tuple(range(count))
        return yardsticks.timed(
            lambda: tune_together(backbone, task, seeds=seeds, settings=settings), backbone.device
        )

    found = []
    for count in trials:
        seconds(count, steps)  # warms up
        short, long = seconds(count, steps), seconds(count, 3 * steps)
        found.append({"trials": count, "steps_per_second": count * 2 * steps / max(long - short, 1e-9)})
    return found


def report(size: str, device: str, rows: int, examples: int, budgets: Sequence[int]) -> dict[str, Any]:
    """All of it on one device."""
    backbone = yardsticks.backbone_of(size, device)
    attached = attached_to(backbone, rows)
    data = from_token_ids(yardsticks.texts(examples, backbone.model.config.vocab_size))
    batches = prepared(backbone, data, prompt_rows=rows, token_budget=budgets[-1])
    few = data.take(range(min(64, examples)))
    return {
        "device": torch.cuda.get_device_name(device) if backbone.device.type == "cuda" else device,
        "torch": torch.__version__,
        "model": backbone.name,
        "prompt_rows": rows,
        "product_flops_per_second": products(backbone),
        "extraction": throughput(attached, data, budgets),
        "reduction_seconds": reduction(attached, batches),
        "compiled_counts_seconds": fused(backbone, rows),
        "idle_share": launch_gaps(attached, batches),
        "flips": flips(attached, prepared(backbone, few, prompt_rows=rows)),
        "tuning_together": together(*material(size, device), TRIALS),
    }


@click.command()
@click.option("--size", default="base", show_default=True, help="base (roberta-base) or tiny.")
@click.option("--rows", default=128, show_default=True, help="Prompt rows, the mask row counted.")
@click.option("--examples", default=1024, show_default=True)
@click.option("--device", default="cuda", show_default=True)
def main(size: str, rows: int, examples: int, device: str) -> None:
    """Measure, and print one JSON document. Without a GPU: one line, and exit status 0."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        click.echo("no GPU here: nothing was measured")
        return
    click.echo(json.dumps(report(size, device, rows, examples, BUDGETS), indent=2))


if __name__ == "__main__":
    main()
