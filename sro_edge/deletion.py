"""A comment without its toxic words: the baseline, and the engine's last resort.

The last resort looks for the words to delete by occlusion: it screens the comment once without each
of its words, and without each of its clauses. What several deletions would do together is predicted
from that (:mod:`sro_edge.effects`), and only the most promising combinations are screened.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import combinations, islice, pairwise
from typing import TYPE_CHECKING

from sro_edge.effects import Effects
from sro_edge.guards import survives, tidy
from sro_edge.negation import FUNCTION_WORDS

if TYPE_CHECKING:
    from sro_edge.bundle import Thresholds
    from sro_edge.screener import Scores

_WORD = re.compile(r"#?[^\W_]+(?:['’*@$!][^\W_]+)*")
_TIDY = ((re.compile(r"\s+([,.!?;:])"), r"\1"), (re.compile(r"([,;:])(?:\s*[,;:])+"), r"\1"))
_MOST_WORDS = 40  # longer texts lose the words of the lexicon only
_ROUNDS, _PROMISING = 2, 4  # rounds of combinations, and how many are screened in each
_HOT = 5  # words of which any two are tried together
_MARKS = ".,;:!?…\"'()*_-"  # around a word
_CLAUSE_ENDS = (",", ";", ":", "-", "–", "—")
_JOINING = frozenset("and or but so because yet".split())  # words before which a clause may begin
_MOST_CLAUSES = 6  # a sentence with more is a list

# What is left of the worth of a text for each word that goes and is not toxic.
_HARMLESS, _FUNCTION = 0.8, 0.9

Words = frozenset[int]  # which words to delete, by place


def delete_words(text: str, lexicon: Mapping[str, float]) -> str:
    """``text`` without the words of ``lexicon`` (lower-case keys), white space and commas tidied.

    The text comes back unchanged where no word of it is in the lexicon.
    """
    kept = _cut(text, lexicon)
    return text if kept == text else _tidy(kept)


def deletions(
    texts: Sequence[str],
    lexicon: Mapping[str, float],
    score: Callable[[Sequence[str]], Scores],
    limits: Thresholds,
    toxic: Collection[str] = (),
) -> dict[str, dict[str, float]]:
    """What the last resort chooses from: each text with some of its words less, and which share of
    its worth is left: the more words go that are not toxic, the smaller.

    Args:
        texts: the texts, all different.
        lexicon: toxic words, lower-case.
        score: the screener, which is asked about all texts together, once a round.
        limits: what a candidate must reach, and so what is promising.
        toxic: more words, lower-case, that are not missed.
    """
    searches = [_Search(text, lexicon, limits, toxic) for text in texts]
    for number in range(1 + _ROUNDS):
        asked = [
            (place, gone, text)
            for place, search in enumerate(searches)
            for gone, text in search.ask(first=number == 0)
        ]
        scores = score([*texts, *(text for _, _, text in asked)])
        for place, search in enumerate(searches):
            search.found[frozenset()] = Effects.read(scores, place, place)
        for row, (place, gone, _) in enumerate(asked, len(texts)):
            searches[place].found[gone] = Effects.read(scores, place, row)
    return {search.text: search.candidates() for search in searches}


class _Search:
    """The deletions of one text: those that were screened, and which to screen next."""

    def __init__(
        self,
        text: str,
        lexicon: Mapping[str, float],
        limits: Thresholds,
        toxic: Collection[str],
    ) -> None:
        self.text, self.limits = text, limits
        self.words = text.split()
        self.left = [_cut(word, lexicon) for word in self.words]  # "idiot," leaves its comma
        self.lexical = frozenset(i for i, word in enumerate(self.words) if self.left[i] != word)
        self.clauses = clauses(self.words)
        bare = list(map(_bare, self.words))
        self.telling = frozenset(i for i, word in enumerate(bare) if _tells(word))
        self.toxic = self.lexical.union(i for i, word in enumerate(bare) if word in toxic)
        self.found: dict[Words, Effects] = {}

    def candidates(self) -> dict[str, float]:
        """The texts screened, with their share, but those that miss function words only.

        Without its "you" an insult passes the screener more often, and is still one.
        """
        return {self.spell(gone): self.share(gone) for gone in self.found if gone & self.telling}

    def share(self, gone: Words) -> float:
        """What is left of the text's worth without some of its words; a clause leaves no hole."""
        if gone in self.clauses:
            return _HARMLESS
        missed = gone - self.toxic
        telling = len(missed & self.telling)
        return _HARMLESS**telling * _FUNCTION ** (len(missed) - telling)

    def worth(self, gone: Words, effects: Effects) -> float:
        """Of a text without some of its words, by its scores or those that are predicted."""
        return effects.worth(self.limits) * self.share(gone)

    def spell(self, gone: Words) -> str:
        """The text without some of its words, closed and begun as it is."""
        kept = (
            word if i not in gone else self.left[i] if i in self.lexical else ""
            for i, word in enumerate(self.words)
        )
        text = tidy(_tidy(" ".join(kept)), self.text)
        return text[:1].upper() + text[1:] if self.text[:1].isupper() else text

    def ask(self, *, first: bool) -> Iterator[tuple[Words, str]]:
        """What to screen next: at first single words and the lexicon's, then combinations."""
        if first:
            wanted = [self.lexical] if self.lexical else []
            if len(self.words) <= _MOST_WORDS:
                wanted += [frozenset([i]) for i in range(len(self.words))]
                wanted += self.clauses
        else:
            wanted = self.promising() if len(self.words) <= _MOST_WORDS else []
        for gone in wanted:
            text = self.spell(gone)
            if text and text != self.text:
                yield gone, text

    def promising(self) -> list[Words]:
        """The combinations that lose nothing and look best by what is known of their parts."""
        whole = self.found[frozenset()]
        effect = {
            i: self.found[single].minus(whole)
            for i in range(len(self.words))
            if (single := frozenset([i])) in self.found
        }
        several = [gone for gone in self.found if len(gone) > 1]
        best = heapq.nlargest(
            _PROMISING, several, key=lambda gone: self.worth(gone, self.found[gone])
        )
        predicted = {}
        for base in dict.fromkeys([frozenset[int](), self.lexical, *best]):
            if base not in self.found:
                continue
            wide = base in (frozenset(), self.lexical)
            for more in self.combinations(base, effect, wide=wide):
                gone = base | more
                if gone in self.found or len(gone) == len(self.words):
                    continue
                together = self.found[base].plus(*(effect[i] for i in more - base))
                predicted[gone] = self.worth(gone, together)
        ordered = sorted(predicted, key=lambda gone: -predicted[gone])
        kept = (gone for gone in ordered if survives(self.spell(gone), self.text))
        return list(islice(kept, _PROMISING))

    def combinations(
        self, base: Words, effect: Mapping[int, Effects], *, wide: bool
    ) -> Iterator[Words]:
        """What to delete beside ``base``: hot words, neighbours with one, and words beside a gap.

        Hot are the words without which the text is least toxic. Where ``wide``, up to three
        neighbours, any two hot words, or a hot word and two neighbours elsewhere.
        """
        hot = heapq.nsmallest(_HOT, effect, key=lambda i: effect[i].toxicity)
        near = {*hot, *(i + step for i in base for step in (-1, 1))}
        runs = [
            run
            for length in ((1, 2, 3) if wide else (1,))
            for i in effect
            if (run := frozenset(range(i, i + length))) <= effect.keys() and run & near
        ]
        yield from runs
        if wide:
            yield from map(frozenset, combinations(hot, 2))
            yield from (run | {i} for run in runs if len(run) == 2 for i in hot)


def clauses(words: Sequence[str]) -> list[Words]:
    """The clauses of a sentence, by the places of their words, where it has some, but not many.

    One begins after a comma, a colon or a dash, or with a word like "but", which goes with the
    clause before it where that is the first.
    """
    starts = [
        i
        for i in range(1, len(words))
        if words[i - 1].endswith(_CLAUSE_ENDS) or words[i].lower() in _JOINING
    ]
    if not 1 <= len(starts) < _MOST_CLAUSES:
        return []
    found = [set(range(a, b)) for a, b in pairwise([0, *starts, len(words)])]
    if words[starts[0]].lower() in _JOINING:
        found[0].add(starts[0])
    return [frozenset(clause) for clause in found if 1 < len(clause) < len(words)]


def _bare(word: str) -> str:
    """A word in lower case, without the marks around it and without its "'re"."""
    return word.lower().strip(_MARKS).replace("’", "'").split("'")[0]


def _tells(bare: str) -> bool:
    return bool(bare) and bare not in FUNCTION_WORDS


def _cut(text: str, lexicon: Mapping[str, float]) -> str:
    return _WORD.sub(lambda m: "" if m[0].lower().lstrip("#") in lexicon else m[0], text)


def _tidy(text: str) -> str:
    text = " ".join(text.split())
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    return text.lstrip(",.;: ").strip()
