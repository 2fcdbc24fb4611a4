"""What a screener reads of a text: emoji by their names, endless words in parts, no IP addresses.

Word pieces know few emoji. Unread, all are one unknown sign, and toxic as often as the labelled
comments with one were, of which half are hateful. An IP address signs what anonymous authors write
on talk pages, and what was labelled of that is toxic; the words before it say nothing of that.
A skin tone and a flag are read without the colour and the country, lest a thumb be judged by them.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

EMOJI = "\u2600-\u27bf\U0001f000-\U0001faff"  # for a class of a regular expression
IP_ADDRESS = (
    r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\d)"
    r"|(?<![\w:])(?:[\da-f]{1,4}::?){4,7}[\da-f]{1,4}(?![\w:])"
)
_DOTS, _COLONS = 3, 4  # an address has at least so many
_DOTTED = re.compile(r"\d\.\d")
_JOINERS = "\u200d\u2640\u2642\ufe0e\ufe0f\U0001f3fb-\U0001f3ff"  # and sexes, skin tones
_FLAG = "\U0001f1e6-\U0001f1ff"
# One emoji over and over is read once.
_EMOJI = re.compile(rf"([{_FLAG}])[{_FLAG}]*|([{EMOJI}])(?:[{_JOINERS}]|\2)*")
# Any other sign beside a word would make the word unknown.
_SIGN = re.compile("[\u2190-\u25ff\u2b00-\u2bff\ue000-\uf8ff\U000f0000-\U0010ffff]")
# Longer words are unknown to a tokenizer of word pieces: none may hide in one.
_LONGEST = 64
_PART = re.compile(rf"[^\W_]{{{_LONGEST}}}")
_LOOKS = re.compile(r"\b(?:sign|symbol|face|black|white|heavy|medium|large|small)\b")
_ADDRESS = re.compile(IP_ADDRESS, re.IGNORECASE)


def read_out(text: str) -> str:
    """``text`` as a screener is to read it."""
    if has_address(text):
        text = _ADDRESS.sub(" ", text)
    if max(map(len, text.split()), default=0) > _LONGEST:
        text = _PART.sub(r"\g<0> ", text)
    if text.isascii():
        return text
    return _SIGN.sub(r" \g<0> ", _EMOJI.sub(_named, text))


def has_address(text: str) -> bool:
    """Whether ``text`` may have an IP address in it, soon told: hardly any has."""
    dotted = text.count(".") >= _DOTS and _DOTTED.search(text) is not None
    return dotted or text.count(":") >= _COLONS


def _named(match: re.Match[str]) -> str:
    """In brackets, or "ok hand" would be words of the sentence before it."""
    return " (flag) " if match[1] else f" ({_name(match[2])}) "


@lru_cache(maxsize=4096)
def _name(emoji: str) -> str:
    """What Unicode calls it, without what it looks like: "thumbs up", "clown", "heart"."""
    name = unicodedata.name(emoji, emoji).lower().replace("-", " ")
    return " ".join(_LOOKS.sub("", name).split()) or name
