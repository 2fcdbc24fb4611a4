"""What each command adds to a dump: its columns, and how their rows are filled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pyarrow as pa

from sro_edge.screener import Scores, passes

if TYPE_CHECKING:
    from sro_edge.rewriter import Rewriter
    from sro_edge.screener import Screener

_SCREEN_ROWS = 256


class Row(NamedTuple):
    """What was found out about one comment."""

    status: str
    reason: str | None
    values: tuple[Any, ...]  # one for each new column


class Annotator(Protocol):
    """A kind of run over the comments of a dump."""

    command: str
    settings: dict[str, Any]

    def fields(self, column: str, text_type: pa.DataType) -> list[pa.Field]:
        """The new columns beside a column of comments."""

    def rows(self, texts: Iterator[str | None]) -> Iterator[Row]:
        """One row for each comment, in order."""

    def recall(self, unit: pa.Table) -> Iterable[tuple[str, str | None]]:
        """(status, reason) of rows made earlier."""


class Rewriting:
    """Reword the comments and say what was done."""

    command = "rewrite"

    def __init__(self, rewriter: Rewriter) -> None:
        """``rewriter`` does the work."""
        self.rewriter, self.settings = rewriter, rewriter.settings()

    def fields(self, column: str, text_type: pa.DataType) -> list[pa.Field]:
        """``text_detox`` in the comments' own type, and its proof."""
        return [
            pa.field(f"{column}_detox", text_type),
            pa.field("detox_status", pa.string()),
            pa.field("detox_reason", pa.string()),
            pa.field("detox_engine", pa.string()),
            pa.field("detox_toxicity_before", pa.float32()),
            pa.field("detox_toxicity_after", pa.float32()),
            pa.field("detox_similarity", pa.float32()),
            pa.field("detox_fluency", pa.float32()),
            pa.field("detox_attempts", pa.int32()),
        ]

    def rows(self, texts: Iterator[str | None]) -> Iterator[Row]:
        """One row for each rewrite."""
        for done in self.rewriter.rewrite(texts):
            values = (
                done.text,
                done.status,
                done.reason,
                done.engine,
                done.toxicity_before,
                done.toxicity_after,
                done.similarity,
                done.fluency,
                done.attempts,
            )
            yield Row(done.status, done.reason, values)

    def recall(self, unit: pa.Table) -> Iterable[tuple[str, str | None]]:
        """Read from the columns themselves."""
        columns = unit["detox_status"].to_pylist(), unit["detox_reason"].to_pylist()
        return zip(*columns, strict=True)


class Screening:
    """Score the comments and leave them as they are."""

    command = "screen"

    def __init__(self, screener: Screener, threshold: float, settings: Mapping[str, Any]) -> None:
        """Comments above ``threshold`` count as toxic; ``settings`` say which screener this is."""
        self.screener, self.threshold = screener, threshold
        self.settings = {**settings, "threshold": threshold}
        self.has_fluency = screener.score(["a"]).fluency is not None

    def fields(self, column: str, text_type: pa.DataType) -> list[pa.Field]:
        """``text_toxicity``, and ``text_fluency`` where the screener has it."""
        names = [f"{column}_toxicity", f"{column}_fluency"]
        return [pa.field(name, pa.float32()) for name in names[: 1 + self.has_fluency]]

    def rows(self, texts: Iterator[str | None]) -> Iterator[Row]:
        """Null and blank comments have no scores."""
        while some := list(islice(texts, _SCREEN_ROWS)):
            filled = [text for text in some if text and text.strip()]
            scores = self.screener.score(filled) if filled else None
            found = zip(*_columns(scores), strict=True) if scores else iter(())
            for text in some:
                values = next(found) if text and text.strip() else (None,) * (1 + self.has_fluency)
                yield Row(self._status(values[0]), None, values)

    def recall(self, unit: pa.Table) -> Iterable[tuple[str, str | None]]:
        """Judge the stored scores again."""
        return [(self._status(toxicity), None) for toxicity in unit.column(0).to_pylist()]

    def _status(self, toxicity: float | None) -> str:
        if toxicity is None:
            return "empty"
        return "clean" if passes(toxicity, self.threshold) else "toxic"


def _columns(scores: Scores) -> list[list[float]]:
    columns = [scores.toxicity.tolist()]
    return columns if scores.fluency is None else [*columns, scores.fluency.tolist()]
