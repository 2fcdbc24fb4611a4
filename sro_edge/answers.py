"""Comments in, rows out, a unit at a time: what was answered before, and what fails for good.

The answers to a unit depend on its own comments and on the units before it, never on when a run was
stopped: that is what makes a resumed run end with the bytes of an unbroken one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from sro_edge.columns import LOST, Annotator, Row
from sro_edge.errors import EngineError
from sro_edge.formats import Comment

LOST_IN_A_ROW = 3  # units; then it is not the comments
_CACHE = 20_000  # rows kept for comments that come again
_CACHE_CHARS = 1_000  # longer comments are not kept
_SHORT = 120  # characters of a comment that reads well as an example


@dataclass
class Tally:
    """What became of the rows so far, and some pairs of comment and rewrite.

    Attributes:
        statuses: rows by what became of them.
        reasons: unresolved rows by reason.
        examples: how many pairs are wanted.
    """

    examples: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    _short: list[tuple[str, str]] = field(default_factory=list)
    _long: list[tuple[str, str]] = field(default_factory=list)

    def add(self, row: Row, comment: Comment) -> None:
        """Note one row."""
        self.statuses[row.status] += 1
        if row.reason is not None:
            self.reasons[row.reason] += 1
        if row.status == "rewritten" and comment.text and len(self._short) < self.examples:
            pair = (comment.text, str(row.values[0]))
            pile = self._short if max(map(len, pair)) <= _SHORT else self._long
            if pair not in pile and len(pile) < self.examples:
                pile.append(pair)

    @property
    def rows(self) -> int:
        """Rows so far."""
        return self.statuses.total()

    @property
    def toxic(self) -> int:
        """Rows whose comment did not pass."""
        return sum(self.statuses[name] for name in ("toxic", "rewritten", "unresolved"))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Pairs of comment and rewrite, short ones first."""
        return tuple([*self._short, *self._long][: self.examples])

    def counts(self) -> dict[str, int]:
        """Rows by what became of them."""
        named = {key: self.statuses[key] for key in ("clean", "rewritten", "unresolved", "empty")}
        return {"rows": self.rows, "toxic": self.toxic, **named}


class Answers:
    """The rows of unit after unit."""

    def __init__(self, annotator: Annotator, trouble: Callable[[str], None]) -> None:
        """``annotator`` does the work; ``trouble`` is told when it fails.

        Attributes:
            lost: how many units in a row it has failed over by now.
            failure: how it failed last.
        """
        self.lost, self.failure = 0, ""
        self._annotator, self._trouble = annotator, trouble
        self._known: OrderedDict[str | None, Row] = OrderedDict()

    def give(self, texts: Sequence[str | None]) -> list[Row]:
        """The rows of a unit; comments that came before are not worked on again."""
        new = list(dict.fromkeys(text for text in texts if text not in self._known))
        rows = dict(zip(new, self._attempt(new), strict=True))
        found = [rows[text] if text in rows else self._known[text] for text in texts]
        self._remember(rows.items())
        return found

    def recall(self, unit: pa.Table, texts: Sequence[str | None]) -> list[Row]:
        """The rows of a unit that an earlier run answered."""
        rows = self._annotator.recall(unit, texts)
        self._remember(zip(texts, rows, strict=True))
        return rows

    def _attempt(self, texts: Sequence[str | None]) -> list[Row]:
        """Ask the models, and once more if they failed; then the comments are lost."""
        if not texts:
            return []
        for then in ("trying them again", "they become unresolved: error"):
            try:
                rows = self._annotator.rows(texts)
            except EngineError as error:
                self.failure = str(error)
                self._trouble(f"{self.failure}, over {len(texts)} comments; {then}")
                continue
            if len(rows) != len(texts):
                raise RuntimeError(f"{len(texts)} comments gave {len(rows)} results")
            self.lost = 0
            return rows
        self.lost += 1
        return [self._annotator.lost(text) for text in texts]

    def _remember(self, rows: Iterable[tuple[str | None, Row]]) -> None:
        """Keep rows for comments that come again, in the same order whenever a run was stopped."""
        for text, row in rows:
            if len(text or "") <= _CACHE_CHARS and row.reason != LOST and text not in self._known:
                self._known[text] = row
        while len(self._known) > _CACHE:
            self._known.popitem(last=False)


def with_own_bytes(row: Row, comment: Comment) -> tuple[object, ...]:
    """The row's values; where a comment that is not valid UTF-8 comes back, with its own bytes."""
    if comment.raw is None or row.values[0] != comment.text:
        return row.values
    return (comment.raw, *row.values[1:])
