"""Which candidate a piece takes, and when one more round is worth its time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sro_edge.guards import is_degenerate, is_refusal, survives
from sro_edge.made_up import makes_up
from sro_edge.quotations import omits_only
from sro_edge.screener import Scores, passes

if TYPE_CHECKING:
    from sro_edge.bundle import Thresholds
    from sro_edge.job import Piece
    from sro_edge.proposals import Made

_LESS_FLUENT = 0.1  # fall of fluency from which on a greedy answer is sampled against
_LAST = 1e-3  # what one flaw leaves of the worth of an answer: it is taken where there is no better
_MILDER = 0.7  # share of the lowest similarity that milder words by a table must reach
_READABLE = 0.5  # share of a piece's fluency that it must have without some of its words
_WRITTEN = 1.25  # what a phrase that people wrote for a phrase is worth more than it scores
_PATCHY = 0.65  # what is left without some words is worth less
# Share of the threshold above which an answer is taken only if none is below it.
_RISKY, _RISKY_WRITTEN = 0.3, 0.45


class Choice:
    """Takes the best candidate by (1 - toxicity)^2 x similarity x fluency, of those that pass.

    The square, for another judge calls clean what is far below the threshold, not just below it. An
    answer that is not far below, or has a word that is made up, or misses words, has a flaw: it is
    the best only where all have. What the table has for a phrase of several words is worth more
    than that, and need be less far below; what deletion leaves is worth less: the fluency output
    sees few holes.

    Args:
        thresholds: what a candidate must reach.
        leaks: whether a candidate repeats the prompt around the piece.
        score: the screener.
        knows: whether it has a token for a word.
    """

    def __init__(
        self,
        thresholds: Thresholds,
        leaks: Callable[[str, str], bool],
        score: Callable[[Sequence[str]], Scores],
        knows: Callable[[str], bool],
    ) -> None:
        self._thresholds, self._leaks, self._score, self._knows = thresholds, leaks, score, knows

    def take(
        self,
        pieces: Sequence[Piece],
        candidates: Mapping[str, Mapping[str, Made]],
        *,
        sampled: bool,
        last: bool = False,
    ) -> None:
        """Give each piece its best candidate, if better than what it has; note which are doubtful.

        Args:
            pieces: what is open.
            candidates: of each piece's text, with what made them.
            sampled: whether samples will follow.
            last: whether there is nothing else to hope for.
        """
        leaks = self._leaks
        sound = {
            t: [c for c in found if not (is_degenerate(c, t) or is_refusal(c, t) or leaks(c, t))]
            for t, found in candidates.items()
        }
        usable = {t: [c for c in found if survives(c, t)] for t, found in sound.items()}
        texts = list(dict.fromkeys([*usable, *(c for found in usable.values() for c in found)]))
        scores, row = self._score(texts), {t: i for i, t in enumerate(texts)}
        for piece in pieces:
            if sound[piece.text] and not usable[piece.text]:
                piece.reason = "meaning"
            for answer in usable.get(piece.text, ()):
                if answer in piece.spent or (piece.quoted and not omits_only(answer, piece.text)):
                    continue
                made = candidates[piece.text][answer]
                value, flaws, reason = self._value(scores, row, piece, answer, made)
                if value > piece.worth:
                    piece.worth, piece.flaws = value, flaws
                    piece.answer, piece.engine = answer, made.engine
                elif reason == "meaning":
                    piece.reason = reason
        self._doubt([piece for piece in pieces if piece.answer], sampled, last)

    def _doubt(self, pieces: Sequence[Piece], sampled: bool, last: bool) -> None:
        """Mark the pieces whose answer is worth another round: a last choice, or, where samples
        are to come, clearly less fluent than the piece."""
        for piece in pieces:
            piece.doubtful = not last and piece.flaws > 0
        if not sampled:
            return
        answers = self._score([str(piece.answer) for piece in pieces])
        before = self._score([piece.text for piece in pieces])
        if before.fluency is not None and answers.fluency is not None:
            for piece, fall in zip(pieces, before.fluency - answers.fluency, strict=True):
                piece.doubtful |= bool(fall > _LESS_FLUENT)

    def _flaws(self, answer: str, text: str, toxicity: float, made: Made) -> int:
        """How much speaks for taking an answer only where there is no better one."""
        share = _RISKY_WRITTEN if made.worded.as_written else _RISKY
        risky = toxicity > self._thresholds.toxicity * share
        return risky + makes_up(answer, text, self._knows) + (made.engine == "delete")

    def _value(
        self, scores: Scores, row: Mapping[str, int], piece: Piece, answer: str, made: Made
    ) -> tuple[float, int, str | None]:
        """Worth and flaws of a candidate, or 0 with the reason why it does not pass.

        Deleted words leave holes: of the last resort only a part of the fluency is asked. Where the
        table put words in the place of words, there is none; that the screener calls a short insult
        fluent and its milder twin not then only puts that behind all other answers. What is left of
        a part of a quotation need only be similar and fluent in its place, in the comment.
        """
        before, after = row[piece.text], row[answer]
        toxicity = float(scores.toxicity[after])
        if not passes(toxicity, self._thresholds.toxicity):
            return 0.0, 0, "toxic"
        deletes = made.engine == "delete"
        patchy = deletes and not made.worded.omits
        flaws = self._flaws(answer, piece.text, toxicity, made)
        value = (1.0 - toxicity) ** 2 * (_PATCHY * made.share if patchy else 1.0)
        value *= _WRITTEN if made.worded.as_written else 1.0
        if piece.quoted:
            return value * _LAST**flaws, flaws, None
        if scores.embedding is not None:
            similarity = float(scores.embedding[before] @ scores.embedding[after])
            as_it_stood = made.engine == "substitute" or (made.worded.omits and not piece.whole)
            if similarity < least_similarity(self._thresholds, as_it_stood=as_it_stood):
                return 0.0, 0, "meaning"
            value *= similarity
        if scores.fluency is not None:
            fluency = float(scores.fluency[after])
            floor = scores.fluency[before] - self._thresholds.fluency_drop
            whole = readable(scores, after, scores, before) if deletes else fluency >= floor
            if not whole and not (made.worded.everywhere and piece.whole):
                return 0.0, 0, "meaning"
            flaws += 2 * (not whole)  # samples come before it
            value *= fluency
        return max(value * _LAST**flaws, 1e-15), flaws, None


def least_similarity(limits: Thresholds, *, as_it_stood: bool) -> float:
    """Lowest similarity of a piece that passes.

    It is lower where milder words by the table, or the mark of an omission, stand for toxic ones
    and all else stands as it stood: of a short insult ("he is a moron") little else is left to be
    similar. Of human rewrites of up to eight words one in six is below .6.
    """
    return limits.similarity * (_MILDER if as_it_stood else 1.0)


def readable(after: Scores, row: int, before: Scores, own: int) -> bool:
    """Whether a text without some of its words keeps a part of the fluency that it had."""
    if after.fluency is None or before.fluency is None:
        return True
    return bool(after.fluency[row] >= before.fluency[own] * _READABLE)
