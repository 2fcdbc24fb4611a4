"""Drill: the embedded bundle itself; a run that was killed ends with the bytes of an unbroken one.

    python tests/drills/same_bytes.py [--rows N] [--kills N]

The other drills use toys, whose answers cannot depend on what was worked on before. Those of real
models could: floating point sums depend on the company that a comment keeps in a batch.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "comments.parquet"
# Small units, so that there is something to resume.
PROGRAM = """
import sys
from pathlib import Path
from sro_edge.dump import rewrite_dump
from sro_edge.worker import remote_rewriter
with remote_rewriter(None, threads=1) as rewriter:
    source, output, rows = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    rewrite_dump(source, output, rewriter, unit_rows=16, limit=rows)
"""


def main() -> None:
    """Run the drill and print one line of figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--kills", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        unbroken, broken = Path(folder, "unbroken.parquet"), Path(folder, "broken.parquet")
        started = time.monotonic()
        assert start(unbroken, options.rows).wait() == 0
        seconds = time.monotonic() - started
        rng = random.Random(0)
        kept = []
        for _ in range(options.kills):
            child = start(broken, options.rows)
            time.sleep(rng.uniform(0.3, 0.7) * seconds)
            child.kill()
            child.wait()
            kept.append(len(list(Path(folder).glob("broken.parquet.partial/unit-*"))))
        if not broken.exists() or kept[-1]:
            assert start(broken, options.rows).wait() == 0
        assert broken.read_bytes() == unbroken.read_bytes()
        statuses = pq.read_table(broken)["detox_status"].to_pylist()
    print(
        f"same bytes: {options.rows} rows with the embedded bundle, killed after "
        f"{', '.join(map(str, kept))} units of 16; {statuses.count('rewritten')} rewritten, "
        f"{statuses.count('unresolved')} unresolved, file for file the bytes of the unbroken run"
    )


def start(output: Path, rows: int) -> subprocess.Popen[bytes]:
    """A run, in its own process."""
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(EXAMPLES), str(output), str(rows)])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
