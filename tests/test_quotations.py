"""What is quoted, what may be left out of it, and what the engine makes of toxic quotations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import one, rewriter

from sro_edge.guards import keeps_quotes, survives
from sro_edge.mild_words import Table
from sro_edge.quotations import (
    OMITTED,
    cuts_quotation,
    omits_only,
    quoted,
    quoted_spans,
    same_quotations,
)
from sro_edge.segments import Span, sentences

MILD: Table = {
    ("idiot",): [("person",)],
    ("stupid",): [("unwise",)],
    ("your", "stupid"): [("your",)],
}


def test_quotations() -> None:
    text = (
        """He said "no way", ‘don’t go’, «oui», 'that's it' and `x = 1`; 6" isn't 'cause y'all's"""
    )
    assert quoted(text) == ["no way", "don’t go", "oui", "that's it", "x = 1"]
    assert quoted("it 's the dogs' bowl, rock 'n' roll") == ["n"]
    assert quoted("called me a '[...]', 'you [...]'") == ["[...]", "you [...]"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"All of it is said so."', []),
        ('"  You call it ""vandalism"", and\nthen ""no"" .  "', ["vandalism", "no"]),
        ('"One." "Two."', ["One.", "Two."]),
        ('he said ""no"" and ""yes""', ["no", "yes"]),
        ('"', []),
        ('""', []),
    ],
)
def test_marks_around_a_whole_text_quote_nothing(text: str, expected: list[str]) -> None:
    assert quoted(text) == expected
    assert [span.of(text).strip('" ') for span in quoted_spans(text)] == expected


@pytest.mark.parametrize(
    ("said", "whole", "only"),
    [
        ("you [...], go home", "you idiot, go home", True),
        ("[...], go [...]", "you idiot, go home", True),
        ("[...]", "you idiot", True),
        ("you [...] idiot", "you idiot", False),  # nothing is left out
        ("you [...], go home now", "you idiot, go home", False),
        ("you fool, go [...]", "you idiot, go home", False),
        ("[...] home, go [...]", "you idiot, go home", False),
        ("you idiot", "you idiot", True),
        ("you [...] me, [...]", "you [...] me, idiot", True),
    ],
)
def test_what_is_left_out(said: str, whole: str, only: bool) -> None:
    assert omits_only(said, whole) is only


@given(st.lists(st.sampled_from(["a", "bb", "a b", ","]), min_size=1), st.data())
def test_words_left_out_anywhere_are_left_out(words: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.integers(0, len(words) - 1)))
    said = " ".join(OMITTED if i in gone else word for i, word in enumerate(words))
    assert omits_only(said, " ".join(words))
    assert not omits_only(f"{said} more", " ".join(words))


def test_a_quotation_may_lose_words_and_get_none() -> None:
    text = 'He said "you idiot" and "no".'
    for answer, kept in [
        ('"No" and "you idiot", he said.', True),
        ('He said "you [...]" and "no".', True),
        ('He said "you" and "no".', False),
        ('He said "you person" and "no".', False),
        ('He said "no" and "you [...]".', False),  # in another order
        ('He said "you [...]".', False),
    ]:
        assert keeps_quotes(answer, text) is kept, answer
    assert not same_quotations(["a [...]"], ["a b", "c"])


def test_an_omission_flips_no_negation() -> None:
    assert survives('Nobody wants "your [...] face here".', 'Nobody wants "your dull face here".')


def test_a_sentence_may_cut_a_quotation() -> None:
    text = 'He said "you idiot. Go home" and "no". Then he left.'
    assert [cuts_quotation(text, span) for span in sentences(text)] == [True, True, False]
    assert not cuts_quotation(text, Span(0, len(text)))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('He called me a "stupid idiot" again.', 'He called me a "[...]" again.'),
        ('He said "hide your stupid face" to you idiot.', 'He said "hide your [...] face" to you.'),
        ('He said "you idiot. Go home" and left.', 'He said "you [...]. Go home" and left.'),
        ('"Get out, idiot!" he said.', '"Get out, [...]!" he said.'),
        ('"Idiot!" he said.', '"[...]!" he said.'),
        ("He said 'you idiot' to me.", "He said 'you [...]' to me."),
        ('"An idiot."', '"A person."'),  # marks around the whole of it
    ],
)
def test_what_a_quotation_must_not_say_is_left_out_and_marked(text: str, left: str) -> None:
    table = MILD | {("you", "idiot"): [("you",)]}
    found = one(text, lambda p, greedy: ["a cat"], mild=table)
    assert (found.text, found.status) == (left, "rewritten")
    assert found.engine == ("delete" if OMITTED in left else "substitute")
    whole = one(text, lambda p, greedy: ["a cat"], mild=table, delete=False)
    assert whole.status == ("unresolved" if OMITTED in left else "rewritten")


def test_what_keeps_a_quotation_whole_is_better() -> None:
    found = one('an idiot said "no idiot"', lambda p, greedy: ['a man said "no"'], mild=MILD)
    assert found.text == 'a person said "no [...]"'
    assert one('"so" an idiot', lambda p, greedy: ['"so" a man'], mild=MILD).engine == "greedy"


def test_the_policys_words_never_stand_in_a_quotation() -> None:
    engine = rewriter(lambda prompt, greedy: ["you fine man."], mild=MILD)
    found = next(engine.rewrite(['He said "you idiot. Go home" and left.']))
    assert found.text == 'He said "you [...]. Go home" and left.'
