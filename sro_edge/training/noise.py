"""Toxic noise for clean sentences: what the warm start learns to undo.

Three kinds: toxic phrases inserted where their neighbours occur, clean phrases substituted by what
is said with the like meaning in a toxic way, and whole toxic clauses. The first and the last are
mined from the toxic pile alone.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple

from sro_edge.guards import article
from sro_edge.mild_words import Finder, Phrase
from sro_edge.segments import words
from sro_edge.training.insults import Choice

_EDGE = "\n"  # stands for both ends of a comment among neighbours
_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwyz", "aeiou"
_OBFUSCATE = {"a": "@*4", "e": "3*", "i": "1*!", "o": "0*", "u": "*", "s": "$"}


class Occurrence(NamedTuple):
    """A toxic phrase as it stood in the toxic pile, with the words left and right of it."""

    left: str
    phrase: tuple[str, ...]
    right: str


class ToxicNoise:
    """Corrupts a clean sentence with what the toxic pile was seen to say.

    Args:
        toxic: the toxic pile.
        lexicon: toxic words (see :func:`~sro_edge.training.lexicon.mine_lexicon`).
        substitutes: clean phrase -> toxic ones to take its place.
    """

    def __init__(
        self,
        toxic: Iterable[str],
        lexicon: Mapping[str, float],
        substitutes: Mapping[Phrase, Choice],
    ) -> None:
        corpus = [words(t) for t in toxic]
        self.lexicon = lexicon
        self.substitutes = substitutes
        self._finder = Finder(substitutes)
        self.by_left: dict[str, list[Occurrence]] = defaultdict(list)
        self.by_right: dict[str, list[Occurrence]] = defaultdict(list)
        self.by_both: dict[tuple[str, str], list[Occurrence]] = defaultdict(list)
        self.clauses: list[tuple[str, ...]] = []
        for tokens in corpus:
            self._index(tokens)
            self.clauses += self._toxic_clauses(tokens)

    def _index(self, tokens: list[str]) -> None:
        bad = [w in self.lexicon for w in tokens]
        start = 0
        while start < len(tokens):
            if not bad[start]:
                start += 1
                continue
            end = start + 1
            while end < len(tokens) and (bad[end] or (end + 1 < len(tokens) and bad[end + 1])):
                end += 1
            # The bare run, and the run with a neighbour on each side ("piece of shit").
            for grow_left, grow_right in ((0, 0), (0, 0), (1, 0), (0, 1), (2, 0)):
                a, b = start - grow_left, end + grow_right
                if a >= 0 and b <= len(tokens) and b - a <= 6:
                    left = tokens[a - 1] if a else _EDGE
                    right = tokens[b] if b < len(tokens) else _EDGE
                    seen = Occurrence(left, tuple(tokens[a:b]), right)
                    self.by_left[left].append(seen)
                    self.by_right[right].append(seen)
                    self.by_both[left, right].append(seen)
            start = end

    def _toxic_clauses(self, tokens: list[str]) -> list[tuple[str, ...]]:
        clauses: list[tuple[str, ...]] = []
        current: list[str] = []
        for token in [*tokens, "."]:
            if token in {".", ",", "!", "?", ";", ":", "-", "and", "but"}:
                toxic = sum(w in self.lexicon for w in current)
                if 2 <= len(current) <= 8 and toxic and toxic * 6 >= len(current):
                    clauses.append(tuple(current))
                current = []
            else:
                current.append(token)
        return clauses

    def corrupt(self, sentence: str, rng: random.Random) -> str:
        """A lower-case toxic variant of ``sentence`` (or, rarely, the sentence itself).

        Spacing around untouched words is kept, so the clean sentence stays the exact answer.
        """
        pieces = _pieces(sentence.lower())
        count = rng.choices((0, 1, 2, 3), (4, 56, 30, 10))[0]
        for _ in range(count):
            kind = rng.choices((self._insert, self._substitute, self._clause), (46, 40, 14))[0]
            if not kind(pieces, rng):
                self._insert(pieces, rng)
        return "".join(p for piece in pieces for p in piece).strip()

    def _insert(self, pieces: list[tuple[str, str]], rng: random.Random) -> bool:
        tokens = [_EDGE, *(w for _, w in pieces), _EDGE]
        weights = [
            6.0 * math.sqrt(len(self.by_both.get((a, b), ())))
            + 0.15 * math.log1p(len(self.by_left.get(a, ())))
            for a, b in pairwise(tokens)
        ]
        if not sum(weights):
            return False
        place = rng.choices(range(len(weights)), weights)[0]
        left, right = tokens[place], tokens[place + 1]
        found = self.by_both.get((left, right)) or self.by_left.get(left)
        if not found:
            return False
        phrase = rng.choice(found).phrase
        spaced = [(" ", self._spell(w, rng)) for w in phrase]
        if place == 0 and pieces:
            pieces[0] = (" ", pieces[0][1])
        pieces[place:place] = spaced
        return True

    def _substitute(self, pieces: list[tuple[str, str]], rng: random.Random) -> bool:
        tokens = [w for _, w in pieces]
        found = self._finder.find(tokens)
        choices = [self.substitutes[phrase] for _, phrase in found]
        pulls = [choice.pull for choice in choices]
        if rng.random() >= sum(pulls):
            return False
        i = rng.choices(range(len(found)), pulls)[0]
        place, choice = found[i].place, choices[i]
        toxic = rng.choices(choice.toxic, choice.weights)[0]
        space = pieces[place.start][0]
        if place.start and tokens[place.start - 1] in ("a", "an"):
            before = pieces[place.start - 1][0]
            pieces[place.start - 1] = (before, article(toxic[0]))
        pieces[place] = [(" " if i else space, self._spell(w, rng)) for i, w in enumerate(toxic)]
        return True

    def _clause(self, pieces: list[tuple[str, str]], rng: random.Random) -> bool:
        if not self.clauses:
            return False
        clause = [(" ", self._spell(w, rng)) for w in rng.choice(self.clauses)]
        mark = rng.choice((",", ",", ".", " .", " ,", "!", "", ""))
        if rng.random() < 0.5:
            if pieces:
                pieces[0] = (" ", pieces[0][1])
            pieces[0:0] = [*clause, (mark[:-1], mark[-1:])] if mark else clause
        else:
            pieces += [(mark, ""), *clause]
        return True

    def _spell(self, word: str, rng: random.Random) -> str:
        if rng.random() > 0.04 or word not in self.lexicon:
            return word
        inner = [i for i, c in enumerate(word) if i and c in _OBFUSCATE]
        if not inner:
            return word
        i = rng.choice(inner)
        return word[:i] + rng.choice(_OBFUSCATE[word[i]]) + word[i + 1 :]


def with_odd_words(sentence: str, rng: random.Random) -> str:
    """``sentence`` with one or two words misspelt or made up.

    It is a target as it stands: the model learns to copy names and spellings it has never seen.
    """
    pieces = sentence.split(" ")
    places = [i for i, w in enumerate(pieces) if len(w) > 3 and w.isalpha()]
    for i in rng.sample(places, min(len(places), rng.choice((1, 1, 2)))):
        pieces[i] = _made_up(rng) if rng.random() < 0.5 else _misspelt(pieces[i], rng)
    return " ".join(pieces)


def _made_up(rng: random.Random) -> str:
    syllables = (
        rng.choice(_CONSONANTS)
        + rng.choice(_VOWELS)
        + rng.choice(("", "", rng.choice(_CONSONANTS)))
        for _ in range(rng.randint(2, 4))
    )
    return "".join(syllables)


def _misspelt(word: str, rng: random.Random) -> str:
    i = rng.randrange(1, len(word) - 1)
    swapped = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    return rng.choice((swapped, word[:i] + word[i + 1 :], word[:i] + word[i] + word[i:]))


def _pieces(sentence: str) -> list[tuple[str, str]]:
    """(white space before, word) of every word: joining them gives the sentence back."""
    pieces, end = [], 0
    for word in words(sentence):
        start = sentence.index(word, end)
        pieces.append((sentence[end:start], word))
        end = start + len(word)
    return pieces
