"""A trigram model of clean text: whether the words beside an edit ever stand beside each other.

A sentence model overlooks a hole where the rest of the sentence is sound ("what kind of puts it
there?"); a trigram does not. It is asked about the places of an edit only: what the writer of a
comment wrote himself is never held against a rewrite.
"""

from __future__ import annotations

import difflib
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from sro_edge.segments import sentences, words

Ids = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

_UNKNOWN, _EDGE = 0, 1  # ids of a rare word, and of both ends of a sentence
_BITS = np.uint64(17)  # of a word's id: three of them fit into 64
_MOST_WORDS = 100_000
_LEAST_SEEN = 3
# How often a context must be met to be trusted as much as what is known without it.
_TRUST_TWO, _TRUST_ONE = 8.0, 20.0
_SMOOTH = (0.85, 0.10, 0.05)  # trigram, bigram and unigram
_WORST, _BEST = -1.5, 2.0  # one word counts no more than this, in powers of ten


class Trigrams:
    """Interpolated trigram probabilities (Jelinek & Mercer 1980) of lower-case words.

    Args:
        texts: clean texts.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        numbers: dict[str, int] = {}
        stream = array("I")
        for text in texts:
            for span in sentences(text):
                found = words(span.of(text))
                stream.extend((_EDGE, _EDGE))
                stream.extend([numbers.setdefault(word, len(numbers) + 2) for word in found])
                stream.extend((_EDGE, _EDGE))
        raw = np.frombuffer(stream, dtype=np.uint32)
        counts = np.bincount(raw, minlength=2)
        order = np.argsort(-counts[2:], kind="stable")[:_MOST_WORDS] + 2
        order = order[counts[order] >= _LEAST_SEEN]
        ids = np.zeros(len(counts), dtype=np.uint64)
        ids[_EDGE], ids[order] = _EDGE, np.arange(2, len(order) + 2)
        names = list(numbers)
        self._ids = {names[row - 2]: number for number, row in enumerate(order.tolist(), 2)}
        tokens = ids[raw]
        self._ones = np.bincount(tokens.astype(np.int64), minlength=len(order) + 2)
        self._total = int(self._ones.sum())
        twos = _pair(tokens[:-1], tokens[1:])
        self._twos = np.unique(twos, return_counts=True)
        self._threes = np.unique(_pair(twos[:-1], tokens[2:]), return_counts=True)

    def gain(self, tokens: Sequence[str]) -> Floats:
        """How much likelier each word is after the two before it than anywhere.

        Args:
            tokens: (T,) lower-case words.

        Returns:
            (T + 1,) logarithms to base 10, of the words and of the sentence's end; 0 where a word,
            or the one before it, is not known.
        """
        ids = [_EDGE, _EDGE, *(self._ids.get(word, _UNKNOWN) for word in tokens), _EDGE]
        a, b, c = (np.array(part, dtype=np.uint64) for part in (ids[:-2], ids[1:-1], ids[2:]))
        before_one = self._ones[b.astype(np.intp)].astype(np.float64)
        before_two = _count(self._twos, _pair(a, b))
        one = (self._ones[c.astype(np.intp)] + 0.5) / self._total
        two = _mixed(_count(self._twos, _pair(b, c)), before_one, one, _TRUST_ONE)
        three = _mixed(_count(self._threes, _pair(_pair(a, b), c)), before_two, two, _TRUST_TWO)
        likely = _SMOOTH[0] * three + _SMOOTH[1] * two + _SMOOTH[2] * one
        gain: Floats = np.clip(np.log10(likely / one), _WORST, _BEST)
        gain[(c == _UNKNOWN) | (b == _UNKNOWN)] = 0
        return gain

    def fit(self, old: Sequence[str], new: Sequence[str]) -> float:
        """What speaks against ``new`` at the places where it departs from ``old``: 0 or less.

        The sum of the negative :meth:`gain` of words that are new or follow an edit closely.
        """
        places: set[int] = set()
        for kind, _, _, start, end in difflib.SequenceMatcher(
            None, old, new, autojunk=False
        ).get_opcodes():
            if kind != "equal":
                places.update(range(start, min(end + 2, len(new) + 1)))
        gain = self.gain(new)
        return float(sum(min(0.0, gain[place]) for place in places))


def _pair(first: Ids, second: Ids) -> Ids:
    return (first << _BITS) | second


def _count(table: tuple[Ids, npt.NDArray[np.int64]], keys: Ids) -> Floats:
    known, counts = table
    rows = np.searchsorted(known, keys).clip(max=max(0, len(known) - 1))
    return np.where(known[rows] == keys, counts[rows], 0).astype(np.float64)


def _mixed(seen: Floats, context: Floats, backoff: Floats, trust: float) -> Floats:
    """Probability of a word after a context: the share seen, as far as the context is known."""
    weight = context / (context + trust)
    return weight * seen / np.maximum(context, 1) + (1 - weight) * backoff
