"""Ctrl-C, SIGTERM and a second run: the command as users run it, with toy models in its worker."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

DRILLS = Path(__file__).parent / "drills"
sys.path.insert(0, str(DRILLS))

from toy import command, write  # noqa: E402

UNIT = 512


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    write(tmp_path / "in.parquet", 3 * UNIT)
    return tmp_path / "in.parquet"


@pytest.fixture
def running(dump: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run that is working on its first unit, for some seconds."""
    stage = dump.with_name("stage")
    with command("rewrite", dump, seconds=0.7, stage=stage) as child:
        deadline = time.monotonic() + 60
        while not stage.exists():
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield child
        child.kill()


def units(dump: Path) -> int:
    return len(list(dump.parent.glob("in.detox.parquet.partial/unit-*")))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_unit_in_hand_is_finished(
    dump: Path, running: subprocess.Popen[bytes], number: signal.Signals, code: int
) -> None:
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert running.returncode == code
    assert out == b""
    assert b"Finishing the rows in hand. Interrupt again to stop at once." in err
    assert b"Interrupted after 512 of 1,536 rows. Run the same command again to go on." in err
    assert units(dump) == 1
    with command("rewrite", dump) as again:
        out, err = again.communicate(timeout=60)
    assert again.returncode == 0
    assert b"512 of them from an earlier run" in err
    assert pq.read_metadata(dump.with_name("in.detox.parquet")).num_rows == 3 * UNIT


def test_a_second_interruption_stops_at_once(dump: Path, running: subprocess.Popen[bytes]) -> None:
    running.send_signal(signal.SIGINT)
    time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert b"Interrupted after 0 of 1,536 rows." in err
    assert units(dump) == 0
    assert not dump.with_name("in.detox.parquet.partial").exists()


def test_a_stream_that_waits_is_interrupted() -> None:
    with command("rewrite", "-", stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b'{"text": "stupid"}\n')
        child.stdin.flush()
        assert b'"text_detox":"odd"' in child.stdout.readline()
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=60) == 130
        assert child.stderr is not None
        assert b"Interrupted after 1 lines; give those behind them" in child.stderr.read()


def test_two_runs_on_one_output(dump: Path, running: subprocess.Popen[bytes]) -> None:
    with command("rewrite", dump) as second:
        _, err = second.communicate(timeout=60)
    assert second.returncode == 1
    assert b"in.detox.parquet is being written by another process" in err
    running.communicate(timeout=60)
    assert running.returncode == 0


def test_other_options_and_another_bundle_are_refused(
    dump: Path, running: subprocess.Popen[bytes]
) -> None:
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    for words, difference in [
        (["--threshold", "0.25"], b"toxicity was 0.5 and is now 0.25"),
        (["--bundle", "other"], b'bundle was "fake" and is now "other"'),
    ]:
        with command("rewrite", dump, *words) as other:
            _, err = other.communicate(timeout=60)
        assert other.returncode == 1
        assert difference in b" ".join(err.split())
        assert b"--restart" in err
    with command("rewrite", dump, "--threshold", "0.25", "--restart", "--quiet") as afresh:
        _, err = afresh.communicate(timeout=60)
    assert (afresh.returncode, err) == (0, b"")


def test_a_small_drill_of_kills(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("drill", DRILLS / "kill_and_resume.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    line = module.drill(tmp_path, kills=2, rows=1500, seed=1)
    assert "no debris" in line
