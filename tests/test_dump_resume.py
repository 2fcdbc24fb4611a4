"""Interrupted runs: killed, out of disk or run twice, the next run ends with the same file."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import COMMENTS, FakeRewriter, assert_carried, read

from sro_edge import checkpoints
from sro_edge.dump import Progress, rewrite_dump
from sro_edge.errors import InputError, OutputError


def test_resume_reads_only_what_is_left(source: Path, output: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        rewrite_dump(source, output, FakeRewriter(ahead=1, interrupt_at=5), unit_rows=2)
    assert not output.exists()
    second, states = FakeRewriter(), list[Progress]()
    summary = rewrite_dump(source, output, second, unit_rows=2, progress=states.append)
    assert second.seen == COMMENTS[4:7]  # the last one came before
    assert summary.resumed_rows == 4
    assert (summary.toxic, summary.rewritten, summary.unresolved) == (3, 2, 1)
    assert summary.engines == {"greedy": 2}
    assert [s.rows for s in states[:5]] == [0, 2, 4, 6, 8]
    assert (states[2].resumed, states[2].toxic, states[3].toxic) == (4, 2, 3)
    assert states[-1].rows == states[-1].total == 8
    assert_carried(source, output)
    assert read(output)["text_detox"].to_pylist()[0] == "you are odd"


def test_killed_at_any_file_operation(
    source: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever rename, flush or deletion is the last one, the next run ends with the same file."""
    reference = tmp_path / "reference.parquet"
    rewrite_dump(source, reference, FakeRewriter(), unit_rows=3)
    for allowed in range(200):
        calls = iter(range(allowed))

        def dying(real: Callable[..., Any], calls: Iterator[int] = calls) -> Callable[..., Any]:
            def call(*args: Any, **more: Any) -> Any:
                if next(calls, None) is None:
                    raise KeyboardInterrupt
                return real(*args, **more)

            return call

        with monkeypatch.context() as patch:
            for module, name in [(os, "replace"), (os, "fsync"), (Path, "unlink")]:
                patch.setattr(module, name, dying(getattr(module, name)))
            try:
                rewrite_dump(source, output, FakeRewriter(), unit_rows=3)
                killed = False
            except KeyboardInterrupt:
                killed = True
        if killed and checkpoints.folder_of(output).exists() and not _only_lock(output):
            rewrite_dump(source, output, FakeRewriter(), unit_rows=3)
        assert read(output).equals(read(reference))
        assert output.with_name("out.parquet.json").exists()
        assert not checkpoints.folder_of(output).exists() or _only_lock(output)
        if not killed:
            assert allowed > 20
            return
        output.unlink()
    pytest.fail("the run never came through")


def _only_lock(output: Path) -> bool:
    return {p.name for p in checkpoints.folder_of(output).iterdir()} <= {"lock"}


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tables import FakeRewriter
from sro_edge.dump import rewrite_dump

def report(state):
    if state.rows == 4:
        os.kill(os.getpid(), signal.SIGKILL)

rewrite_dump(Path(sys.argv[2]), Path(sys.argv[3]), FakeRewriter(), unit_rows=2, progress=report)
"""


def test_sigkill(source: Path, output: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(source), str(output)]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    assert not output.exists()
    summary = rewrite_dump(source, output, FakeRewriter(), unit_rows=2)
    assert summary.resumed_rows == 4
    assert_carried(source, output)
    assert read(output)["detox_status"].to_pylist()[3] == "unresolved"


def test_damaged_unit_is_done_again(source: Path, output: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        rewrite_dump(source, output, FakeRewriter(1, interrupt_at=6), unit_rows=2)
    (checkpoints.folder_of(output) / "unit-00000001.parquet").write_bytes(b"PAR1")
    last = FakeRewriter()
    assert rewrite_dump(source, output, last, unit_rows=2).resumed_rows == 2
    assert last.seen == COMMENTS[2:7]
    assert_carried(source, output)


def test_other_settings_are_refused(source: Path, output: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        rewrite_dump(source, output, FakeRewriter(1, interrupt_at=4), unit_rows=2)
    with pytest.raises(OutputError, match=r"toxicity was 0\.5 and is now 0\.4.*--restart"):
        rewrite_dump(source, output, FakeRewriter(threshold=0.4), unit_rows=2)
    with pytest.raises(OutputError, match=r"limit was null and is now 3"):
        rewrite_dump(source, output, FakeRewriter(), limit=3, unit_rows=2)
    with pytest.raises(OutputError, match=r"unit_rows was 2 and is now 512"):
        rewrite_dump(source, output, FakeRewriter())
    summary = rewrite_dump(source, output, FakeRewriter(threshold=0.4), restart=True)
    assert summary.resumed_rows == 0
    assert summary.rows == 8


def test_changed_source_is_refused(source: Path, output: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        rewrite_dump(source, output, FakeRewriter(1, interrupt_at=4), unit_rows=2)
    os.utime(source, ns=(1, 1))
    with pytest.raises(OutputError, match=r"modified_ns was \d+ and is now 1"):
        rewrite_dump(source, output, FakeRewriter())
    touch = FakeRewriter(at_end=lambda: os.utime(source, ns=(2, 2)))
    with pytest.raises(InputError, match="changed while it was being read"):
        rewrite_dump(source, output, touch, restart=True)
    assert not output.exists()


def test_second_process_is_refused(source: Path, output: Path) -> None:
    folder = checkpoints.folder_of(output)
    folder.mkdir()
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for restart in (False, True):
            with pytest.raises(OutputError, match="another process"):
                rewrite_dump(source, output, FakeRewriter(), restart=restart)
    rewrite_dump(source, output, FakeRewriter())
    assert_carried(source, output)


def test_files_of_others_in_the_work_folder_stay(source: Path, output: Path) -> None:
    note = checkpoints.folder_of(output) / "note.txt"
    note.parent.mkdir()
    note.write_text("mine")
    rewrite_dump(source, output, FakeRewriter())
    assert note.read_text() == "mine"


def test_full_disk(source: Path, output: Path) -> None:
    """A write that fails leaves what is finished, and the next run goes on from there."""
    texts = [f"stupid {os.urandom(40).hex()}" for _ in range(3000)]
    pq.write_table(pa.table({"text": texts}), source)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(OutputError, match="run the same command again"):
            rewrite_dump(source, output, FakeRewriter(), unit_rows=500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not output.exists()
    second = FakeRewriter()
    assert rewrite_dump(source, output, second, unit_rows=500).resumed_rows == 3000
    assert second.seen == []
    assert_carried(source, output)
