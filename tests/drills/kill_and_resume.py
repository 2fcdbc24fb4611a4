"""Drill: ``kill -9`` a run of 10,000 rows at 50 random moments; the next run must end it.

    python tests/drills/kill_and_resume.py [--kills N] [--rows N] [--seed N]

Each round starts afresh, is killed once, and is run again until it is done. Half of the kills fall
at a random time of the run, half wait for a stage (screening, rewriting, assembling, renaming) and
fall within it. Asked for at the end of each round: the bytes of the unbroken run, the very rows of
the input in their order, no debris, and no process left. A last run is killed again and again.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from toy import command, write

SECONDS = 0.012  # that the toy engine screens a unit, and then rewrites it
STAGES = ("screening", "rewriting", "assembling", "renaming")


def main() -> None:
    """Run the drill and print one line of figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(drill(Path(folder), options.kills, options.rows, options.seed))


def drill(folder: Path, kills: int, rows: int, seed: int) -> str:
    """The drill in ``folder``; returns the line of figures."""
    rng = random.Random(seed)
    scene = Scene(folder, rows)
    started = time.monotonic()
    scene.run()
    duration = time.monotonic() - started
    reference = scene.take_output()
    check_rows(scene.source, reference)
    hit: Counter[str] = Counter()
    for number in range(kills):
        wait = STAGES[number // 2 % 4] if number % 2 else None
        while (stage := scene.run_killed(rng, duration, wait)) == "already done":
            scene.finish(reference)
        hit[stage] += 1
        scene.finish(reference)
    for _ in range(min(10, kills)):
        scene.run_killed(rng, duration / 2, None)
    scene.finish(reference)
    stages = ", ".join(f"{name} {count}" for name, count in hit.most_common())
    return (
        f"kill and resume: {kills} kills of a {rows:,}-row run ({stages}), and {min(10, kills)} of "
        f"one run: every output has the bytes of the unbroken run, no debris, no process left"
    )


class Scene:
    """One input, one output, and the runs between them."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder = folder
        self.source, self.output = folder / "in.parquet", folder / "out.parquet"
        self.partial, self.stage = folder / "out.parquet.partial", folder / "stage"
        write(self.source, rows, group=2500)

    def start(self) -> subprocess.Popen[bytes]:
        """A run, with the toy's stage in a file."""
        self.stage.unlink(missing_ok=True)
        return command(
            "rewrite", self.source, self.output, "--quiet", seconds=SECONDS, stage=self.stage
        )

    def run(self) -> None:
        """An unbroken run, or the rest of a broken one."""
        out, err = (child := self.start()).communicate(timeout=120)
        assert child.returncode == 0, err.decode()
        assert out.decode() == f"{self.output}\n"

    def run_killed(self, rng: random.Random, duration: float, wait: str | None) -> str:
        """A run that is killed; returns the stage that it was in."""
        child = self.start()
        until = time.monotonic() + rng.uniform(0, duration)
        if wait is None:
            while child.poll() is None and time.monotonic() < until:
                time.sleep(0.001)
        else:
            while child.poll() is None and self.where() != wait:
                time.sleep(0.0002)
            if wait != "renaming":
                time.sleep(rng.uniform(0, SECONDS))
        if child.poll() is not None:
            child.communicate()
            return "already done"
        child.send_signal(signal.SIGSTOP)  # so that the stage is that of the kill
        stage = self.where()
        child.kill()
        child.communicate()
        return stage

    def where(self) -> str:
        """What a run is doing, seen from outside."""
        if (self.partial / "result").exists() or self.output.exists():
            return "renaming"
        if (self.partial / "result.tmp").exists():
            return "assembling"
        try:
            said = self.stage.read_text()
        except FileNotFoundError:
            return "reading"
        return said if said in STAGES else "reading"

    def finish(self, reference: bytes) -> None:
        """Run again until done, and look at what there is."""
        if self.output.exists() and not self.partial.exists():
            assert self.take_output() == reference
        else:
            self.run()
            assert self.take_output() == reference

    def take_output(self) -> bytes:
        """The output's bytes; it is removed, and nothing else may lie there."""
        data = self.output.read_bytes()
        left = {path.name for path in self.folder.iterdir()} - {"stage"}
        assert left == {"in.parquet", "out.parquet", "out.parquet.json"}, left
        assert not self.workers(), "a worker is left"
        self.output.unlink()
        (self.folder / "out.parquet.json").unlink()
        return data

    def workers(self) -> list[str]:
        """Workers of this scene that are still there a moment after their parents."""
        mark = f"SRO_EDGE_TOY_STAGE={self.stage}\0".encode()
        found: list[str] = []
        for _ in range(500):
            found = [e.parent.name for e in Path("/proc").glob("[0-9]*/environ") if _holds(e, mark)]
            if not found:
                break
            time.sleep(0.01)
        return found


def _holds(environ: Path, mark: bytes) -> bool:
    try:
        return mark in environ.read_bytes()
    except OSError:
        return False


def check_rows(source: Path, output: bytes) -> None:
    """Every row of the input once, in order, as it was."""
    import io

    before, after = pq.read_table(source), pq.read_table(io.BytesIO(output))
    assert after.select(before.column_names).equals(before)
    assert after["detox_status"].null_count == 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
