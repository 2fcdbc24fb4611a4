"""Drill: a file with one row group of a gigabyte; memory must stay far below that.

    python tests/drills/gigabyte_group.py [--megabytes N]

The comments are short, a column of noise beside them is what is big. The row group is read page by
page and written as several of at most 256 MB, each of which is gathered in memory.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from toy import command

ROW = 16_384  # bytes of noise in each row
MOST = 1000  # MB of memory that the command may take


def main() -> None:
    """Run the drill and print one line of figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1024)
    size = parser.parse_args().megabytes << 20
    with tempfile.TemporaryDirectory() as name:
        source, output = Path(name, "in.parquet"), Path(name, "out.parquet")
        rows = size // ROW
        write(source, rows)
        seconds, peak = run(source, output)
        check(source, output)
        groups = pq.read_metadata(output).num_row_groups
    line = (
        f"gigabyte row group: {size >> 20:,} MB in one group of {rows:,} rows, {seconds:.0f} s, at "
        f"most {peak:.0f} MB of memory, written as {groups} groups, all values as they were"
    )
    assert peak < MOST, line
    print(line)


def write(source: Path, rows: int) -> None:
    """One row group of ``rows`` rows, made piece by piece."""
    rng = np.random.default_rng(0)
    schema = pa.schema([("id", pa.int64()), ("text", pa.string()), ("noise", pa.binary())])
    with pq.ParquetWriter(source, schema, compression="none", use_dictionary=False) as writer:
        table = pa.table(
            {
                "id": np.arange(rows),
                "text": [f"stupid idea {n}" for n in range(rows)],
                "noise": pa.array([rng.bytes(ROW) for _ in range(rows)], pa.binary()),
            },
            schema=schema,
        )
        writer.write_table(table, row_group_size=rows)
    assert pq.read_metadata(source).num_row_groups == 1


def run(source: Path, output: Path) -> tuple[float, float]:
    """Seconds and the parent's largest resident megabytes."""
    started, peak = time.monotonic(), 0.0
    with command("rewrite", source, output, "--quiet") as child:

        def look() -> None:
            nonlocal peak
            while child.poll() is None:
                try:
                    status = Path(f"/proc/{child.pid}/status").read_text()
                except OSError:
                    return
                found = re.search(r"VmHWM:\s+(\d+) kB", status)
                peak = max(peak, int(found[1]) / 1024 if found else 0.0)
                time.sleep(0.05)

        watcher = threading.Thread(target=look)
        watcher.start()
        _, err = child.communicate()
        watcher.join()
    assert child.returncode == 0, err.decode()
    return time.monotonic() - started, peak


def check(source: Path, output: Path) -> None:
    """Every value of the input is there, in order."""
    names = ["id", "text", "noise"]
    with pq.ParquetFile(source, pre_buffer=False) as before, pq.ParquetFile(output) as after:
        new = after.iter_batches(1024, columns=names)
        rows, rest = 0, None
        for left in before.iter_batches(1024):
            while left.num_rows:
                rest = rest if rest is not None and rest.num_rows else next(new)
                count = min(left.num_rows, rest.num_rows)
                assert left.slice(0, count).equals(rest.slice(0, count))
                left, rest = left.slice(count), rest.slice(count)
                rows += count
        assert rows == before.metadata.num_rows == after.metadata.num_rows


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
