"""Disguised words -> the words that a reader sees: what a screener reads beside the raw text.

    zero-width and other invisible characters, right-to-left overrides, character references
    fullwidth, circled, mathematical and small-capital letters, floods of combining marks
    letters of other scripts inside a Latin word (Unicode TR39)
    spaced-out letters, leetspeak, stretched letters; masked and respelt words (`masks`); words run
    together (`joined`)

These two apart, nothing is guessed from a list of insults. A word is read another way only where
the vocabulary of the screener's tokenizer says that the other reading is the likelier text, so
"mp3" stays and "h3llo" does not. Words of other scripts stay unless they mix with Latin letters, or
all letters of the text are drawn like Latin ones. Every step is linear in the length of the text.
"""

from __future__ import annotations

import html
import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache

from sro_edge.confusables import HOMOGLYPHS, LOOKALIKES
from sro_edge.joined import Parter
from sro_edge.masks import Unmasker
from sro_edge.segments import Span, protected_spans

_REFERENCE = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|shy|zwn?j|[lr]rm|zerowidthspace);", re.I)
_OVERRIDE = re.compile("\u202e([^\u202c\u202e\n]*)\u202c?")  # shown from right to left
# Control and format characters, variation selectors and blank letters; not the joiners of emoji.
_INVISIBLE = (
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb"
    "\U0001d173-\U0001d17a\U000e0000-\U000e01ef"
)
_HIDING = re.compile(f"(?<![\\w{_INVISIBLE}])\\w*[{_INVISIBLE}][\\w{_INVISIBLE}]*")
_UNSEEN = re.compile(f"[{_INVISIBLE}]+")
_MARK = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_FLOOD = re.compile(f"[{_MARK}]{{3,}}|[\u0334-\u0338\u20dd-\u20e4][{_MARK}]*")  # or drawn across
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_EMOJI = re.compile("[\u203c-\u32ff\U0001f000-\U0001faff]")
_FLAGS = re.compile("[\U0001f1e6-\U0001f1ff]{3,}")  # two make a flag
_LETTER_NAME = re.compile(
    r"LATIN (?:(?:SMALL|CAPITAL) )?LETTER (?:SMALL CAPITAL )?([A-Z])(?: WITH .*)?$"
)
_FOREIGN = re.compile(r"(?<!\w)[A-Za-z0-9_]*[^\W\x00-\x7f]\w*")  # a word that is not all ASCII
_SPACED = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z0-9@$!]([\W_]{1,3})[A-Za-z0-9@$!](?:\1[A-Za-z0-9@$!])+(?![A-Za-z0-9])"
)
_LEET = {
    "0": "o", "1": "il", "3": "e", "4": "a", "5": "s", "6": "g", "7": "t", "8": "b", "9": "g",
    "@": "a", "$": "s", "!": "il", "€": "e", "£": "l", "¥": "y", "¢": "c",
}  # fmt: skip
_MARKS = "".join(re.escape(c) for c in _LEET if not c.isdigit())
_ODD = _MARKS.replace("!", "")
_SUSPECT = rf"[0-9{_ODD}]|!(?=[a-z0-9{_ODD}])|([a-z])\1\1"  # in all that is read another way
_TOKEN = re.compile(  # a token that has it, and is no number
    rf"(?<![a-z0-9{_MARKS}])(?!\d+(?![a-z0-9{_MARKS}]))(?=[a-z!]*?(?:{_SUSPECT}))[a-z0-9{_MARKS}]+",
    re.I,
)
_RUN = re.compile(r"(.)\1*", re.DOTALL)
_LONG_RUN = re.compile(r"(.)\1{3,}", re.DOTALL)
# A number that stays one: with its unit, or a size.
_QUANTITY = re.compile(
    r"\d+(?:[km]?m|[kc]?g|[kmgt]b?|[kmg]?hz|[cm]m|[ap]m|st|nd|rd|th|m?s|h|hrs?|mins?|d|yrs?|lbs?|oz|ml"
    r"|l|ft|in|mph|kph|fps|px?|[km]?wh?|v|mah|[bxcf]|x\d+)?",
    re.IGNORECASE,
)
_NAME = re.compile(r"[^\W\d_]{6,}\d{1,4}")  # a word and a number behind it, as in a user's name
_CHAT = frozenset("uraiycknb24")  # single letters that stand for words: "u r a"
_MOST_READINGS = 64
_LONGEST = 48  # characters of a token that is read another way
_LEAST_GAIN = 4.0  # by which another reading must be likelier, in nats
_MOST_COST = 5.5  # of a reading that is a word at all, per letter


class Vocabulary:
    """How likely a word is, by the tokens that a tokenizer needs for it.

    The ids of a trained vocabulary follow frequency, so by Zipf's law the token of rank r costs
    about log r. The cheapest way to cut a text into tokens says how much it looks like what people
    write.

    Args:
        ids: token -> id. Tokens that begin a word are marked "Ġ" or "▁", or those that do not "##".
        normalise: what the tokenizer does to a text before it cuts it.
    """

    _UNKNOWN = 15.0  # of a character that no token has
    _SPACE = 0.5  # of one more word
    _LONGEST_TOKEN = 16
    _ENOUGH = 15_000  # words, from which on a vocabulary holds most that people write

    def __init__(self, ids: Mapping[str, int], normalise: Callable[[str], str] = str) -> None:
        marked = any(t[:1] in "Ġ▁" for t in ids if t)
        self._first: dict[str, float] = {}
        self._later: dict[str, float] = {}
        for token, number in ids.items():
            if marked:
                begins, text = token[:1] in "Ġ▁", token.lstrip("Ġ▁")
            else:
                begins, text = not token.startswith("##"), token.removeprefix("##")
            if 0 < len(text) <= self._LONGEST_TOKEN:
                table, key = self._first if begins else self._later, text.lower()
                table[key] = min(table.get(key, math.inf), math.log(number + 2))
        self._normalise = normalise

    def has(self, word: str) -> bool:
        """Whether a word in lower case is a token of its own, or there are too few to tell."""
        return word in self._first or len(self._first) < self._ENOUGH

    def commonest(self, words: Iterable[str]) -> str | None:
        """The word of these in lower case whose token is the commonest; None if none is one."""
        known = [word for word in words if word in self._first]
        return min(known, key=self._first.__getitem__, default=None)

    def rarity(self, word: str) -> float | None:
        """Cost of a word in lower case that is a token of its own; None of any other."""
        return self._first.get(word)

    def cost(self, word: str) -> float:
        """Cost of ``word`` as one word."""
        return self._cut(self._normalise(word).lower(), spaces=False)[0]

    def part(self, letters: str) -> tuple[float, str]:
        """The cheapest words that ``letters`` may be, parted by spaces, with their cost."""
        return self._cut(letters.lower(), spaces=True)

    def _cut(self, text: str, *, spaces: bool) -> tuple[float, str]:
        best: list[tuple[float, int, bool]] = [
            (0.0, 0, True)
        ]  # cost, begin of last token, new word
        for end in range(1, len(text) + 1):
            found = (best[end - 1][0] + self._UNKNOWN, end - 1, end == 1)
            for start in range(max(0, end - self._LONGEST_TOKEN), end):
                piece, before = text[start:end], best[start][0]
                if start and (cost := self._later.get(piece)) is not None:
                    found = min(found, (before + cost, start, False))
                if (not start or spaces) and (cost := self._first.get(piece)) is not None:
                    space = self._SPACE if start else 0.0
                    found = min(found, (before + cost + space, start, True))
            best.append(found)
        pieces, end = [], len(text)
        while end:
            _, start, begins = best[end]
            pieces.append(" " * (begins and start > 0) + text[start:end])
            end = start
        return best[-1][0], "".join(reversed(pieces))


class Deobfuscator:
    """Reads disguised words with a tokenizer's vocabulary.

    Args:
        vocabulary: of the screener that the text is for.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._unmasker = Unmasker(vocabulary.commonest)
        self._parter = Parter(vocabulary.rarity, vocabulary.has)
        self._token = lru_cache(maxsize=8192)(self._read_token)

    def reveal(
        self, text: str, expected: Collection[str] | None = None, *, hashtags: bool = True
    ) -> str:
        """``text`` with its disguised words as a reader sees them; itself if there are none.

        URLs, e-mail addresses and @handles stay as they are.

        Args:
            text: any text.
            expected: words in lower case. Where given, a word with digits is read another way only
                if that way is one of them: "1d10t" is, but "k8s" and "deadb33f" mean themselves;
                and these words are not parted.
            hashtags: part all hashtags, and not only insults.
        """
        plain = text
        if "&" in plain:
            plain = _REFERENCE.sub(_letter_of, plain)
        plain = _OVERRIDE.sub(lambda m: m.group(1)[::-1], plain)
        if _UNSEEN.search(plain):
            plain = _HIDING.sub(self._unhide, plain)
        if not plain.isascii():
            plain = _FLOOD.sub("", plain)
            plain = _FLAGS.sub(lambda m: "".join(chr(ord(c) - 0x1F1E6 + 97) for c in m[0]), plain)
            plain = plain.replace("\U0001f595", " fuck you ")  # a middle finger
            plain = _BEYOND_ASCII.sub(lambda m: "".join(map(_latin, m[0])), plain)
            english = _is_latin_text(plain)
            plain = _FOREIGN.sub(lambda m: self._one_script(m[0], english), plain)
        plain = _SPACED.sub(self._join, plain)
        plain = self._in_words(plain, expected, hashtags=hashtags)
        return text if plain == text else plain

    def _in_words(self, text: str, expected: Collection[str] | None, *, hashtags: bool) -> str:
        """``text`` without masks, joined words, leetspeak and stretched letters, but in what is
        protected."""

        def meant(part: str) -> str:
            part = self._unmasker.unmask(part)
            part = self._parter.part(part, hashtags=hashtags, whole=expected or ())
            return _TOKEN.sub(lambda m: self._read(m, expected), part)

        if meant(text) == text:  # so in most texts; what is protected matters only in the others
            return text
        out, end = [], 0
        kept = [s for s in protected_spans(text, Span(0, len(text))) if not _is_letter(text, s)]
        for span in [*kept, Span(len(text), len(text))]:
            out += [meant(text[end : span.start]), span.of(text)]
            end = span.end
        return "".join(out)

    def _unhide(self, match: re.Match[str]) -> str:
        """A word without its invisible characters, which may also have been its spaces."""
        word = _UNSEEN.sub("", match.group())
        before = match.string[max(0, match.start() - 1) : match.start()]
        if word == match.group() or (not word and _EMOJI.match(before)):
            return match.group()  # a joiner of emoji is part of them
        if word.isascii() and word.isalpha() and len(word) <= 4 * _LONGEST:
            return self._vocabulary.part(word)[1] if not word.isupper() else word
        return word

    def _one_script(self, word: str, english: bool) -> str:
        """A foreign word in Latin letters where it mixes them with others, or looks like them."""
        mixed = any(map(_is_latin, word))
        table = LOOKALIKES if mixed else HOMOGLYPHS if english else {}
        seen = "".join(table.get(c, c) for c in word)
        if seen != word and all(_is_latin(c) for c in seen if c.isalpha()):
            return seen
        bare = "".join(
            c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c)
        )
        if bare.isascii() and self._vocabulary.cost(bare) < self._vocabulary.cost(word):
            return bare
        return word

    def _join(self, match: re.Match[str]) -> str:
        letters = match.group()[:: len(match.group(1)) + 1]
        if sum(c.isalpha() for c in letters) < max(2, len(letters) / 3):
            return match.group()
        if _CHAT.issuperset(letters.lower()):
            return match.group()
        return min(self._vocabulary.part(r) for r in _readings(letters))[1]

    def _read(self, match: re.Match[str], expected: Collection[str] | None) -> str:
        """A token as it is meant; a part of a name with an underscore in it means itself, and so
        does the number of a character reference."""
        text, start, end = match.string, match.start(), match.end()
        before = start > 1 and text[start - 1] == "_" and text[start - 2].isalnum()
        behind = text[end : end + 1] == "_" and text[end + 1 : end + 2].isalnum()
        if before or behind or text[max(0, start - 2) : start] == "&#":
            return match.group()
        seen = self._token(match.group())
        if expected is not None and any(map(str.isdigit, match.group())):
            return seen if seen.lower().strip("!") in expected else match.group()
        return seen

    def _read_token(self, token: str) -> str:
        """The likeliest reading of leetspeak and of stretched letters."""
        word = token.rstrip("!")
        if (word.isalpha() and not _stretched(word)) or _QUANTITY.fullmatch(word):
            return token
        if _NAME.fullmatch(word) and not _stretched(word):
            return token
        short = _LONG_RUN.sub(r"\1\1\1", word)
        if len(short) > _LONGEST or not any(c.isalpha() or c == "@" for c in short):
            return token
        cost = self._vocabulary.cost
        best = min(_readings(short), key=cost)
        limit = min(cost(short) - _LEAST_GAIN, _MOST_COST * len(best))
        return token.replace(word, best, 1) if cost(best) < limit else token


def _letter_of(reference: re.Match[str]) -> str:
    """The letter, digit or invisible character that an HTML reference hides; other ones stay."""
    char = html.unescape(reference.group())
    return char if char.isalnum() or _UNSEEN.fullmatch(char) else reference.group()


def _is_letter(text: str, span: Span) -> bool:
    """Whether what stands there, an emoji, is part of a word."""
    before = text[max(0, span.start - 1) : span.start]
    return before.isalpha() and text[span.end : span.end + 1].isalpha()


def _stretched(token: str) -> bool:
    return any(a == b == c for a, b, c in zip(token, token[1:], token[2:], strict=False))


def _readings(token: str) -> list[str]:
    """What ``token`` may say: leet as letters, three and more of a kind as one or two."""
    choices = []
    for run in _RUN.finditer(token.lower()):
        letters, count = _LEET.get(run[1], run[1]), len(run[0])
        counts = (1, 2) if count > 2 else (count,)
        choices.append([letter * n for letter in letters for n in counts])
    most = _MOST_READINGS if len(token) <= _LONGEST else 1
    return ["".join(r) for r in itertools.islice(itertools.product(*choices), most)]


@lru_cache(maxsize=4096)
def _latin(char: str) -> str:
    """The Latin letter that ``char`` is a variant of, by compatibility or by its name."""
    plain = unicodedata.normalize("NFKC", char).strip("()")
    if len(plain) == 1 and plain.isascii() and plain.isalpha():
        return plain
    plain = LOOKALIKES.get(plain, "") if plain != char else ""
    name = _LETTER_NAME.search(unicodedata.name(char, ""))
    accented = unicodedata.normalize("NFD", char)[0].isascii()
    return plain or (name[1].lower() if name and not accented else char)


@lru_cache(maxsize=4096)
def _is_latin(char: str) -> bool:
    return char.isalpha() and (char.isascii() or unicodedata.name(char, "").startswith("LATIN"))


def _is_latin_text(text: str) -> bool:
    """Whether every letter is Latin, or drawn like a Latin one where some are Latin."""
    letters = {c for c in text if c.isalpha()}
    others = {c for c in letters if not _is_latin(c)}
    return len(others) < len(letters) and others <= HOMOGLYPHS.keys()
