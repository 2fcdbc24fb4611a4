"""Folders spread over a Ray cluster of this machine: the same tree, whatever dies on the way."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from sro_edge import cluster
from sro_edge.cli import main
from sro_edge.cluster import Cluster, FileActor, job_from_json, job_to_json
from sro_edge.dataset import FileJob
from sro_edge.errors import EngineError, InputError, MissingExtraError
from sro_edge.stores import Address

FILES = ("a=1/x", "a=1/y", "a=2/x", "b")


def write_tree(folder: Path, rows: int) -> None:
    """Of each file's comments one in twenty is toxic."""
    clean, rude = "thanks my friend , this is idea", "you are an idiot"
    for number, name in enumerate(FILES):
        file = folder / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        texts = [f"{rude} {number}" if n % 20 == 2 else f"{clean} {n}" for n in range(rows)]
        pq.write_table(pa.table({"id": range(rows), "text": texts}), file, row_group_size=50)


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def rewrite(*words: str | Path) -> Any:
    command = [sys.executable, "-m", "sro_edge.cli", "rewrite", *map(str, words), "--show", "0"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def actors() -> Iterator[int]:
    """Process ids of actors with a bundle: what has a worker as its child, and is Ray's."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"sro_edge.worker" in (entry / "cmdline").read_bytes():
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if b"ray::" in Path(f"/proc/{parent}/cmdline").read_bytes():
                    yield parent


@pytest.mark.slow
def test_an_actor_that_is_killed_changes_nothing(bundle: Path, tmp_path: Path) -> None:
    """A cluster of two: one actor is killed while it has a file in hand, and rows are done."""
    pytest.importorskip("ray")
    write_tree(tmp_path / "in", 1100)
    words = tmp_path / "in", "--bundle", bundle, "--device", "cpu"
    alone = rewrite(words[0], tmp_path / "alone", *words[1:], "--threads", 1)
    assert alone.returncode == 0, alone.stderr
    killed: list[int] = []

    def kill() -> None:
        units = tmp_path / "out.partial/result"
        deadline = time.monotonic() + 240
        while not killed and time.monotonic() < deadline:
            if any(units.rglob("unit-*.parquet")):
                for pid in actors():
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    spread = rewrite(words[0], tmp_path / "out", *words[1:], "--ray-actors", 2, "--ray")
    killer.join()
    assert spread.returncode == 0, spread.stderr
    assert len(killed) == 1
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")
    notes = [(tmp_path / f"{name}.json").read_bytes() for name in ("out", "alone")]
    assert notes[0] == notes[1]
    assert not (tmp_path / "out.partial").exists()
    assert list(actors()) == []


class FakeDataset:
    """What Ray Data does with the rows, in this process; the order is turned round."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items, self.told = items, dict[str, Any]()

    def map(self, actor: Any, *, fn_constructor_args: Any, **told: Any) -> FakeDataset:
        self.actor, self.told = actor(*fn_constructor_args), told
        return self

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        try:
            for item in reversed(self.items):
                yield self.actor(item)
        finally:
            self.actor._stack.close()


class FakeRay:
    """A cluster of 4 cores and 1 GPU."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.data = self
        self.open = False

    class DataContext:
        @staticmethod
        def get_current() -> Any:
            class Context:
                pass

            return Context()

    class ActorPoolStrategy:
        def __init__(self, **told: int) -> None:
            self.told = told

    def init(self, **asked: Any) -> None:
        self.asked, self.open = asked, True

    def shutdown(self) -> None:
        self.open = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 4.0, "GPU": 1.0}

    def from_items(self, items: list[dict[str, Any]], override_num_blocks: int) -> FakeDataset:
        assert override_num_blocks == len(items)
        self.dataset = FakeDataset(items)
        return self.dataset


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(cluster, "_load_ray", lambda: fake)
    monkeypatch.setattr(cluster, "check_address", lambda _: None)
    return fake


def test_fractions_of_a_gpu_reach_ray(ray: FakeRay, bundle: Path, tmp_path: Path) -> None:
    write_tree(tmp_path / "in", 4)
    words = ["rewrite", str(tmp_path / "in"), str(tmp_path / "out"), "--bundle", str(bundle)]
    words += ["--device", "cpu", "--ray-gpus", "0.5", "--threads", "1", "--ray=ray://head:10001"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert ray.asked["address"] == "ray://head:10001"
    told = ray.dataset.told
    assert (told["num_cpus"], told["num_gpus"]) == (1, 0.5)
    assert told["compute"].told == {"size": 2, "max_tasks_in_flight_per_actor": 1}
    assert not ray.open
    assert sorted(tree(tmp_path / "out")) == sorted(f"{name}.parquet" for name in FILES)


def test_finished_files_are_not_given_again(
    ray: FakeRay, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "in", 4)
    words = ["rewrite", str(tmp_path / "in"), str(tmp_path / "out"), "--bundle", str(bundle)]
    words += ["--device", "cpu", "--show", "0", "--ray"]
    call = FileActor.__call__

    def refuse(self: FileActor, row: dict[str, Any]) -> dict[str, Any]:
        job = job_from_json(row["job"])
        if job.number == 1:
            return {"answer": '{"error": ["InputError", "it was there a moment ago"]}'}
        return call(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(FileActor, "__call__", refuse)
        result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "Error: it was there a moment ago" in result.output
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert [job_from_json(item["job"]).number for item in ray.dataset.items] == [1]
    assert "12 of them from an earlier run" in " ".join(result.output.split())


def test_no_room_and_no_folder_are_said(ray: FakeRay, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no actor of 9 cores and 0 GPUs fits"):
        cluster._room(ray, Cluster(cores=9))
    with pytest.raises(EngineError, match="no actor of 1 cores and 2 GPUs fits"):
        cluster._room(ray, Cluster(gpus=2))
    write_tree(tmp_path / "in", 4)
    file = str(tmp_path / "in/b.parquet")
    for words, sentence in [
        ([file, str(tmp_path / "out.parquet"), "--ray"], "spreads the files of a folder"),
        ([str(tmp_path / "in"), "--ray-actors", "2"], "go with --ray"),
    ]:
        result = CliRunner().invoke(main, ["rewrite", *words])
        assert result.exit_code == 2, result.output
        assert sentence in " ".join(result.output.split())


def test_a_cluster_that_is_not_there_is_said_at_once() -> None:
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        with pytest.raises(EngineError, match=r"cannot be reached: .*check the address"):
            cluster.check_address(address)
    for address in ("local", "auto"):
        cluster.check_address(address)


def test_a_node_with_another_bundle_is_refused() -> None:
    with pytest.raises(InputError, match="another bundle or version: seed was 1 and is now 0"):
        cluster._check_same({"seed": 0}, {"seed": 1})
    cluster._check_same({"a": [1]}, {"a": (1,)})


def test_what_ray_says_at_the_end_is_one_sentence() -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield {}
        raise RuntimeError("Traceback\n  many lines\nthe node died")

    ticks: list[int] = []
    found = cluster._ticking(rows(), lambda: ticks.append(1))
    assert next(found) == {}
    with pytest.raises(EngineError, match="Ray gave up: the node died; finished files are kept"):
        next(found)


def test_the_caller_hears_of_every_moment() -> None:
    def rows() -> Iterator[dict[str, Any]]:
        time.sleep(3 * cluster._TICK_SECONDS)
        yield {}

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(cluster._ticking(rows(), interrupt))


def test_a_job_survives_the_way(tmp_path: Path) -> None:
    here = FileJob(3, Path("in/a.parquet"), tmp_path / "out", None, 7, True)
    there = job_from_json(job_to_json(here))
    assert there.source == Path("in/a.parquet").absolute()
    assert (there.number, there.note, there.limit, there.restart) == (3, None, 7, True)
    address = Address("s3://bucket/a?region=x")
    assert job_from_json(job_to_json(FileJob(0, address, address, None, None, False))) == FileJob(
        0, address, address, None, None, False
    )


def test_a_missing_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"--ray needs the package 'ray'.*sro-edge\[ray\]"):
        cluster._load_ray()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
