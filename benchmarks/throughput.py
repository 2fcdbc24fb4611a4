"""How fast is a dump reworded? The engine beside the obvious loop, same models, same comments.

    python benchmarks/throughput.py comments.parquet [--bundle DIR] [--rows N] [--out result.json]

Rivals run A B A B; the median of their ratio is what counts. `loop` sends one prompt after the
other through `llama_cpp.Llama.create_completion`; `engine` is the Detoxifier with 16 slots.
Screening is timed apart: batches sorted by length against one comment at a time. The last line on
stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from machine import describe_machine
from rich.console import Console
from rich.table import Table

from sro_edge.bundle import Bundle
from sro_edge.detoxifier import Detoxifier, Request
from sro_edge.llama import physical_cores
from sro_edge.screener import Screener, passes

ROUNDS = 3


def main() -> None:
    """Time every pair of rivals and print the table."""
    options = _options()
    bundle = Bundle.load(options.bundle)
    column = pq.read_table(options.dump, columns=["text"])["text"].to_pylist()
    texts = list(dict.fromkeys(t for t in column if t and 0 < len(t.strip()) <= 400))
    texts = texts[: options.rows]
    threads = options.threads or physical_cores()
    screener = Screener(bundle.screener, threads=threads)
    limit = bundle.thresholds.toxicity
    scores = screener.score(texts).toxicity
    toxic = [t for t, s in zip(texts, scores, strict=True) if not passes(float(s), limit)]
    toxic = [t for t in toxic if len(t) <= 200][: options.toxic]
    few = texts[: len(texts) // 4]
    result: dict[str, Any] = {
        "benchmark": "throughput",
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine() | {"threads": threads},
        "bundle": {"name": bundle.name, "version": bundle.version},
        "comments_per_second": {
            "rewriting, greedy": race(
                {"loop": _loop(bundle, threads), "engine": _engine(bundle, threads)}, toxic
            ),
            "screening": race(
                {
                    "one at a time": lambda part: [screener.score([t]) for t in part],
                    "engine": screener.score,
                },
                few,
            ),
        },
    }
    show(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def race(rivals: dict[str, Callable[[Sequence[str]], Any]], texts: Sequence[str]) -> dict[str, Any]:
    """Comments per second of each rival, in turns, after a warm-up."""
    speeds: dict[str, list[float]] = {name: [] for name in rivals}
    for run in rivals.values():
        run(texts[:8])
    for _ in range(ROUNDS):
        for name, run in rivals.items():
            started = time.perf_counter()
            run(texts)
            speeds[name].append(round(len(texts) / (time.perf_counter() - started), 2))
    first, last = rivals
    ratios = [b / a for a, b in zip(speeds[first], speeds[last], strict=True)]
    return {
        "comments": len(texts),
        **speeds,
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def _loop(bundle: Bundle, threads: int) -> Callable[[Sequence[str]], Any]:
    import llama_cpp

    model = llama_cpp.Llama(
        str(bundle.detoxifier), n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False
    )

    def tokenize(text: str, parse_special: bool) -> list[int]:
        return list(model.tokenize(text.encode(), add_bos=False, special=parse_special))

    def run(texts: Sequence[str]) -> None:
        for text in texts:
            prompt = bundle.prompt.encode(text, tokenize)
            model.create_completion(prompt, max_tokens=len(prompt) + 16, temperature=0.0)

    return run


def _engine(bundle: Bundle, threads: int) -> Callable[[Sequence[str]], Any]:
    engine = Detoxifier(bundle.detoxifier, bundle.prompt, threads=threads)
    return lambda texts: list(engine.generate(Request(key=t, prompt=t) for t in texts))


def show(result: dict[str, Any]) -> None:
    """The table for people, on stderr."""
    table = Table(title="comments per second, median")
    for name in ("job", "comments", "rival", "engine", "ratio"):
        table.add_column(name, justify="left" if name == "job" else "right")
    for job, figures in result["comments_per_second"].items():
        rival, engine = (
            statistics.median(v)
            for k, v in figures.items()
            if isinstance(v, list) and k != "ratio_range"
        )
        table.add_row(
            job, str(figures["comments"]), f"{rival:.0f}", f"{engine:.0f}", str(figures["ratio"])
        )
    Console(stderr=True).print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dump", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--toxic", type=int, default=200)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
