"""Disks that are full, read-only or elsewhere: a sentence, the input untouched, and then go on."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import FakeRewriter, assert_carried

from sro_edge import durable
from sro_edge.checkpoints import folder_of
from sro_edge.dump import rewrite_dump
from sro_edge.errors import OutputError


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    command = ["mount", "-o", f"remount,{options}", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip(f"remounting with {options} is not allowed here")


def write_noise(source: Path, rows: int) -> None:
    """Comments that no codec makes small."""
    pq.write_table(
        pa.table({"text": [f"stupid {os.urandom(40).hex()}" for _ in range(rows)]}), source
    )


@pytest.mark.parametrize("rows", [1500, 5000], ids=["assembling", "annotating"])
def test_full_disk(source: Path, disk: Path, rows: int) -> None:
    write_noise(source, rows)
    before, output = source.read_bytes(), disk / "out.parquet"
    with pytest.raises(OutputError, match=r"No space left on device.*make room first") as caught:
        rewrite_dump(source, output, FakeRewriter(), unit_rows=250)
    assert str(folder_of(output)) in str(caught.value)
    assert not output.exists()
    assert not list(folder_of(output).glob("*.tmp"))
    assert source.read_bytes() == before
    remount(disk, "size=4m")
    again = rewrite_dump(source, output, FakeRewriter(), unit_rows=250)
    assert 500 <= again.resumed_rows <= rows
    assert (again.resumed_rows == rows) == (rows == 1500)
    assert_carried(source, output)
    assert sorted(p.name for p in disk.iterdir()) == ["out.parquet", "out.parquet.json"]


def test_disk_that_is_full_before_the_first_byte(source: Path, disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filler").open("wb") as filler:
        while True:
            filler.write(bytes(4096))
            filler.flush()
    with pytest.raises(OutputError, match="No space left on device"):
        rewrite_dump(source, disk / "out.parquet", FakeRewriter())
    (disk / "filler").unlink()
    rewrite_dump(source, disk / "out.parquet", FakeRewriter())
    assert_carried(source, disk / "out.parquet")


def test_read_only_disk(source: Path, disk: Path) -> None:
    output = disk / "out.parquet"
    remount(disk, "ro")
    with pytest.raises(OutputError, match="Read-only file system; choose another place"):
        rewrite_dump(source, output, FakeRewriter())
    remount(disk, "rw")

    with pytest.raises(KeyboardInterrupt):
        rewrite_dump(source, output, FakeRewriter(ahead=1, interrupt_at=4), unit_rows=2)
    remount(disk, "ro")
    with pytest.raises(OutputError, match="Read-only file system; finished rows are kept in"):
        rewrite_dump(source, output, FakeRewriter(), unit_rows=2)
    remount(disk, "rw")
    assert rewrite_dump(source, output, FakeRewriter(), unit_rows=2).resumed_rows == 4
    assert_carried(source, output)


def test_input_on_a_read_only_disk_and_output_elsewhere(
    source: Path, output: Path, disk: Path
) -> None:
    inside = disk / "in.parquet"
    inside.write_bytes(source.read_bytes())
    remount(disk, "ro")
    rewrite_dump(inside, output, FakeRewriter())
    assert_carried(inside, output)


def test_link_to_an_output_on_another_disk(source: Path, output: Path, disk: Path) -> None:
    output.symlink_to(disk / "out.parquet")
    rewrite_dump(source, output, FakeRewriter())
    assert output.is_symlink()
    assert sorted(p.name for p in disk.iterdir()) == ["out.parquet", "out.parquet.json"]
    rewrite_dump(source, output, FakeRewriter(), overwrite=True)
    assert output.is_symlink()
    assert_carried(source, disk / "out.parquet")


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.EXDEV])
def test_any_failing_rename(
    source: Path, output: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Quota, broken disk, another device: whichever rename it is, the next run goes on."""
    before = source.read_bytes()
    for failing in range(20):
        calls = iter(range(failing))

        def replace(old: Any, new: Any, real: Any = os.replace, calls: Any = calls) -> None:
            if next(calls, None) is None:
                raise OSError(code, os.strerror(code), str(old))
            real(old, new)

        with monkeypatch.context() as patch:
            patch.setattr(durable.os, "replace", replace)
            try:
                rewrite_dump(source, output, FakeRewriter(), unit_rows=3)
                assert failing > 5
                break
            except OutputError as error:
                said = str(error)
        assert os.strerror(code) in said
        assert not output.exists()
        rewrite_dump(source, output, FakeRewriter(), unit_rows=3)
        assert_carried(source, output)
        assert source.read_bytes() == before
        for file in output.parent.glob("out*"):
            file.unlink()
    else:
        pytest.fail("no run came through")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_stream_into_a_full_disk() -> None:
    program = "from tables import *; from sro_edge.dump import *; from pathlib import Path;"
    program += "rewrite_dump(Path('-'), Path('-'), FakeRewriter())"
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], input=b'{"text": "a"}\n', stdout=full,
            stderr=subprocess.PIPE, cwd=Path(__file__).parent,
        )  # fmt: skip
    last = done.stderr.decode().strip().splitlines()[-1]
    assert last.startswith("sro_edge.errors.OutputError: standard output cannot be written: No sp")
