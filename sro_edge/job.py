"""A toxic comment on its way through the engine: its parts, and what became of it at the end."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sro_edge.guards import is_refusal
from sro_edge.quotations import cuts_quotation
from sro_edge.segments import Span, protected_spans, sentences

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sro_edge.detoxifier import Candidate
    from sro_edge.screener import Scores

    Floats = npt.NDArray[np.float32]


# What a comment is said to be made by, of what made its pieces: the first of these.
_LATEST = ("delete", "sample", "substitute", "greedy")
_CURSE = 4  # words of a sentence that may be left out, at most


@dataclass(frozen=True)
class Rewrite:
    """What became of one comment.

    Args:
        text: the reworded comment, the comment itself when clean, or None.
        status: ``clean``, ``rewritten``, ``unresolved`` or ``empty``.
        reason: of an unresolved comment: ``toxic`` (no candidate passed the screener),
            ``meaning`` (none of those that did kept meaning, fluency and what must survive),
            ``abstained`` (no rewording can mend it, or the model declined), ``too_long``,
            ``error``.
        engine: what made the text: ``greedy``, ``substitute``, ``sample`` or ``delete`` (words
            deleted, or left out of a quotation).
        toxicity_before: screener's probability for the comment; None where a first stage cleared
            it, so that the screener never saw it (``toxicity_after`` too).
        toxicity_after: the same for ``text``.
        similarity: cosine of the embeddings of comment and ``text``.
        fluency: screener's probability that ``text`` is fluent.
        attempts: generation rounds spent.
    """

    text: str | None
    status: str
    reason: str | None = None
    engine: str | None = None
    toxicity_before: float | None = None
    toxicity_after: float | None = None
    similarity: float | None = None
    fluency: float | None = None
    attempts: int = 0


@dataclass
class Piece:
    """A toxic span on its way: what it was, without disguise, how toxic, and what it became.

    ``whole`` is one that is all that the comment says, ``quoted`` one that is a part of what it
    quotes, so that nothing else may be said there, ``tried`` one that had its first round,
    ``worth`` and ``flaws`` are those of the answer, ``doubtful`` is one that is only just good
    enough, ``spent`` are answers that passed, but the comment with them did not.
    """

    span: Span
    text: str
    toxicity: float
    whole: bool = False
    quoted: bool = False
    tried: bool = False
    answer: str | None = None
    engine: str | None = None
    reason: str = "toxic"
    worth: float = 0.0
    flaws: int = 0
    doubtful: bool = False
    spent: set[str] = field(default_factory=set)


@dataclass
class Job:
    """A toxic comment on its way through the rounds."""

    text: str
    toxicity: float
    embedding: Floats | None = None  # (d,), of the comment
    reveal: Callable[[str], str] = str  # sees through disguised words
    # (toxicity, sentence), worst first: parts that no rewriting has touched yet
    untouched: list[tuple[float, Span]] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    attempts: int = 0
    done: Rewrite | None = None

    def take_next(self) -> None:
        """Make the most toxic untouched sentence a piece to rewrite."""
        self._take(*self.untouched.pop(0))

    def try_more(self, failing: Sequence[Span], doubtful: float) -> None:
        """Touch more of what is still toxic, though every piece of it passes.

        Args:
            failing: windows of the assembled comment that do not pass.
            doubtful: toxicity of an untouched sentence there from which on it is a piece, too.
                Where there is none, the pieces there are rewritten again; where they were before,
                the most toxic sentence is one.
        """
        suspects = [(t, s) for t, s in self.untouched if self._lies_in(s, failing)]
        pieces = [p for p in self.pieces if self._lies_in(p.span, failing)]
        taken = [(t, s) for t, s in suspects if t >= doubtful]
        if not taken and all(p.spent for p in pieces):
            taken = suspects[:1]
        for entry in taken:
            self.untouched.remove(entry)
            self._take(*entry)
        if not taken:
            self.reopen(pieces)

    def reopen(self, pieces: Sequence[Piece] = (), reason: str | None = None) -> None:
        """Have pieces rewritten again, and otherwise; default: all."""
        for piece in pieces or self.pieces:
            if piece.answer is not None:
                piece.spent.add(piece.answer)
            piece.tried = False
            piece.answer, piece.worth, piece.flaws, piece.doubtful = None, 0.0, 0, False
            piece.reason = reason or piece.reason

    def assembled(self, mask: str | None = None) -> str:
        """The comment with its rewritten pieces, or with ``mask`` in the place of each piece."""
        return self._with([mask if mask is not None else p.answer for p in self.pieces])

    def without_curses(self) -> str | None:
        """The comment without its open pieces, if each is as short as a curse ("damn it!").

        Such a sentence says nothing that could be said politely.
        """
        still_open = [p for p in self.pieces if p.answer is None]
        if not still_open or any(len(re.findall(r"\w+", p.text)) > _CURSE for p in still_open):
            return None
        text = self._with(["" if p.answer is None else p.answer for p in self.pieces])
        return text if any(c.isalpha() for c in text) else None

    def with_open(self, most: float) -> str | None:
        """The comment with its open pieces as they are, if none alone is more toxic than ``most``,
        and others are rewritten."""
        still_open = [p for p in self.pieces if p.answer is None]
        if len(still_open) == len(self.pieces) or any(p.toxicity > most for p in still_open):
            return None
        return self._with([p.answer for p in self.pieces])

    def rewritten(self, text: str, scores: Scores, row: int, engine: str | None = None) -> Rewrite:
        """The record of this comment as ``text``, whose scores stand in a row of ``scores``.

        It is made by ``engine``; default: by what made its pieces.
        """
        engines = [piece.engine for piece in self.pieces if piece.answer is not None]
        engine = engine or next(e for e in _LATEST if e in engines)
        similarity = None
        if scores.embedding is not None and self.embedding is not None:
            similarity = float(scores.embedding[row] @ self.embedding)
        return Rewrite(
            text,
            "rewritten",
            engine=engine,
            toxicity_before=self.toxicity,
            toxicity_after=float(scores.toxicity[row]),
            similarity=similarity,
            fluency=None if scores.fluency is None else float(scores.fluency[row]),
            attempts=self.attempts,
        )

    def _take(self, toxicity: float, span: Span) -> None:
        said = span.of(self.text)
        whole, quoted = said == self.text.strip(), cuts_quotation(self.text, span)
        self.pieces.append(Piece(span, self.reveal(said), toxicity, whole, quoted))

    def _lies_in(self, span: Span, windows: Sequence[Span]) -> bool:
        """Whether what became of a span lies in one of these windows of what is assembled."""
        longer = {
            p.span: len(p.answer) - (p.span.end - p.span.start)
            for p in self.pieces
            if p.answer is not None
        }
        start = span.start + sum(more for at, more in longer.items() if at.end <= span.start)
        end = start + span.end - span.start + longer.get(span, 0)
        return any(window.start < end and start < window.end for window in windows)

    def _with(self, answers: Sequence[str | None]) -> str:
        """The comment with an answer for each piece: None leaves it as it is, "" leaves it out."""
        out, end = "", 0
        for answer, piece in sorted(zip(answers, self.pieces, strict=True), key=_start):
            out += self.text[end : piece.span.start]
            out += piece.span.of(self.text) if answer is None else answer
            end = piece.span.end
            if answer == "":  # of the white space on both sides, one
                rest = self.text[end:].lstrip()
                end, out = len(self.text) - len(rest), out if rest else out.rstrip()
        return out + self.text[end:]


def _start(item: tuple[str | None, Piece]) -> int:
    return item[1].span.start


def free_spans(text: str) -> list[Span]:
    """Sentences of ``text``, cut around what must survive, each with at least one letter."""
    spans = []
    for sentence in sentences(text):
        start = sentence.start
        for kept in [*protected_spans(text, sentence), Span(sentence.end, sentence.end)]:
            part = _trim(text, start, kept.start, inner=start > sentence.start)
            if any(c.isalpha() for c in part.of(text)):
                spans.append(part)
            start = kept.end
    return spans


def _trim(text: str, start: int, end: int, *, inner: bool) -> Span:
    """The span without white space around it and, after a kept part, without leading marks."""
    while start < end and (text[start].isspace() or (inner and not text[start].isalnum())):
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return Span(start, end)


def why_unusable(found: Sequence[Candidate], text: str) -> str | None:
    """Why the model's answers cannot be used at all, if so."""
    if not found:
        return "too_long"
    if all(not c.text or is_refusal(c.text, text) for c in found):
        return "abstained"
    return None
