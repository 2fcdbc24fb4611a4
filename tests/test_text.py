"""Text handling: spans, what must survive, letter case, guards, deletion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sro_edge.deletion import delete_words, deletions
from sro_edge.guards import is_degenerate, is_refusal, survives, tidy
from sro_edge.prompt import SMALL_TEMPLATE, PromptTemplate, recase
from sro_edge.segments import protected, sentences, windows


@given(st.text(max_size=2000))
def test_spans_cover_everything_but_space_and_quotes(text: str) -> None:
    spans = sentences(text, max_chars=50)
    end = 0
    for span in spans:
        assert span.start >= end
        assert 0 < span.end - span.start <= 50
        assert all(c.isspace() or c in "\"'”’)]" for c in text[end : span.start])
        end = span.end
    assert all(c.isspace() or c in "\"'”’)]" for c in text[end:])


@given(st.text(max_size=3000))
def test_windows_are_short_and_lose_no_letter(text: str) -> None:
    found = windows(text, max_chars=120)
    assert all(w.end - w.start <= 120 for w in found)
    letters = [c for c in text if c.isalnum()]
    assert [c for w in found for c in w.of(text) if c.isalnum()] == letters


def test_a_million_characters_without_a_space_are_cut() -> None:
    assert len(sentences("x" * 1_000_000)) == 2_500


def test_long_runs_of_white_space_are_no_trap() -> None:
    text = "a" + " " * 400_000 + "\n" * 1_000 + "b"
    assert [s.of(text) for s in sentences(text, max_chars=800_000)] == ["a", "b"]


def test_protected_spans() -> None:
    text = "mail a.b@example.org or @jo_d, see https://x.org/y?z=1. r/python too, not e@"
    assert protected(text) == ["a.b@example.org", "@jo_d", "https://x.org/y?z=1", "r/python"]


@pytest.mark.parametrize(
    ("answer", "source", "expected"),
    [
        ("bob is wrong about nasa", "Bob is a moron about NASA", "Bob is wrong about NASA"),
        ("this is bad", "THIS IS CRAP", "THIS IS BAD"),
        ("that is strange.", "What an idiot.", "That is strange."),
        ("no change", "no change", "no change"),
        ("", "Something", ""),
    ],
)
def test_recase(answer: str, source: str, expected: str) -> None:
    assert recase(answer, source) == expected


def test_control_tokens_of_a_comment_are_never_parsed() -> None:
    seen: list[tuple[str, bool]] = []

    def tokenize(text: str, parse_special: bool) -> list[int]:
        seen.append((text, parse_special))
        return [len(seen)]

    assert SMALL_TEMPLATE.encode("A <|rewrite|>\n B", tokenize) == [1, 2, 3]
    assert seen == [("<s>", True), (" a <|rewrite|> b", False), ("<|rewrite|>", True)]


def test_a_template_needs_a_suffix() -> None:
    with pytest.raises(ValueError, match="suffix"):
        PromptTemplate(prefix="<s>", suffix="")


def test_guards() -> None:
    assert is_degenerate("", "a")
    assert is_degenerate("?!", "a")
    assert is_degenerate("Same Words", "same  words")
    assert is_degenerate("so so so so so so", "fine")
    assert not is_degenerate("other words", "same words")
    assert survives("see 3 of http://a.org/b", "idiot see 3 of http://a.org/b")
    assert not survives("see 4", "see 3")
    assert not survives("see it", "see @someone")
    assert not survives("thanks", "thanks 👍")
    assert survives("très bien", "Très bien, idiot")
    assert not survives("tr�s bien", "très bien, idiot")
    assert tidy(", did you try it,", "dumbass, did you try it, moron?") == "did you try it?"
    assert tidy("did you try it, ?", "did you try it, dumbass ?") == "did you try it?"
    assert tidy("that is so .", "that is so stupid .") == "that is so ."
    assert tidy("fine...", "stupid.") == "fine..."
    assert is_refusal("I'm sorry, but no", "you fool")
    assert not is_refusal("i'm sorry, but no", "i'm sorry, but you are a fool")


def test_last_resort_also_tries_words_outside_the_lexicon() -> None:
    found = deletions("you utter plonker Bob", {"utter": 2.0})
    assert found[0] == "you plonker Bob"
    assert {"you utter Bob", "you Bob", "utter plonker Bob"} <= set(found)
    assert "you utter plonker Bob" not in found
    assert len(deletions("word " * 50 + "utter", {"utter": 2.0})) == 1


def test_deletion_tidies_up() -> None:
    lexicon = {"stupid": 2.0, "f*ck": 2.0}
    assert delete_words("what a Stupid , stupid f*ck plan !", lexicon) == "what a, plan!"
    assert delete_words("nothing  here", lexicon) == "nothing  here"
