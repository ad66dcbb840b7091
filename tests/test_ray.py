"""The executor on a real Ray cluster: two nodes on this machine, workers killed in the middle of units."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import executor_work
from tests.executor_work import die_always, node, refuse, square
from tests.test_pipeline import contents, write_study
from transferscope import distribution, executors, pipeline, store
from transferscope.distribution import open_study
from transferscope.errors import InputError, TaskError, WorkerError
from transferscope.executors import on_ray

ray = pytest.importorskip("ray")

# Ray's own modules warn, on import and in their threads, and leave sockets to the end of the process.
pytestmark = [
    pytest.mark.filterwarnings("ignore:::ray.*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one core each, and their address."""
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found.add_node(num_cpus=1)
    yield found
    found.shutdown()
    patch.undo()


@pytest.fixture(scope="module")
def pool(cluster: Any) -> Iterator[on_ray.OnRay]:
    found = executors.make("ray", workers=2, address=cluster.address)
    assert isinstance(found, on_ray.OnRay)
    with found:
        yield found
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_study_on_two_nodes_whose_workers_are_killed_has_the_files_of_a_serial_run(
    pool: on_ray.OnRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serial, spread = tmp_path / "serial", tmp_path / "spread" / "study"
    write_study(serial)
    shutil.copytree(serial, spread)
    pipeline.open_study(serial).run()
    monkeypatch.setattr(distribution, "perform", executor_work.perform_dying)
    (spread.parent / "died-Tuning").touch()  # tried with processes
    lines: list[str] = []
    open_study(spread, executor=pool, report=lines.append).run()
    died = [line for line in lines if line.endswith("doing it again")]
    assert [line.split()[0] for line in died] == ["extracting", "measuring"]
    store.Study(spread).clean()
    assert contents(spread) == contents(serial)


def test_both_nodes_work(pool: on_ray.OnRay) -> None:
    assert len({where for _, where in pool.map(node, range(8))}) == 2
    assert os.getpid() not in {pid for _, (_, pid) in pool.map(square, range(8))}


def test_errors_come_back_as_they_are(pool: on_ray.OnRay) -> None:
    with pytest.raises(TaskError, match=r"^task 'sst2' is wrong$"):
        list(pool.map(refuse, ["sst2"]))


def test_a_unit_that_always_kills_its_worker_ends(pool: on_ray.OnRay, tmp_path: Path) -> None:
    unit = str(tmp_path / "deadly")
    with pytest.raises(
        WorkerError, match="deadly: the process that did it died 3 times; the last time it was lost"
    ):
        list(pool.map(die_always, [unit]))
    assert Path(unit).read_text() == "xxx"


def test_more_workers_than_fit_are_refused(pool: on_ray.OnRay) -> None:
    with pytest.raises(InputError, match="3 workers do not fit on the Ray cluster: it has 2 CPU cores"):
        on_ray.OnRay(workers=3)
    assert ray.is_initialized()  # the connection is another's


def test_ray_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'transferscope\[ray\]'"):
        executors.make("ray", address="auto")
