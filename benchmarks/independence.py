"""Does an answer depend on what else is in flight? Greedy answers with 1 and with 32 in flight.

    python benchmarks/independence.py comments.parquet [--bundle DIR] [--comments N]
        [--out result.json]

Toxic comments of a dump through the bundle's rewriter as it is, and as other types of weights; for
each the share of answers that differ between 1 and 32 in flight, between prompt lookup on and off,
and, with fixed batch shapes (`rewrite --deterministic`), between one order of the comments and
another. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from throughput import toxic_comments

from sro_edge.bundle import Bundle
from sro_edge.detoxifier import Detoxifier, Request
from sro_edge.export.gguf_types import GGUF_TYPES
from sro_edge.llama import library
from sro_edge.machine import describe_machine

TYPES = ("f32", "f16", "bf16", "q8_0", "q6_k", "q4_k_m", "q4_0")


def main() -> None:
    """Answer every comment in every company and print the table."""
    options = _options()
    bundle = Bundle.load(options.bundle)
    comments = toxic_comments(bundle, options)
    shares = {"as shipped": shares_of(bundle, bundle.detoxifier, comments, options.threads)}
    with tempfile.TemporaryDirectory() as folder:
        for kind in TYPES:
            file = Path(folder) / f"{kind}.gguf"
            _store(bundle.detoxifier, file, kind)
            shares[kind] = shares_of(bundle, file, comments, options.threads)
    result = {
        "benchmark": "independence",
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine() | {"threads": options.threads},
        "bundle": {"name": bundle.name, "version": bundle.version, "digest": bundle.digest},
        "comments": len(comments),
        "share_that_differs": shares,
    }
    show(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def shares_of(bundle: Bundle, file: Path, comments: list[str], threads: int) -> dict[str, float]:
    """Shares of answers that differ."""

    def answers(some: list[str], **settings: Any) -> dict[str, str]:
        with Detoxifier(file, bundle.prompt, threads=threads, device="cpu", **settings) as engine:
            requests = [Request(comment, comment) for comment in some]
            return {r.key: found[0].text for r, found in engine.generate(requests) if found}

    def share(a: dict[str, str], b: dict[str, str]) -> float:
        return round(sum(a[comment] != b[comment] for comment in a) / len(a), 4)

    alone = answers(comments, slots=1, lookup=False)
    fixed = answers(comments, slots=32, deterministic=True)
    return {
        "1 or 32 in flight": share(alone, answers(comments, slots=32, lookup=False)),
        "lookup on or off": share(alone, answers(comments, slots=1)),
        "fixed shapes, two orders": share(
            fixed, answers(comments[::-1], slots=32, deterministic=True)
        ),
    }


def _store(source: Path, target: Path, kind: str) -> None:
    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = getattr(lib, GGUF_TYPES[kind]), True
    code = lib.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    assert code == 0, kind


def show(result: dict[str, Any]) -> None:
    """The table for people, on stderr."""
    table = Table(title=f"share of {result['comments']} greedy answers that differ")
    table.add_column("weights")
    for name in next(iter(result["share_that_differs"].values())):
        table.add_column(name, justify="right")
    for kind, found in result["share_that_differs"].items():
        table.add_row(kind, *(f"{share:.2%}" for share in found.values()))
    Console(stderr=True).print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dump", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--comments", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
