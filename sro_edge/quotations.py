"""What a text quotes, and what may be left out of it.

A quotation keeps its words: to put milder ones into somebody's mouth would be a lie. What must not
stand may go, as editors do it: ``[...]`` stands in its place.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

from sro_edge.segments import Span

OMITTED = "[...]"

# Straight double quotes pair up one after the other, but not the sign for inches; a single quote is
# an apostrophe unless it opens before a word, which is no contraction's end, and closes after one;
# what is omitted counts as one.
_QUOTED = re.compile(
    r"""
      (?<!\d)"([^"\n]{1,400})"
    | “([^“”\n]{1,400})”  | „([^„“”\n]{1,400})[“”]  | «([^«»\n]{1,400})»
    | ‘([^‘’\n]{1,200}(?:’\w[^‘’\n]{0,80}){0,4})’(?!\w)
    | (?<![\w'])'(?=[\w\[])(?!(?:s|t|m|d|re|ve|ll)\b)
      ([^'\n]{1,200}(?:'\w[^'\n]{0,80}){0,4})(?<=[\w.,!?…\]])'(?!\w)
    | `([^`\n]{1,400})`
    """,
    re.VERBOSE,
)
_PADDING = "\0"  # in the place of a mark that is none


@lru_cache(maxsize=16)  # the pieces of one comment come together
def quoted_spans(text: str) -> tuple[Span, ...]:
    """What stands in quotation marks or backticks in ``text``, without them, in order.

    Marks around the whole of a text quote nothing, and doubled ones are one: so CSV writes a text.
    """
    return tuple(Span(*m.span(m.lastindex or 0)) for m in _quotations(text))


def quoted(text: str) -> list[str]:
    """The texts of :func:`quoted_spans` that are not blank, without white space around them."""
    found = (m[m.lastindex or 0].replace(_PADDING, "").strip() for m in _quotations(text))
    return [said for said in found if said]


def cuts_quotation(text: str, part: Span) -> bool:
    """Whether a part of ``text`` holds words of a quotation, but not the whole of it."""
    return any(
        max(part.start, said.start) < min(part.end, said.end)
        and not (part.start < said.start and said.end < part.end)
        for said in quoted_spans(text)
    )


def same_quotations(after: Sequence[str], before: Sequence[str]) -> bool:
    """Whether the same words are quoted, in any order, or in the same one with some omitted."""
    return Counter(after) == Counter(before) or (
        len(after) == len(before) and all(map(omits_only, after, before))
    )


def omits_only(said: str, whole: str) -> bool:
    """Whether ``said`` is ``whole`` but for words in whose place :data:`OMITTED` stands."""
    first, *others = said.split(OMITTED)
    if not others:
        return said == whole
    if not whole.startswith(first):
        return False
    *middle, last = others
    at, end = len(first), len(whole) - len(last)
    for kept in middle:
        found = whole.find(kept, at + 1, end)
        if found < 0:
            return False
        at = found + len(kept)
    return at < end and whole.endswith(last)


def _quotations(text: str) -> Iterator[re.Match[str]]:
    """Quotations with their marks; what is said stands in the last group."""
    return _QUOTED.finditer(_single_marks(text))


def _single_marks(text: str) -> str:
    """``text`` without the straight quotes that are none, character by character."""
    if '"' not in text:
        return text
    bare = text.strip()
    if len(bare) > 1 and bare[0] == bare[-1] == '"' and '"' not in bare[1:-1].replace('""', ""):
        text = text.replace(bare, f"{_PADDING}{bare[1:-1]}{_PADDING}", 1)
    return text.replace('""', f'"{_PADDING}')
