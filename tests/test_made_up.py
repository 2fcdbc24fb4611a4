"""Words that are neither the comment's nor English."""

from __future__ import annotations

import pytest

from sro_edge.disguise import Vocabulary
from sro_edge.made_up import makes_up

WORDS = frozenset("honest annoyed wise thought plan you are kind".split())


@pytest.mark.parametrize(
    ("answer", "made_up"),
    [
        ("you are blorpy", True),
        ("you are kindblorp", True),
        ("You are DISHONEST", False),
        ("you annoy, unwisely", False),
        ("thoughtless plans", False),
        ("ok 4ever, plan-b", False),
        ("you are Schmidt", False),
        ("", False),
    ],
)
def test_forms_of_known_words_and_the_comments_own_are_not_made_up(
    answer: str, made_up: bool
) -> None:
    assert makes_up(answer, "schmidt is 4ever bad", WORDS.__contains__) == made_up


def test_a_small_vocabulary_knows_every_word() -> None:
    some = {"blue": 0, "##lorp": 1}
    assert Vocabulary(some).has("blorp")
    large = Vocabulary(some | {f"w{n}": n for n in range(15_000)})
    assert (large.has("blue"), large.has("lorp"), large.has("blorp")) == (True, False, False)
