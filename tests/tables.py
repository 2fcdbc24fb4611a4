"""What the tests of the dumps share: comments, a rewriter that needs no model, how to compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sro_edge.job import Rewrite

NEW = [
    "detox_status",
    "detox_reason",
    "detox_engine",
    "detox_toxicity_before",
    "detox_toxicity_after",
    "detox_similarity",
    "detox_fluency",
    "detox_attempts",
]
COMMENTS = ["you are stupid", "fine", None, "damn it", "", "so stupid", "thanks", "fine"]


@dataclass
class FakeRewriter:
    """Makes "stupid" "odd", gives up on "damn", reads ``ahead`` comments before it answers."""

    ahead: int = 3
    threshold: float = 0.5
    interrupt_at: int | None = None
    at_end: Callable[[], None] = lambda: None
    seen: list[str | None] = field(default_factory=list)
    name: str = "fake"

    def settings(self) -> dict[str, Any]:
        return {"bundle": self.name, "thresholds": {"toxicity": self.threshold}, "seed": 0}

    def rewrite(self, texts: Iterable[str | None]) -> Iterator[Rewrite]:
        chunk: list[str | None] = []
        for text in texts:
            if len(self.seen) == self.interrupt_at:
                raise KeyboardInterrupt
            self.seen.append(text)
            chunk.append(text)
            if len(chunk) == self.ahead:
                yield from map(self.one, chunk)
                chunk = []
        yield from map(self.one, chunk)
        self.at_end()

    @staticmethod
    def one(text: str | None) -> Rewrite:
        if text is None or not text.strip():
            return Rewrite(text, "empty")
        if "damn" in text:
            return Rewrite(None, "unresolved", reason="toxic", toxicity_before=0.75, attempts=3)
        if "stupid" in text:
            new = text.replace("stupid", "odd")
            return Rewrite(new, "rewritten", None, "greedy", 0.9, 0.1, 0.8, 0.7, 1)
        return Rewrite(text, "clean", toxicity_before=0.1, toxicity_after=0.1)


def write_comments(path: Path) -> None:
    """Write ``COMMENTS`` with an id column, in row groups of three."""
    table = pa.table({"id": range(len(COMMENTS)), "text": COMMENTS})
    pq.write_table(table, path, row_group_size=3)


def read(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read()


def assert_carried(source: Path, output: Path, rows: int | None = None) -> None:
    """Without the new columns, ``output`` is ``source``: schema, metadata, order and values."""
    before, after = read(source).slice(0, rows), read(output)
    assert after.column_names[: before.num_columns] == before.column_names
    after = after.select(range(before.num_columns))
    metadata = dict(after.schema.metadata)
    metadata.pop(b"sro_edge")
    after = after.replace_schema_metadata(metadata or None)
    assert after.schema.equals(before.schema, check_metadata=True)
    for old, new in zip(before.columns, after.columns, strict=True):
        assert repr(new.to_pylist()) == repr(old.to_pylist())  # repr: NaN equals NaN
