"""Words run together ("youareanidiot", "#KillYourself") -> the words.

For a screener a hashtag is parted whatever it says. For a rewriter, and any other word for both,
only where one of its parts is an insult, and the others are a sentence around it or another insult:
"shitload" and "shuttlecock" stay.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache

from sro_edge.groups import NAMES

_HASHTAG = re.compile(r"(?<![\w&/#])#(?![\da-fA-F]{3,8}\b)(?=\w*[A-Za-z]{2})\w{4,140}(?!\w)")
_HUMPS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")  # "AllDogsBark2" -> All, Dogs, Bark, 2
_LONG = re.compile(r"(?<![\w@#/.&'’-])[A-Za-z]{7,48}(?![\w@/'’-]|\.\w)")
_SHORTEST = 7  # letters of words run together: "potus" and "maga" are words of their own
_LONGEST = 16  # letters of one word
_SPACE = 0.5  # cost of one more word, in nats as those of words
_RARE = 9.6  # cost of a word that is listed here, and no entry of the vocabulary
_PLURAL = 1.0  # cost of an "s" behind an entry
_COMMON = math.log(12_000)  # highest cost of an entry of three letters: rarer ones are no words

# Other entries of a vocabulary that are as short are parts of words and abbreviations.
_SHORT = frozenset(
    """
a i u an as at be by do go he hi if in is it me my no of oh ok on or so to up us we ur ya yo im
""".split()
)
_NEVER_LAST = frozenset(
    """
a able ally ant ants ed en er ers ery est hood in ing ion ions ish ism ist ists ity less ness ship
ted ter tier ties tin ting
""".split()
)
_INSULTS = frozenset(
    """
fuck fucks fucked fucker fuckers fucking fuckin shit shits shitty bitch bitches cunt cunts whore
whores slut sluts nigger niggers nigga niggas fags faggot faggots retard retards retarded asshole
assholes dumbass dumbasses dickhead dickheads bastard bastards motherfucker motherfuckers bullshit
idiot idiots idiotic moron morons moronic stupid loser losers kike kikes tranny trannies douchebag
scumbag scumbags pedophile pedophiles
""".split()
)
_WORSE_TOGETHER = frozenset("kill kills hate hates suck sucks ugly rape dead".split())
_BESIDE = frozenset(
    """
a all and ass bloody crazy damn dirty dumb fat filthy gtfo her him his lazy little lying me my off
old omg over stfu that the their them these they this those u up ur we what wtf you your yourself
""".split()
)
_PEOPLE = NAMES | frozenset(  # not "all", as in the command killall
    "he her him i me men my she them they u us we women you your yourself".split()
)
_LISTED = NAMES | _INSULTS | _WORSE_TOGETHER | _BESIDE
_STEMS = (
    "asshole", "bastard", "bitch", "bullshit", "cunt", "dead", "dickhead", "douche", "dumbass",
    "fag", "fuck", "hate", "idiot", "kike", "kill", "loser", "moron", "nigg", "pedophile", "rape",
    "retard", "scumbag", "shit", "slut", "stupid", "suck", "tranny", "trannies", "ugly", "whore",
)  # fmt: skip


class Parter:
    """Parts words that are run together.

    Args:
        cost: how rare a word in lower case is, in nats; None where a tokenizer has it not as one.
        known: whether a word in lower case is one that people write, or there is no telling.
    """

    def __init__(self, cost: Callable[[str], float | None], known: Callable[[str], bool]) -> None:
        self._cost, self._known = cost, known
        self._word = lru_cache(maxsize=8192)(self._read_word)
        self._tag = lru_cache(maxsize=1024)(self._read_tag)

    def part(self, text: str, *, hashtags: bool, whole: Collection[str] = ()) -> str:
        """``text`` with its joined words as separate ones.

        Args:
            text: any text.
            hashtags: part all of these, and not only insults.
            whole: words in lower case that stay as they are.
        """
        if "#" in text:
            text = _HASHTAG.sub(lambda m: self._tag(m[0], hashtags), text)
        letters = text.lower()
        if any(stem in letters for stem in _STEMS):
            text = _LONG.sub(lambda m: m[0] if m[0].lower() in whole else self._word(m[0]), text)
        return text

    def _read_tag(self, tag: str, every: bool) -> str:
        """The words of a hashtag, of every one or only of insults; itself where it is one word."""
        found = [part for hump in _HUMPS.findall(tag) for part in self._parts(hump)]
        return " ".join(found) if len(found) > 1 and (every or _insults(found)) else tag

    def _read_word(self, word: str) -> str:
        """The words of a joined insult; itself where it is none."""
        parts = self._parts(word)
        return " ".join(parts) if _insults(parts) else word

    def _parts(self, word: str) -> list[str]:
        """The likeliest whole words that make up ``word``; itself alone where none do."""
        letters = word.lower()
        if len(letters) < _SHORTEST or not letters.isalpha() or self._known(letters):
            return [word]
        best: list[tuple[float, int]] = [(0.0, 0)]  # cost, where the last word begins
        for end in range(1, len(letters) + 1):
            found = (math.inf, end)
            for start in range(max(0, end - _LONGEST), end):
                before = best[start][0] + _SPACE
                if before < found[0]:
                    cost = self._part_cost(letters[start:end], start, end == len(letters))
                    found = min(found, (before + cost, start))
            best.append(found)
        if math.isinf(best[-1][0]):
            return [word]
        parts, end = [], len(word)
        while end:
            start = best[end][1]
            parts.append(word[start:end])
            end = start
        return parts[::-1]

    def _part_cost(self, part: str, start: int, last: bool) -> float:
        """Of a word that begins at ``start``; infinite where nobody would write it there."""
        if len(part) < 3 and part not in _SHORT:
            return math.inf
        if start and (part == "i" or (part == "u" and not last)):
            return math.inf
        if start and last and part in _NEVER_LAST:
            return math.inf
        cost = self._cost(part)
        if cost is not None and (len(part) > 3 or cost < _COMMON):
            return cost
        if part in _LISTED:
            return _RARE
        stem = self._cost(part[:-1]) if part[-1] == "s" and len(part) > 3 else None
        return math.inf if stem is None else stem + _PLURAL


def _insults(parts: Sequence[str]) -> bool:
    """Whether words that were run together are an insult."""
    lower = {part.lower() for part in parts}
    enough = len(parts) > 2 or (len(parts) == 2 and lower <= _INSULTS | _BESIDE)
    return bool((enough and lower & _INSULTS) or (lower & _WORSE_TOGETHER and lower & _PEOPLE))
