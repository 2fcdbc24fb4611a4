"""A table of milder words: what may stand in the place of a toxic word or phrase.

It is written by hand (``recipes/mild_words.tsv``): a line is a phrase, a tab, and milder ones with
``|`` between them, of which a lone ``-`` is nothing at all. Distributional analogues cannot take
its place: they take antonyms for neighbours ("idiot", "good guy"). It says nothing of sentences.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sro_edge.errors import InputError
from sro_edge.negation import FUNCTION_WORDS
from sro_edge.segments import words

Phrase = tuple[str, ...]  # words as `segments.words` cuts them
Table = dict[Phrase, list[Phrase]]

_NOTHING = "-"


def read_mild(path: str | Path) -> Table:
    """Toxic phrase -> milder ones; the empty phrase is nothing at all.

    Raises:
        InputError: the file cannot be read, or a line is no phrase with milder ones.
    """
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text: {error}") from error
    table: Table = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        toxic, *cells = line.split("\t")
        milder = cells[0].split("|") if len(cells) == 1 else [""]
        phrase = tuple(words(_folded(toxic)))
        if not phrase or not all(m.strip() for m in milder):
            raise InputError(
                f"{path}, line {number}: {line[:60]!r} must be a toxic phrase, a tab, and milder "
                "ones with | between them (- for none)"
            )
        if phrase in table:
            raise InputError(f"{path}, line {number}: {toxic!r} has a line already; join them")
        table[phrase] = [() if m.strip() == _NOTHING else tuple(words(m)) for m in milder]
    if not table:
        raise InputError(f"{path} has no line with a toxic phrase and milder ones")
    return table


def with_nothing(table: Table) -> Table:
    """The table with nothing at all among what may stand in the place of a phrase.

    Not where it holds a function word, unless the table says so: "gives a shit" or "so dumb" would
    leave a hole.
    """
    return {
        phrase: list(dict.fromkeys([*milder, ()])) if FUNCTION_WORDS.isdisjoint(phrase) else milder
        for phrase, milder in table.items()
    }


class Found(NamedTuple):
    """A phrase, and the place in the words where it stands."""

    place: slice
    phrase: Phrase


class Finder:
    """Finds phrases in words, with either apostrophe.

    Args:
        known: the phrases.
    """

    def __init__(self, known: Iterable[Phrase]) -> None:
        self._known = frozenset(known)
        self._most = max(map(len, self._known), default=0)

    def find(self, tokens: Sequence[str]) -> list[Found]:
        """The phrases in ``tokens``: the longest first, apart."""
        folded, found, start = tuple(map(_folded, tokens)), [], 0
        while start < len(folded):
            lengths = range(min(self._most, len(folded) - start), 0, -1)
            n = next((n for n in lengths if folded[start : start + n] in self._known), 0)
            if n:
                place = slice(start, start + n)
                found.append(Found(place, folded[place]))
            start += n or 1
        return found


def _folded(text: str) -> str:
    return text.replace("’", "'")
