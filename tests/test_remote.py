"""A study at an S3 address, against a real server process: whole artefacts, few requests, a kill, a race."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from tests.s3_server import BUCKET, Server, reads, s3_server
from tests.test_pipeline import contents, write_study
from transferscope import store
from transferscope.addresses import Address
from transferscope.cli import main
from transferscope.errors import StudyError
from transferscope.pipeline import open_study
from transferscope.prompts import find_prompts, load_prompt, save_prompt
from transferscope.store import Study
from transferscope.tuning_run import STATE

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = {"seeds": 1, "transfer": {"random_draws": 0}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRANSFERSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study, run."""
    folder = write_study(tmp_path_factory.mktemp("made") / "study", **SMALL)
    raw = yaml.safe_load((folder / "study.yaml").read_text())
    del raw["tasks"]["pets"]
    store.write_text(folder / "study.yaml", yaml.safe_dump(raw))
    fresh = contents(folder)
    pipeline = open_study(folder)
    pipeline.compare()
    pipeline.measure()
    for name, data in fresh.items():
        store.write_bytes(folder.parent / "fresh" / name, data)
    return folder


@pytest.fixture
def address(request: pytest.FixtureRequest, server: Server) -> str:
    return f"s3://{BUCKET}/{request.node.name[:40].strip('[]')}"


def upload(folder: Path, address: str) -> None:
    for name, data in contents(folder).items():
        Address(address).joinpath(name).write_bytes(data)


def there(address: str) -> dict[str, bytes]:
    return {name: (Address(address) / name).read_bytes() for name in Address(address).files()}


@contextmanager
def child(code: str, server: Server, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs this; it ends with the block at the latest."""
    environment = {**os.environ, **server.environment, "PYTHONPATH": str(REPOSITORY), **more}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit status, and what it said on stderr."""
    _, err = process.communicate(timeout=300)
    return process.returncode, err


def test_a_study_there_is_one_here_file_for_file(made: Path, address: str) -> None:
    upload(made.parent / "fresh", address)
    for verb in ("compare", "measure"):
        done = CliRunner().invoke(main, [verb, "--study", address, "--format", "json"])
        assert done.exit_code == 0, done.output
    local, remote = contents(made), there(address)
    assert sorted(local) == sorted(remote)
    # backbone.json tells by their times which files of the model it is about.
    assert [name for name in local if local[name] != remote[name]] in ([], ["backbone.json"])
    prints = [json.loads(one["backbone.json"])["fingerprint"] for one in (local, remote)]
    assert prints[0] == prints[1]


def test_other_commands_there(made: Path, address: str, tmp_path: Path) -> None:
    upload(made, address)
    out = str(tmp_path / "out")
    prompts = [
        "compare",
        "--prompts",
        f"{address}/prompts/films",
        f"{address}/prompts/food",
        "--format",
        "csv",
    ]
    for line in (
        ["list", "tasks", "--study", address],
        ["export", "films", "--study", address, "--as", "peft", "--out", out],
        ["library", "add", address, "--library", str(tmp_path / "library")],
        prompts,
    ):
        done = CliRunner().invoke(main, line)
        assert done.exit_code == 0, done.output
    assert load_prompt(out).fingerprint == load_prompt(made / "prompts/films/0").fingerprint
    assert "prompt_cosine" in done.output
    done = CliRunner().invoke(main, ["library", "add", address, "--library", f"{address}/library"])
    assert done.exit_code == 2


def test_a_report_is_written_there(made: Path, address: str) -> None:
    for name in ("plotly", "jinja2"):
        pytest.importorskip(name, reason="the report needs the extra report")
    upload(made, address)
    done = CliRunner().invoke(main, ["report", address])
    assert done.exit_code == 0, done.output
    assert (Address(address) / "report.html").read_text().startswith("<!doctype html>")


def test_what_is_current_is_neither_made_nor_written_again(
    made: Path, address: str, server: Server, cache: Path
) -> None:
    upload(made, address)
    lines: list[str] = []
    assert open_study(address).extract().keys() == {"films", "food"}  # fills the cache
    with server.asked() as requests:
        open_study(f"{address}/study.yaml", report=lines.append).extract()
    assert not [line for line in lines if "tun" in line or "extract" in line]
    assert {verb for verb, _ in requests} <= {"GET", "HEAD"}
    assert not [path for path in reads(requests) if path.endswith(".safetensors")]  # from the cache
    assert (cache / "files").is_dir()


def test_listing_reads_nothing(address: str, server: Server) -> None:
    study = Study(address)
    for task in range(30):
        store.write_json(study.prompt_folder(f"t{task}", 0) / "adapter_config.json", {})
        store.write_json(study.prompt_folder(f"t{task}", 0) / "transferscope.json", {})
        store.write_text(study.signature_file(f"t{task}"), "x")
    with server.asked() as requests:
        assert len(study.prompts()) == len(study.signatures()) == 30
    assert not reads(requests)
    assert len(requests) == 2  # one listing each, and not one for each folder


def test_another_process_is_seen_at_once(address: str, server: Server) -> None:
    study = Study(address)
    store.write_text(study.signature_file("a"), "x")
    assert study.signatures() == ["a"]
    code = f"""
        from transferscope import store
        store.write_text(store.Study({address!r}).signature_file("b"), "x")
        """
    with child(code, server) as other:
        assert ended(other) == (0, "")
    assert study.signatures() == ["a", "b"]
    assert study.signature_file("b").is_file()


def test_arrays_are_fetched_once_a_version(address: str, server: Server) -> None:
    file = Study(address).path("a.safetensors")
    store.save_arrays(file, {"a": np.zeros(3)})
    with server.asked() as requests:
        assert [store.load_arrays(file)[0]["a"].sum() for _ in range(3)] == [0.0] * 3
    assert len(reads(requests)) == 1
    store.save_arrays(file, {"a": np.ones(3)})
    with server.asked() as requests:
        assert store.load_arrays(file)[0]["a"].sum() == 3
    assert len(reads(requests)) == 1


def test_a_reader_never_finds_a_part_of_an_artefact(address: str, server: Server) -> None:
    """A process writes arrays of one value over one another, 2 MB each; every one that is read is whole."""
    file = Study(address).path("signatures", "busy.safetensors")
    store.save_arrays(file, {"a": np.zeros(250_000)})
    code = f"""
        import time
        import numpy as np
        from transferscope import store
        for value in range(1, 13):
            time.sleep(0.1)
            store.save_arrays(store.Study({address!r}).path("signatures", "busy.safetensors"),
                              {{"a": np.full(250_000, float(value))}})
        """
    seen = set()
    with child(code, server) as writer:
        while writer.poll() is None:
            arrays, _ = store.load_arrays(file)  # a StoreError where the checksum does not fit
            assert np.ptp(arrays["a"]) == 0
            seen.add(float(arrays["a"][0]))
        assert ended(writer) == (0, "")
    assert store.load_arrays(file)[0]["a"][0] == 12
    assert seen


def test_a_prompt_is_there_when_its_record_is(
    made: Path, address: str, server: Server, tmp_path: Path
) -> None:
    prompt = load_prompt(made / "prompts/films/0")
    with server.asked() as requests:
        folder = save_prompt(prompt, Study(address).prompt_folder("films", 0))
    written = [path.rpartition("/")[2].partition("?")[0] for verb, path in requests if verb == "PUT"]
    assert written == ["adapter_model.safetensors", "adapter_config.json", "transferscope.json"]
    assert find_prompts([str(folder.parent)]) == [folder]
    assert load_prompt(str(folder)).fingerprint == prompt.fingerprint


def test_a_killed_tuning_goes_on(made: Path, address: str, server: Server, tmp_path: Path) -> None:
    """The process is killed at once after it has written a tuning state, while it would go on."""
    upload(made.parent / "fresh", address)
    code = f"""
        import os, signal
        from transferscope import addresses
        real = addresses.Address.write_bytes

        def write(self, data):
            real(self, data)
            if self.name == {STATE!r}:
                os.kill(os.getpid(), signal.SIGKILL)

        addresses.Address.write_bytes = write
        from transferscope.pipeline import open_study
        open_study({address!r}).tune(["films"])
        """
    with child(code, server) as killed:
        status, err = ended(killed)
    assert status == -signal.SIGKILL, err
    assert [n for n in there(address) if n.startswith("prompts/")] == [f"prompts/films/0/{STATE}"]
    steps: list[int] = []
    pipeline = open_study(address, progress=lambda stage, done, total, text: steps.append(done))
    (prompt,) = pipeline.tune(["films"])["films"]
    assert min(steps) > 3  # not from the start
    assert prompt.fingerprint == load_prompt(made / "prompts/films/0").fingerprint
    assert f"prompts/films/0/{STATE}" not in there(address)


def test_hostile_keys_are_passed_over(address: str, server: Server) -> None:
    import s3fs

    study = Study(address)
    store.write_text(study.signature_file("good"), "x")
    store.write_text(study.path("model", "config.json"), "{}")
    plain = s3fs.S3FileSystem()
    for key in (
        "model/../../etc/passwd",
        "model/a//b",
        "signatures/..safetensors",
        "prompts/../0/adapter_config.json",
    ):
        plain.call_s3(
            "put_object", Bucket=BUCKET, Key=f"{address.partition(BUCKET + '/')[2]}/{key}", Body=b"x"
        )
    assert study.signatures() == ["good"]
    assert study.prompts() == []
    here = store.local_folder(study.path("model"))
    assert [str(p.relative_to(here)) for p in here.rglob("*")] == ["config.json"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("s3://no-such-bucket/study", "no study 's3://no-such-bucket/study'"),
        (f"s3://{BUCKET}/nothing-here", f"no study 's3://{BUCKET}/nothing-here'"),
        ("s4://bucket/study", "no kind of address 's4://'"),
        ("s3://bucket/../study", "is not used as an address"),
    ],
)
def test_what_is_wrong_is_one_line(server: Server, place: str, message: str) -> None:
    done = CliRunner().invoke(main, ["rank", "films", "--study", place])
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output
    assert "test-secret" not in done.output


def test_no_bucket_to_write_in(server: Server) -> None:
    with pytest.raises(StudyError, match="cannot write s3://no-such-bucket/x"):
        store.write_text(Address("s3://no-such-bucket/x"), "x")


def test_missing_credentials_are_said_and_not_taken_for_no_study(server: Server) -> None:
    code = """
        from transferscope.addresses import Address
        Address("s3://studies/x").is_file()
        """
    with child(code, server, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="") as process:
        status, err = ended(process)
    assert status == 1
    assert "StudyError: cannot read s3://studies/x" in err
    assert "credentials and endpoint come from" in err
