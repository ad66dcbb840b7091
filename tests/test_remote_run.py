"""A whole run at an S3 address: interrupted at every stage and resumed, and spread over processes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tests.s3_server import BUCKET, Server, s3_server
from tests.test_pipeline import contents, write_study
from tests.test_remote import there, upload
from transferscope import store
from transferscope.addresses import Address
from transferscope.cli import main
from transferscope.pipeline import open_study
from transferscope.store import Study
from transferscope.tuning_run import STATE

KEPT = ("prompts/", "signatures/", "transfer/")  # what a unit of work leaves


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study that nobody has run."""
    folder = write_study(tmp_path_factory.mktemp("fresh") / "study", transfer={"random_draws": 1})
    raw = yaml.safe_load((folder / "study.yaml").read_text())
    del raw["tasks"]["pets"]
    store.write_text(folder / "study.yaml", yaml.safe_dump(raw))
    return folder


@pytest.fixture
def address(request: pytest.FixtureRequest, server: Server, fresh: Path, tmp_path: Path) -> Iterator[str]:
    """The study at an address of the test's own, with a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFERSCOPE_CACHE", str(tmp_path / "cache"))
        found = f"s3://{BUCKET}/{request.node.name[:40].strip('[]')}"
        upload(fresh, found)
        yield found


@pytest.fixture(scope="module")
def whole(
    server: Server, fresh: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], Counter[str]]:
    """An uninterrupted run at an address: its files, and how often each was written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFERSCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        address = f"s3://{BUCKET}/whole"
        upload(fresh, address)
        with server.asked() as requests:
            open_study(address).run()
        return there(address), written(requests, address)


def written(requests: list[tuple[str, str]], address: str) -> Counter[str]:
    """How often each file of a study was written."""
    base = address.removeprefix("s3://") + "/"
    paths = [path.partition("?")[0] for verb, path in requests if verb == "PUT"]
    return Counter(path.removeprefix(base) for path in paths if path.startswith(base))


def units(counts: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in sorted(counts.items()) if name.startswith(KEPT)}


def differing(some: dict[str, bytes], others: dict[str, bytes]) -> list[str]:
    """The files that two studies do not share; of backbone.json, which has times, the fingerprint counts."""
    names = sorted(some.keys() | others.keys())
    prints = [json.loads(one["backbone.json"])["fingerprint"] for one in (some, others)]
    assert prints[0] == prints[1]
    return [name for name in names if some.get(name) != others.get(name) and name != "backbone.json"]


class Interruption(BaseException):
    """What Ctrl-C is: nothing of ours catches it."""


class Interrupted:
    """Writing at addresses, which stops the process, so to speak, right behind the n-th file of a kind."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ending, self.left = "", 0
        real = Address.write_bytes

        def write(to: Address, data: bytes) -> None:
            real(to, data)
            self.left -= str(to).endswith(self.ending)
            if self.ending and not self.left:
                self.ending = ""
                raise Interruption(str(to))

        patch.setattr(Address, "write_bytes", write)

    def after(self, ending: str, count: int) -> None:
        self.ending, self.left = ending, count


def test_a_run_interrupted_at_every_stage_loses_nothing_and_does_nothing_twice(
    address: str,
    server: Server,
    whole: tuple[dict[str, bytes], Counter[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupted, lines = Interrupted(monkeypatch), list[str]()
    with server.asked() as requests:
        for ending, count in (
            (STATE, 2),  # the second prompt, half tuned
            ("prompts/food/0/transferscope.json", 1),
            ("signatures/films.safetensors", 1),
            ("zero-shot/films.json", 2),
            ("zero-shot/food.json", 3),
            ("correlation.json", 1),
        ):
            interrupted.after(ending, count)
            with pytest.raises(Interruption):
                open_study(address, report=lines.append).run()
        summary = open_study(address, report=lines.append).run()
    assert [task.task for task in summary.tasks] == ["films", "food"]
    files, counts = whole
    assert differing(there(address), files) == []
    assert units(written(requests, address)) == units(counts)
    made = Counter(line for line in lines if line.startswith(("tuned", "extracted")))
    assert set(made.values()) == {1}  # of those that were not cut off before they were said
    assert not [line for line in lines if "again" in line]


@pytest.mark.slow
def test_a_run_at_an_address_is_spread_over_processes(
    address: str, server: Server, whole: tuple[dict[str, bytes], Counter[str]]
) -> None:
    line = ["run", address, "--executor", "processes", "--workers", "2", "--format", "json"]
    with server.asked() as requests:
        done: Any = CliRunner().invoke(main, line)
    assert done.exit_code == 0, done.output
    files, counts = whole
    assert differing(there(address), files) == []
    of_units = ("prompts/", "signatures/")
    own = {name: count for name, count in written(requests, address).items() if name.startswith(of_units)}
    assert own == {name: count for name, count in counts.items() if name.startswith(of_units)}
    assert not Study(address).path("transfer", "zero-shot", "films.blocks").is_dir()
    with server.asked() as again:
        done = CliRunner().invoke(main, line)
    assert done.exit_code == 0, done.output
    assert not units(written(again, address))


def test_the_files_are_those_of_a_run_in_a_folder(
    whole: tuple[dict[str, bytes], Counter[str]], fresh: Path, tmp_path: Path
) -> None:
    for name, data in contents(fresh).items():
        store.write_bytes(tmp_path / name, data)
    open_study(tmp_path).run()
    assert differing(contents(tmp_path), whole[0]) == []
