"""Which milder phrases fit between the words around a toxic one."""

from __future__ import annotations

import pytest

from sro_edge.fitting import Fitting, fitting
from sro_edge.mild_words import Finder, Table
from sro_edge.segments import words

TABLE: Table = {
    ("dim",): [("unwise",), ("not", "smart"), ()],
    ("a", "git"): [("unpleasant",), ("an", "unpleasant", "person")],
    ("a", "ninny"): [("not", "smart"), ("a", "beginner")],
    ("git",): [("person",), ()],
    ("gits",): [("people",), ("those", "who", "err"), ()],
    ("you", "git"): [("you",)],
    ("stinks",): [("is", "bad"), ()],
    ("of", "it"): [()],
    ("gives", "a", "hoot"): [("cares",)],
    ("you", "liar"): [("you",), ("you", "are", "not", "honest")],
    ("hop", "it"): [("leave", "me", "alone"), ("go", "away")],
}


def fit(text: str) -> list[Fitting]:
    tokens = words(text)
    return list(fitting(Finder(TABLE).find(tokens), tokens, TABLE))


@pytest.mark.parametrize(
    ("text", "toxic", "said"),
    [
        ("he is dim, really", "dim", ["unwise", "not smart"]),
        ("that dim dog", "dim", ["unwise", ""]),
        ("the most dim plan", "dim", ["unwise", "not smart"]),
        ("he's too dim to see", "dim", ["unwise", "not smart"]),
        ("he is dim and rude", "dim", ["unwise", "not smart"]),
        ("dim plans", "dim", ["unwise", "not smart", ""]),
        ("sick of these gits", "gits", ["people", "those who err"]),
        ("a club of gits if you ask", "gits", ["people", "those who err"]),
        ("the gits left", "gits", ["people", "those who err", ""]),
        ("the gits who left", "gits", ["people"]),
        ("he is a git who lies", "a git", ["an unpleasant person"]),
        ("he is a git and he lies", "a git", ["unpleasant", "an unpleasant person"]),
        ("a git move", "a git", ["an unpleasant person"]),
        ("he drives like a git", "a git", ["an unpleasant person"]),
        ("only a git would", "a git", ["an unpleasant person"]),
        ("he is a ninny", "a ninny", ["not smart", "a beginner"]),
        ("only a ninny would", "a ninny", ["a beginner"]),
        ("that git left", "git", ["person"]),
        ("those gits left", "gits", ["people", "those who err"]),
        ("he is a lazy git and he lies", "git", ["person"]),
        ("my lazy git friend", "git", ["person", ""]),
        ("nobody gives a hoot what he says", "gives a hoot", ["cares"]),
        ("so you liar", "you liar", ["you", "you are not honest"]),
        ("you liar should go", "you liar", ["you"]),
        ("now hop it", "hop it", ["leave me alone", "go away"]),
        ("he told me to hop it", "hop it", ["go away"]),
    ],
)
def test_what_fits(text: str, toxic: str, said: list[str]) -> None:
    (found,) = fit(text)
    assert " ".join(found.toxic) == toxic
    assert found.toxic == tuple(words(text)[found.place])
    assert [" ".join(phrase) for phrase in found.milder] == said
    assert not found.address


def test_of_words_side_by_side_the_last_waits_for_what_stands_before_the_first() -> None:
    dim, git, *later = fit("he is your dim git, the dim git left")
    assert dim.milder == [("unwise",), ()]
    assert git.milder == [("person",)]
    assert [f.milder for f in later] == [[("unwise",), ()], [("person",), ()]]


def test_a_phrase_for_which_nothing_fits_is_left_to_others() -> None:
    assert fit("the most of it of of it") == []
    assert [f.milder for f in fit("none of it left")] == [[()]]


@pytest.mark.parametrize(
    ("text", "address", "milder"),
    [
        ("bye, you dim git!", "you dim git", [()]),
        ("you git, go home", "you git", [(), ("you",)]),
        ("no, u git, no", "u git", [()]),
        ("you git!", None, []),  # nothing else is said
        ("you git go home", None, []),
        ("thank you git", None, []),
        ("bye, you and the git", None, []),
        ("you stinks, man", None, []),  # a verb is no name
    ],
)
def test_an_insult_that_only_addresses_somebody_takes_its_you_along(
    text: str, address: str | None, milder: list[tuple[str, ...]]
) -> None:
    told = [f for f in fit(text) if f.address]
    assert [" ".join(f.toxic) for f in told] == ([address] if address else [])
    assert [f.milder for f in told] == ([milder] if address else [])
