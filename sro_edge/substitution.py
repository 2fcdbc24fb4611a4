"""A comment with milder words in the place of its toxic ones, as the bundle's table has them.

In a quotation nothing is put in their place but the mark that they are left out.

All choices but one are held at the table's first, and that one is tried with each of its milder
phrases; what several would do together is predicted from that (:mod:`sro_edge.effects`), and only
the most promising combinations are screened. Unlike a policy's answers, these never bring in a word
that nobody wrote for its place, and change no other.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from sro_edge.effects import Effects
from sro_edge.fitting import fitting, side_by_side
from sro_edge.mild_words import Finder, Found, Phrase, Table, with_nothing
from sro_edge.negation import FUNCTION_WORDS
from sro_edge.prompt import recase
from sro_edge.quotations import OMITTED, quoted_spans
from sro_edge.segments import WORDS, Span

if TYPE_CHECKING:
    from sro_edge.bundle import Thresholds
    from sro_edge.screener import Scores

_MOST_PLACES = 6  # a text with more is left to the others
_BEST = 3  # phrases of a place of which combinations are looked at
_PROMISING = 4  # combinations that are screened beside the single changes
_MARKS, _OPENING = frozenset(",.;:!?…"), frozenset("([{*_“‘")
_JOINTS, _APOSTROPHES = frozenset("-_/#"), frozenset("'’")
_OMISSION: list[Phrase] = [(OMITTED,)]
_LOW_I = re.compile(r"\bi\b")

Chosen = tuple[int, ...]  # which of a place's phrases stands there, for each place


class Worded(NamedTuple):
    """What a candidate has in the place of the toxic phrases.

    Args:
        everywhere: whether other words stand for every one.
        as_written: whether there are phrases of several words, and for each stands what the table
            has for it: who wrote that had a sentence in mind, as with a single word he had not.
        omits: whether words of a quotation are left out.
    """

    everywhere: bool = False
    as_written: bool = False
    omits: bool = False


class Substitution:
    """Finds candidates by a table of milder words.

    Args:
        table: toxic phrase -> milder ones (:mod:`sro_edge.mild_words`); any may be left out, too.
        limits: what a candidate must reach, and so what is promising.
        omit: whether toxic words of a quotation may be left out; if not, they stay.
    """

    def __init__(self, table: Table, limits: Thresholds, *, omit: bool = True) -> None:
        self._limits, self._omit = limits, omit
        self._written = table
        self._table = with_nothing(table)
        self._finder = Finder(self._table)

    def candidates(
        self,
        texts: Sequence[str],
        score: Callable[[Sequence[str]], Scores],
        quoted: Collection[str] = (),
    ) -> dict[str, dict[str, Worded]]:
        """Each text with what may be said instead, none where no phrase of the table stands in it,
        and how that is worded.

        Args:
            texts: the texts, all different.
            score: the screener, which is asked about all texts together, twice.
            quoted: those of the texts that are part of a quotation.
        """
        searches = [_Search(text, self._places(text, text in quoted)) for text in texts]
        for ask in (_Search.singles, _Search.promising):
            asked = [
                (place, chosen, search.spell(chosen))
                for place, search in enumerate(searches)
                for chosen in ask(search, self._limits)
            ]
            scores = score([*texts, *(said for _, _, said in asked)])
            for row, (place, chosen, said) in enumerate(asked, len(texts)):
                searches[place].found[chosen] = Effects.read(scores, place, row)
                searches[place].said[said] = searches[place].worded(chosen)
        return {search.text: search.candidates() for search in searches}

    def _places(self, text: str, quoted: bool) -> list[_Place]:
        spans = [Span(*match.span()) for match in WORDS.finditer(text)]
        tokens = [span.of(text).lower() for span in spans]
        said = (Span(0, len(text)),) if quoted else quoted_spans(text)
        omitted: list[Found] = []
        others: list[Found] = []
        for found in self._finder.find(tokens):
            at = _extent(spans, found.place)
            inside = any(s.start <= at.start and at.end <= s.end for s in said)
            (omitted if inside else others).append(found)
        runs = side_by_side(omitted) if self._omit else ()
        places = [_omission(run, spans, tokens) for run in runs]
        for place, phrase, milder, address in fitting(others, tokens, self._table):
            written = milder if address else self._written[phrase]
            places.append(_Place(*_extent(spans, place), phrase, milder, written))
        closing = {span.end for span in said}  # the mark there is no apostrophe
        return sorted(p for p in places if not _is_part(text, p, closes=p.end in closing))


class _Place(NamedTuple):
    """Where a toxic phrase stands in a text, in characters, and what may stand there instead."""

    start: int
    end: int
    toxic: Phrase
    milder: Sequence[Phrase]
    written: Sequence[Phrase]  # what the table has, and nothing, where it is only an address

    @property
    def omits(self) -> bool:
        """Whether it is left out of a quotation."""
        return self.milder is _OMISSION

    def rewords(self, number: int) -> bool:
        """Whether a milder phrase has a word of its own: "you" for "you liar" only leaves out."""
        return not self.omits and not set(self.toxic).issuperset(self.milder[number])

    def as_written(self, number: int) -> bool:
        """Whether what stands there was written for this phrase."""
        return self.milder[number] in self.written


def _omission(run: Sequence[Found], spans: Sequence[Span], tokens: Sequence[str]) -> _Place:
    """Where toxic phrases side by side are left out, from their first word that tells something."""
    first, last = run[0].place.start, run[-1].place.stop
    first = next((i for i in range(first, last) if tokens[i] not in FUNCTION_WORDS), first)
    return _Place(*_extent(spans, slice(first, last)), run[0].phrase, _OMISSION, ())


def _extent(spans: Sequence[Span], place: slice) -> Span:
    """From the first of the words at a place to the end of the last, in characters."""
    return Span(spans[place.start].start, spans[place.stop - 1].end)


class _Search:
    """The choices for one text: those that were screened, and which to screen next."""

    def __init__(self, text: str, places: Sequence[_Place]) -> None:
        self.text = text
        self.places = places if len(places) <= _MOST_PLACES else ()
        self.first: Chosen = (0,) * len(self.places)
        self.found: dict[Chosen, Effects] = {}
        self.said: dict[str, Worded] = {}  # the texts screened, ordered; see candidates()

    def candidates(self) -> dict[str, Worded]:
        """All texts screened but the text itself, and how they are worded."""
        return {said: worded for said, worded in self.said.items() if said != self.text}

    def worded(self, chosen: Chosen) -> Worded:
        """What stands in the place of the phrases."""
        places = list(zip(self.places, chosen, strict=True))
        several = [(p, number) for p, number in places if len(p.toxic) > 1 and not p.omits]
        return Worded(
            all(place.rewords(number) for place, number in places),
            bool(several) and all(place.as_written(number) for place, number in several),
            any(place.omits for place in self.places),
        )

    def singles(self, _: Thresholds) -> Iterator[Chosen]:
        """The first phrase at every place, and all others at one place at a time."""
        if self.places:
            yield self.first
        for i, place in enumerate(self.places):
            yield from (self._change(i, n) for n in range(1, len(place.milder)))

    def promising(self, limits: Thresholds) -> list[Chosen]:
        """The combinations that look best by what is known of their parts."""
        if len(self.places) < 2:
            return []
        base = self.found[self.first]
        worth = {chosen: found.worth(limits) for chosen, found in self.found.items()}
        effect = {chosen: found.minus(base) for chosen, found in self.found.items()}
        best = [self._best(place, worth) for place in range(len(self.places))]
        predicted = {}
        for chosen in product(*best):
            if chosen not in self.found:
                changes = (effect[self._change(i, n)] for i, n in enumerate(chosen) if n)
                predicted[chosen] = base.plus(*changes).worth(limits)
        return heapq.nlargest(_PROMISING, predicted, key=lambda chosen: predicted[chosen])

    def _best(self, place: int, worth: Mapping[Chosen, float]) -> list[int]:
        """The phrases that do most for the text at one place."""
        numbers = range(len(self.places[place].milder))
        return heapq.nlargest(_BEST, numbers, key=lambda n: worth[self._change(place, n)])

    def _change(self, place: int, number: int) -> Chosen:
        return (*self.first[:place], number, *self.first[place + 1 :])

    def spell(self, chosen: Chosen) -> str:
        """The text with these phrases; all else of it stays as it is."""
        out, rest, end = "", self.text, 0
        for place, number in zip(self.places, chosen, strict=True):
            out += rest[: place.start - end]
            rest, end = self.text[place.end :], place.end
            said = " ".join(place.milder[number]).replace(" - ", "-")
            if said:
                out += said
            else:
                out, rest = _closed(out, rest)
                end = len(self.text) - len(rest)
        text = recase((out + rest).strip(), self.text)
        if self.text.islower() or _LOW_I.search(self.text):
            return text
        return _LOW_I.sub("I", text)


def _is_part(text: str, place: _Place, *, closes: bool) -> bool:
    """Whether a phrase is part of a compound ("dumb-ass") or a possessive ("idiots'"), unless it
    ``closes`` a quotation."""
    before, behind = text[: place.start][-1:], text[place.end :][:1]
    possesses = behind in _APOSTROPHES and before != behind and not closes
    return before in _JOINTS or behind in _JOINTS or possesses


def _closed(out: str, rest: str) -> tuple[str, str]:
    """Both sides of a phrase that went: one white space between them, and no comma left over."""
    if not rest or rest[0] in _MARKS:
        return out.rstrip().rstrip(",;:"), rest if out.strip() else rest.lstrip(",;: ")
    opens = not out or out[-1].isspace() or out[-1] in _OPENING
    return out, rest.lstrip() if opens else rest
