"""Which milder phrases fit between the words around a toxic one: rules of thumb, no parser.

A table knows no grammar: "not smart" may stand for "stupid" in "he is stupid", not in "that stupid
guy"; nothing at all may in the latter, not in "the most stupid plan". A screener overlooks most
such faults.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sro_edge.mild_words import Found, Phrase, Table
from sro_edge.negation import FUNCTION_WORDS, VERBS

_AN = frozenset("a an one".split())
_YOU = frozenset("you u ya ye".split())
_NAMES = _YOU | frozenset(
    "person people man men woman women guy guys girl girls boy boys child children one ones fellow"
    " fellows kid kids".split()
)
_ARTICLES = frozenset("a an the my your his our their its every".split())
_THIS = frozenset("this that these those".split())
_PREPOSITIONS = frozenset("as at by for from into like of than with".split())
_BEFORE_NAMES = _ARTICLES | _YOU | _THIS | frozenset("some any no".split())
_BEFORE_NOUNS = _PREPOSITIONS | frozenset("about against on only to".split())
_SENTENCES = (("you", "are"), ("you", "do"), ("you", "can"), ("that", "is"))
_AROUND = (FUNCTION_WORDS - VERBS) | {None}  # what may stand beside a sentence
_SPEAKER = frozenset("i me my".split())
_DEGREES = frozenset("most very too such".split())
_LINKS = frozenset(
    "am is are was were be been being r s m re i'm you're he's she's it's we're they're".split()
)
_BEFORE_AN = _LINKS | frozenset("such what like only no".split())
_WAITING = _ARTICLES | _LINKS | _PREPOSITIONS | frozenset("these those so more and or".split())
_WHO = frozenset("who whose that which".split())
_BEHIND_PREDICATES = FUNCTION_WORDS - VERBS - _WHO - frozenset("with of from".split())
# What follows a word that waits for another where that one is missing.
_CLOSERS = frozenset(
    "and or but if because cause of than when while who which is are was were".split()
)
_NEGATED = frozenset(("not", "no", "without"))


class Fitting(NamedTuple):
    """A toxic phrase in a text, what may stand in its place, and whether it is only an address."""

    place: slice
    toxic: Phrase
    milder: list[Phrase]
    address: bool = False


def fitting(found: Sequence[Found], tokens: Sequence[str], table: Table) -> Iterator[Fitting]:
    """The toxic phrases of a text with those milder ones that fit, but those that none fits.

    What only calls somebody names goes with its "you" ("bye, you git"): nothing may stand there.

    Args:
        found: phrases of ``table`` in ``tokens``, from the first to the last, apart.
        tokens: the lower-case words and marks of the text.
        table: toxic phrase -> milder ones, of which an empty one is nothing at all.
    """
    for run in side_by_side(found):
        first, last = run[0].place.start, run[-1].place.stop
        if run[0].phrase[0] not in _YOU and _word(tokens, first - 1) in _YOU:
            first -= 1
        if _is_address(slice(first, last), tokens, table[run[-1].phrase]):
            toxic = tuple(tokens[first:last])
            milder = list(dict.fromkeys([(), *table.get(toxic, ())]))
            yield Fitting(slice(first, last), toxic, milder, address=True)
            continue
        for place, toxic in run:
            behind = _word(tokens, place.stop)
            # The last of them has no word before that is sure to stay.
            closed = behind is None or behind in FUNCTION_WORDS
            at = (run[0].place.start if closed else place.start) - 1
            before = _word(tokens, at)
            milder = [m for m in table[toxic] if _fits(m, toxic, before, behind)]
            # No "that" for "that git", no "a lazy" for "a lazy git".
            waits = before in _THIS or (closed and before and _word(tokens, at - 1) in _ARTICLES)
            if waits and _names(milder):
                milder = [m for m in milder if m]
            if milder:
                yield Fitting(place, toxic, milder)


def side_by_side(found: Sequence[Found]) -> Iterator[list[Found]]:
    """Runs of phrases without a word between."""
    run: list[Found] = []
    for one in found:
        if run and one.place.start != run[-1].place.stop:
            yield run
            run = []
        run.append(one)
    if run:
        yield run


def _is_address(place: slice, tokens: Sequence[str], milder: Sequence[Phrase]) -> bool:
    """Whether words that begin with "you" only call somebody names, beside something else.

    They stand between marks, and what is milder than the last of them is a name as well.
    """
    apart = _word(tokens, place.start - 1) is None and _word(tokens, place.stop) is None
    others = (*tokens[: place.start], *tokens[place.stop :])
    beside = any(t[:1].isalnum() for t in others)
    return tokens[place.start] in _YOU and apart and _names(milder) and beside


def _names(milder: Sequence[Phrase]) -> bool:
    """Whether one of what is milder than a phrase is what a person is called."""
    return any(phrase and phrase[-1] in _NAMES for phrase in milder)


def _fits(phrase: Phrase, toxic: Phrase, before: str | None, behind: str | None) -> bool:
    """Whether the words before and behind, None for none or a mark, go with ``phrase``."""
    if not phrase:
        return not _leaves_hole(before, behind)
    if phrase[:2] in _SENTENCES and toxic[0] in _YOU:  # no "you are not nice should go"
        return {before, behind} <= _AROUND
    if before == "to" and not _SPEAKER.isdisjoint(phrase):  # "told him to leave me alone"
        return False
    negated = phrase[0] in _NEGATED and toxic[0] not in _LINKS
    if negated and before in _BEFORE_NAMES:  # what is said of somebody, no name
        return False
    names = toxic[0] in _AN or (toxic[0] in _BEFORE_AN and not _AN.isdisjoint(toxic[1:2]))
    if names and _AN.isdisjoint(phrase):  # likewise: "a git", "unpleasant"; but not "give a damn"
        predicates = behind is None or behind in _BEHIND_PREDICATES
        return predicates and before not in _BEFORE_NOUNS  # no "drives like unwise"
    return behind not in _WHO or _WHO.isdisjoint(phrase)


def _leaves_hole(before: str | None, behind: str | None) -> bool:
    """Whether the word before waits for what stood between, and gets nothing that it could take."""
    if before in _DEGREES:
        return True
    closed = behind is None or behind in _CLOSERS
    return closed and before in _WAITING


def _word(tokens: Sequence[str], at: int) -> str | None:
    found = tokens[at] if 0 <= at < len(tokens) else ""
    return found if found[:1].isalnum() else None
