"""Long comment -> spans with offsets; and what must survive a rewrite (URLs, handles, emoji)."""

from __future__ import annotations

import re
from typing import NamedTuple

from sro_edge.signs import EMOJI, IP_ADDRESS, has_address

# A sentence ends at a line break, or after . ! ? … (with closing quotes) before white space.
# The look-behind keeps long runs of white space linear.
_BREAK = re.compile(r"""(?<=[.!?…])["'”’)\]]*\s+|(?<!\s)\s*[\r\n\u2028\u2029]+\s*""")
_BODY = re.compile(r"\S(?:.*\S)?", re.DOTALL)

# Order matters: an e-mail address must not be read as a handle. Each alternative looks at a bounded
# stretch from where it may start, so that a text of one kind of character costs no more.
_PROTECTED = re.compile(
    rf"""
    (?:https?://|www\.)[^\s<>"')\]]*[^\s<>"')\].,!?;:]     # URL, without closing punctuation
    | (?<![\w.+-])[\w.+-]{{1,64}}@[\w-]{{1,63}}(?:\.[\w-]{{1,63}})+   # e-mail address
    | (?<![\w@])@(?!ss(?:es|h[o0]les?|hats?)?\b)\w{{2,}}     # @handle, but no insult
    | (?<!\w)/?[ru]/\w{{2,}}                                  # r/forum, u/user
    | (?:[{EMOJI}][\ufe0f\u200d]*)+   # emoji and their joiners
    | {IP_ADDRESS}
    """,
    re.VERBOSE | re.IGNORECASE,
)

WORDS = re.compile(r"[^\W_]+(?:['’*@$!][^\W_]+)*|\S")  # words and punctuation marks


class Span(NamedTuple):
    """Characters ``start`` (inclusive) to ``end`` (exclusive) of a comment."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """The span's text."""
        return text[self.start : self.end]


def words(text: str) -> list[str]:
    """Lower-case words and punctuation marks; an obfuscated word (``f*ck``) stays whole."""
    return WORDS.findall(text.lower())


def sentences(text: str, max_chars: int = 400) -> list[Span]:
    """Spans of the sentences of ``text``, without the white space around them.

    Sentences over ``max_chars`` are cut at the last space before the limit, or at the limit itself.
    What lies between two spans is white space or closing quotes only.
    """
    spans: list[Span] = []
    start = 0
    for brk in [*_BREAK.finditer(text), None]:
        end = brk.start() if brk else len(text)
        body = _BODY.search(text, start, end)
        if body:
            spans += _cut(text, body.start(), body.end(), max_chars)
        start = brk.end() if brk else end
    return spans


def _cut(text: str, start: int, end: int, max_chars: int) -> list[Span]:
    spans = []
    while end - start > max_chars:
        stop = text.rfind(" ", start + max_chars // 2, start + max_chars)
        stop = stop if stop > start else start + max_chars
        spans.append(Span(start, stop))
        while stop < end and text[stop].isspace():
            stop += 1
        start = stop
    return [*spans, Span(start, end)] if end > start else spans


def windows(text: str, max_chars: int = 400) -> list[Span]:
    """Neighbouring sentences packed into spans of at most ``max_chars``: what a screener reads."""
    if 0 < len(text) <= max_chars and not (text[0].isspace() or text[-1].isspace()):
        return [Span(0, len(text))]  # what packing gives, only sooner
    packed: list[Span] = []
    for span in sentences(text, max_chars):
        if packed and span.end - packed[-1].start <= max_chars:
            packed[-1] = Span(packed[-1].start, span.end)
        else:
            packed.append(span)
    return packed


def protected_spans(text: str, within: Span) -> list[Span]:
    """Spans of URLs, e-mail and IP addresses, @handles, r/forums and emoji in ``within``."""
    # One of these is in each of them, and none of them in most texts.
    signs = "@" in text or "/" in text or "www." in text.lower() or has_address(text)
    if text.isascii() and not signs:
        return []
    return [Span(*m.span()) for m in _PROTECTED.finditer(text, within.start, within.end)]


def protected(text: str) -> list[str]:
    """URLs, e-mail and IP addresses, @handles, r/forums and emoji in ``text``, in order."""
    return [span.of(text) for span in protected_spans(text, Span(0, len(text)))]
