"""How much sooner is one comment reworded with its own text as the draft? Prompt lookup on and off.

    python benchmarks/lookup.py comments.parquet [--bundle DIR] [--comments N] [--threads N]
        [--out result.json]

Toxic comments of a dump, one at a time: the rewriter's greedy answer alone, and the whole way from
comment to screened rewrite. On and off run in turns, A B A B; the median of the ratios of their
median latencies is what counts. The answers are compared. The last line on stdout is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from record import keep
from rich.console import Console
from rich.table import Table
from throughput import toxic_comments

from sro_edge.bundle import Bundle
from sro_edge.detoxifier import Detoxifier, Request
from sro_edge.machine import describe_machine, physical_cores
from sro_edge.rewriter import Rewriter
from sro_edge.screener import Screener

Answer = Callable[[str], str | None]


def main() -> None:
    """Time every comment with and without and print the table."""
    options = _options()
    bundle = Bundle.load(options.bundle)
    comments = toxic_comments(bundle, options)
    engines = {
        name: Detoxifier.of(bundle, threads=options.threads, device="cpu", lookup=lookup)
        for name, lookup in (("off", False), ("on", True))
    }
    screener = Screener(bundle.screener, threads=options.threads, device="cpu")
    ways: dict[str, dict[str, Answer]] = {
        "greedy answer": {name: _answers(engine) for name, engine in engines.items()},
        "screened rewrite": {
            name: _rewrites(Rewriter(bundle, screener, engine)) for name, engine in engines.items()
        },
    }
    result: dict[str, Any] = {
        "benchmark": "lookup",
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine() | {"threads": options.threads},
        "bundle": {"name": bundle.name, "version": bundle.version, "digest": bundle.digest},
        "comments": len(comments),
        "ways": {way: compare(pair, comments, options.rounds) for way, pair in ways.items()},
    }
    show(result)
    keep(options.out, result, "machine.simd")
    print(json.dumps(result))


def compare(pair: dict[str, Answer], comments: list[str], rounds: int) -> dict[str, Any]:
    """Median latency of each of the two in every round, and how many answers differ."""
    medians: dict[str, list[float]] = {name: [] for name in pair}
    for answer in pair.values():
        for comment in comments[:8]:
            answer(comment)
    found: dict[str, list[str | None]] = {}
    for _ in range(rounds):
        for name, answer in pair.items():
            times = []
            found[name] = []
            for comment in comments:
                started = time.perf_counter()
                found[name].append(answer(comment))
                times.append(time.perf_counter() - started)
            medians[name].append(round(1000 * statistics.median(times), 3))
    ratios = [off / on for off, on in zip(medians["off"], medians["on"], strict=True)]
    return {
        "median_ms": medians,
        "ratio": round(statistics.median(ratios), 2),
        "range": [round(min(ratios), 2), round(max(ratios), 2)],
        "different_answers": sum(a != b for a, b in zip(*found.values(), strict=True)),
    }


def _answers(engine: Detoxifier) -> Answer:
    def answer(comment: str) -> str | None:
        ((_, candidates),) = engine.generate([Request(comment, comment)])
        return candidates[0].text if candidates else None

    return answer


def _rewrites(rewriter: Rewriter) -> Answer:
    return lambda comment: next(rewriter.rewrite([comment])).text


def show(result: dict[str, Any]) -> None:
    """The table for people, on stderr."""
    table = Table(title=f"one comment at a time, {result['comments']} toxic comments")
    for name in ("way", "off, ms", "on, ms", "off / on", "range", "different answers"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for way, found in result["ways"].items():
        off, on = (statistics.median(times) for times in found["median_ms"].values())
        spread = "-".join(map(str, found["range"]))
        differ = str(found["different_answers"])
        table.add_row(way, f"{off:.1f}", f"{on:.1f}", str(found["ratio"]), spread, differ)
    Console(stderr=True).print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dump", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--comments", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
