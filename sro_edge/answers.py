"""Comments in, rows out, a unit at a time: what was answered before, and what fails for good.

The answers to a unit depend on its own comments and on the units before it, never on when a run was
stopped: that is what makes a resumed run end with the bytes of an unbroken one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from sro_edge.columns import LOST, Annotator, Row
from sro_edge.errors import EngineError
from sro_edge.formats import Comment
from sro_edge.memo import LONGEST, MOST_COMMENTS, remember

LOST_IN_A_ROW = 3  # units; then it is not the comments
_AHEAD = 1  # units asked for behind the one that is waited for
_SHORT = 120  # characters of a comment that reads well as an example


@dataclass
class Tally:
    """What became of the rows so far, and some pairs of comment and rewrite.

    Attributes:
        statuses: rows by what became of them.
        reasons: unresolved rows by reason.
        engines: rewritten rows by what reworded them.
        not_utf8: rows whose comment has bytes that are no UTF-8.
        examples: how many pairs are wanted.
    """

    examples: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    engines: Counter[str] = field(default_factory=Counter)
    not_utf8: int = 0
    _short: list[tuple[str, str]] = field(default_factory=list)
    _long: list[tuple[str, str]] = field(default_factory=list)

    def add(self, row: Row, comment: Comment) -> None:
        """Note one row."""
        self.statuses[row.status] += 1
        if row.reason is not None:
            self.reasons[row.reason] += 1
        if row.engine is not None:
            self.engines[row.engine] += 1
        self.not_utf8 += comment.raw is not None
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
        return {"rows": self.rows, "toxic": self.toxic, **named, "not_utf8": self.not_utf8}

    def causes(self) -> dict[str, dict[str, int]]:
        """Unresolved rows by reason, rewritten ones by engine, the most frequent first."""
        return {
            "reasons": dict(self.reasons.most_common()),
            "engines": dict(self.engines.most_common()),
        }


class _Entry:
    """A comment's row, once it is there."""

    __slots__ = ("row",)
    row: Row


@dataclass
class _Asked:
    """A unit that was asked for.

    Attributes:
        unit: its comments.
        entries: their rows to be.
        new: those of the comments that did not come before.
        evicted: what the cache let go to have room for them, oldest first.
        wait: waits for the rows of ``new``.
    """

    unit: Sequence[Comment]
    entries: list[_Entry] = field(default_factory=list)
    new: dict[str | None, _Entry] = field(default_factory=dict)
    evicted: list[tuple[str | None, _Entry]] = field(default_factory=list)
    wait: Callable[[], list[Row]] = list

    def fill(self, rows: Sequence[Row]) -> None:
        """Note the rows of ``new``."""
        if len(rows) != len(self.new):
            raise RuntimeError(f"{len(self.new)} comments gave {len(rows)} results")
        for entry, row in zip(self.new.values(), rows, strict=True):
            entry.row = row


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
        self._known: OrderedDict[str | None, _Entry] = OrderedDict()

    def give(
        self, units: Iterable[Sequence[Comment]]
    ) -> Iterator[tuple[Sequence[Comment], list[Row]]]:
        """Units with their rows; comments that came before are not worked on again.

        The next unit is read and asked for before the rows of one are waited for, so the models are
        at work while the caller keeps the rows and reads on.
        """
        asked: deque[_Asked] = deque()
        for unit in units:
            asked.append(self._ask(unit))
            if len(asked) > _AHEAD:
                yield self._next(asked)
        while asked:
            yield self._next(asked)

    def recall(self, unit: Sequence[Comment], stored: pa.Table) -> list[Row]:
        """The rows of a unit that an earlier run answered and ``stored``."""
        texts = [comment.text for comment in unit]
        rows = self._annotator.recall(stored, texts)
        recalled = _Asked(unit)
        for text, row in zip(texts, rows, strict=True):
            if row.reason != LOST and text not in self._known:
                recalled.new.setdefault(text, _Entry()).row = row
        self._remember(recalled)
        return rows

    def _ask(self, unit: Sequence[Comment]) -> _Asked:
        asked = _Asked(unit)
        for text in (comment.text for comment in unit):
            entry = self._known.get(text) or asked.new.get(text)
            if entry is None:
                entry = asked.new[text] = _Entry()
            asked.entries.append(entry)
        self._remember(asked)
        if asked.new:
            asked.wait = self._annotator.begin(list(asked.new))
        return asked

    def _next(self, asked: deque[_Asked]) -> tuple[Sequence[Comment], list[Row]]:
        """Wait for the unit asked for first, and once more if the models failed over it.

        What was asked for behind it is then asked for anew, and knows only what it would have known
        had nobody asked ahead.
        """
        first, behind = asked.popleft(), list(asked)
        if not self._answered(first):
            for later in reversed(behind):
                self._withdraw(later)
            asked.clear()
            first.wait = self._annotator.begin(list(first.new))
            if not self._answered(first, last=True):
                self._withdraw(first)
                first.fill([self._annotator.lost(text) for text in first.new])
                self.lost += 1
            asked.extend(self._ask(later.unit) for later in behind)
        return first.unit, [entry.row for entry in first.entries]

    def _answered(self, asked: _Asked, *, last: bool = False) -> bool:
        """Whether the rows of ``asked`` came; says why not."""
        try:
            asked.fill(asked.wait())
        except EngineError as error:
            self.failure = str(error)
            then = "they become unresolved: error" if last else "trying them again"
            self._trouble(f"{self.failure}, over {len(asked.new)} comments; {then}")
            return False
        if asked.new:
            self.lost = 0
        return True

    def _remember(self, asked: _Asked) -> None:
        """Keep rows for comments that come again, in the same order whenever a run was stopped."""
        short = {t: entry for t, entry in asked.new.items() if len(t or "") <= LONGEST}
        asked.evicted += remember(self._known, short, MOST_COMMENTS)

    def _withdraw(self, asked: _Asked) -> None:
        """Undo :meth:`_remember`; what was remembered later must be withdrawn first."""
        for text in asked.new:
            self._known.pop(text, None)
        for text, entry in reversed(asked.evicted):
            self._known[text] = entry
            self._known.move_to_end(text, last=False)


def with_own_bytes(row: Row, comment: Comment) -> tuple[object, ...]:
    """The row's values; where a comment that is not valid UTF-8 comes back, with its own bytes."""
    if comment.raw is None or row.values[0] != comment.text:
        return row.values
    return (comment.raw, *row.values[1:])
