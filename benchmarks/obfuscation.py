"""Does disguising an insult clear it? Toxic comments that are caught plain, under each disguise.

    python benchmarks/obfuscation.py --test test.parquet --dump comments.parquet \
        --words profanity.parquet [--bundle DIR] [--toxic 500] [--cascade] [--out result.json]

The test file has the columns `text` and `label` (1 = toxic). Each disguise is put on every word of
the comment ("all") and, where the comment has one, on the words of the word list alone ("insults").
Words are run together up to four at a time, insults with the word before and behind them.
"Raw" is the same screener without its second reading; a comment is caught when it or its second
reading is, as the screener takes the higher score. Clean are the comments of the test file that are
labelled so, and a sample of the dump. With --cascade all of them also meet the screener behind its
first stage, as in a run, and "lost" counts the disguised ones that the screener alone would catch
and the first stage clears. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from sro_edge.bundle import Bundle
from sro_edge.first_stage import Cascade, load_first_stage
from sro_edge.machine import describe_machine
from sro_edge.screener import Scores, Screener, passes

Disguise = Callable[[str, random.Random], str]
Catcher = Callable[[Sequence[str]], list[bool]]
_WORD = re.compile(r"[A-Za-z]+")
# Written here, apart from the tables of the package, so that neither is fitted to the other.
_LEET = {"a": "4@", "e": "3", "i": "1!", "o": "0", "s": "5$", "t": "7", "b": "8", "g": "9"}
_CYRILLIC = dict(zip("aceopxyijs", "асеорхуіјѕ", strict=True))
_GREEK = dict(zip("aoviptkn", "αονιρτκη", strict=True))
_ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
_MARKS = [chr(c) for c in range(0x300, 0x340)]


def leet(word: str, rng: random.Random) -> str:
    """Every letter that has a digit or sign for it."""
    return "".join(rng.choice(_LEET.get(c.lower(), c)) for c in word)


def leet_vowels(word: str, rng: random.Random) -> str:
    """Digits for vowels only, as most people write it."""
    return "".join(_LEET[c.lower()][0] if c.lower() in "aeio" else c for c in word)


def cyrillic(word: str, rng: random.Random) -> str:
    """Every letter that has a Cyrillic twin."""
    return "".join(_CYRILLIC.get(c, c) for c in word)


def greek(word: str, rng: random.Random) -> str:
    """Every letter that has a Greek lookalike."""
    return "".join(_GREEK.get(c, c) for c in word)


def one_homoglyph(word: str, rng: random.Random) -> str:
    """One letter of each word by its Cyrillic twin."""
    places = [i for i, c in enumerate(word) if c in _CYRILLIC]
    return _one_letter(word, places, lambda c: _CYRILLIC[c], rng)


def zero_width(word: str, rng: random.Random) -> str:
    """An invisible character between all letters."""
    return "".join(c + rng.choice(_ZERO_WIDTH) for c in word)


def zero_width_flood(word: str, rng: random.Random) -> str:
    """Sixty invisible characters between all letters."""
    return "".join(c + rng.choice(_ZERO_WIDTH) * 60 for c in word)


def combining(word: str, rng: random.Random) -> str:
    """Eight marks on every letter."""
    return "".join(c + "".join(rng.choices(_MARKS, k=8)) for c in word)


def spaces(word: str, rng: random.Random) -> str:
    """Letters parted by spaces, words by two."""
    return " " + " ".join(word) + " " if len(word) > 1 else word


def flat_spaces(word: str, rng: random.Random) -> str:
    """Letters parted by spaces, words too."""
    return " ".join(word)


def dots(word: str, rng: random.Random) -> str:
    """Letters parted by dots."""
    return ".".join(word)


def stretch(word: str, rng: random.Random) -> str:
    """A vowel of each word five times."""
    places = [i for i, c in enumerate(word) if c.lower() in "aeiou" and len(word) > 2]
    return _one_letter(word, places, lambda c: 5 * c, rng)


def fullwidth(word: str, rng: random.Random) -> str:
    """Fullwidth letters."""
    return "".join(chr(ord(c) + 0xFEE0) for c in word)


def mathematical(word: str, rng: random.Random) -> str:
    """Bold fraktur letters."""
    return "".join(chr(0x1D586 + ord(c) - 97) for c in word.lower())


def circled(word: str, rng: random.Random) -> str:
    """Circled letters."""
    return "".join(chr(0x24D0 + ord(c) - 97) for c in word.lower())


def references(word: str, rng: random.Random) -> str:
    """HTML character references."""
    return "".join(f"&#{ord(c)};" for c in word)


def reversed_override(word: str, rng: random.Random) -> str:
    """Written backwards and shown forwards by a right-to-left override."""
    return f"\u202e{word[::-1]}\u202c"


def star(word: str, rng: random.Random) -> str:
    """A star for one vowel."""
    return _mask(word, "*", rng)


def dash(word: str, rng: random.Random) -> str:
    """A dash for one vowel."""
    return _mask(word, "-", rng)


def emoji_letter(word: str, rng: random.Random) -> str:
    """An emoji for one vowel."""
    return _mask(word, rng.choice("🌟❤💩🔥"), rng)


def stars(word: str, rng: random.Random) -> str:
    """Stars for all but the first letter and the last."""
    return word[0] + "*" * (len(word) - 2) + word[-1] if len(word) > 3 else word


def _mask(word: str, sign: str, rng: random.Random) -> str:
    """A sign for a vowel that neither begins nor ends the word."""
    places = [i for i, c in enumerate(word) if c.lower() in "aeiou" and 0 < i < len(word) - 1]
    return _one_letter(word, places, lambda c: sign, rng)


def _one_letter(
    word: str, places: Sequence[int], change: Callable[[str], str], rng: random.Random
) -> str:
    """``word`` with the letter at one of ``places``, if there are any, changed."""
    if not places:
        return word
    i = rng.choice(places)
    return word[:i] + change(word[i]) + word[i + 1 :]


DISGUISES: dict[str, Disguise] = {
    f.__name__.replace("_", " "): f
    for f in (
        leet, leet_vowels, cyrillic, one_homoglyph, greek, zero_width, zero_width_flood, combining,
        spaces, flat_spaces, dots, stretch, fullwidth, mathematical, circled, references,
        reversed_override, star, dash, emoji_letter, stars,
    )
}  # fmt: skip


def mixed(word: str, rng: random.Random) -> str:
    """Another disguise for each word."""
    return rng.choice(list(DISGUISES.values()))(word, rng)


DISGUISES["mixed"] = mixed


def run_together(phrase: str) -> str:
    """Words as one: "whatanidiot"."""
    return phrase.replace(" ", "").lower()


def hashtag(phrase: str) -> str:
    """Words as one, each capitalised: "#WhatAnIdiot"."""
    return "#" + "".join(word.capitalize() for word in phrase.split())


JOINS: dict[str, Callable[[str], str]] = {"run together": run_together, "hashtag": hashtag}


def joined(text: str, how: Callable[[str], str], words: frozenset[str] | None) -> str:
    """``text`` with its phrases, or only those around ``words``, as one word each."""
    phrase = r"[A-Za-z]+(?: [A-Za-z]+){1,3}"
    if words is not None:
        phrase = rf"(?:\b[A-Za-z]+ )?\b(?:{'|'.join(sorted(words))})\b(?: [A-Za-z]+\b)?"
    return re.sub(phrase, lambda m: how(m[0]) if " " in m[0] else m[0], text, flags=re.IGNORECASE)


def disguised(text: str, how: Disguise, words: frozenset[str] | None, seed: int) -> str:
    """``text`` with its words, or only those of ``words``, disguised."""
    rng = random.Random(seed)
    return _WORD.sub(
        lambda m: how(m[0], rng) if words is None or m[0].lower() in words else m[0], text
    )


class Screens:
    """A bundle's screener as a run has it, and without its second reading.

    Args:
        options: bundle, threshold, threads, and whether the first stage is asked too.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.bundle = Bundle.load(options.bundle)
        given = options.threshold
        self.limit = self.bundle.thresholds.toxicity if given is None else given
        self.reveal = Screener(self.bundle.screener, threads=options.threads).reveal
        plain = Screener(self.bundle.screener, threads=options.threads, deobfuscate=False)
        self.raw = _catcher(plain.score, self.limit)
        self.behind = None
        if options.cascade:
            stage = load_first_stage(self.bundle, self.limit, threads=options.threads)
            if stage is None:
                raise SystemExit(f"{self.bundle.name} has no first stage for {self.limit}")
            self.behind = _catcher(Cascade(plain, stage).score, self.limit)
        self.found = self.lost = 0  # texts caught, and those that only the first stage lets through

    def shares(self, name: str, texts: Sequence[str]) -> dict[str, float]:
        """Which share of ``texts`` is caught, by which screener."""
        alone = self._caught(texts, self.raw)
        found = {name: _share(alone), f"{name}, raw": _share(self.raw(texts))}
        if self.behind is not None:
            both = self._caught(texts, self.behind)
            found[f"{name}, cascade"] = _share(both)
            self.lost += sum(a and not b for a, b in zip(alone, both, strict=True))
            self.found += sum(alone)
        return found

    def _caught(self, texts: Sequence[str], catches: Catcher) -> list[bool]:
        pairs = zip(catches(texts), catches([self.reveal(t) for t in texts]), strict=True)
        return [a or b for a, b in pairs]


def main() -> None:
    """Score every disguise and print the table."""
    options = _options()
    screens = Screens(options)
    lexicon = pq.read_table(options.words)["term"].to_pylist()
    words = frozenset(w.lower() for w in lexicon if w.isalpha())
    rng = random.Random(options.seed)
    clean, toxic = labelled(options.test, rng)
    toxic = [t for t in toxic if len(t) <= options.longest][: 2 * options.toxic]
    toxic = [t for t, c in zip(toxic, screens.raw(toxic), strict=True) if c][: options.toxic]
    insults = [t for t in toxic if any(w.lower() in words for w in _WORD.findall(t))]
    table: dict[str, dict[str, float]] = {}
    for name, how in DISGUISES.items():
        everything = [disguised(t, how, None, i) for i, t in enumerate(toxic)]
        only = [disguised(t, how, words, i) for i, t in enumerate(insults)]
        table[name] = screens.shares("all", everything) | screens.shares("insults", only)
    for name, join in JOINS.items():
        everything = [joined(t, join, None) for t in toxic]
        only = [joined(t, join, words) for t in insults]
        table[name] = screens.shares("all", everything) | screens.shares("insults", only)
    disguises = {"caught": screens.found, "lost": screens.lost}
    dump = pq.read_table(options.dump, columns=["text"])["text"].to_pylist()
    dump = [t for t in dict.fromkeys(dump) if t and t.strip() and len(t) <= options.longest]
    bundle = screens.bundle
    result: dict[str, Any] = {
        "benchmark": "obfuscation",
        "date": time.strftime("%Y-%m-%d"),
        "bundle": {"name": bundle.name, "version": bundle.version, "threshold": screens.limit},
        "machine": describe_machine(),
        "toxic": len(toxic),
        "toxic with a listed insult": len(insults),
        "still caught": table,
        "clean": {
            "labelled clean": flagged(screens, clean[: options.clean]),
            "dump": flagged(screens, rng.sample(dump, min(options.clean, len(dump)))),
        },
    }
    if options.cascade:
        result["disguised, of all tables"] = disguises
    show(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def labelled(file: Path, rng: random.Random) -> list[list[str]]:
    """The comments of a test file with the labels 0 and 1, each shuffled."""
    data = pq.read_table(file).to_pydict()
    pools: list[list[str]] = [[], []]
    for text, label in zip(data["text"], data["label"], strict=True):
        pools[label].append(text)
    for pool in pools:
        rng.shuffle(pool)
    return pools


def flagged(screens: Screens, texts: Sequence[str]) -> dict[str, float]:
    """How many clean comments there are, and which shares are read twice and flagged."""
    twice = _share([screens.reveal(t) != t for t in texts])
    return {"comments": len(texts), "read twice": twice, **screens.shares("flagged", texts)}


def _catcher(score: Callable[[Sequence[str]], Scores], limit: float) -> Catcher:
    """Which texts do not pass; what a first stage cleared does."""
    known: dict[str, bool] = {}  # most second readings come again

    def catches(texts: Sequence[str]) -> list[bool]:
        new = [t for t in dict.fromkeys(texts) if t not in known]
        for text, toxicity in zip(new, score(new).toxicity.tolist(), strict=True):
            known[text] = not (passes(toxicity, limit) or math.isnan(toxicity))
        return [known[t] for t in texts]

    return catches


def show(result: dict[str, Any]) -> None:
    """The tables for people, on stderr."""
    console = Console(stderr=True)
    for title, rows in (
        (f"still caught, of {result['toxic']}", result["still caught"]),
        ("clean comments", result["clean"]),
    ):
        table = Table("", title=title)
        for name in next(iter(rows.values())):
            table.add_column(name, justify="right")
        for name, figures in rows.items():
            table.add_row(name, *(f"{v:.3f}" if v <= 1 else f"{v}" for v in figures.values()))
        console.print(table)
    if found := result.get("disguised, of all tables"):
        console.print(f"{found['lost']} of {found['caught']} caught ones the first stage clears")


def _share(flags: Sequence[bool]) -> float:
    return round(sum(flags) / len(flags), 4)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--dump", type=Path, required=True)
    parser.add_argument("--words", type=Path, required=True, help="word list, column `term`")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--threshold", type=float, help="default: the bundle's")
    parser.add_argument("--toxic", type=int, default=500)
    parser.add_argument("--clean", type=int, default=1000, help="comments of each kind")
    parser.add_argument("--longest", type=int, default=200, help="characters of a comment")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cascade", action="store_true", help="also behind the first stage")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
