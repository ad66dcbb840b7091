"""The executor of many machines: actors on a Ray cluster (extra `ray`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transferscope.errors import InputError, WorkerError
from transferscope.executors.registry import executor
from transferscope.executors.scheduling import Death, Outcome, Pool, Unplaced, attempt

CORES = 4  # on a cluster without GPUs, one worker for so many cores of a node
PATIENCE = 5.0  # seconds without an end after which we look whether all workers still have a node


class _Worker:
    """What each actor is: a process that does one unit after the other."""

    def attempt(self, function: Callable[[Any], Any], unit: Any, started: object) -> Outcome:
        """``started`` is there so that a unit is sent only when its sender has heard that there is a process.

        Else a worker that a unit kills at once could look as if it had never had one.
        """
        return attempt(function, unit)


@executor("ray")
class OnRay(Pool):
    """Workers on a Ray cluster, one GPU each where it has any, else some cores each.

    ``address``: "auto", HOST:PORT or ray://...; None: the one of RAY_ADDRESS, else a cluster of this machine
    alone, for as long as it is needed. A connection that this process has already is used. ``workers`` None:
    all GPUs, else one for every four cores of a node. The nodes need this package and the study's folder.
    A node that is lost takes its workers with it; the others do their units, and a new node takes part.
    """

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        """Raises InputError: ray is not installed, no cluster there, more workers than fit on it."""
        self._ray = _installed()
        self._connected = not self._ray.is_initialized()
        if self._connected:
            self._connect(address)
        try:
            number, self.needs = shares(self._nodes(), workers)
            super().__init__(number)
        except InputError:
            self._disconnect()
            raise
        self._actors: dict[int, Any] = {}
        self._started: dict[int, Any] = {}  # what ends when the actor has a process
        self._busy: dict[Any, int] = {}

    def _connect(self, address: str | None) -> None:
        try:
            # What workers print would stand among our results; what they have to say comes with the results.
            self._ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"at {address!r}" if address else "here"
            line = " ".join(str(error).split())
            raise InputError(f"no connection to a Ray cluster {where}: {line}") from None

    def _nodes(self) -> list[Mapping[str, float]]:
        """The resources of each node that is alive."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def places(self) -> Sequence[int]:
        """Those with a worker, and as many more as the nodes that are left have room for."""
        if len(self._actors) == self.workers:
            return range(self.workers)
        number = room(self._nodes(), self.needs)
        if not number and not self._actors:
            needs = f"{self.needs['num_cpus']:g} CPU cores and {self.needs['num_gpus']:g} GPUs"
            raise WorkerError(
                f"no node of the Ray cluster is left that has {needs} for a worker. What was finished is kept"
            )
        others = [place for place in range(self.workers) if place not in self._actors]
        return [*self._actors, *others[: max(0, number - len(self._actors))]]

    def give(self, place: int, function: Callable[[Any], Any], unit: Any) -> None:
        if place not in self._actors:
            options = {"max_restarts": 0, "scheduling_strategy": "SPREAD", **self.needs}
            self._actors[place] = self._ray.remote(_Worker).options(**options).remote()
            self._started[place] = self._actors[place].__ray_ready__.remote()
        self._busy[self._actors[place].attempt.remote(function, unit, self._started[place])] = place

    def take(self) -> tuple[int, Outcome | Death | Unplaced]:
        while not (ended := self._ray.wait(list(self._busy), num_returns=1, timeout=PATIENCE)[0]):
            if (unplaced := self._without_room()) is not None:
                self._drop(unplaced)
                self._busy = {unit: place for unit, place in self._busy.items() if place != unplaced}
                return unplaced, Unplaced("had no node to be on")
        place = self._busy.pop(ended[0])
        errors = self._ray.exceptions
        try:
            outcome: Outcome = self._ray.get(ended[0])
        except errors.RayTaskError as error:  # the worker could not even begin, say it lacks this package
            lines = str(error).strip().splitlines()
            return place, Outcome(unexpected=(lines[-1], str(error)))
        except errors.RayError as error:
            reason = f"was lost ({' '.join(str(error).split())[:300]})"
            lost_before = not self._served(place) and not getattr(error, "actor_init_failed", False)
            self._drop(place)
            if not lost_before:
                return place, Death(reason)
            time.sleep(PATIENCE)  # it was sent to a node that is gone, which the cluster has yet to see
            return place, Unplaced(reason)
        return place, outcome

    def _without_room(self) -> int | None:
        """A place whose worker waits for a node while those that are left hold no more workers."""
        if len(self._actors) <= room(self._nodes(), self.needs):
            return None
        waits = (place for place in self._busy.values() if not self._begun(place))
        return next(waits, None)

    def _begun(self, place: int) -> bool:
        """Whether the worker at a place has a process, or has had, or never will."""
        return bool(self._ray.wait([self._started[place]], timeout=0)[0])

    def _served(self, place: int) -> bool:
        """Whether the worker at a place has ever had a process."""
        try:
            self._ray.get(self._started[place], timeout=0)
        except self._ray.exceptions.RayError:  # the timeout is one, too
            return False
        return True

    def _drop(self, place: int) -> None:
        self._ray.kill(self._actors.pop(place))
        self._started.pop(place)

    def stop(self) -> None:
        for place in list(self._actors):
            self._drop(place)
        self._busy.clear()

    def close(self) -> None:
        if self._ray.is_initialized():
            self.stop()
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connected:
            self._ray.shutdown()


def shares(nodes: Sequence[Mapping[str, float]], workers: int | None) -> tuple[int, dict[str, float]]:
    """How many workers, and what each asks for, on nodes with these resources ("CPU", "GPU").

    Raises InputError where so many do not fit.

    >>> shares([{"CPU": 8}, {"CPU": 4}], None)
    (3, {'num_cpus': 4, 'num_gpus': 0})
    >>> shares([{"CPU": 8}, {"CPU": 4}], 6)
    (6, {'num_cpus': 2, 'num_gpus': 0})
    >>> shares([{"CPU": 8, "GPU": 2}, {"CPU": 4}], None)
    (2, {'num_cpus': 1, 'num_gpus': 1})
    """
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    cores = [int(node.get("CPU", 0)) for node in nodes]
    places, what = (gpus, "GPUs") if gpus else (sum(cores), "CPU cores")
    default = gpus or sum(max(1, number // CORES) for number in cores if number)
    chosen = default if workers is None else workers
    if chosen > places or not places:
        raise InputError(
            f"{chosen} workers do not fit on the Ray cluster: it has {places} {what}, and each needs one"
        )
    if gpus:
        return chosen, {"num_cpus": 1, "num_gpus": 1}
    most = max(cores)
    share = next(c for c in range(most, 0, -1) if sum(number // c for number in cores) >= max(chosen, 1))
    return chosen, {"num_cpus": share, "num_gpus": 0}


def room(nodes: Sequence[Mapping[str, float]], needs: Mapping[str, float]) -> int:
    """How many workers with these needs fit on nodes with these resources.

    >>> room([{"CPU": 8}, {"CPU": 3}], {"num_cpus": 2, "num_gpus": 0})
    5
    """
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    return sum(
        min(int(node.get(names[need], 0) // number) for need, number in needs.items() if number)
        for node in nodes
    )


def _installed() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError("the executor 'ray' needs Ray: pip install 'transferscope[ray]'") from None
    return ray
