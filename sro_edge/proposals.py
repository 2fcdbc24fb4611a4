"""What may be said in the place of a toxic piece, round by round, and what made it.

First the policy's greedy answer and what the bundle's table of milder words has to say, then
samples, last the piece without its toxic words. A piece that comes in late has its first round
beside that of the others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from sro_edge.deletion import deletions
from sro_edge.guards import tidy
from sro_edge.job import Piece, why_unusable
from sro_edge.memo import remember
from sro_edge.substitution import Substitution, Worded

if TYPE_CHECKING:
    from sro_edge.bundle import Bundle, Sampling, Thresholds
    from sro_edge.detoxifier import Candidate, Detoxifier
    from sro_edge.screener import Scores

    Score = Callable[[Sequence[str]], Scores]


class Made(NamedTuple):
    """What made a candidate: ``greedy``, ``substitute``, ``sample`` or ``delete``; how it is
    worded, if the table has it; and which share of its worth is left, if words were deleted."""

    engine: str
    worded: Worded = Worded()
    share: float = 1.0


Proposed = dict[str, dict[str, Made]]  # piece text -> candidate -> what made it, each once


class Proposals:
    """Candidates for pieces.

    Args:
        bundle: its words, toxic and milder ones.
        detoxifier: the rewriter.
        thresholds: what a candidate must reach.
        sampling: how samples are drawn.
        rounds: generation rounds, the first of them greedy; the one after them deletes words.
        delete: whether words of a quotation may be left out.
        seed: of the sampling.

    Attributes:
        lexicon: toxic words with their log-odds.
        toxic: these, and the words that the table has a milder one for.
    """

    def __init__(
        self,
        bundle: Bundle,
        detoxifier: Detoxifier,
        thresholds: Thresholds,
        sampling: Sampling,
        *,
        rounds: int,
        delete: bool,
        seed: int,
    ) -> None:
        self.lexicon = bundle.lexicon()
        self._detoxifier, self._thresholds, self._sampling = detoxifier, thresholds, sampling
        self._rounds, self._seed = rounds, seed
        table = bundle.mild_words()
        self.toxic = frozenset([*self.lexicon, *(p[0] for p in table if len(p) == 1)])
        self._substitution = Substitution(table, thresholds, omit=delete)
        # Piece and round -> what the model answered: it would answer the same again.
        self._answers: OrderedDict[tuple[str, int], list[Candidate]] = OrderedDict()

    def __call__(
        self, pieces: Sequence[Piece], number: int, score: Score, *, keep: int = 0
    ) -> Proposed:
        """The candidates of round ``number``, from 0, those of the policy first.

        A piece for which the policy has no usable answer at all is told why.

        Args:
            pieces: what is open.
            number: of the round.
            score: the screener.
            keep: answers that are kept for pieces that come again.
        """
        new = [piece for piece in pieces if not piece.tried]
        proposed: Proposed = {piece.text: {} for piece in pieces}
        if new:
            self._answer(new, 0, proposed, keep)
            texts = list(dict.fromkeys(piece.text for piece in new))
            quoted = {piece.text for piece in new if piece.quoted}
            for text, said in self._substitution.candidates(texts, score, quoted).items():
                for milder, worded in said.items():
                    found, tidied = proposed[text], tidy(milder, text)
                    # Reworded, it is the table's, though the policy may have said it, too.
                    if any(worded) or tidied not in found:
                        found[tidied] = Made("delete" if worded.omits else "substitute", worded)
        if number == self._rounds:
            unanswered = dict.fromkeys(p.text for p in pieces if p.answer is None)
            shortened = deletions(
                list(unanswered), self.lexicon, score, self._thresholds, self.toxic
            )
            for text, cut in shortened.items():
                for shorter, share in cut.items():
                    proposed[text].setdefault(shorter, Made("delete", share=share))
        elif number:
            self._answer(pieces, number, proposed, keep)
        for piece in new:
            piece.tried = True
        return proposed

    def _answer(self, pieces: Sequence[Piece], number: int, proposed: Proposed, keep: int) -> None:
        """Add the policy's answers of a round, or tell a piece why it has none."""
        texts = list(dict.fromkeys(piece.text for piece in pieces))
        answers = self._generate(texts, number, keep)
        for piece in pieces:
            piece.reason = why_unusable(answers[piece.text], piece.text) or piece.reason
        for text in texts:
            for candidate in answers[text]:
                if candidate.finished:
                    said = tidy(candidate.text, text)
                    proposed[text].setdefault(said, Made("sample" if number else "greedy"))

    def _generate(self, texts: Sequence[str], number: int, keep: int) -> dict[str, list[Candidate]]:
        """The policy's answers: a greedy one in round 0, samples in the others."""
        from sro_edge.detoxifier import Request

        known = {t: self._answers[t, number] for t in texts if (t, number) in self._answers}
        drawn = self._sampling
        requests = [
            Request(t, t, drawn.samples, drawn.temperature, drawn.top_p, self._seed + number)
            if number
            else Request(t, t)
            for t in texts
            if t not in known
        ]
        answers = known | {r.key: found for r, found in self._detoxifier.generate(requests)}
        remember(self._answers, {(t, number): answers[t] for t in texts}, keep)
        return answers
