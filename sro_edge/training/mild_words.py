"""A table of milder words: what may stand in the place of a toxic word or phrase.

It is written by hand (``recipes/mild_words.tsv``): a line is a phrase, a tab, and milder ones with
``|`` between them, of which a lone ``-`` is nothing at all. Distributional analogues cannot take
its place: they take antonyms for neighbours ("idiot", "good guy"). It says nothing of sentences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sro_edge.errors import InputError
from sro_edge.training.piles import read_lines, words

Phrase = tuple[str, ...]  # words as `piles.words` cuts them
Table = dict[Phrase, list[Phrase]]

_NOTHING = "-"
_EAGER = 20.0  # pull of a phrase for each insult of the pile that it could stand for


def read_mild(path: str | Path) -> Table:
    """Toxic phrase -> milder ones; the empty phrase is nothing at all.

    Raises:
        InputError: the file cannot be read, or a line is no phrase with milder ones.
    """
    table: Table = {}
    for number, line in enumerate(read_lines(Path(path)), 1):
        if not line.strip() or line.startswith("#"):
            continue
        toxic, tab, milder = line.partition("\t")
        found = [() if m.strip() == _NOTHING else tuple(words(m)) for m in milder.split("|")]
        if not tab or not words(toxic) or not all(m.strip() for m in milder.split("|")):
            raise InputError(
                f"{path}, line {number}: {line[:60]!r} must be a toxic phrase, a tab, and milder "
                "ones with | between them (- for none)"
            )
        table[tuple(words(toxic))] = found
    if not table:
        raise InputError(f"{path} has no line with a toxic phrase and milder ones")
    return table


class Finder:
    """Finds phrases in words.

    Args:
        known: the phrases.
    """

    def __init__(self, known: Iterable[Phrase]) -> None:
        self._known = frozenset(known)
        self._most = max(map(len, self._known), default=0)

    def places(self, tokens: Sequence[str]) -> list[slice]:
        """Where phrases stand in ``tokens``: the longest first, apart."""
        found, start = [], 0
        while start < len(tokens):
            lengths = range(min(self._most, len(tokens) - start), 0, -1)
            n = next((n for n in lengths if tuple(tokens[start : start + n]) in self._known), 0)
            if n:
                found.append(slice(start, start + n))
            start += n or 1
        return found


class Choice(NamedTuple):
    """What a clean phrase may be substituted by.

    Args:
        toxic: toxic phrases.
        weights: of each.
        pull: how likely the clean phrase is taken where it stands, alone or among others.
    """

    toxic: tuple[Phrase, ...]
    weights: tuple[float, ...]
    pull: float


def substitutes(table: Table, toxic: Iterable[str], clean: Iterable[str]) -> dict[Phrase, Choice]:
    """The table turned round: mild phrase -> what it may be substituted by.

    A toxic phrase weighs by the root of how often the toxic pile has it. A mild one is taken the
    more readily the rarer it is in clean text: "person" stands for many insults, "you" for few.

    Args:
        table: see :func:`read_mild`.
        toxic: the toxic pile.
        clean: clean sentences.
    """
    bad = _count(table, toxic)
    turned: dict[Phrase, list[Phrase]] = {}
    for phrase, milder in table.items():
        for mild in filter(None, milder):
            turned.setdefault(mild, []).append(phrase)
    good = _count(turned, clean)
    found = {}
    for mild, insults in turned.items():
        weights = tuple((1 + bad[phrase]) ** 0.5 for phrase in insults)
        ratio = sum(bad[phrase] for phrase in insults) / (1 + good[mild])
        found[mild] = Choice(tuple(insults), weights, min(1.0, _EAGER * ratio))
    return found


def _count(known: Iterable[Phrase], texts: Iterable[str]) -> Counter[Phrase]:
    finder = Finder(known)
    counts: Counter[Phrase] = Counter()
    for text in texts:
        tokens = words(text)
        counts.update(tuple(tokens[place]) for place in finder.places(tokens))
    return counts
