"""Broken copies of whole sentences: what a fluency screener learns to tell from the real ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

# A word that cannot end a phrase: what follows it is missed when it is gone.
_OPENERS = frozenset(
    "a an the of to in on at with for from by about into as than and or but if because that is are "
    "was were be been am your my his her our their its this these those some any no very so too "
    "such who which i'm you're he's she's it's they're don't can't will would should could can "
    "not".split()
)


class Corruptor:
    """Makes a sentence unfluent: holes, cut-off ends, swapped, doubled and wrong words.

    Args:
        vocabulary: words of real text, the source of wrong words.
    """

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.vocabulary = vocabulary
        self.kinds: tuple[tuple[Callable[[list[str], random.Random], bool], int], ...] = (
            (self._hole, 40),
            (self._cut, 20),
            (self._swap, 12),
            (self._double, 8),
            (self._wrong, 20),
        )

    def corrupt(self, sentence: str, rng: random.Random) -> str | None:
        """A broken copy, or None where the sentence offers no place for it."""
        tokens = sentence.split()
        if len(tokens) < 3:
            return None
        kinds, weights = zip(*self.kinds, strict=True)
        done = False
        for _ in range(rng.choice((1, 1, 1, 2))):
            done |= rng.choices(kinds, weights)[0](tokens, rng)
        broken = " ".join(tokens)
        return broken if done and broken != " ".join(sentence.split()) else None

    def _hole(self, tokens: list[str], rng: random.Random) -> bool:
        places = [
            i + 1
            for i, word in enumerate(tokens[:-1])
            if word.lower() in _OPENERS
            and tokens[i + 1].lower() not in _OPENERS
            # The word after the hole must not close the gap: "a [big] dog" stays fluent.
            and (
                i + 2 >= len(tokens)
                or tokens[i + 2].lower() in _OPENERS
                or not tokens[i + 2].isalpha()
            )
        ]
        if not places:
            return False
        word = tokens.pop(rng.choice(places))
        if tokens and word[-1:] in ".,!?" and rng.random() < 0.5:
            tokens.append(word[-1])
        return True

    def _cut(self, tokens: list[str], rng: random.Random) -> bool:
        ends = [i + 1 for i, w in enumerate(tokens[:-1]) if i and w.lower() in _OPENERS]
        if not ends:
            return False
        del tokens[rng.choice(ends) :]
        if rng.random() < 0.4:
            tokens.append(".")
        return True

    def _swap(self, tokens: list[str], rng: random.Random) -> bool:
        i = rng.randrange(len(tokens) - 1)
        if tokens[i].lower() == tokens[i + 1].lower():
            return False
        tokens[i], tokens[i + 1] = tokens[i + 1], tokens[i]
        return True

    def _double(self, tokens: list[str], rng: random.Random) -> bool:
        i = rng.randrange(len(tokens))
        width = rng.choice((1, 1, 2))
        tokens[i:i] = tokens[i : i + width]
        return True

    def _wrong(self, tokens: list[str], rng: random.Random) -> bool:
        for _ in range(rng.choice((1, 1, 2))):
            tokens[rng.randrange(len(tokens))] = rng.choice(self.vocabulary)
        return True
