"""Nodes that leave a Ray cluster in the middle: the others do their work; with none left, a clear error."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import executor_work
from tests.executor_work import unless_doomed
from tests.test_pipeline import contents, write_study
from transferscope import distribution, pipeline, store
from transferscope.distribution import open_study
from transferscope.errors import WorkerError
from transferscope.executors.on_ray import OnRay

ray = pytest.importorskip("ray")

# Ray's own modules warn, on import and in their threads, and leave sockets to the end of the process.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:::ray.*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


class Nodes:
    """A cluster whose head has one core or none, and its other nodes."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster

    def lose(self, node: Any, folder: Path) -> threading.Thread:
        """Kill a node as soon as a unit is on it."""
        store.write_text(folder / "doomed", node.node_id)

        def kill() -> None:
            while not (folder / f"on-{node.node_id}").exists():
                time.sleep(0.05)
            self.cluster.remove_node(node, allow_graceful=False)

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        return thread


@pytest.fixture
def nodes(request: pytest.FixtureRequest) -> Iterator[Nodes]:
    """A head with so many cores, to which this process is connected, before there are other nodes."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        args = {"num_cpus": request.param, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=args)
        ray.init(address=cluster.address, log_to_driver=False)
        yield Nodes(cluster)
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.parametrize("nodes", [1], indirect=True)
def test_the_other_nodes_do_the_work_of_a_lost_one(nodes: Nodes, tmp_path: Path) -> None:
    doomed = nodes.cluster.add_node(num_cpus=1)
    nodes.cluster.wait_for_nodes()
    lines: list[str] = []
    with OnRay(workers=2) as pool:
        thread = nodes.lose(doomed, tmp_path)
        units = [str(tmp_path / str(number)) for number in range(6)]
        done = dict(pool.map(unless_doomed, units, report=lines.append))
        thread.join()
        assert sorted(done) == units
        assert doomed.node_id not in done.values()
        assert sum("was lost" in line and line.endswith("doing it again") for line in lines) == 1
        assert list(pool.map(executor_work.refuse, [])) == []
        assert len({where for _, where in pool.map(executor_work.node, range(3))}) == 1
        nodes.cluster.add_node(num_cpus=1)
        nodes.cluster.wait_for_nodes()
        assert len({where for _, where in pool.map(executor_work.node, range(40))}) == 2
    assert ray.is_initialized()  # the connection is another's


@pytest.mark.parametrize("nodes", [0], indirect=True)
def test_with_no_node_left_it_ends_and_says_so(nodes: Nodes, tmp_path: Path) -> None:
    doomed = nodes.cluster.add_node(num_cpus=1)
    nodes.cluster.wait_for_nodes()
    with OnRay(workers=1) as pool:
        nodes.lose(doomed, tmp_path)
        with pytest.raises(WorkerError, match="no node of the Ray cluster is left that has 1 CPU cores"):
            list(pool.map(unless_doomed, [str(tmp_path / "unit")]))


@pytest.mark.parametrize("nodes", [1], indirect=True)
def test_a_study_that_loses_a_node_has_the_files_of_a_serial_run(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serial, spread = tmp_path / "serial", tmp_path / "spread" / "study"
    write_study(serial)
    shutil.copytree(serial, spread)
    pipeline.open_study(serial).run()
    doomed = nodes.cluster.add_node(num_cpus=1)
    nodes.cluster.wait_for_nodes()
    monkeypatch.setattr(distribution, "perform", executor_work.perform_unless_doomed)
    lines: list[str] = []
    with OnRay(workers=2) as pool:
        thread = nodes.lose(doomed, spread.parent)
        open_study(spread, executor=pool, report=lines.append).run()
        thread.join()
    died = [line for line in lines if line.endswith("doing it again")]
    assert [line.split()[0] for line in died] == ["tuning"]
    store.Study(spread).clean()
    assert contents(spread) == contents(serial)
