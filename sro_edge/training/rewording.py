"""Rewrites found by search: toxic phrases replaced by milder ones, as the words around them allow.

Where a policy drops a word and leaves a hole, the table (:mod:`sro_edge.mild_words`) has
something to say instead, and a trigram model of clean text knows what fits. The screener has the
last word (:mod:`sro_edge.training.best_of`), and the policy learns from what passes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from sro_edge.guards import article
from sro_edge.mild_words import Finder, Phrase, Table, with_nothing
from sro_edge.screener import Screener
from sro_edge.segments import WORDS, words
from sro_edge.training.ngrams import Trigrams

_BEAM = 10  # rewrites kept after each phrase, and given
_MOST_PHRASES = 6  # a comment with more is left alone
_ALONE = 0.6  # toxicity of a word alone from which on it may be left out
_FITTING = 0.15  # what a word that fits well counts, beside one that does not
# Words that a rewrite may bring in beside the comment's own and those of the table.
_GLUE = frozenset(
    "a an the is are was were be am it this that to of and or not in on at for with you they he she"
    " i we me him her them".split()
)


class Rewording:
    """Searches for rewrites of comments.

    Args:
        table: toxic phrase -> milder ones.
        toxic: toxic words that may be left out where the table has no line for them.
        clean: the trigram model.
    """

    def __init__(self, table: Table, toxic: Iterable[str], clean: Trigrams) -> None:
        alone: Table = {(word,): [()] for word in toxic}
        self.table = alone | with_nothing(table)
        self.clean = clean
        self._finder = Finder(self.table)

    def propose(self, comment: str) -> list[str]:
        """Lower-case rewrites of ``comment``, at most ten, those that fit best first."""
        tokens = words(comment)
        found = self._finder.find(tokens)
        if not 0 < len(found) <= _MOST_PHRASES:
            return []
        states: list[Phrase] = [()]
        end = 0
        for place, phrase in found:
            kept = tuple(tokens[end : place.start])
            end = place.stop
            after = tuple(tokens[end : end + 2])
            grown = dict.fromkeys(
                _join(before + kept, milder) for before in states for milder in self.table[phrase]
            )
            states = sorted(grown, key=lambda state: -self._fits(state + after))[:_BEAM]
        spelled = (self._spell(comment, tokens, [*state, *tokens[end:]]) for state in states)
        return [text for text in dict.fromkeys(spelled) if text]

    def allowed(self, comment: str) -> set[str]:
        """The words that a rewrite of ``comment`` may have: a small model invents others."""
        tokens = words(comment)
        found = {*_GLUE, *tokens}
        for _, phrase in self._finder.find(tokens):
            found.update(word for milder in self.table[phrase] for word in milder)
        return found

    def _fits(self, tokens: Sequence[str]) -> float:
        gain = self.clean.gain(tokens)[:-1]  # the sentence may go on
        return float(gain[gain < 0].sum() + _FITTING * gain[gain > 0].sum())

    def _spell(self, comment: str, old: Sequence[str], new: Sequence[str]) -> str:
        """``new`` with the white space of ``comment``."""
        low, text = comment.lower(), ""
        spans = [match.span() for match in WORDS.finditer(low)]
        matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
        for kind, a, b, c, d in matcher.get_opcodes():
            if kind == "equal":
                for k in range(a, b):
                    gap = low[spans[k - 1][1] : spans[k][0]] if k and text else ""
                    text += gap + low[slice(*spans[k])]
            elif kind != "delete":
                text += (" " if text else "") + " ".join(new[c:d])
        return " ".join(text.split())


def _join(before: Phrase, milder: Phrase) -> Phrase:
    """Both, with "a" or "an" between them as the milder words want it."""
    if milder and before and before[-1] in ("a", "an"):
        before = (*before[:-1], article(milder[0]))
    return before + milder


def toxic_alone(lexicon: Iterable[str], screener: Screener) -> list[str]:
    """The words that the screener calls toxic without any other: these may be left out."""
    found = list(lexicon)
    scores = screener.score(found).toxicity.tolist() if found else []
    return [word for word, toxicity in zip(found, scores, strict=True) if toxicity > _ALONE]
