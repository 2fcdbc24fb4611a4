"""Words with letters masked ("sh*t", "f***ing", "h🌟te") or respelt ("fvck") -> the words meant.

A mask hides a word that everybody knows, so these words are listed here, the commonest first: of
those that fit, the first is meant. One letter behind a star or an emoji may also be any word of
the tokenizer's, or the name of a group. What fits nothing, and `*emphasis*`, stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from string import ascii_lowercase

from sro_edge.groups import NAMES
from sro_edge.signs import EMOJI

# Curses and slurs: nothing but a mask stands in such a word.
_STRONG = """
fuck shit bitch ass cunt dick pussy cock whore slut nigger nigga bastard damn fucking fucked fucker
fag faggot fucks fuckin fuckers fuckface fuckhead fuckwit motherfuck motherfucker motherfuckers
motherfucking motherfuckin clusterfuck shits shitty shitting shithead shitheads shithole shitstorm
bullshit bullshitter bullshitting dipshit horseshit batshit bitches bitchy bitching bitchass asses
asshole assholes asshat asshats jackass jackasses dumbass dumbasses smartass fatass badass arse
arses arsehole arseholes cunts dicks dickhead dickheads pussies cocks cocksucker cocksuckers
cocksucking whores whoring sluts slutty niggers niggas fags faggots faggy retard retards retarded
bastards piss pissed pissing tits titties twat twats wank wanker wankers wanking prick pricks
dyke dykes tranny trannies shemale shemales kike kikes spic spics chink chinks gook gooks
coons paki pakis raghead ragheads wetback wetbacks beaner beaners cumming cumshot goddamn goddamned
dammit douche douchebag douchebags scumbag scumbags jizz dildo bollocks bugger
""".split()
# Other words that people mask, where at least two letters of them are left.
_OTHERS = """
hell crap crappy porn penis vagina idiot idiots idiotic moron morons moronic stupid dumb loser
losers kill kills killed killing killer murder murdered rape raped rapist rapes suck sucks sucked
sucker sucking hate hates hated death dead nazi nazis hitler suicide sexy boobs blowjob skank scum
trash ugly pedo pedophile terrorist terrorists racist queer queers stab shoot
""".split()
_RESPELT = {
    "fuck": "fck fcuk fvck fuk fuq phuck phuk fucc fukk fxck",
    "fucks": "fcks fuks",
    "fucked": "fcked fuked fukked",
    "fucker": "fcker fuker fvcker fukker",
    "fuckers": "fckers fukers fukkers",
    "fucking": "fcking fuking fukin fukking fvcking fcuking phucking fkn fkin fking fookin fxcking",
    "motherfucker": "mofo muthafucka muthafucker mothafucka mothafucker mutherfucker mfer",
    "motherfuckers": "mofos muthafuckas mothafuckas mfers",
    "shit": "shyt shiit",
    "bitch": "btch biatch beeatch beotch beyotch bytch biotch",
    "bitches": "btches biatches bitchez",
    "cunt": "cvnt kunt",
    "ass": "azz",
    "asshole": "azzhole asshoe arsehoel",
    "dumbass": "dumbazz",
    "dickhead": "dikhead",
    "cocksucker": "cocksucka",
    "nigga": "nibba niqqa nicca niggah",
    "niggas": "nibbas niccas niggaz",
    "faggot": "fagot phaggot fagget fagit",
    "retard": "retrd",
    "stupid": "stoopid stupit",
    "idiot": "iidiot idjit eediot",
    "sucks": "sux",
    "shut the fuck up": "stfu",
    "get the fuck out": "gtfo",
    "kill yourself": "kys",
}
_PHRASES = {
    "what the f": "what the fuck", "who the f": "who the fuck", "why the f": "why the fuck",
    "how the f": "how the fuck", "the f up": "the fuck up", "the f out": "the fuck out",
    "f off": "fuck off", "f you": "fuck you", "f u": "fuck you", "f yourself": "fuck yourself",
    "piece of s": "piece of shit", "son of a b": "son of a bitch",
}  # fmt: skip
_MEANT = {spelling: word for word, found in _RESPELT.items() for spelling in found.split()}
_MEANT |= _PHRASES
_ALL = _STRONG + _OTHERS

_SOFT = "?_-"  # also stand between words
_MASK = rf"[*#%@${_SOFT}]|[{EMOJI}]\ufe0f?"
_INSIDE = rf"[A-Za-z]+(?:(?:{_MASK})+[A-Za-z]+)+"
_BEHIND = r"[A-Za-z]+(?:\*+[A-Za-z]+)*(?:\*[*#@%&$]+|[#@%&$]+\*[*#@%&$]*)"
_MASKED = re.compile(rf"(?<![\w*@#$%&/.-])(?:{_BEHIND}|{_INSIDE})(?![\w*/])")
_RUNS = re.compile(rf"((?:{_MASK}|&)+)")
_ONE = re.compile(rf"{_MASK}|&")
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,3})(?![\s*])[^*\n]*[^*\s]\1(?![\w*])")
_ANY_SPELLING = "|".join(sorted(_MEANT, reverse=True))
_SPELT = re.compile(rf"(?<![\w*@#/.'’-])(?:{_ANY_SPELLING})(?![\w*@#$%&/'’-])", re.I)
_LONGEST = 48  # characters of a token that is read


class Unmasker:
    """Reads masked words.

    Args:
        commonest: the commonest word of these (lower case) that a tokenizer knows, or None.
    """

    def __init__(self, commonest: Callable[[Iterable[str]], str | None]) -> None:
        self._commonest = commonest
        self._word = lru_cache(maxsize=8192)(self._read)

    def unmask(self, text: str) -> str:
        """``text`` with its masked and respelt words as they are meant."""
        if any(self._word(m[0]) != m[0] for m in _MASKED.finditer(text)):
            closing = {m.end() for m in _EMPHASIS.finditer(text)}
            text = _MASKED.sub(lambda m: m[0] if m.end() in closing else self._word(m[0]), text)
        return _SPELT.sub(lambda m: _in_case_of(m[0], _MEANT[m[0].lower()]), text)

    def _read(self, token: str) -> str:
        """The word that ``token`` masks; itself where there is none."""
        parts = _RUNS.split(token)
        letters, hidden = [part.lower() for part in parts[::2]], list(map(_hidden, parts[1::2]))
        known, inside, emoji = "".join(letters), parts[-1] != "", not token.isascii()
        if not (3 if emoji or not inside else 4) <= len(token) <= _LONGEST:
            return token
        hard = emoji or not any(mark in token for mark in _SOFT)
        word = known if inside and hard and known in _ALL else None  # one too many: "f*uck"
        word = word or _fitting(letters, hidden, _ALL if hard and len(known) > 1 else _STRONG)
        if not word and inside and hard and len(known) > 2:  # "f*ing"
            word = _fitting(letters, [(1, most + 2) for _, most in hidden], _STRONG)
        star = emoji or set("".join(parts[1::2])) == {"*"}
        if not word and inside and star and hidden == [(1, 1)] and len(known) > 1:
            words = [letters[0] + between + letters[1] for between in ascii_lowercase]
            word = next((w for w in words if w in NAMES), None) or self._commonest(words)
        return _in_case_of("".join(parts[::2]), word) if word else token


def _hidden(run: str) -> tuple[int, int]:
    """How many letters a run of marks hides, at least and at most: one each, but different marks
    ("f@#%k") hide any number."""
    count = len(_ONE.findall(run))
    return (1, count + 1) if len(set(run) - {"\ufe0f"}) > 1 else (count, count)


def _fitting(
    letters: Sequence[str], hidden: Sequence[tuple[int, int]], words: Sequence[str]
) -> str | None:
    """The first of ``words`` that has these letters and so many, at least and at most, between."""
    gaps = [f"[a-z]{{{least},{most}}}" for least, most in hidden]
    fits = re.compile("".join(map("".join, zip(letters, [*gaps, ""], strict=True)))).fullmatch
    return next((word for word in words if fits(word)), None)


def _in_case_of(given: str, word: str) -> str:
    if given.isupper() and len(given) > 1:
        return word.upper()
    return word.capitalize() if given[0].isupper() else word
