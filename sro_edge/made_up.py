"""Words that a sample made up: of neither the comment nor English, as far as a vocabulary tells.

A small model that is sampled hotly now and then spells a word that there is not ("stringanced").
Neither screener nor judge takes much offence at one, but a reader does.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sro_edge.guards import FORMS

_WORD = re.compile(r"[^\W\d_]{3,}")
_BEFORE = ("un", "dis", "over", "in", "mis", "non", "re")
_AFTER = (*FORMS, "ish", "less", "ful", "ness")


def makes_up(answer: str, comment: str, knows: Callable[[str], bool]) -> bool:
    """Whether ``answer`` has a word of three letters or more that is made up.

    Args:
        answer: the candidate.
        comment: its words are known, whatever they are.
        knows: whether a lower-case word is in a vocabulary; forms of these are known, too.
    """
    given = set(_WORD.findall(comment.lower()))
    new = set(_WORD.findall(answer.lower())) - given
    return not all(_is_known(word, knows) for word in new)


def _is_known(word: str, knows: Callable[[str], bool]) -> bool:
    rests = [word, *(word.removeprefix(start) for start in _BEFORE if word.startswith(start))]
    stems = [
        stem
        for rest in rests
        for stem in (rest, *(rest.removesuffix(end) for end in _AFTER if rest.endswith(end)))
        if len(stem) > 2
    ]
    longer = (word + end for end in ("d", "ed", "ing"))
    return any(map(knows, (*stems, *(stem + "e" for stem in stems[1:]), *longer)))
