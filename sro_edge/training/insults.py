"""The table of milder words turned round: which insults a mild word may be substituted by.

What the noise of the warm start puts into clean sentences, so that a rewriter learns to take it
out again (:mod:`sro_edge.mild_words`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from sro_edge.mild_words import Finder, Phrase, Table
from sro_edge.segments import words

_EAGER = 20.0  # pull of a phrase for each insult of the pile that it could stand for


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
        table: see :func:`sro_edge.mild_words.read_mild`.
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
        counts.update(phrase for _, phrase in finder.find(words(text)))
    return counts
