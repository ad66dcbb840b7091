"""Executors: units end in any order, of dead workers again, of errors not; processes are real here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.executor_work import die_always, die_once, refuse, square, stumble, surroundings
from transferscope import executors
from transferscope.errors import InputError, TaskError, WorkerError
from transferscope.executors.processes import Processes, limit_threads, visible_gpus
from transferscope.executors.scheduling import ATTEMPTS, PLACEMENTS, Death, Outcome, Pool, Unplaced, attempt


@pytest.fixture(scope="module")
def pool() -> Iterator[Processes]:
    with Processes(2) as found:
        yield found


class Fake(Pool):
    """A pool of this process, whose workers die as it is told."""

    def __init__(self, workers: int, deaths: dict[Any, int]) -> None:
        super().__init__(workers)
        self.deaths, self.doing, self.most, self.stopped = deaths, dict[int, Any](), 0, False

    def give(self, place: int, function: Callable[[Any], Any], unit: Any) -> None:
        assert place not in self.doing
        self.doing[place] = (function, unit)
        self.most = max(self.most, len(self.doing))

    def take(self) -> tuple[int, Outcome | Death | Unplaced]:
        place = max(self.doing)  # the last one ends first
        function, unit = self.doing.pop(place)
        if self.deaths.get(unit, 0):
            self.deaths[unit] -= 1
            return place, Death("fell over")
        return place, attempt(function, unit)

    def stop(self) -> None:
        self.stopped = True


def test_they_are_found_by_name() -> None:
    assert executors.names() == ["processes", "ray", "serial"]
    assert isinstance(executors.make("processes", workers=3, address=None), Processes)
    with pytest.raises(InputError, match=r"no executor 'procesess'\. Did you mean 'processes'"):
        executors.make("procesess")
    with pytest.raises(InputError, match="'serial' has no option 'workers'; it goes with processes or ray"):
        executors.make("serial", workers=2)
    with pytest.raises(InputError, match="at least one worker, got 0"):
        Processes(0)


def test_serial_is_in_order_and_here() -> None:
    assert list(executors.make("serial").map(square, [3, 1])) == [
        (3, (9, os.getpid())),
        (1, (1, os.getpid())),
    ]


def test_every_unit_is_done_once_by_as_many_as_there_are() -> None:
    pool = Fake(3, {})
    found = [unit for unit, _ in pool.map(square, range(7))]
    assert sorted(found) == list(range(7))
    assert found != list(range(7))
    assert pool.most == 3
    assert not pool.stopped
    assert list(pool.map(square, [])) == []


class Crowded(Fake):
    """A pool in which so many workers find no room, and which then has one place."""

    def __init__(self, workers: int, unplaced: int) -> None:
        super().__init__(workers, {})
        self.unplaced = unplaced

    def places(self) -> range:
        return range(1 if self.unplaced else self.workers)

    def take(self) -> tuple[int, Outcome | Death | Unplaced]:
        if not self.unplaced:
            return super().take()
        self.unplaced -= 1
        return self.doing.popitem()[0], Unplaced("had no node")


def test_a_unit_without_a_worker_waits_for_one_without_blame() -> None:
    lines: list[str] = []
    pool = Crowded(2, unplaced=PLACEMENTS - 1)
    assert dict(pool.map(str.upper, "ab", report=lines.append)) == {"a": "A", "b": "B"}
    assert pool.most == 2
    assert lines == []
    with pytest.raises(WorkerError, match="a: the process that did it died 3 times; the last time it had no"):
        list(Crowded(2, unplaced=100).map(str.upper, "ab"))


def test_a_unit_of_a_dead_worker_is_done_again_and_it_is_said() -> None:
    lines: list[str] = []
    pool = Fake(2, {"b": ATTEMPTS - 1})
    found = dict(pool.map(str.upper, ["a", "b", "c"], report=lines.append))
    assert found == {"a": "A", "b": "B", "c": "C"}
    assert lines == ["b: the process that did it fell over; doing it again"] * (ATTEMPTS - 1)


def test_a_unit_whose_worker_keeps_dying_is_named() -> None:
    pool = Fake(2, {"b": ATTEMPTS})
    with pytest.raises(WorkerError, match=f"b: the process that did it died {ATTEMPTS} times; .* fell over"):
        list(pool.map(str.upper, ["a", "b", "c"]))
    assert pool.stopped


def test_what_is_not_waited_for_is_stopped() -> None:
    pool = Fake(2, {})
    ended = pool.map(str.upper, ["a", "b", "c"])
    next(ended)
    assert not pool.stopped
    ended.close()  # type: ignore[attr-defined]
    assert pool.stopped


def test_processes_are_others_and_stay(pool: Processes) -> None:
    first = dict(pool.map(square, range(6)))
    assert {unit: value for unit, (value, _) in first.items()} == {n: n * n for n in range(6)}
    workers = {pid for _, pid in first.values()}
    assert os.getpid() not in workers
    again = {pid for _, pid in dict(pool.map(square, range(6))).values()}
    assert again | workers <= {worker.process.pid for worker in pool._workers.values()}


def test_a_killed_process_is_replaced(pool: Processes, tmp_path: Path) -> None:
    lines: list[str] = []
    units = [str(tmp_path / name) for name in ("a", "b", "c")]
    found = dict(pool.map(die_once, units, report=lines.append))
    assert found == {unit: Path(unit).name for unit in units}
    assert len(lines) == 3
    assert all("was killed by SIGKILL (as a system that runs out of memory does)" in line for line in lines)


def test_a_process_that_died_with_nothing_to_do_is_replaced(pool: Processes) -> None:
    list(pool.map(square, range(2)))
    for worker in list(pool._workers.values()):
        worker.process.kill()
        worker.process.join()
    lines: list[str] = []
    assert sorted(value for value, _ in dict(pool.map(square, range(3), report=lines.append)).values()) == [
        0,
        1,
        4,
    ]


def test_a_unit_that_always_kills_its_process_ends(pool: Processes, tmp_path: Path) -> None:
    unit = str(tmp_path / "deadly")
    with pytest.raises(WorkerError, match=f"deadly: the process that did it died {ATTEMPTS} times"):
        list(pool.map(die_always, [unit]))
    assert Path(unit).read_text() == "x" * ATTEMPTS


def test_errors_of_ours_come_back_as_they_are_and_others_with_their_place(pool: Processes) -> None:
    with pytest.raises(TaskError, match=r"^task 'sst2' is wrong$"):
        list(pool.map(refuse, ["sst2"]))
    with pytest.raises(WorkerError, match="mr: unexpected ZeroDivisionError: mr over nothing") as caught:
        list(pool.map(stumble, ["mr"]))
    assert "in stumble" in "".join(caught.value.__notes__)


def test_each_process_has_its_gpu_and_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6")
    assert visible_gpus() == ["4", "6"]
    monkeypatch.setattr("transferscope.executors.processes.available_cores", lambda: 3)
    monkeypatch.delenv("OMP_NUM_THREADS")
    with Processes() as pool:
        assert (pool.workers, pool.threads) == (2, 1)
        seen = [where for _, where in pool.map(surroundings, range(8))]
    assert {where["OMP_NUM_THREADS"] for where in seen} == {"1"}
    assert {where["CUDA_VISIBLE_DEVICES"] for where in seen} <= {"4", "6"}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ["0", "1"]
    assert len(Processes(5).gpus) == 2
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert Processes().workers == 2


def test_threads_are_only_ever_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    limit_threads(64)
    assert (os.environ["OMP_NUM_THREADS"], torch.get_num_threads()) == ("2", before)
