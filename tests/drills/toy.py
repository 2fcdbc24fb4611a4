"""What the drills share: the command with toy models in its worker, and rows to feed it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TESTS = Path(__file__).parent.parent
# The command as it is installed, but for the engine that its worker process loads.
PROGRAM = """
from sro_edge import worker
from sro_edge.cli import main
worker.LOADERS["rewrite"] = "engines:load"
main()
"""
WORDS = "the a idea of my friend was very good bad and not so thanks people point wrong".split()


def command(
    *words: object, stdin: int = subprocess.DEVNULL, **toy: object
) -> subprocess.Popen[bytes]:
    """Start ``sro-edge`` with the toy engine; ``toy`` becomes ``SRO_EDGE_TOY_*``."""
    env = {**os.environ, "PYTHONPATH": str(TESTS)}
    env |= {f"SRO_EDGE_TOY_{name.upper()}": str(value) for name, value in toy.items()}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=stdin,
    )  # fmt: skip


def batches(rows: int, at_a_time: int, toxic: float) -> Iterator[pa.RecordBatch]:
    """Generated comments, some toxic, some null or blank, some coming again, and other columns."""
    rng = random.Random(0)
    for start in range(0, rows, at_a_time):
        count = min(at_a_time, rows - start)
        columns: dict[str, Any] = {
            "id": list(range(start, start + count)),
            "text": [_comment(rng, start + n, toxic) for n in range(count)],
            "tags": [rng.choices(WORDS, k=rng.randrange(4)) for _ in range(count)],
            "score": [None if rng.random() < 0.1 else rng.random() for _ in range(count)],
        }
        yield pa.RecordBatch.from_pydict(columns)


def _comment(rng: random.Random, number: int, toxic: float) -> str | None:
    kind = rng.random()
    if kind < 0.03:
        return rng.choice([None, "", "  ", "[deleted]"])
    words = rng.choices(WORDS, k=min(200, 3 + int(rng.expovariate(1 / 12))))
    if kind < 0.03 + toxic:
        words[rng.randrange(len(words))] = "stupid"
    return f"{' '.join(words)} {number % 5000 if kind > 0.9 else number}"


def write(path: Path, rows: int, group: int = 10_000, toxic: float = 0.12) -> None:
    """A Parquet file of generated rows."""
    stream = batches(rows, group, toxic)
    first = next(stream)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_batch(first)
        for batch in stream:
            writer.write_batch(batch)
