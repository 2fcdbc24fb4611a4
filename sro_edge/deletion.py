"""The word-deleting baseline: a comment without its toxic words. The engine's last resort."""

from __future__ import annotations

import re
from collections.abc import Mapping

_WORD = re.compile(r"[^\W_]+(?:['’*@$!][^\W_]+)*")
_TIDY = ((re.compile(r"\s+([,.!?;:])"), r"\1"), (re.compile(r"([,;:])(?:\s*[,;:])+"), r"\1"))


def delete_words(text: str, lexicon: Mapping[str, float]) -> str:
    """``text`` without the words of ``lexicon`` (lower-case keys), white space and commas tidied.

    The text comes back unchanged where no word of it is in the lexicon.
    """
    kept = _WORD.sub(lambda m: "" if m.group().lower() in lexicon else m.group(), text)
    if kept == text:
        return text
    kept = " ".join(kept.split())
    for pattern, replacement in _TIDY:
        kept = pattern.sub(replacement, kept)
    return kept.lstrip(",.;: ").strip()


def deletions(text: str, lexicon: Mapping[str, float], most_words: int = 40) -> list[str]:
    """What the last resort chooses from, by the screener's scores.

    ``text`` without its toxic words, and both it and that with one or two neighbouring words less:
    insults that no lexicon knows go, too. Longer texts only lose the words of the lexicon.
    """
    bare = delete_words(text, lexicon)
    found = [bare]
    for source in (text, bare):
        words = source.split()
        if len(words) <= most_words:
            for width in (1, 2):
                found += [
                    " ".join(words[:i] + words[i + width :]) for i in range(len(words) - width + 1)
                ]
    return [t for t in dict.fromkeys(found) if t and t != text]
