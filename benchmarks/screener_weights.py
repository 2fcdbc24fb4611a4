"""What do the ways to store a screener cost and give? Size, load time, speed, decisions.

    python benchmarks/screener_weights.py --screener RUN comments.parquet [--rows N]
        [--weights small,fp32,int8,fp16] [--threads N] [--rounds N] [--out result.json]

One run is exported in every way, and all score the same comments in turns, A B A B; what counts is
the median of the ratios to fp32. Decisions are compared with those of the fp32 file at the trained
threshold. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from sro_edge.export.onnx_weights import WEIGHTS
from sro_edge.export.onnx_writer import trace, write_screener
from sro_edge.export.runs import open_run
from sro_edge.export.screener_graph import load_screener
from sro_edge.machine import describe_machine, physical_cores
from sro_edge.screener import Screener, passes


def main() -> None:
    """Export, race, and print the table."""
    options = _options()
    texts = _texts(options)
    with tempfile.TemporaryDirectory() as folder:
        screener = load_screener(open_run(options.screener, "screener"))
        exact = trace(screener)
        runtimes, rows = {}, {}
        for weights in options.weights:
            place = Path(folder, weights)
            write_screener(screener, exact, place, weights)
            start = time.perf_counter()
            runtimes[weights] = Screener(place, threads=options.threads, device="cpu")
            rows[weights] = {
                "megabytes": round((place / "model.onnx").stat().st_size / 1e6, 1),
                "load_s": round(time.perf_counter() - start, 2),
            }
        seconds, scores = _race(runtimes, texts, options.rounds)
    threshold = screener.thresholds.toxicity
    for weights, times in seconds.items():
        ratios = [a / b for a, b in zip(seconds["fp32"], times, strict=True)]
        rows[weights] |= {
            "comments_per_s": round(len(texts) / statistics.median(times), 1),
            "speed_to_fp32": round(statistics.median(ratios), 2),
            "range": [round(min(ratios), 2), round(max(ratios), 2)],
            "largest_difference": float(f"{np.abs(scores[weights] - scores['fp32']).max():.2g}"),
            "decisions_turned": _turned(scores[weights], scores["fp32"], threshold),
        }
    result = {
        "question": "what do the ways to store a screener cost and give",
        "machine": describe_machine(),
        "threads": options.threads,
        "comments": len(texts),
        "threshold": threshold,
        "weights": rows,
        "seconds": seconds,
    }
    _show(rows)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result))


def _race(
    runtimes: dict[str, Screener], texts: list[str], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of every round, and the toxicity (N,) of the texts."""
    scores = {name: runtime.score(texts).toxicity for name, runtime in runtimes.items()}  # warm-up
    seconds: dict[str, list[float]] = {name: [] for name in runtimes}
    for _ in range(rounds):
        for name, runtime in runtimes.items():
            start = time.perf_counter()
            runtime.score(texts)
            seconds[name].append(round(time.perf_counter() - start, 3))
    return seconds, scores


def _turned(found: Any, expected: Any, threshold: float) -> float:
    """Share of decisions that differ."""
    pairs = zip(found.tolist(), expected.tolist(), strict=True)
    return float(np.mean([passes(a, threshold) != passes(b, threshold) for a, b in pairs]))


def _show(rows: dict[str, dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("weights")
    for name in next(iter(rows.values())):
        table.add_column(name.replace("_", " "), justify="right")
    for weights, row in rows.items():
        cells = ("-".join(map(str, v)) if isinstance(v, list) else str(v) for v in row.values())
        table.add_row(weights, *cells)
    Console(stderr=True).print(table)


def _texts(options: argparse.Namespace) -> list[str]:
    column = pq.read_table(options.dump, columns=["text"])["text"].to_pylist()
    return list(dict.fromkeys(t for t in column if t and t.strip()))[: options.rows]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dump", type=Path)
    parser.add_argument("--screener", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--weights", default=",".join(WEIGHTS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.weights = options.weights.split(",")
    if "fp32" not in options.weights or not set(options.weights) <= set(WEIGHTS):
        parser.error(f"--weights must hold fp32, and others of {', '.join(WEIGHTS)}")
    return options


if __name__ == "__main__":
    main()
