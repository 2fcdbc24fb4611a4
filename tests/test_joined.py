"""Words run together: which are parted, and which are words of their own."""

from __future__ import annotations

import pytest

from sro_edge.bundle import default_path
from sro_edge.joined import Parter
from sro_edge.screener import Screener

COMMON = """
a an am and are at be by country day dies dog every everyone go going has he idiots im in is it
i like load lol make man men must nobody not now of on open own run she so song such team thank that
thanks the there they this to too town trade tree us want wants was we what who will with woman
world worst would you your back send them yourself music shuttle counter again party media
""".split()


@pytest.fixture(scope="module")
def parter() -> Parter:
    costs = dict.fromkeys(COMMON, 4.0)
    return Parter(costs.get, lambda word: word in costs)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("youareanidiot", "you are an idiot"),
        ("so youareanidiot, lol", "so you are an idiot, lol"),
        ("YouFuckingMoron!", "You Fucking Moron!"),
        ("stupidbitch and fuckyou", "stupid bitch and fuck you"),
        ("ihateyou, imgoingtokillyou", "i hate you, im going to kill you"),
        ("killallmen, go killyourself", "kill all men, go kill yourself"),
        ("#KillYourself", "Kill Yourself"),
        ("#killyourself", "kill yourself"),
        ("#SendThemBack #AllGaysMustDie", "Send Them Back All Gays Must Die"),
        ("#NoMoreFags2", "No More Fags 2"),
        ("#send_them_back", "send them back"),
        ("#NotNow" + "AndNotToday" * 5, "Not Now" + " And Not Today" * 5),
    ],
)
def test_words_run_together_are_parted(parter: Parter, text: str, meant: str) -> None:
    assert parter.part(text, hashtags=True) == meant


@pytest.mark.parametrize(
    "text",
    [
        "shitload, shuttlecock, stupidly, idiotically and retardants",
        "thankyou and makemusic, run killall",  # no insult
        "whattheworldlikes #maga #POTUS #now",
        "you/areanidiot @youareanidiot youareanidiot.com #",
        "https://example.com/#fuckyou &#39; &#x27;",
        "#cee3f8 #00cbec #deadbeef #123",
        "i" + "hateyou" * 9,  # too long
        "#NotNow" + "AndNotToday" * 13,
        "",
    ],
)
def test_other_words_stay(parter: Parter, text: str) -> None:
    assert parter.part(text, hashtags=True) == text


def test_other_hashtags_and_given_words_stay_where_asked(parter: Parter) -> None:
    text = "#ThankYou #KillYourself stupidbitch dumbfuck"
    found = parter.part(text, hashtags=False, whole={"stupidbitch"})
    assert found == "#ThankYou Kill Yourself stupidbitch dumb fuck"


def test_a_small_vocabulary_parts_nothing() -> None:
    parter = Parter({"you": 1.0, "idiot": 1.0}.get, lambda word: True)
    assert parter.part("youidiot", hashtags=True) == "youidiot"


@pytest.fixture(scope="module")
def screener() -> Screener:
    return Screener(default_path() / "screener", threads=1, device="cpu")


def test_the_screener_reads_hashtags_and_the_rewriter_keeps_them(screener: Screener) -> None:
    text = "what a game #allgaysmustdie youareanidiot"
    assert screener.reveal(text) == "what a game all gays must die you are an idiot"
    kept = screener.reveal(text, hashtags=False)
    assert kept == "what a game #allgaysmustdie you are an idiot"
    given = screener.score(["what a game #AllGaysMustDie", "what a game #ThankYouAll"])
    assert given.toxicity[0] > 0.5 > given.toxicity[1]


@pytest.mark.parametrize(
    "text",
    ["Dumbledore was infatuated", "a clusterfuck, a shitshow", "assuring, assuage, grandfathered"],
)
def test_words_that_hide_others_are_read_as_they_stand(screener: Screener, text: str) -> None:
    assert screener.reveal(text) == text
