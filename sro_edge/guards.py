"""What a candidate must show before its toxicity is asked: not empty, no echo, nothing lost."""

from __future__ import annotations

import re
from collections import Counter

from sro_edge.segments import protected

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_LEFT_OVER = re.compile(r"[\s,;:-]*[,;:-][\s,;:-]*(?=[.!?…]*$)")  # before the closing mark
_REFUSAL = re.compile(
    r"\b(?:as an ai|language model|i (?:can(?:no|')t|am unable to|won't) "
    r"(?:help|assist|rewrite|fulfil|comply|provide)|i'm sorry,? but|i apologi[sz]e,? but)\b",
    re.IGNORECASE,
)


def tidy(answer: str, comment: str) -> str:
    """``answer`` without a separator left over at either end, closed as ``comment`` was closed."""
    text = _LEFT_OVER.sub("", answer.strip().lstrip(",;:.- "))
    end = comment.rstrip()[-1:]
    if text and end in {".", "!", "?", "…"} and text[-1].isalnum():
        text += end
    return text


def is_refusal(answer: str, comment: str) -> bool:
    """Whether the model declined; a comment that itself speaks so is not held against it."""
    return bool(_REFUSAL.search(answer)) and not _REFUSAL.search(comment)


def survives(answer: str, comment: str) -> bool:
    """Whether what must survive of ``comment`` stands in ``answer``, and nothing foreign came in.

    URLs, handles, e-mail addresses and emoji must be there, numbers must be the very same, and a
    word with letters beyond ASCII must come from the comment: small models garble these.
    """
    lost = Counter(protected(comment)) - Counter(protected(answer))
    same_numbers = Counter(_NUMBER.findall(comment)) == Counter(_NUMBER.findall(answer))
    foreign = {w for w in answer.lower().split() if not w.isascii()}
    return not lost and same_numbers and foreign <= set(comment.lower().split())


def is_degenerate(answer: str, comment: str) -> bool:
    """Empty, without a letter, an echo of the comment, or one word over and over."""
    words = answer.lower().split()
    if not any(c.isalpha() for c in answer) or words == comment.lower().split():
        return True
    repeated = max(Counter(zip(words, words[1:], words[2:], strict=False)).values(), default=0)
    return repeated > 2
