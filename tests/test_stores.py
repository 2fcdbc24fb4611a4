"""Dumps on a remote store, here a local S3 server: whole or absent, and resumed."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tables import COMMENTS, FakeRewriter, assert_carried

from sro_edge import places, stores
from sro_edge.cli import main
from sro_edge.dump import check, rewrite_dump, screen_dump
from sro_edge.errors import InputError, MissingExtraError, OutputError
from sro_edge.places import state_folder
from sro_edge.stores import Address, Store, place_of


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 server of this machine; its address."""
    pytest.importorskip("moto")
    code = "from moto.server import main; main(['-H', '127.0.0.1', '-p', '0'])"
    words = [sys.executable, "-W", "ignore", "-u", "-c", code]
    log = tmp_path_factory.mktemp("server") / "log"  # it logs more than a pipe holds
    with log.open("wb") as stderr, subprocess.Popen(words, stderr=stderr) as child:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"Running on (http\S+)", log.read_text())):
            assert child.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.05)
        yield found[1]
        child.kill()


@pytest.fixture
def bucket(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pafs.FileSystem:
    """An empty bucket "dumps", which the environment leads to."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    s3 = pafs.S3FileSystem(
        endpoint_override=server.removeprefix("http://"),
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
        allow_bucket_deletion=True,
    )
    deadline = time.monotonic() + 30
    while buckets := s3.get_file_info(pafs.FileSelector("")):
        try:
            for info in buckets:
                s3.delete_dir(info.path)
        except OSError:  # what a killed run sent may still come in, and a bucket must be empty
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    s3.create_dir("dumps")
    return s3


def put(s3: pafs.FileSystem, path: str, texts: list[str | None] = COMMENTS) -> None:
    with s3.open_output_stream(path) as stream:
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), stream)


def fetched(s3: pafs.FileSystem, path: str, target: Path) -> Path:
    target.write_bytes(s3.open_input_file(path).read())
    return target


def names(s3: pafs.FileSystem, folder: str = "dumps") -> list[str]:
    found = s3.get_file_info(pafs.FileSelector(folder, recursive=True))
    return sorted(info.path for info in found if info.type == pafs.FileType.File)


IN, OUT = Address("s3://dumps/in.parquet"), Address("s3://dumps/clean/out.parquet")


def test_a_file_becomes_the_same_bytes_as_on_the_disk(
    bucket: pafs.FileSystem, source: Path, output: Path, tmp_path: Path
) -> None:
    rewrite_dump(source, output, FakeRewriter())
    Store(IN).put(source)
    summary = rewrite_dump(IN, OUT, FakeRewriter(), unit_rows=3)
    assert (summary.rows, summary.rewritten) == (8, 2)
    assert names(bucket)[:2] == ["dumps/clean/out.parquet", "dumps/clean/out.parquet.json"]
    made = fetched(bucket, "dumps/clean/out.parquet", tmp_path / "made.parquet")
    assert_carried(source, made)
    assert pq.read_table(made).equals(pq.read_table(output))
    assert not state_folder(OUT).exists()
    rewrite_dump(source, Address("s3://dumps/disk.parquet"), FakeRewriter(), unit_rows=3)
    rewrite_dump(IN, tmp_path / "to-disk.parquet", FakeRewriter(), unit_rows=3)
    again = fetched(bucket, "dumps/disk.parquet", tmp_path / "again.parquet").read_bytes()
    assert again == (tmp_path / "to-disk.parquet").read_bytes()


def test_an_output_that_is_there_is_refused(bucket: pafs.FileSystem, source: Path) -> None:
    put(bucket, "dumps/in.parquet")
    put(bucket, "dumps/clean/out.parquet", ["mine"])
    for call in (lambda: check(IN, OUT), lambda: rewrite_dump(IN, OUT, FakeRewriter())):
        with pytest.raises(OutputError, match=r"out\.parquet exists; choose another output or add"):
            call()
    with pytest.raises(OutputError, match="is the input itself"):
        check(IN, IN, overwrite=True)
    with pytest.raises(OutputError, match="would be csv, but the input is parquet"):
        check(IN, Address("s3://dumps/out.csv"))
    rewrite_dump(IN, OUT, FakeRewriter(), overwrite=True)
    assert len(names(bucket)) == 3


def test_an_interrupted_run_goes_on(bucket: pafs.FileSystem, tmp_path: Path) -> None:
    put(bucket, "dumps/in.parquet")
    with pytest.raises(KeyboardInterrupt):
        rewrite_dump(IN, OUT, FakeRewriter(ahead=1, interrupt_at=5), unit_rows=2)
    assert names(bucket) == ["dumps/in.parquet"]
    check(IN, OUT)
    second = FakeRewriter()
    assert rewrite_dump(IN, OUT, second, unit_rows=2).resumed_rows == 4
    assert second.seen[:3] == COMMENTS[4:7]
    assert not state_folder(OUT).exists()


def test_an_upload_that_fails_is_done_again_alone(
    bucket: pafs.FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, "dumps/in.parquet")

    def fail(*_: object) -> None:
        raise OSError("connection reset")

    with monkeypatch.context() as patch:
        patch.setattr(stores, "_copy", lambda a, b: fail() if b[0] else real(a, b))
        with pytest.raises(OutputError, match="cannot be written: connection reset; check the"):
            rewrite_dump(IN, OUT, FakeRewriter())
    assert names(bucket) == ["dumps/in.parquet"]
    second = FakeRewriter()
    assert rewrite_dump(IN, OUT, second).resumed_rows == 8
    assert second.seen == []
    assert "dumps/clean/out.parquet" in names(bucket)


real = stores._copy


def test_a_run_killed_after_the_upload_ends_well(
    bucket: pafs.FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, "dumps/in.parquet")

    def killed(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(places.StoreFolder, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            rewrite_dump(IN, OUT, FakeRewriter())
    assert "dumps/clean/out.parquet" in names(bucket)
    second = FakeRewriter()
    rewrite_dump(IN, OUT, second)
    assert second.seen == []
    assert not state_folder(OUT).exists()


def test_an_input_that_changed_is_refused(bucket: pafs.FileSystem) -> None:
    put(bucket, "dumps/in.parquet")
    with pytest.raises(KeyboardInterrupt):
        rewrite_dump(IN, OUT, FakeRewriter(ahead=1, interrupt_at=5), unit_rows=2)
    put(bucket, "dumps/in.parquet", [*COMMENTS, "new"])
    with pytest.raises(OutputError, match=r"other settings: source\.rows was 8 and is now 9"):
        rewrite_dump(IN, OUT, FakeRewriter(), unit_rows=2)
    assert rewrite_dump(IN, OUT, FakeRewriter(), unit_rows=2, restart=True).rows == 9


KILLED = """
import os, signal, sys
from pathlib import Path
from sro_edge.stores import Address, Store
real = os.fstat
import threading
threading.Timer(float(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
Store(Address("s3://dumps/big.bin")).put(Path(sys.argv[1]))
print("complete")
"""


@pytest.mark.slow
def test_a_killed_upload_leaves_nothing(bucket: pafs.FileSystem, tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    big.write_bytes(b"x" * 60_000_000)
    for delay in (0.3, 0.6, 0.9):
        words = [sys.executable, "-c", KILLED, str(big), str(delay)]
        said = subprocess.run(words, capture_output=True, check=False).stdout
        left = names(bucket)
        if said or left:  # it was done when the kill came, perhaps before it could say so
            assert bucket.get_file_info("dumps/big.bin").size == big.stat().st_size
            break


def test_a_folder_goes_on_file_by_file(bucket: pafs.FileSystem, tmp_path: Path) -> None:
    for name in ("a/1", "a/2", "b/3"):
        put(bucket, f"dumps/in/{name}.parquet", [f"stupid {name}", "fine", f"damn {name}"])
    bucket.open_output_stream("dumps/in/_SUCCESS").close()
    source, out = Address("s3://dumps/in"), Address("s3://dumps/out")
    with pytest.raises(KeyboardInterrupt):
        rewrite_dump(source, out, FakeRewriter(ahead=1, interrupt_at=4))
    assert names(bucket, "dumps/out") == ["dumps/out/a/1.parquet"]
    second = FakeRewriter()
    summary = rewrite_dump(source, out, second)
    assert (summary.rows, summary.resumed_rows, summary.rewritten) == (9, 3, 3)
    assert len(second.seen) == 6
    assert names(bucket, "dumps/out") == [f"dumps/out/{n}.parquet" for n in ("a/1", "a/2", "b/3")]
    assert "dumps/out.json" in names(bucket)
    for name in names(bucket, "dumps/out"):
        before = fetched(bucket, name.replace("out", "in"), tmp_path / "before.parquet")
        assert_carried(before, fetched(bucket, name, tmp_path / "after.parquet"))
    with pytest.raises(OutputError, match="s3://dumps/out exists"):
        rewrite_dump(source, out, FakeRewriter())
    rewrite_dump(source, tmp_path / "out", FakeRewriter(), limit=4)
    assert [pq.read_metadata(tmp_path / f"out/a/{n}.parquet").num_rows for n in (1, 2)] == [3, 1]
    assert list((tmp_path / "state/sro-edge/runs").iterdir()) == []


def test_names_in_a_folder_may_hold_any_sign(bucket: pafs.FileSystem, tmp_path: Path) -> None:
    odd = ["day=a%3Ab/my file.parquet", "c#1?.parquet"]
    for name in odd:
        put(bucket, f"dumps/in/{name}")
    rewrite_dump(Address("s3://dumps/in"), Address("s3://dumps/out"), FakeRewriter())
    assert names(bucket, "dumps/out") == sorted(f"dumps/out/{name}" for name in odd)
    assert str(Address("hf://datasets/a/b") / "my file.csv") == "hf://datasets/a/b/my file.csv"


def test_scores_go_to_a_store(bucket: pafs.FileSystem, tmp_path: Path) -> None:
    from engines import ToyScreener

    put(bucket, "dumps/in.parquet")
    screen_dump(IN, OUT, ToyScreener(), threshold=0.5, settings={"bundle": "fake"})
    made = fetched(bucket, "dumps/clean/out.parquet", tmp_path / "made.parquet")
    assert pq.read_table(made)["text_toxicity"].to_pylist()[1] == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("uri", "error", "sentence"),
    [
        ("s3://nowhere/in.parquet", InputError, "nowhere/in.parquet does not exist"),
        ("s3://dumps/none.csv", InputError, "none.csv does not exist; give the address of a file"),
        ("foo://a/b.parquet", InputError, "neither pyarrow nor fsspec knows foo://"),
    ],
)
def test_what_is_not_there_is_one_sentence(
    bucket: pafs.FileSystem, uri: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        check(Address(uri), OUT)
    result = CliRunner().invoke(main, ["rewrite", uri, str(OUT)])
    assert result.exit_code == 1, result.output
    assert result.output.count("\n") == 1


def test_a_server_that_cannot_be_reached_is_one_sentence(
    bucket: pafs.FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "s3://user:password@dumps/in.parquet?endpoint_override=127.0.0.1:1&scheme=http"
    with pytest.raises(InputError, match=r"^s3://dumps/in.parquet cannot be reached.*AWS_ACC") as e:
        check(Address(f"{uri}&region=us-east-1"), OUT)
    assert "password" not in str(e.value)


@pytest.mark.parametrize("missing", ["huggingface_hub", "fsspec"])
def test_a_missing_extra_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    uri = "hf://datasets/some/where/in.parquet" if missing != "fsspec" else "memory://in.parquet"
    with pytest.raises(MissingExtraError, match=rf"{missing}.*sro-edge\[remote\]"):
        Store(Address(uri)).stamp()


def test_a_store_that_only_fsspec_knows_gets_names_at_the_end(
    bucket: pafs.FileSystem, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec")
    made = []
    move = fsspec.filesystem("memory").mv
    monkeypatch.setattr(
        type(fsspec.filesystem("memory")),
        "mv",
        lambda self, a, b, **more: (made.append((a, b)), move(a, b, **more)),
    )
    rewrite_dump(source, Address("memory://folder/out.parquet"), FakeRewriter())
    assert Store(Address("memory://folder/out.parquet")).stamp() is not None
    assert [b.lstrip("/") for _, b in made] == ["folder/out.parquet.json", "folder/out.parquet"]
    assert all(a == b + ".tmp" for a, b in made)


def test_places_are_told_apart() -> None:
    assert place_of("a/b.parquet") == Path("a/b.parquet")
    assert place_of("file:///a/b%20c.parquet") == Path("/a/b c.parquet")
    place = place_of("s3://bucket/a//b.parquet?region=x")
    assert isinstance(place, Address)
    assert (place.name, place.suffix) == ("b.parquet", ".parquet")
    assert place.beside(".json").uri == "s3://bucket/a//b.parquet.json?region=x"


def test_nothing_is_written_to_a_store_that_was_not_named(bucket: pafs.FileSystem) -> None:
    put(bucket, "dumps/in.parquet")
    result = CliRunner().invoke(main, ["rewrite", "s3://dumps/in.parquet"])
    assert result.exit_code == 2
    assert "say where OUTPUT is to go" in result.output
    assert names(bucket) == ["dumps/in.parquet"]
