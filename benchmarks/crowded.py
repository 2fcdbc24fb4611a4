"""What do several runs at once on the same cores cost each other?

    python benchmarks/crowded.py comments.parquet [--rows N] [--processes N] [--threads N]
        [--rounds N] [--bundle BUNDLE] [--out result.json]

    alone     one `sro-edge rewrite`
    ours      several at once, as they are
    default   several at once, with the spinning of GNU OpenMP as its makers set it

Each run has all the threads, as if it knew nothing of the others. Seconds are those of the slowest.
Rivals run in turns. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sro_edge.bundle import Bundle
from sro_edge.machine import describe_machine, physical_cores

_DEFAULT_SPINS = "300000"  # of libgomp, where no environment variable says otherwise


def main() -> None:
    """Race, and print the table."""
    options = _options()
    ways: dict[str, tuple[int, str | None]] = {  # runs at once, and their spins
        "alone": (1, None),
        "ours": (options.processes, None),
        "default": (options.processes, _DEFAULT_SPINS),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, (processes, spins) in ways.items():
            seconds[name].append(_race(options, processes, spins))
    median = {name: round(statistics.median(found), 2) for name, found in seconds.items()}
    bundle = Bundle.load(options.bundle)
    result = {
        "question": "what do several runs at once on the same cores cost each other",
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine(),
        "bundle": {"name": bundle.name, "version": bundle.version, "digest": bundle.digest},
        "rows": options.rows,
        "processes": options.processes,
        "threads": options.threads,
        "seconds": median,
        "raw": {name: [round(s, 2) for s in found] for name, found in seconds.items()},
        "default_to_ours": round(median["default"] / median["ours"], 2),
        "ours_to_one_after_the_other": round(
            median["ours"] / (options.processes * median["alone"]), 2
        ),
    }
    _show(median, options.processes)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result))


def _race(options: argparse.Namespace, processes: int, spins: str | None) -> float:
    """Seconds until the last of so many runs, begun together, has ended."""
    environment = {name: v for name, v in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if spins is not None:
        environment["GOMP_SPINCOUNT"] = spins
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        running = [
            subprocess.Popen(
                _command(options, Path(folder, f"out-{number}.parquet")),
                env=environment,
                stderr=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            for number in range(processes)
        ]
        codes = [child.wait() for child in running]
        if any(codes):
            raise SystemExit("a run failed: try it by itself, `sro-edge rewrite`")
        return time.perf_counter() - started


def _command(options: argparse.Namespace, out: Path) -> list[str]:
    words: list[Any] = [sys.executable, "-m", "sro_edge.cli", "rewrite", options.dump, out]
    words += ["--limit", options.rows, "--threads", options.threads, "--device", "cpu"]
    if options.bundle:
        words += ["--bundle", options.bundle]
    return [str(word) for word in words]


def _show(median: dict[str, float], processes: int) -> None:
    table = Table("way", "runs at once", "seconds", "of those alone", box=None, pad_edge=False)
    for name, found in median.items():
        count = "1" if name == "alone" else str(processes)
        table.add_row(name, count, f"{found:.1f}", f"{found / median['alone']:.1f}")
    Console(stderr=True, width=80).print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dump", type=Path)
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
