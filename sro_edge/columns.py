"""What each command adds to a dump: its columns, and how their rows are filled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pyarrow as pa

from sro_edge.formats.base import decode, values
from sro_edge.screener import passes

if TYPE_CHECKING:
    from sro_edge.job import Rewrite
    from sro_edge.screener import Scores

LOST = "error"  # reason of a comment whose unit could not be worked on


class Row(NamedTuple):
    """What was found out about one comment."""

    status: str
    reason: str | None
    values: tuple[Any, ...]  # one for each new column
    engine: str | None = None  # what reworded it


class RewritingEngine(Protocol):
    """What rewords: a :class:`sro_edge.Rewriter`, here or in another process."""

    def settings(self) -> dict[str, Any]:
        """All that decides what a comment becomes, as JSON types."""

    def rewrite(self, texts: Sequence[str | None], /) -> Iterable[Rewrite]:
        """One rewrite a text, in order; another process begins before the first is taken."""


class ScreeningEngine(Protocol):
    """What scores: a :class:`sro_edge.screener.Screener`, here or in another process.

    One in another process may have ``begin`` as well: it starts on texts, and what it returns waits
    for their scores.
    """

    def score(self, texts: Sequence[str], /) -> Scores:
        """Scores in the order of ``texts``."""


class Annotator(Protocol):
    """A kind of run over the comments of a dump."""

    command: str
    settings: dict[str, Any]

    def fields(self, column: str, text_type: pa.DataType) -> list[pa.Field]:
        """The new columns beside a column of comments."""

    def begin(self, texts: Sequence[str | None]) -> Callable[[], list[Row]]:
        """Start on these comments; what comes back waits for one row for each, in order.

        The rows depend on nothing but these comments. Several may be begun; they are waited for in
        the same order.

        Raises:
            EngineError: (by the waiting) the models failed over them; another try may succeed. What
                was begun behind them is lost.
        """

    def lost(self, text: str | None) -> Row:
        """The row of a comment over which the models failed for good."""

    def recall(self, unit: pa.Table, texts: Sequence[str | None]) -> list[Row]:
        """The rows of ``texts`` that were made earlier and stored in ``unit``."""


class Rewriting:
    """Reword the comments and say what was done."""

    command = "rewrite"

    def __init__(self, rewriter: RewritingEngine) -> None:
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

    def begin(self, texts: Sequence[str | None]) -> Callable[[], list[Row]]:
        """One row for each rewrite."""
        found = self.rewriter.rewrite(texts)
        return lambda: [self._row(done) for done in found]

    def lost(self, text: str | None) -> Row:
        """Unresolved, with the text that the user wants for such comments."""
        from sro_edge.job import Rewrite
        from sro_edge.rewriter import MASK

        if text is None or not text.strip():
            return self._row(Rewrite(text, "empty"))
        kept = {"keep": text, "mask": MASK}.get(self.settings.get("on_unresolved", "null"))
        return self._row(Rewrite(kept, "unresolved", LOST))

    def recall(self, unit: pa.Table, texts: Sequence[str | None]) -> list[Row]:
        """Read from the columns themselves."""
        columns = [values(column) for column in unit.columns]
        columns[0] = [decode(v).text if isinstance(v, bytes) else v for v in columns[0]]
        return [Row(found[1], found[2], found, found[3]) for found in zip(*columns, strict=True)]

    def _row(self, done: Rewrite) -> Row:
        found = (
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
        return Row(done.status, done.reason, found, done.engine)


class Screening:
    """Score the comments and leave them as they are."""

    command = "screen"

    def __init__(
        self, screener: ScreeningEngine, threshold: float, settings: Mapping[str, Any]
    ) -> None:
        """Comments above ``threshold`` count as toxic; ``settings`` say which screener this is."""
        self.screener, self.threshold = screener, threshold
        self.settings = {**settings, "threshold": threshold}
        probe = screener.score(["a"])
        self.has_fluency, self.has_cascade = probe.fluency is not None, probe.cleared is not None
        self._blank = (None,) * (1 + self.has_fluency + self.has_cascade)

    def fields(self, column: str, text_type: pa.DataType) -> list[pa.Field]:
        """``text_toxicity``, ``text_fluency`` where there is one; ``text_cleared`` likewise."""
        names = [f"{column}_toxicity", f"{column}_fluency"]
        fields = [pa.field(name, pa.float32()) for name in names[: 1 + self.has_fluency]]
        return [*fields, pa.field(f"{column}_cleared", pa.bool_())][: len(self._blank)]

    def begin(self, texts: Sequence[str | None]) -> Callable[[], list[Row]]:
        """Null, blank and cleared comments have no scores."""
        filled = [text for text in texts if text and text.strip()]
        if not filled:
            return lambda: self._rows([None] * len(texts))
        begin = getattr(self.screener, "begin", None)
        wait = partial(self.screener.score, filled) if begin is None else begin(filled)

        def rows() -> list[Row]:
            found = self._scored(wait())
            return self._rows(next(found) if t and t.strip() else None for t in texts)

        return rows

    def _scored(self, scores: Scores) -> Iterator[tuple[Any, ...]]:
        """The new columns' values for each text."""
        columns: list[list[Any]] = []
        for column in (scores.toxicity, scores.fluency):
            if column is not None:
                columns.append([None if math.isnan(v) else v for v in column.tolist()])
        if scores.cleared is not None:
            columns.append(scores.cleared.tolist())
        return zip(*columns, strict=True)

    def lost(self, text: str | None) -> Row:
        """Without scores."""
        if text is None or not text.strip():
            return self._rows([None])[0]
        return Row("unresolved", LOST, self._blank)

    def recall(self, unit: pa.Table, texts: Sequence[str | None]) -> list[Row]:
        """Judge the stored scores again."""
        found = zip(*(column.to_pylist() for column in unit.columns), strict=True)
        return [
            self.lost(text) if scores == self._blank else self._rows([scores])[0]
            for text, scores in zip(texts, found, strict=True)
        ]

    def _rows(self, found: Iterable[tuple[Any, ...] | None]) -> list[Row]:
        rows = []
        for scores in found:
            if scores is None:
                rows.append(Row("empty", None, self._blank))
            else:
                clean = scores[0] is None or passes(scores[0], self.threshold)
                status = "clean" if clean else "toxic"
                rows.append(Row(status, None, tuple(scores)))
        return rows
