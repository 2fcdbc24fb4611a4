"""What does a Ray cluster of one machine do, beside one process with a thread for each core?

    python benchmarks/ray_cluster.py comments.parquet [--rows N] [--files N] [--rounds N]
        [--out result.json]

The first rows of a dump, cut into files of one folder, are reworded by `sro-edge rewrite` and by
`sro-edge rewrite --ray`, in turns, A B A B, each time from the start of the command to its end. The
medians of the ratios are what counts; what Ray's start takes is measured on one row a file. The two
trees are compared byte for byte. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from sro_edge.machine import describe_machine, physical_cores


def main() -> None:
    """Race the two and print the table."""
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        folder = Path(work)
        rows = _cut(options.dump, folder / "in", options.rows, options.files)
        _cut(options.dump, folder / "few", options.files, options.files)
        rivals = {"one process": ["--threads", str(options.threads)], "ray": ["--ray"]}
        start = {name: _run(folder, "few", name, more) for name, more in rivals.items()}
        seconds: dict[str, list[float]] = {name: [] for name in rivals}
        for _ in range(options.rounds):
            for name, more in rivals.items():
                seconds[name].append(_run(folder, "in", name, more))
        trees = [_tree(folder / name) for name in rivals]
        counts = json.loads((folder / "ray.json").read_text())["counts"]
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    result = {
        "benchmark": "ray_cluster",
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine() | {"threads": options.threads, "ray": version("ray")},
        "rows": rows,
        "toxic": counts["toxic"],
        "files": options.files,
        "actors": min(options.threads, options.files),
        "start_s": start,
        "seconds": seconds,
        "rows_per_s": {name: round(rows / s, 1) for name, s in middle.items()},
        "rows_per_s_once_started": {
            name: round(rows / (s - start[name]), 1) for name, s in middle.items()
        },
        "ray_to_one_process": round(statistics.median(ratios), 2),
        "range": [round(min(ratios), 2), round(max(ratios), 2)],
        "same_bytes": trees[0] == trees[1],
    }
    show(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def _cut(dump: Path, folder: Path, rows: int, files: int) -> int:
    """The first ``rows`` of the dump in ``files`` files; how many there are."""
    folder.mkdir()
    table = next(pq.ParquetFile(dump).iter_batches(rows))
    each = -(-table.num_rows // files)
    for number in range(files):
        part = table.slice(number * each, each)
        with pq.ParquetWriter(folder / f"{number:03d}.parquet", part.schema) as writer:
            writer.write_batch(part)
    return int(table.num_rows)


def _run(folder: Path, source: str, target: str, more: list[str]) -> float:
    """Seconds of one command."""
    shutil.rmtree(folder / target, ignore_errors=True)
    words = [str(folder / source), str(folder / target), "--quiet", "--device", "cpu", *more]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "sro_edge.cli", "rewrite", *words], check=True)
    return round(time.perf_counter() - started, 2)


def _tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def show(result: dict[str, Any]) -> None:
    """The table for people, on stderr."""
    table = Table(title=f"{result['rows']:,} rows in {result['files']} files")
    table.add_column("rival")
    for name in ("start, s", "seconds", "rows/s", "rows/s, once started"):
        table.add_column(name, justify="right")
    for name, times in result["seconds"].items():
        table.add_row(
            name,
            f"{result['start_s'][name]:.1f}",
            " ".join(f"{s:.1f}" for s in times),
            f"{result['rows_per_s'][name]:.1f}",
            f"{result['rows_per_s_once_started'][name]:.1f}",
        )
    Console(stderr=True).print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dump", type=Path)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--work", type=Path, help="where the files are made, for a short while")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
