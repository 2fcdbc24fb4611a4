"""How a comment becomes a prompt. Training and runtime both call this and nothing else does it.

A template is two trusted strings around the comment: their control tokens are parsed, the comment's
never are, so text such as ``<|im_end|>`` inside a comment stays plain characters.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\w+|[^\w\s]", re.UNICODE)
# What chat templates part texts with: <|im_end|>, <s>, </s>, <start_of_turn>, [INST], <<SYS>>.
_CONTROL = re.compile(r"<\|[^<>|\s]{1,40}\|>|</?s>|</?(?:start|end)_of_turn>|\[/?inst\]|<</?sys>>")
_PHRASE = 12  # characters of a template's line that nobody writes by chance

# What a chat model is asked to do; the comment follows.
INSTRUCTION = (
    "Reword the comment so that it is no longer toxic. Keep its meaning and its tone as far as "
    "that allows, and change nothing else. Answer with the reworded comment only.\n\nComment: "
)

# (text, parse_special) -> token ids; llama.cpp, tokenizers and transformers all fit behind it.
Tokenize = Callable[[str, bool], list[int]]


@dataclass(frozen=True)
class PromptTemplate:
    """What stands before and after the comment, and how the comment is written.

    Args:
        prefix: trusted text before the comment; control tokens in it are parsed.
        suffix: trusted text between comment and answer; control tokens in it are parsed.
        lowercase: the model reads and writes lower case; :meth:`restore` brings the case back.
        lead: plain text put before comment and answer, so that byte-level BPE sees the first word
            as it sees every other one (a leading space).
    """

    prefix: str
    suffix: str
    lowercase: bool = False
    lead: str = ""

    def __post_init__(self) -> None:
        """Refuse a template in which comment and answer touch."""
        if not self.suffix:
            raise ValueError(
                "a prompt template needs a suffix: nothing else parts comment and answer"
            )

    def normalise(self, comment: str) -> str:
        """The comment on one line and in NFC (as many tokenizers do), as the model reads it."""
        text = unicodedata.normalize("NFC", _SPACE.sub(" ", comment)).strip()
        return text.lower() if self.lowercase else text

    def encode(self, comment: str, tokenize: Tokenize) -> list[int]:
        """Token ids of the whole prompt; the comment is tokenised as plain text."""
        return [
            *tokenize(self.prefix, True),
            *self.encode_text(comment, tokenize),
            *tokenize(self.suffix, True),
        ]

    def encode_text(self, text: str, tokenize: Tokenize) -> list[int]:
        """Token ids of a comment or an answer alone, control tokens never parsed."""
        return tokenize(self.lead + self.normalise(text), False)

    def leaks(self, answer: str, comment: str) -> bool:
        """Whether ``answer`` shows control tokens or template text that ``comment`` does not."""
        said, given = answer.lower(), comment.lower()
        shown = {m.group() for m in _CONTROL.finditer(said)}
        shown |= {line for line in self._lines if line in said}
        return any(text not in given for text in shown)

    @cached_property
    def _lines(self) -> frozenset[str]:
        """The template's lines, in lower case, that nobody writes by chance."""
        parts = _CONTROL.split(f"{self.prefix}\n{self.suffix}".lower())
        lines = (line.strip() for part in parts for line in part.strip().splitlines())
        return frozenset(line for line in lines if len(line) >= _PHRASE)

    def restore(self, answer: str, comment: str) -> str:
        """The model's answer in the comment's letter case."""
        text = _SPACE.sub(" ", answer).strip()
        return recase(text, comment) if self.lowercase else text

    def to_dict(self) -> dict[str, Any]:
        """The form stored in ``bundle.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PromptTemplate:
        """Inverse of :meth:`to_dict`."""
        return cls(**data)


# The small models trained from nothing: a Llama with one token of its own between the two texts.
SMALL_TEMPLATE = PromptTemplate(prefix="<s>", suffix="<|rewrite|>", lowercase=True, lead=" ")


def recase(answer: str, source: str) -> str:
    """Give ``answer`` (lower case) the letter case of ``source``, word by aligned word.

    Words that stand in both keep the source's case; a new word follows the words it replaces when
    these were all upper case; a first word takes the source's initial capital.
    """
    if source == source.lower():
        return answer
    words = [(m.group(), m.start(), m.end()) for m in _WORD.finditer(answer)]
    originals = _WORD.findall(source)
    if not words or not originals:
        return answer
    cased = [w for w, _, _ in words]
    matcher = difflib.SequenceMatcher(
        None, [w.lower() for w in originals], [w.lower() for w in cased], autojunk=False
    )
    for op, i1, i2, j1, j2 in matcher.get_opcodes():
        if op == "equal":
            cased[j1:j2] = originals[i1:i2]
        elif op == "replace":
            letters = "".join(w for w in originals[i1:i2] if w.isalpha())
            if len(letters) > 1 and letters.isupper():
                cased[j1:j2] = [w.upper() for w in cased[j1:j2]]
    if originals[0][:1].isupper():
        cased[0] = cased[0][:1].upper() + cased[0][1:]
    out, end = [], 0
    for word, (_, start, stop) in zip(cased, words, strict=True):
        out += [answer[end:start], word]
        end = stop
    return "".join([*out, answer[end:]])
