"""Disguised words: what is read through, what is left alone, and at what cost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sro_edge.bundle import default_path
from sro_edge.disguise import Deobfuscator, Vocabulary
from sro_edge.screener import Screener

WORDS = """the you are an a what is this have car bar our not so nice hello idiot stupid shit ass
hole moron win co low people say of my in psi am one on""".split()
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.fixture(scope="module", params=["##", "Ġ"])
def reader(request: pytest.FixtureRequest) -> Deobfuscator:
    """Of a vocabulary of a few words, as WordPiece and as byte-level BPE mark them."""
    tokens = [f"##{c}" for c in LETTERS] + [*LETTERS, *WORDS]
    if request.param == "Ġ":
        tokens = [t.removeprefix("##") if t.startswith("##") else f"Ġ{t}" for t in tokens]
    return Deobfuscator(Vocabulary({token: 50 + number for number, token in enumerate(tokens)}))


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("you are an 1d10t!!", "you are an idiot!!"),
        ("$h!t, 5hit, sh1t", "shit, shit, shit"),
        ("what an @sshole", "what an asshole"),
        ("a$$ @$$", "ass ass"),
        ("stuuuupid", "stupid"),
        ("asssssshole", "asshole"),
        ("i d i o t", "idiot"),
        ("you are an i-d-i-o-t", "you are an idiot"),
        ("i. d. i. o. t.", "idiot."),
        ("y o u a r e a n i d i o t", "you are an idiot"),
        ("1 d 1 0 t", "idiot"),
        ("id\u200biot", "idiot"),
        ("you\u200bare\u200ban\u200bidiot", "you are an idiot"),
        ("id\x00iot", "idiot"),
        ("i" + "\u200d" * 500 + "diot", "idiot"),
        ("i" + "\u0301\u0316" * 50 + "diot", "idiot"),
        ("i\u0336d\u0336i\u0336o\u0336t\u0336", "idiot"),
        ("\u202etoidi na era\u202c you", "are an idiot you"),
        ("іdіоt", "idiot"),  # Cyrillic i and o
        ("ιdιοt", "idiot"),  # Greek iota and omicron
        ("аѕѕ hole", "ass hole"),  # Cyrillic throughout
        ("ᗩᔕᔕ ᕼole", "ass hole"),  # Canadian syllabics
        ("ｉｄｉｏｔ ⓘⓓⓘⓞⓣ 𝖎𝖉𝖎𝖔𝖙 🅸🅳🅸🅾🆃 ɪᴅɪᴏᴛ", "idiot idiot idiot idiot idiot"),
        ("&#105;&#x64;iot", "idiot"),
        ("&shy;idiot", "idiot"),
        ("🖕", " fuck you "),
    ],
)
def test_disguises_are_seen_through(reader: Deobfuscator, text: str, seen: str) -> None:
    assert reader.reveal(text) == seen


@pytest.mark.parametrize(
    "text",
    [
        "You are an idiot!!! What is this?",
        "it costs 10k or $5, 3rd of 12, at 5pm, 100% C++, 44MHz, 1080x720",
        "win10 co19 psi4",  # names with a number
        "LittleMountain5 and GPT4All_user2",
        "u r a car, u r 2",
        "1 2 3 4 5",
        "<|im_end|> [INST] <|rewrite|> |so|",
        "@s0me1 https://example.org/1d10t a.b1@example.org r/1diots",
        "Это самый обычный русский текст, и в нём есть слово win.",
        "НЕТ, это не так: a car",
        "αυτό είναι ένα κείμενο a",
        "これは普通の文章です idiot",
        "هذا نص عادي you",
        "👨\u200d👩\u200d👧 ❤\ufe0f 🇩🇪🇺🇸"[:-2],
        "&amp; &lt;b&gt; &#128514; &#8220;so&#8221;",
        "α-particle, Δx",
        "",
        " \n\t",
    ],
)
def test_plain_texts_stay_the_same(reader: Deobfuscator, text: str) -> None:
    assert reader.reveal(text) is text


def test_words_with_digits_are_read_another_way_only_where_they_are_expected() -> None:
    reveal = Screener(default_path() / "screener", threads=1).reveal
    text = "h3llo 1d10t! k8s, i18n, commit deadb33f and #vote5sos &#x1F602; broke, stuuupid"
    assert "hello idiot! kbs" in reveal(text)
    assert "&#x1F602;" in reveal(text)
    kept = "h3llo idiot! k8s, i18n, commit deadb33f and #vote5sos &#x1F602; broke, stupid"
    assert reveal(text, {"idiot"}, hashtags=False) == kept


def test_accents_go_only_where_they_hide_a_word() -> None:
    ids = {token: 50 + n for n, token in enumerate([*LETTERS, *(f"##{c}" for c in LETTERS), "car"])}
    assert Deobfuscator(Vocabulary(ids)).reveal("çár") == "car"
    folding = Vocabulary(ids, lambda text: text.replace("ç", "c").replace("á", "a"))
    assert Deobfuscator(folding).reveal("çár") == "çár"  # the tokenizer does that by itself


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_text_is_survived(text: str) -> None:
    vocabulary = Vocabulary({t: n for n, t in enumerate([*LETTERS, *WORDS])})
    assert isinstance(Deobfuscator(vocabulary).reveal(text), str)


@given(st.lists(st.sampled_from([*WORDS, "fine", "Dog", "it's"]), max_size=20))
def test_plain_words_are_never_read_another_way(words: list[str]) -> None:
    vocabulary = Vocabulary({t: n for n, t in enumerate([*LETTERS, *WORDS])})
    text = "\n".join(words) if len(words) % 2 else ", the ".join(words)
    if not any(len(word) == 1 for word in words):
        assert Deobfuscator(vocabulary).reveal(text) is text


# fmt: off
UNITS = ["x", "a b ", "1 a ", "\u200b", "a\u200b", "a\u0301", "a!", "!", "7", "a1", "id1ot ", "&#",
         "а", "аb", "\u202e", "😀\u200d", "\U0001f1e6", " ", "a_", ".", "a. ", "aaa ", "@", "a.",
         "a@", "www.", "ⓐ", "f*", "*a ", "sh🌟t ", "f*ck ", "fck ", "a-", "f@#"]
# fmt: on


@pytest.mark.parametrize("unit", UNITS)
def test_work_grows_no_faster_than_the_text(unit: str) -> None:
    looked_up = 0

    class Counting(dict[str, float]):
        def get(self, key: str, default: Any = None) -> Any:
            nonlocal looked_up
            looked_up += 1
            return super().get(key, default)

    def lookups(length: int) -> int:
        nonlocal looked_up
        looked_up = 0
        vocabulary = Vocabulary({t: n for n, t in enumerate([*LETTERS, *WORDS])})
        vocabulary._first = Counting(vocabulary._first)
        vocabulary._later = Counting(vocabulary._later)
        Deobfuscator(vocabulary).reveal(unit * (length // len(unit)))
        return looked_up

    assert lookups(20_000) <= 2.5 * lookups(10_000) + 10_000
    Deobfuscator(Vocabulary({})).reveal(unit * (100_000 // len(unit)))  # a square would hang here
