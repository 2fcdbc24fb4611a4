"""What a candidate may change, and what it must not: pairs of comment and answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sro_edge.guards import is_degenerate, is_refusal, keeps_quotes, numbers, survives, tidy
from sro_edge.negation import keeps_negation


def test_empty_echoing_and_looping_answers() -> None:
    assert is_degenerate("", "a")
    assert is_degenerate("?!", "a")
    assert is_degenerate("Same Words", "same  words")
    assert is_degenerate("so so so so so so", "fine")
    assert not is_degenerate("other words", "same words")


def test_stumps_of_words() -> None:
    assert is_degenerate("mail me, mor", "mail me, moron")
    assert not is_degenerate("he like you", "he likes you, idiot")
    assert not is_degenerate("that is stupid", "that is stupidity")


@pytest.mark.parametrize(
    ("answer", "comment", "expected"),
    [
        ("he is an joke", "he is an idiot", "he is a joke"),
        ("an man of honour", "an idiot", "a man of honour"),
        ("A awful plan", "A stupid plan", "An awful plan"),
        ("an hour, a user, a unicorn", "idiot", "an hour, a user, a unicorn"),
        ("buy an united jersey, moron", "you buy an united jersey", "buy an united jersey, moron"),
    ],
)
def test_articles_agree_with_new_words(answer: str, comment: str, expected: str) -> None:
    assert tidy(answer, comment) == expected


def test_refusals() -> None:
    assert is_refusal("I'm sorry, but no", "you fool")
    assert not is_refusal("i'm sorry, but no", "i'm sorry, but you are a fool")


def test_left_over_separators_go() -> None:
    assert tidy(", did you try it,", "dumbass, did you try it, moron?") == "did you try it?"
    assert tidy("did you try it, ?", "did you try it, dumbass ?") == "did you try it?"
    assert tidy("that is so .", "that is so stupid .") == "that is so ."
    assert tidy("fine...", "stupid.") == "fine..."
    assert tidy("well - ,", "well - , idiot") == "well"
    assert tidy("so &#8230;", "so stupid &#8230;") == "so &#8230;"
    assert tidy("so &#8230", "so stupid &#8230;") == "so &#8230;"
    assert tidy("a" + " -" * 200_000 + "x", "b") == "a" + " -" * 200_000 + "x"  # no trap


KEPT = [
    ("idiot see 3 of http://a.org/b", "see 3 of http://a.org/b"),
    ("Très bien, idiot", "très bien"),
    ("ask @bob, you idiot", "ask @bob"),
    # numbers, number words, dates
    ("he paid 1,000 for 2 of that crap", "he paid 1000 for two of those"),
    ("5pm on Tuesday, you moron", "5pm on tuesday"),
    ("the deadline was 2024-05-01, stupid", "the deadline was 2024-05-01"),
    ("one stupid idea", "a bad idea"),
    # quotations
    ('he said "not today", the idiot', "he said “not today”"),
    ("she yelled 'get out', stupid cow", "she yelled 'Get out'"),
    ("run `rm -rf` again, idiot", "run `rm -rf` again"),
    # entities and hashtags
    ("you &amp; that bitch &#128514;", "you &amp; that woman &#128514;"),
    ("go home #stupidest", "go home"),
    # names of groups
    ("women, stupid women, and Jews", "a woman, and the jewish"),
    ("that bitch", "that woman"),
]
LOST = [
    ("see 3", "see 4"),
    ("see 3", "see"),
    ("see", "see 3"),
    ("see @someone", "see it"),
    ("see https://a.org/b you idiot", "see https://a.org"),
    ("mail a@b.org, idiot", "mail a@c.org"),
    ("thanks 👍", "thanks"),
    ("très bien, idiot", "tr\ufffds bien"),
    ("two of those idiots", "three of those people"),
    ("a hundred idiots", "a thousand people"),
    ("it costs $5, idiot", "it costs €5"),
    ("5% of them are idiots", "5 of them are wrong"),
    ("come at 5pm, idiot", "come at 5am"),
    ("due on Tuesday, moron", "due on Friday"),
    ("due 2024-05-01, moron", "due 2024-05-02"),
    ("on 3 May, stupid", "on 4 May"),
    ("it is -5 outside, idiot", "it is 5 outside"),
    ("get an mp3, idiot", "get an mp4"),
    ('he said "not today", the idiot', 'he said "not now"'),
    ('he said "not today", the idiot', "he left"),
    ("he said “not today”, the idiot", "he said not today"),
    ("she yelled 'get out', stupid cow", "she yelled 'come in'"),
    ("he left, the idiot", 'he "left"'),
    ("run `rm -rf` again, idiot", "run it again"),
    ("you &amp; that bitch &#128514;", "you &amp; that woman &#128514"),
    ("what a game #fuckthisteam", "what a game # pieceiteam"),
    ("you &amp; that bitch", "you and that woman"),
    ("go on #vote5sos, idiots", "go on #votessos"),
    ("#trumptards", "#trump supporters"),
    ("they legalize gay marriage, idiots", "they legalize marriage"),
    ("I hate stupid black people", "I hate stupid black"),
    ("I hate black stupid people", "I hate black"),
    ("block those dumb Muslims", "block those people"),
]


@pytest.mark.parametrize(("comment", "answer"), KEPT)
def test_what_may_change(comment: str, answer: str) -> None:
    assert survives(answer, comment)


@pytest.mark.parametrize(("comment", "answer"), LOST)
def test_what_must_not_change(comment: str, answer: str) -> None:
    assert not survives(answer, comment)


SAME = [
    ("you are not smart, you idiot", "you are not smart"),
    ("you do not have a stupid clue", "you have no clue"),
    ("i don't give a damn about him", "i do not care about him"),
    ("can not believe this crap", "can't believe this"),
    ("dont be so stupid", "do not be so silly"),
    ("he never did crap for us", "he never did anything for us"),
    ("no one cares, idiot", "nobody cares"),
    ("he left without his idiot friend", "he left without his friend"),
    # a new word may be negated
    ("he is stupid", "he is not smart"),
    ("that's a dumb idea", "that is not a good idea"),
    ("stop being an ass", "do not be rude"),
    # a clause goes and takes its negation along
    ("he is dumb and does not know crap", "he is dumb"),
    ("he is not stupid, he is evil", "he is evil"),
    ("no, you are an idiot", "you are wrong"),
    # no negation at all
    ("you're nothing but a liar", "you're a liar"),
]
FLIPPED = [
    ("this is not true, moron", "this is true"),
    ("this isn't true, moron", "this is true"),
    ("he isn’t right, the idiot", "he is right"),
    ("he does not like you, idiot", "he likes you"),
    ("i can't stand that cow", "i can stand her"),
    ("you cant fix it, idiot", "you can fix it"),
    ("never trust these morons", "trust these people"),
    ("i would never vote for that moron", "i would vote for that man"),
    ("there is no stupid way", "there is a way"),
    ("none of you idiots can read", "you can read"),
    ("nobody likes your stupid face", "somebody likes your face"),
    ("he left without his stupid friend", "he left with his friend"),
    ("neither of the idiots came", "both of the men came"),
    ("you are not an idiot", "you are wrong"),
    ("you are not an idiot", "you are not smart"),
    ("don't be an idiot", "don't be not smart"),
    ("i'm such a dumbass", "i'm such a very smart person"),
    ("is it on, dumbass?", "is it on, not smart?"),
    ("that is not a stupid idea", "that is an idea"),
    ("not all of them are stupid", "all of them are silly"),
    # and the other way
    ("he likes you, idiot", "he does not like you"),
    ("he is right, you idiot", "he isn't right"),
    ("the idiots came on time", "the people never came on time"),
    ("he came with his stupid friend", "he came without his friend"),
]


@pytest.mark.parametrize(("comment", "answer"), SAME)
def test_negation_is_kept(comment: str, answer: str) -> None:
    assert keeps_negation(answer, comment)


@pytest.mark.parametrize(("comment", "answer"), FLIPPED)
def test_negation_is_flipped(comment: str, answer: str) -> None:
    assert not keeps_negation(answer, comment)


@given(st.text(max_size=400))
@settings(deadline=None)
def test_a_text_keeps_what_is_in_it(text: str) -> None:
    assert survives(text, text)


@given(st.text(max_size=200), st.text(max_size=200))
@settings(deadline=None)
def test_any_pair_is_judged(comment: str, answer: str) -> None:
    assert keeps_negation(answer, comment) in (True, False)
    assert keeps_quotes(answer, comment) in (True, False)
    assert (numbers(comment) == numbers(answer)) or not survives(answer, comment)
