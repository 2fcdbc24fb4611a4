"""Milder words: the table, what fits where, and the rewrites that a search finds with them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sro_edge.errors import InputError
from sro_edge.guards import survives
from sro_edge.mild_words import Finder, read_mild
from sro_edge.segments import words
from sro_edge.training.insults import substitutes
from sro_edge.training.ngrams import Trigrams
from sro_edge.training.noise import ToxicNoise
from sro_edge.training.rewording import Rewording

TABLE = {
    ("moron",): [("person",), ("unwise", "person")],
    ("morons",): [("people",)],
    ("give", "a", "damn"): [("care",)],
    ("stupid",): [("unwise",), ("bad",)],
    ("damn",): [()],
}
CLEAN = [
    "what kind of person puts it there?",
    "this kind of person is rare.",
    "it is a bad idea.",
    "that was a bad idea, they said.",
    "they do not care about it.",
] * 30


def table_file(folder: Path, text: str) -> Path:
    file = folder / "mild.tsv"
    file.write_text(text, "utf-8")
    return file


def test_the_table_is_read(tmp_path: Path) -> None:
    file = table_file(tmp_path, "# by hand\n\ngive a damn\tcare|mind it\nDamn\t-|very\n")
    assert read_mild(file) == {
        ("give", "a", "damn"): [("care",), ("mind", "it")],
        ("damn",): [(), ("very",)],
    }


@pytest.mark.parametrize(
    "line", ["moron person", "\tperson", "moron\t", "moron\tperson||fool", "a\tb\tc", "Damn\tso"]
)
def test_a_line_that_is_no_phrase_with_milder_ones_is_named(tmp_path: Path, line: str) -> None:
    file = table_file(tmp_path, f"damn\t-\n{line}\n")
    with pytest.raises(InputError, match="line 2"):
        read_mild(file)


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no line"):
        read_mild(table_file(tmp_path, "# nothing\n"))


def test_the_embedded_recipe_has_a_table_that_reads() -> None:
    table = read_mild(Path(__file__).parent.parent / "recipes/mild_words.tsv")
    assert len(table) > 300
    finder = Finder(table)
    found = [mild for milder in table.values() for mild in milder if finder.find(mild)]
    assert not found, "what is milder is itself to be replaced"
    dead = [
        phrase
        for phrase, milder in table.items()
        if not any(survives(" ".join(mild), " ".join(phrase)) for mild in milder)
    ]
    assert not dead, "no guard lets any of these milder phrases pass"


def test_the_embedded_bundle_has_this_table() -> None:
    root = Path(__file__).parent.parent
    embedded = root / "sro_edge/default_bundle/mild_words.tsv"
    assert embedded.read_bytes() == (root / "recipes/mild_words.tsv").read_bytes()


def test_longer_phrases_go_first_and_none_overlap() -> None:
    tokens = words("damn, they give a damn")
    assert Finder(TABLE).find(tokens) == [
        (slice(0, 1), ("damn",)),
        (slice(3, 6), ("give", "a", "damn")),
    ]


def test_either_apostrophe_finds_a_phrase() -> None:
    known = ("don't", "care")
    assert [found.phrase for found in Finder([known]).find(words("I don’t care"))] == [known]


def test_a_phrase_that_stands_for_many_insults_is_taken_before_a_common_one() -> None:
    clean = ["these people care"] * 500 + ["an unwise idea"]
    found = substitutes(TABLE, ["a stupid moron", "stupid morons"] * 10, clean)
    assert found[("unwise",)].toxic == (("stupid",),)
    assert found[("people",)].pull < found[("unwise",)].pull == 1.0
    assert () not in found


def test_noise_says_a_phrase_in_the_toxic_way() -> None:
    found = substitutes(TABLE, ["stupid"], [])
    noise = ToxicNoise(["a stupid idea"], {"stupid": 2.0}, found)
    made = {noise.corrupt("it is an unwise idea", random.Random(i)) for i in range(40)}
    assert "it is a stupid idea" in made


def test_a_trigram_that_is_never_met_speaks_against_an_edit() -> None:
    clean = Trigrams(CLEAN)
    old = words("what kind of moron puts it there?")
    assert clean.fit(old, words("what kind of person puts it there?")) == 0
    assert clean.fit(old, words("what kind of puts it there?")) < -0.5
    assert clean.fit(old, old) == 0


def test_nothing_is_said_of_words_that_are_not_known() -> None:
    clean = Trigrams(CLEAN)
    assert clean.gain(["zyx", "person"]).tolist()[:2] == [0, 0]


def test_the_search_takes_what_fits() -> None:
    search = Rewording(TABLE, ["scum"], Trigrams(CLEAN))
    assert search.propose("What kind of moron  puts it there?")[0] == (
        "what kind of person puts it there?"
    )
    assert search.propose("It is a stupid idea.")[0] == "it is a bad idea."
    assert "it is an unwise idea." in search.propose("It is a stupid idea.")
    assert search.propose("they do not give a damn about it")[0] == "they do not care about it"
    assert "it is bad" not in search.propose("it is scum")
    assert search.propose("it is fine") == []


def test_only_the_comments_words_and_the_tables_are_allowed() -> None:
    allowed = Rewording(TABLE, [], Trigrams(CLEAN)).allowed("that moron left")
    assert {"that", "left", "person", "unwise", "the"} <= allowed
    assert "guy" not in allowed
