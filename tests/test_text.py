"""Text handling: spans, what must survive, letter case, guards, deletion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sro_edge.prompt import SMALL_TEMPLATE, PromptTemplate, recase
from sro_edge.quotations import quoted
from sro_edge.segments import protected, sentences, windows
from sro_edge.signs import read_out


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
    assert protected("an @sshole, id\u200diot") == []
    assert protected("no way82.41.107.97, 1.2.3.4.5 and 1.2.3") == ["82.41.107.97"]
    assert protected("ok 👩\u200d🚀❤\ufe0f!") == ["👩\u200d🚀❤\ufe0f"]


@pytest.mark.parametrize(
    "unit",
    ["a", "a.", "@", "@a", "www.", "http://", "r/", "❤", "'", '"', "“", "'a ", "-", "1.", "1:"],
)
def test_patterns_are_linear(unit: str) -> None:
    text = unit * (400_000 // len(unit))  # a square would hang here
    protected(text)
    quoted(text)
    sentences(text)
    read_out(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Great 👍🏿👍🏾!", "Great (thumbs up) !"),
        ("a😂😂b 🖤 🇫🇷🇫🇷", "a (with tears of joy) b (heart) (flag)"),
        ("no 🤷\u200d♀\ufe0f, ok ❤\ufe0f", "no (shrug) , ok (heart)"),
        ("a→b", "a → b"),
        ("ab" * 70 + " " + "c" * 64, f"{'ab' * 32} {'ab' * 32} {'ab' * 6} {'c' * 64}"),
        ("thanks. 212.23.28.149", "thanks."),
        ("kill82.41.107.97", "kill"),
        ("2001:db8:85a3::8a2e:370:7334 said", "said"),
        ("at 14:32:05, 1.2.3.4.5 or v2.0.1 é", "at 14:32:05, 1.2.3.4.5 or v2.0.1 é"),
    ],
)
def test_what_a_screener_reads(text: str, expected: str) -> None:
    assert " ".join(read_out(text).split()) == expected


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


def test_leaks_are_what_the_comment_did_not_say() -> None:
    chat = PromptTemplate(
        prefix="<|im_start|>user\nRewrite the comment politely:\n",
        suffix="<|im_end|>\n<|im_start|>assistant\n",
    )
    assert chat.leaks("fine <|im_end|>", "bad")
    assert chat.leaks("fine </s>", "bad")
    assert chat.leaks("REWRITE the comment politely: fine", "bad")
    assert not chat.leaks("fine, the user said", "bad")
    assert not chat.leaks("a <|im_end|> b", "a <|im_end|> b, idiot")


def test_a_template_needs_a_suffix() -> None:
    with pytest.raises(ValueError, match="suffix"):
        PromptTemplate(prefix="<s>", suffix="")
