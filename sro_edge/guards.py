"""What a candidate must show before its toxicity is asked: not empty, no echo, nothing lost."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from sro_edge.groups import groups
from sro_edge.negation import keeps_negation
from sro_edge.quotations import OMITTED, quoted, same_quotations
from sro_edge.segments import protected

# A word with a digit in it, its sign, currency, per cent, and what dates and times are joined by.
_NUMBER = re.compile(r"(?:(?<!\w)[-−+])?[$€£¥#]?\w+(?:[.,:/-]\d\w*)*%?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_SMALL_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen twenty"
)
_TENS = "thirty forty fifty sixty seventy eighty ninety"
_VALUES = {word: str(value) for value, word in enumerate(_SMALL_NUMBERS.split())}
_VALUES |= {word: str(10 * value) for value, word in enumerate(_TENS.split(), 3)}
del _VALUES["one"]  # mostly a pronoun
_DATES = (
    "monday tuesday wednesday thursday friday saturday sunday january february april june july"
    " august september october november december today tomorrow yesterday tonight"
)
_WORDED = frozenset([*_VALUES, *_DATES.split()])
_SCALES = frozenset("hundred thousand million billion trillion dozen".split())  # "dozens", too
_WORDS = re.compile(r"\w+")
_SEPARATORS = ",;:.- "
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z]{2,8});", re.IGNORECASE)  # of HTML
_CUT_ENTITY = re.compile(r"&#?\w{2,8}$")
_HASHTAG = re.compile(r"(?<![\w&])#\w*")  # a sign alone may be a broken one
_ARTICLE = re.compile(r"\b(a|an)(\s+)([a-z]{2,})", re.IGNORECASE)
FORMS = ("s", "es", "d", "ed", "r", "er", "ing", "ly", "y", "n")  # endings of a word's forms
_ENDINGS = frozenset([*FORMS, "st", "est", "ity", "'s"])
_TYPOGRAPHY = str.maketrans(dict.fromkeys("“”„‘’«»–—…", " "))
_REFUSAL = re.compile(
    r"\b(?:as an ai|language model|i (?:can(?:no|')t|am unable to|won't) "
    r"(?:help|assist|rewrite|fulfil|comply|provide)|i'm sorry,? but|i apologi[sz]e,? but)\b",
    re.IGNORECASE,
)


def tidy(answer: str, comment: str) -> str:
    """``answer`` as a careful writer leaves it.

    No separator left over at either end, closed as ``comment`` was closed, and "a" or "an" before
    a new word as its sound wants it.
    """
    text = answer.strip()
    if not comment.lstrip().startswith(tuple(_SEPARATORS)):
        text = text.lstrip(_SEPARATORS)
    body = text.rstrip(".!?…")
    left = body.rstrip(",;:- \t\n")
    over = body[len(left) :]  # a comment may end so itself, as with "&#8230;"
    if any(mark in ",;:-" for mark in over) and not comment.rstrip().endswith(over):
        text = left + text[len(body) :]
    end = comment.rstrip()[-1:]
    if end == ";" and _CUT_ENTITY.search(text):
        text += end
    if text and end in {".", "!", "?", "…"} and text[-1].isalnum():
        text += end
    return with_articles(text, comment.lower())


def with_articles(text: str, given: str = "") -> str:
    """``text`` with "a" or "an" as the sound of the next word wants it, but where ``given`` (lower
    case) has it so."""
    return _ARTICLE.sub(lambda m: m[0] if m[0].lower() in given else _article(m), text)


def article(word: str) -> str:
    """ "a" or "an", as the sound of ``word`` wants it."""
    word = word.lower()
    silent = word.startswith(("hour", "honest", "honor", "honour", "heir"))
    consonant = re.match(r"uni(?!n|m)|us[eu]|eu|one|once", word) is not None
    return "an" if silent or (word[0] in "aeiou" and not consonant) else "a"


def _article(match: re.Match[str]) -> str:
    found = match[1][0] + article(match[3])[1:]
    return (found.upper() if match[3].isupper() else found) + match[2] + match[3]


def is_refusal(answer: str, comment: str) -> bool:
    """Whether the model declined; a comment that itself speaks so is not held against it."""
    return bool(_REFUSAL.search(answer)) and not _REFUSAL.search(comment)


def survives(answer: str, comment: str) -> bool:
    """Whether what must survive of ``comment`` stands in ``answer``, and nothing foreign came in.

    URLs, handles, e-mail addresses, emoji, HTML entities and names of groups
    (:mod:`sro_edge.groups`) must be there; numbers, dates and number words ("one" is none) must be
    the very same, quotations but for marked omissions; no negation may flip
    (:mod:`sro_edge.negation`); a hashtag, and a word with letters beyond ASCII, must come from the
    comment: small models garble these.
    """
    before, after = _facts(comment), _facts(answer)
    return (
        before.protected <= after.protected
        and before.groups <= after.groups
        and after.foreign <= before.foreign
        and before.numbers == after.numbers
        and same_quotations(after.quoted, before.quoted)
        and before.entities <= after.entities
        and after.hashtags <= before.hashtags
        and keeps_negation(answer, comment)
    )


class _Facts(NamedTuple):
    """What must survive of a text, and what must not come in: foreign words and hashtags."""

    protected: Counter[str]
    groups: frozenset[str]
    foreign: frozenset[str]
    numbers: Counter[str]
    quoted: tuple[str, ...]
    entities: Counter[str]
    hashtags: frozenset[str]


@lru_cache(maxsize=16)  # the candidates of one comment come together
def _facts(text: str) -> _Facts:
    words = () if text.isascii() else text.lower().translate(_TYPOGRAPHY).split()
    return _Facts(
        Counter(protected(text)),
        groups(text),
        frozenset(word for word in words if not word.isascii()),
        numbers(text),
        tuple(" ".join(found.lower().split()) for found in quoted(text)),
        Counter(_ENTITY.findall(text)) if "&" in text else Counter(),
        frozenset(_HASHTAG.findall(text.lower())) if "#" in text else frozenset(),
    )


def numbers(text: str) -> Counter[str]:
    """Numbers, dates and number words of ``text``; "two" is the same as "2"."""
    found: list[str] = []
    if any(map(str.isdigit, text)):
        digits = (n for n in _NUMBER.findall(text) if any(map(str.isdigit, n)))
        found = [_THOUSANDS.sub("", n.lower()) for n in digits]
    for word in _WORDS.findall(text.lower()):
        if word in _WORDED:
            found.append(_VALUES.get(word, word))
        elif word.removesuffix("s") in _SCALES:
            found.append(word.removesuffix("s"))
    return Counter(found)


def keeps_quotes(answer: str, comment: str) -> bool:
    """Whether the same words are quoted, but for marked omissions.

    Letter case, white space and kind of quotes may differ.
    """
    return same_quotations(_facts(answer).quoted, _facts(comment).quoted)


def is_degenerate(answer: str, comment: str) -> bool:
    """Empty, without a letter, an echo, a stump of a word, or one word over and over."""
    words, given = answer.lower().split(), comment.lower().split()
    empty = OMITTED not in answer and not any(c.isalpha() for c in answer)
    if empty or words == given or _has_stump(words, given):
        return True
    repeated = max(Counter(zip(words, words[1:], words[2:], strict=False)).values(), default=0)
    return repeated > 2


def _has_stump(words: list[str], given: list[str]) -> bool:
    """Whether a new word is the beginning of one that went, without being a form of it."""
    before, after = ({w.strip(".,!?;:") for w in text} for text in (given, words))
    new, gone = after - before, before - after
    return any(
        old.startswith(word) and old[len(word) :] not in _ENDINGS
        for word in new
        if len(word) > 2 and word.isalpha()
        for old in gone
        if len(old) > len(word)
    )
