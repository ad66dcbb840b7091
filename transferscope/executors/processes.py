"""The executor of one machine: a process for each GPU, or some on the CPU, started afresh (spawn)."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from transferscope.executors.registry import executor
from transferscope.executors.scheduling import Death, Outcome, Pool, attempt

CORES = 4  # without GPUs, one process for so many cores
PATIENCE = 10.0  # seconds that a process has to end in


@dataclass(frozen=True)
class Worker:
    """A process, and our end of the pipe to it."""

    process: BaseProcess
    pipe: Connection


@executor("processes")
class Processes(Pool):
    """Processes on this machine. The i-th sees the i-th GPU alone (from the first again where there are fewer
    GPUs); on the CPU they share the cores.

    ``workers`` None: one for each GPU, else one for every four cores and at least two. A script that uses it
    needs `if __name__ == "__main__":`, since the processes import it.
    """

    def __init__(self, workers: int | None = None) -> None:
        """Raises InputError for less than one worker."""
        self.gpus = visible_gpus()
        cores = available_cores()
        super().__init__(workers if workers is not None else len(self.gpus) or max(2, cores // CORES))
        self.threads = max(1, cores // self.workers)
        self._workers: dict[int, Worker] = {}
        self._busy: dict[Connection, int] = {}

    def give(self, place: int, function: Callable[[Any], Any], unit: Any) -> None:
        if place not in self._workers:
            self._workers[place] = self._start(place)
        try:
            self._workers[place].pipe.send((function, unit))
        except ConnectionError:  # it died with nothing to do
            self._bury(place)
            self._workers[place] = self._start(place)
            self._workers[place].pipe.send((function, unit))
        self._busy[self._workers[place].pipe] = place

    def take(self) -> tuple[int, Outcome | Death]:
        pipe = next(pipe for pipe in wait(list(self._busy)) if isinstance(pipe, Connection))
        place = self._busy.pop(pipe)
        try:
            outcome: Outcome = pipe.recv()
        except (EOFError, ConnectionError):
            return place, Death(self._bury(place))
        return place, outcome

    def stop(self) -> None:
        for worker in self._workers.values():
            worker.process.terminate()
        for place in list(self._workers):
            self._bury(place)
        self._busy.clear()

    def _start(self, place: int) -> Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        gpu = self.gpus[place % len(self.gpus)] if self.gpus else None
        process = context.Process(
            target=_serve, args=(theirs, gpu, self.threads), name=f"transferscope worker {place}", daemon=True
        )
        process.start()
        theirs.close()  # so that the pipe ends when the process does
        return Worker(process, ours)

    def _bury(self, place: int) -> str:
        worker = self._workers.pop(place)
        worker.pipe.close()
        worker.process.join(PATIENCE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        return how_it_ended(worker.process.exitcode)


def how_it_ended(status: int | None) -> str:
    """An exit status as `multiprocessing` has it, in words.

    >>> how_it_ended(-9)
    'was killed by SIGKILL (as a system that runs out of memory does)'
    >>> how_it_ended(3)
    'ended with status 3'
    """
    if status is None or status >= 0:
        return f"ended with status {status}"
    names = {one.value: one.name for one in signal.Signals}
    name = names.get(-status, f"signal {-status}")
    out_of_memory = " (as a system that runs out of memory does)" if name == "SIGKILL" else ""
    return f"was killed by {name}{out_of_memory}"


def visible_gpus() -> Sequence[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()  # does not touch them
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


def available_cores() -> int:
    """The CPU cores that this process may use."""
    with contextlib.suppress(AttributeError):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _serve(pipe: Connection, gpu: str | None, threads: int) -> None:
    """The life of a worker: units until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends its workers
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # before CUDA is first asked for anything
    limit_threads(threads)
    for function, unit in _received(pipe):
        pipe.send(attempt(function, unit))


def limit_threads(number: int) -> None:
    """At most so many threads in numerical libraries: those that are loaded from now on, and torch anyway."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    os.environ["OMP_NUM_THREADS"] = str(min(number, int(given)) if given.isdecimal() else number)
    if "torch" in sys.modules:  # the user's own script may have loaded it
        import torch

        torch.set_num_threads(min(number, torch.get_num_threads()))


def _received(pipe: Connection) -> Iterator[tuple[Callable[[Any], Any], Any]]:
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            yield pipe.recv()
