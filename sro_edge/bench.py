"""How fast is a bundle on this machine? Cold start, latency a comment, throughput, memory.

What ``sro-edge bench`` measures. Comparisons with rivals are not made here but by the scripts in
``benchmarks/``.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sro_edge.errors import EngineError, InputError
from sro_edge.machine import describe_machine, peak_memory_mb

if TYPE_CHECKING:
    from sro_edge.bundle import Bundle
    from sro_edge.rewriter import Rewriter

EDGES = (0, 40, 80, 160, 400)  # characters; the bounds of the length buckets
_EACH = 40  # comments a bucket
_LONGEST = 4000
_ROUNDS = 3
_COLD = """
import json, sys, time
bundle, comment, threads, device = json.loads(sys.argv[1])
marks = [time.monotonic()]
from sro_edge.rewriter import Rewriter
from sro_edge.detoxifier import Detoxifier
from sro_edge.llama import library
import onnxruntime, tokenizers
library()
marks.append(time.monotonic())
from sro_edge.bundle import Bundle
opened = Bundle.load(bundle)
marks.append(time.monotonic())
rewriter = Rewriter.load(opened, threads=threads, device=device)
marks.append(time.monotonic())
row = next(rewriter.rewrite([comment]))
marks.append(time.monotonic())
print(json.dumps([marks, row.status]))
"""


def measure(
    comments: Sequence[str],
    bundle: Bundle,
    *,
    threads: Sequence[int],
    slots: Sequence[int] = (1, 4, 16, 32),
    device: str = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure everything, as JSON types; seconds are wall time, medians of three where not said.

    Args:
        comments: distinct comments, clean and toxic as they come.
        bundle: the opened bundle.
        threads: numbers of threads to try; the last is used where only one is.
        slots: numbers of answers in flight to try.
        device: where the models run.
        say: told what is being measured.

    Raises:
        InputError: too few of the comments are toxic to the bundle's screener.
        EngineError: a fresh process did not get as far as its first row.
    """
    from sro_edge.rewriter import Rewriter

    say("comments of a dump, screened and rewritten")
    rewriter = Rewriter.load(bundle, threads=threads[-1], device=device)
    toxic, together = _whole(rewriter, comments)
    memory = peak_memory_mb()
    say("one comment at a time")
    latency = _latencies(rewriter, comments, toxic)
    say("the screener alone")
    screener = {str(n): _screening(bundle, comments, n, device) for n in threads}
    writer = {}
    for many in slots:
        say(f"the rewriter alone, {many} in flight")
        writer[str(many)] = {str(n): _writing(bundle, toxic, many, n, device) for n in threads}
    say("a fresh process")
    return {
        "benchmark": "bench",
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine() | {"threads": list(threads), "device": device},
        "bundle": {"name": bundle.name, "version": bundle.version, "digest": bundle.digest},
        "comments": len(comments),
        "toxic": len(toxic),
        "cold_start_s": _cold_start(bundle, toxic[0], threads[-1], device),
        "latency_ms": latency,
        "together": together,
        "screener_comments_per_s": screener,
        "rewriter": writer,
        "peak_memory_mb": memory,
    }


def _whole(rewriter: Rewriter, comments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """All comments as a dump has them, once; and those that are toxic."""
    started = time.perf_counter()
    rewrites = list(rewriter.rewrite(comments))
    seconds = time.perf_counter() - started
    toxic = [c for c, r in zip(comments, rewrites, strict=True) if r.status != "clean"]
    if len(toxic) < 8:
        raise InputError(
            f"{len(toxic)} of {len(comments)} comments are toxic to this bundle's screener; "
            "at least 8 are needed: give a dump with more, or a higher --rows"
        )
    return toxic, {
        "seconds": round(seconds, 2),
        "comments_per_s": round(len(comments) / seconds, 1),
        "toxic_per_s": round(len(toxic) / seconds, 2),
    }


def _latencies(
    rewriter: Rewriter, comments: Sequence[str], toxic: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds from a comment alone to its rewrite, by kind and length."""
    rude = set(toxic)
    clean = [comment for comment in comments if comment not in rude]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind, some in (("clean", clean), ("toxic", toxic)):
        found[kind] = {}
        for low, high in pairwise(EDGES):
            bucket = [c for c in some if low < len(c) <= high][:_EACH]
            if len(bucket) >= 8:
                times = [_seconds(partial(_first, rewriter, c)) for c in bucket]
                found[kind][f"{low + 1}-{high}"] = _percentiles(times)
    return found


def _first(rewriter: Rewriter, comment: str) -> object:
    return next(rewriter.rewrite([comment]))


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    named = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98]}
    return {name: round(1000 * value, 1) for name, value in named.items()} | {"n": len(seconds)}


def _screening(bundle: Bundle, comments: Sequence[str], threads: int, device: str) -> float:
    from sro_edge.screener import Screener

    screener = Screener(bundle.screener, threads=threads, device=device)
    some = comments[: max(len(comments) // 4, 8)]
    times = [_seconds(lambda: screener.score(some)) for _ in range(_ROUNDS)]
    return round(len(some) / statistics.median(times), 1)


def _writing(
    bundle: Bundle, toxic: Sequence[str], slots: int, threads: int, device: str
) -> dict[str, float]:
    """Greedy answers and tokens a second, prompts and answers counted."""
    from sro_edge.detoxifier import Detoxifier, Request

    with Detoxifier.of(bundle, threads=threads, device=device, slots=slots) as engine:
        requests = [Request(c, c) for c in toxic if len(c) <= EDGES[-1]][: 16 * _EACH]
        tokens = sum(len(bundle.prompt.encode(r.prompt, engine.tokenize)) for r in requests)
        times = []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            answers = [c for _, candidates in engine.generate(requests) for c in candidates]
            times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    tokens += sum(answer.tokens for answer in answers)
    return {
        "answers_per_s": round(len(answers) / seconds, 1),
        "tokens_per_s": round(tokens / seconds),
    }


def _cold_start(bundle: Bundle, comment: str, threads: int, device: str) -> dict[str, float]:
    """Seconds from the start of a process to its first rewritten row, and where they go."""
    runs = []
    for _ in range(1 + _ROUNDS):  # the first one warms the disk's cache
        asked = json.dumps([str(bundle.path), comment, threads, device])
        started = time.monotonic()
        child = subprocess.run(
            [sys.executable, "-c", _COLD, asked], capture_output=True, text=True, check=False
        )
        if child.returncode:
            last = child.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise EngineError(f"a fresh process ended with code {child.returncode}: {last[0]}")
        marks, _ = json.loads(child.stdout.splitlines()[-1])
        runs.append([b - a for a, b in pairwise([started, *marks])] + [marks[-1] - started])
    names = ("python", "imports", "hashes", "models", "first_row", "in_all")
    medians = [statistics.median(column) for column in zip(*runs[1:], strict=True)]
    return {name: round(value, 3) for name, value in zip(names, medians, strict=True)}


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def load_comments(path: Path, column: str, rows: int) -> list[str]:
    """Distinct, non-blank comments of up to 4,000 characters in the first ``rows`` of a dump.

    Raises:
        InputError: the dump cannot be read as asked.
    """
    from sro_edge.formats import open_source

    source = open_source(path, column, rows)
    try:
        texts = [comment.text for comment in source.comments()]
    finally:
        source.close()
    return list(dict.fromkeys(t for t in texts if t and t.strip() and len(t) <= _LONGEST))
