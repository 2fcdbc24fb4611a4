"""Broken copies of whole sentences: what a fluency model learns to tell from the real ones."""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable, Mapping, Sequence

# A word that cannot end a phrase: what follows it is missed when it is gone.
_OPENERS = frozenset(
    "a an the of to in on at with for from by about into as than and or but if because that is are "
    "was were be been am your my his her our their its this these those some any no very so too "
    "such who which i'm you're he's she's it's they're don't can't will would should could can "
    "not".split()
)
_WORD = re.compile(r"\S+")
SCREENER_MIX = {"hole": 40, "cut": 20, "swap": 12, "double": 8, "wrong": 20}
# A judge sees holes of every kind: what a rewriter drops is not always what a phrase waits for.
JUDGE_MIX = {"hole": 15, "drop": 45, "cut": 8, "swap": 10, "double": 7, "wrong": 15}


class Corruptor:
    """Makes a sentence unfluent: holes, dropped, cut-off, swapped, doubled and wrong words.

    Args:
        vocabulary: words of real text, the source of wrong words.
        mix: weight of each kind of fault.
    """

    def __init__(self, vocabulary: Sequence[str], mix: Mapping[str, int] = SCREENER_MIX) -> None:
        self.vocabulary = vocabulary
        kinds: dict[str, Callable[[list[str], random.Random], bool]] = {
            "hole": self._hole,
            "drop": self._drop,
            "cut": self._cut,
            "swap": self._swap,
            "double": self._double,
            "wrong": self._wrong,
        }
        self.kinds = tuple((kinds[name], weight) for name, weight in mix.items())

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

    def _drop(self, tokens: list[str], rng: random.Random) -> bool:
        gone = rng.sample(
            range(len(tokens)), min(rng.choice((1, 2, 2, 3)), max(0, len(tokens) - 2))
        )
        for i in sorted(gone, reverse=True):
            del tokens[i]
        return bool(gone)

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


def drop_words(text: str, count: int, rng: random.Random) -> str:
    """``text`` without ``count`` random words, of which one at least is kept."""
    tokens = text.split()
    gone = set(rng.sample(range(len(tokens)), min(count, max(0, len(tokens) - 1))))
    return " ".join(word for i, word in enumerate(tokens) if i not in gone)


def faults(whole: str, broken: str) -> list[tuple[int, int]]:
    """Where ``broken`` departs from ``whole``: character spans of the words that are wrong.

    Where words are missing, that is the word behind the hole, or the last one.
    """
    places = [match.span() for match in _WORD.finditer(broken)]
    matcher = difflib.SequenceMatcher(None, whole.split(), broken.split(), autojunk=False)
    found: list[tuple[int, int]] = []
    for kind, _, _, start, end in matcher.get_opcodes():
        if kind == "delete":
            found.append(places[min(start, len(places) - 1)])
        elif kind != "equal":
            found += places[start:end]
    return found


def informal(rng: random.Random) -> Callable[[str], str]:
    """One of the ways in which comments are written, drawn by ``rng``.

    Lower case, no full stop, no apostrophes, or punctuation parted from the words: none of these
    is a fault, so a sentence and its broken copy are written in the same way.
    """
    lower, stop, parted, bare = (rng.random() for _ in range(4))

    def rewritten(text: str) -> str:
        if lower < 0.6:
            text = text.lower()
        if bare < 0.15:
            text = text.replace("'", "").replace("’", "")
        if stop < 0.4:
            text = text.rstrip(" .") or text
        if parted < 0.35:
            text = re.sub(r"\s*([.,!?;:])(?=\s|$)", r" \1", text)
            text = re.sub(r"(\w)(['’](?:s|re|m|ve|ll|d)\b)", r"\1 \2", text)
        return text.strip()

    return rewritten
