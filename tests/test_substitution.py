"""Milder words at inference: what is proposed, how it is spelled, how little is screened."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sro_edge.bundle import Thresholds
from sro_edge.guards import tidy
from sro_edge.mild_words import Table
from sro_edge.screener import Scores
from sro_edge.substitution import Substitution

LIMITS = Thresholds(0.5, 0.3, 0.2)
TABLE: Table = {
    ("numpty",): [("person",), ("unwise", "person")],
    ("is", "a", "numpty"): [("is", "unwise")],
    ("git",): [("fellow",), ("rascal",)],
    ("blooming",): [(), ("very",)],
    ("doesn't", "give", "a", "hoot"): [("doesn't", "care")],
    ("bother",): [("i", "mind")],
    ("expert",): [("so", "-", "called", "one")],
    ("git", "fancies"): [("fellow", "fancies")],
}


class Alarms:
    """Toxic by the rude words left; 'rascal' reads best, 'fellow' worse, all else the same."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def score(self, texts: Sequence[str]) -> Scores:
        self.asked.append(list(texts))
        rude = [sum(w in t.lower() for w in ("numpty", "git", "plonker")) for t in texts]
        toxicity = np.array([0.05 + 0.9 * bool(n) for n in rude], np.float32)
        fluency = [0.9 if "rascal" in t else 0.5 if "fellow" in t else 0.7 for t in texts]
        embedding = np.ones((len(texts), 2), np.float32) / np.sqrt(2, dtype=np.float32)
        return Scores(toxicity, np.array(fluency, np.float32), embedding)


def found(text: str) -> list[str]:
    said = Substitution(TABLE, LIMITS).candidates([text], Alarms().score)[text]
    return [tidy(one, text) for one in said]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("What a numpty!", ["What a person!", "What an unwise person!"]),
        ("he is a  numpty , really", ["he is unwise , really"]),
        ("NUMPTY, go  home", ["PERSON, go  home", "UNWISE PERSON, go  home", "Go  home"]),
        ("You blooming git, go home", ["Go home"]),
        ("go home, you  git!", ["go home!"]),
        ("a blooming  shame", ["a shame", "a very  shame"]),
        ("said so, blooming, twice", ["said so, twice", "said so, very, twice"]),
        ("the **blooming git** left", ["the **fellow** left", "the **rascal** left"]),
        ("he doesn’t give a hoot", ["he doesn't care"]),
        ("Yes, bother this", ["Yes, I mind this"]),
        ("yes, bother what i said", ["yes, i mind what i said"]),
        ("a git-like, numpty-ish, git_1 #git", []),
        ("those numptys' and a numpty' car", []),
        ("the expert", ["the so-called one"]),
        ("nothing of the kind", []),
    ],
)
def test_the_rest_of_a_text_stays_as_it_is(text: str, said: list[str]) -> None:
    assert set(said) <= set(found(text))
    assert bool(said) == bool(found(text))


def test_only_phrases_without_function_words_are_left_out_unasked() -> None:
    assert "he , really" not in found("he is a numpty , really")  # "is a numpty"
    assert "the left" in found("the git left")
    assert "a shame" in found("a blooming shame")  # as the table says


def test_it_is_told_which_candidates_have_words_in_every_place() -> None:
    said = Substitution(TABLE, LIMITS).candidates(["that git, a blooming git"], Alarms().score)
    candidates = said["that git, a blooming git"].items()
    reworded = {text for text, worded in candidates if worded.everywhere}
    assert "that rascal, a very rascal" in reworded
    assert "that rascal, a rascal" in said["that git, a blooming git"]
    assert all("very" in text and text.count(" ") == 4 for text in reworded)


def test_it_is_told_which_candidates_have_what_the_table_has_for_a_phrase() -> None:
    def as_written(text: str) -> list[str]:
        said = Substitution(TABLE, LIMITS).candidates([text], Alarms().score)[text]
        return [candidate for candidate, worded in said.items() if worded.as_written]

    assert as_written("he doesn't give a hoot, the git") == [
        f"he doesn't care, the {word}" for word in ("fellow", "rascal")
    ]
    assert as_written("off, you git") == ["off"]
    assert as_written("the git left") == []  # single words are written for no sentence
    assert as_written("the git fancies himself") == ["the fellow fancies himself"]


def test_combinations_are_predicted_and_few_are_screened() -> None:
    text = "that git, your numpty of a git and the git here"
    screener = Alarms()
    said = Substitution(TABLE, LIMITS).candidates([text], screener.score)[text]
    assert "that rascal, your person of a rascal and the rascal here" in said
    singles, combinations = (len(asked) - 1 for asked in screener.asked)
    assert (singles, combinations) == (1 + 1 + 1 + 1 + 2, 4)  # thrice nothing would leave a hole


def test_texts_with_very_many_phrases_are_left_to_the_others() -> None:
    assert found("git " * 6 + "home")
    assert found("git " * 7 + "home") == []
