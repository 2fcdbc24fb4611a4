"""Masked and respelt words: which word is meant, and what is no mask."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sro_edge.bundle import default_path
from sro_edge.masks import Unmasker
from sro_edge.screener import Screener

COMMON = ("star", "stir", "whatever", "they", "love", "live", "beast")


def unmask(text: str) -> str:
    return Unmasker(lambda words: next((w for w in COMMON if w in set(words)), None)).unmask(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("sh*t, s**t and sh**", "shit, shit and shit"),
        ("F*CK, F**k, f***", "FUCK, Fuck, fuck"),
        ("f***ing, f**kin and f*ing", "fucking, fuckin and fucking"),
        ("an a**hole, an a**", "an asshole, an ass"),
        ("m*therf***er", "motherfucker"),
        ("id*ot, m*ron, r*t*rd", "idiot, moron, retard"),
        ("f*uck, nig*ger", "fuck, nigger"),
        ("f*%#, sh#t, b@stard, a$$hole, f%ck", "fuck, shit, bastard, asshole, fuck"),
        ("what the F@#%k, s#@$t", "what the Fuck, shit"),
        ("f_ck f-ck f--k f?ck", "fuck fuck fuck fuck"),
        ("sh🌟t, f❤️g, n💩gger", "shit, fag, nigger"),
        ("l🌟ve, st*r, wh*tever", "love, star, whatever"),
        ("M*slims, J🌟ws and g🌟y men", "Muslims, Jews and gay men"),
        ("**bold** f*** you", "**bold** fuck you"),
        ("FCK you, stfu", "FUCK you, shut the fuck up"),
        ("F off! What the f is it?", "Fuck off! What the fuck is it?"),
    ],
)
def test_masked_words_are_read(text: str, meant: str) -> None:
    assert unmask(text) == meant


@pytest.mark.parametrize(
    "text",
    [
        "*sigh* that **is** it, ***you***",
        "**what a** week",
        "see foo*bar, 5*3, a*b, p*s, d*s and *.txt",
        "char *p; int **pp; x_y_z; C#; a@b; $HOME",
        "price** and you*",
        "x-ray, t-shirt, e-mail, so-called, is_it",
        "why?because, 100%sure",
        "I love it❤️thanks, so❤️you",
        "f*qxzk and q***",
        "a/fck/b, #stfu, @fvck, fck-you.com",
        "****",
        "f off-axis is the f/stop, f(x) and the f-word",
    ],
)
def test_what_is_no_mask_stays(text: str) -> None:
    assert unmask(text) == text


@given(st.text("af*🌟- _@u", max_size=40))
def test_words_beside_a_mask_stay(text: str) -> None:
    read = unmask(f"we all {text} see them")
    assert read.startswith("we all ")
    assert read.endswith(" see them")


def test_the_embedded_screener_sees_through_masks() -> None:
    screener = Screener(default_path() / "screener", threads=1, device="cpu")
    masked = ["you are a wh*re", "what a f***ing id*ot", "sh🌟t", "b*tch please", "fck you"]
    clean = ["st*r wars is on", "*sigh* that's it", "I l❤️ve this t-shirt", "a*b is 5*3"]
    limit = 0.38
    assert (screener.score(masked).toxicity > limit).all()
    assert (screener.score(clean).toxicity < limit).all()
    link = "see https://example.org/f-ck/sh*t and @f_ck"
    assert screener.reveal(link) == link
