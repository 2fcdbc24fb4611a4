"""Drill: 300,000 rows in one run; memory and descriptors must not grow, progress must be honest.

    python tests/drills/soak.py [--rows N]

The rows are generated; the models are toys (a screener and a llama of two layers with random
weights), but ONNX Runtime, llama.cpp, the worker process and the command are the real ones.
Printed are the slopes of the resident memory of both processes while rows are worked on, without
the first fifth; the most that both took, the putting together of the output included; descriptors
in the first and the last tenth of the run (medians); and how far the time left was off, by the
progress lines that the command printed when 10 to 90 % of the rows were done.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))

from tiny_models import write_bundle  # noqa: E402
from toy import write  # noqa: E402

SLOPE = 4.0  # MB per 100,000 rows that count as flat
OFF = 0.3  # of the time left that a guess may be off
LINE = re.compile(r"([\d,]+)/[\d,]+ rows  ([\d,]+)/s  ")


class Sample(NamedTuple):
    """Both processes at one moment: resident megabytes and open descriptors."""

    seconds: float
    parent_mb: float
    worker_mb: float
    parent_files: int
    worker_files: int


def main() -> None:
    """Run the drill and print one line of figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--raw", type=Path, help="Where to put all samples and lines, as JSON.")
    options = parser.parse_args()
    rows = options.rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bundle(folder / "bundle")
        write(folder / "in.parquet", rows, toxic=0.02)
        samples, lines, seconds = watch(folder)
        check_output(folder, rows)
    if options.raw:
        options.raw.write_text(json.dumps({"samples": samples, "lines": lines, "s": seconds}))
    print(figures(samples, lines, seconds, rows))


def watch(folder: Path) -> tuple[list[Sample], list[tuple[float, str]], float]:
    """Run the command; samples of its processes, its lines on stderr with their times, seconds."""
    words = ["rewrite", "in.parquet", "--bundle", "bundle", "--threads", "1", "--max-attempts", "1"]
    run = [sys.executable, "-c", "from sro_edge.cli import main; main()", *words]
    started = time.monotonic()
    child = subprocess.Popen(
        run, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    lines: list[tuple[float, str]] = []

    def listen() -> None:
        assert child.stderr is not None
        for line in child.stderr:
            lines.append((time.monotonic() - started, line.rstrip()))

    listener = threading.Thread(target=listen)
    listener.start()
    samples = []
    while child.poll() is None:
        time.sleep(0.5)
        worker = _worker(child.pid)
        if worker is not None:
            samples.append(_sample(time.monotonic() - started, child.pid, worker))
    listener.join()
    assert child.returncode == 0, "\n".join(line for _, line in lines)
    return [s for s in samples if s.parent_mb and s.worker_mb], lines, time.monotonic() - started


def check_output(folder: Path, rows: int) -> None:
    """All rows, in order, all of them answered."""
    with pq.ParquetFile(folder / "in.detox.parquet") as file:
        at = 0
        for batch in file.iter_batches(columns=["id", "detox_status"]):
            assert batch.column(0).to_pylist() == list(range(at, at + batch.num_rows))
            assert batch.column(1).null_count == 0
            at += batch.num_rows
    assert at == rows


def figures(
    samples: list[Sample], lines: list[tuple[float, str]], seconds: float, rows: int
) -> str:
    """The line to print; an AssertionError where the run was not as promised."""
    times = np.array([s.seconds for s in samples])
    ended = max(at for at, line in lines if LINE.match(line))  # later, the output is put together
    late = (times > ended * 0.2) & (times < ended)
    slopes = {}
    for name in ("parent_mb", "worker_mb"):
        memory = np.array([getattr(s, name) for s in samples])
        per_second = np.polyfit(times[late], memory[late], 1)[0]
        slopes[name] = per_second * seconds / rows * 100_000
    tenth = len(samples) // 10
    files = [
        tuple(
            int(np.median(column[part])) for part in (slice(tenth, 2 * tenth), slice(-tenth, None))
        )
        for column in (
            np.array([s.parent_files for s in samples]),
            np.array([s.worker_files for s in samples]),
        )
    ]
    off = _guesses_off(lines, seconds, rows)
    peak = max(s.parent_mb for s in samples), max(s.worker_mb for s in samples)
    line = (
        f"soak: {rows:,} rows in {seconds:.0f} s; resident memory at most {peak[0]:.0f} MB "
        f"(parent) and {peak[1]:.0f} MB (worker), slope {slopes['parent_mb']:+.2f} and "
        f"{slopes['worker_mb']:+.2f} MB per 100,000 rows; descriptors {files[0][0]} -> "
        f"{files[0][1]} and {files[1][0]} -> {files[1][1]}; time left off by {off[0]:.0%} at 10 %, "
        f"{max(off):.0%} at most in {len(off)} guesses until 90 %"
    )
    assert max(slopes.values()) < SLOPE, line
    assert all(early == late for early, late in files), line
    assert max(off) <= OFF, line
    return line


def _guesses_off(lines: list[tuple[float, str]], seconds: float, rows: int) -> list[float]:
    """How far each guess of the time left was off, relative to the time that was left."""
    off = []
    for at, line in lines:
        if found := LINE.match(line):
            done, rate = (int(found[n].replace(",", "")) for n in (1, 2))
            if 0.1 <= done / rows <= 0.9:
                off.append(abs((rows - done) / rate - (seconds - at)) / (seconds - at))
    assert off, "the run was too short for a guess"
    return off


def _worker(parent: int) -> int | None:
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


def _sample(seconds: float, parent: int, worker: int) -> Sample:
    return Sample(seconds, _mb(parent), _mb(worker), _files(parent), _files(worker))


def _mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def _files(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
