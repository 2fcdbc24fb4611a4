"""Does a rewrite keep who is said to be what, and who is said not to be?

A rule of thumb, not a parser. A negator holds for the words after it in its clause, and its verb
("are not", "has no"); clauses end at punctuation and at conjunctions. A rewrite flips a negation
when a word that stands in both texts has lost or found one. A clause that goes as a whole takes its
negation along, and a new word may be negated ("dumb" -> "not wise").
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from functools import lru_cache

from sro_edge.quotations import OMITTED

_CONTRACTION = re.compile(
    r"\b(?:(?P<verb>ca|wo|sha|ai|d|do|does|did|is|are|was|were|has|have|had|would|could|should|might|must"
    r"|need)(?:n\s?'\s?t|\sn't|nt)|(?P<can>can)not)\b"
)
_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[.,;:!?…()\"\n—–]")
# These say no such thing, or say it about nothing: they are no negators, in either text.
_EMPTY = re.compile(
    r"\bnothing but\b|\bnot (?:only|just)\b|\bno (?:doubt|wonder|offen[sc]e|shit)\b"
    r"|\bno(?=\s*(?:[.,;:!?…\n]|$))|\bno(?=\s(?:i|you|he|she|it|we|they|this|that|your|my)\b)"
)
_NEGATORS = frozenset("not never no none nobody nothing nowhere neither nor without".split())
_CONJUNCTIONS = frozenset(
    "and but or because cause cuz if when while who which where then although though unless".split()
)
VERBS = frozenset(
    "am is are was were be been being do does did has have had can could will would shall should"
    " may might must need 's 're 'm got get".split()
)
_SMALL = frozenset(
    "a an the this that these those some any i you he she it we they me him her us"
    " them my your his its our their yours mine of to in on at for from with by about as than into"
    " over up out off there here so very really quite too even just ever such much more most still"
    " yet also".split()
)
FUNCTION_WORDS = _SMALL | VERBS | _CONJUNCTIONS  # what a text says stands in the others
# An insult at the end ("is it on, dumbass?") is no clause to be negated ("is it on, not smart?").
_HANGING = re.compile(r",\s*not\s+(\w+)\s*(?:[.!?…]|$)")
# Not to be so is an insult: where a negation has no word of the comment left, it flips with these.
_PRAISE = frozenset(
    "smart wise clever bright nice kind good great helpful honest fair sane brave capable".split()
)
# Nobody who was called an idiot was called clever.
_CLEVER = frozenset("smart wise clever bright brilliant intelligent genius".split())
_WHOLE = {"ca": "can", "wo": "will", "sha": "shall", "ai": "is", "d": "do"}
_SUFFIX = re.compile(r"(?<=..)(?:ing|ed|es?|(?<!s)s)$")


def keeps_negation(answer: str, comment: str) -> bool:
    """Whether no word of ``comment`` that ``answer`` keeps lost its negation or got one.

    Nor is anybody called clever who was not, and no new word hangs at the end with a "not".
    """
    if any(word not in comment.lower() for word in _HANGING.findall(answer.lower())):
        return False
    before, after = _Reading.of(comment), _Reading.of(answer)
    if any(not any(s.startswith(word) for s in before.stems) for word in after.called_clever):
        return False
    if before.bonds == after.bonds:
        return True
    if after.doubled > before.doubled:
        return False
    if after.negators <= before.negators and after.praised - before.praised:
        return False
    return not any(
        (before.bound[i] and not after.near[j]) or (after.first[j] and not before.near[i])
        for i, j in _aligned(before.stems, after.stems).items()
    )


@dataclass
class _Reading:
    """The words of a text, without negators and punctuation, and how each stands to a negator.

    Args:
        stems: the words, shortened.
        near: whether a word stands after a negator in its clause, or right before it.
        bound: the same for content words after it, and for a verb before it.
        first: whether it is the first content word after one.
        negators: how many negators there are.
        doubled: how many of them stand behind another one in their clause.
    """

    stems: list[str] = field(default_factory=list)
    near: list[bool] = field(default_factory=list)
    bound: list[bool] = field(default_factory=list)
    first: list[bool] = field(default_factory=list)
    negators: int = 0
    doubled: int = 0

    @property
    def praised(self) -> set[str]:
        """Words of praise that are the first behind a negator."""
        rows = zip(self.stems, self.first, strict=True)
        return {stem for stem, first in rows if first and stem in _PRAISE}

    @property
    def called_clever(self) -> set[str]:
        """Words for a good mind that stand behind no negator, nor behind "less"."""
        rows = zip(self.stems, self.near, ["", *self.stems], strict=False)
        return {
            stem
            for stem, near, before in rows
            if stem in _CLEVER and not near and before not in ("less", "least")
        }

    @property
    def bonds(self) -> list[tuple[str, bool, bool]]:
        """What is negated, in order; a text that keeps this keeps its negations."""
        rows = zip(self.stems, self.bound, self.first, strict=True)
        return [row for row in rows if row[1] or row[2]]

    @classmethod
    @lru_cache(maxsize=16)  # the candidates of one comment come together
    def of(cls, text: str) -> _Reading:
        """Read ``text`` from left to right."""
        found = cls()
        negated, waiting, begins = False, False, True
        for word in _words(text):
            if word in _NEGATORS:
                if word in ("not", "no", "never") and not begins:
                    found.near[-1] = True
                    found.bound[-1] |= found.stems[-1] in VERBS
                found.doubled += negated and word != "nor"
                negated = waiting = True
                found.negators += 1
            elif not word[0].isalnum() or word in _CONJUNCTIONS:
                negated, waiting, begins = False, False, True
            else:
                content = word not in _SMALL and word not in VERBS
                found.stems.append(_SUFFIX.sub("", word) if content else word)
                found.near.append(negated)
                found.bound.append(negated and content)
                found.first.append(waiting and content)
                waiting, begins = waiting and not content, False
        return found


def _words(text: str) -> list[str]:
    """Lower-case words and punctuation, with contracted negations written out."""
    plain = text.lower().replace(OMITTED, " ").replace("’", "'")
    plain = _CONTRACTION.sub(lambda m: f"{_WHOLE.get(m[1] or m[2], m[1] or m[2])} not", plain)
    return _TOKEN.findall(_EMPTY.sub(" ", plain))


def _aligned(before: list[str], after: list[str]) -> dict[int, int]:
    """Place in ``before`` -> place in ``after`` of the words that stand in both, in order."""
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    return {a + k: b + k for a, b, size in matcher.get_matching_blocks() for k in range(size)}
