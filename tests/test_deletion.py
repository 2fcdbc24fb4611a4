"""The last resort: which deletions are looked at, and how many are screened."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sro_edge.bundle import Thresholds
from sro_edge.deletion import clauses, delete_words, deletions
from sro_edge.score_cache import ScoreCache
from sro_edge.screener import Scores

LIMITS = Thresholds(0.5, 0.3, 0.2)
RUDE = {"plonker": 4.0, "git": 4.0, "numpty": 4.0}


class Alarms:
    """Toxicity by how many rude words stand; words of a text lost make it less similar."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def score(self, texts: Sequence[str]) -> Scores:
        self.seen += texts
        words = [text.lower().split() for text in texts]
        alarm = [-3 + sum(RUDE.get(word.strip(".,!"), 0) for word in some) for some in words]
        embedding = np.zeros((len(texts), 64), np.float32)
        for row, some in enumerate(words):
            embedding[row, : len(some) or 1] = 1
        embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
        toxicity = 1 / (1 + np.exp(-np.array(alarm, np.float32)))
        return Scores(toxicity, np.full(len(texts), 0.9, np.float32), embedding)


def found(text: str, lexicon: dict[str, float] | None = None) -> dict[str, float]:
    return deletions([text], lexicon or {}, Alarms().score, LIMITS)[text]


def test_words_outside_the_lexicon_are_found_by_their_effect() -> None:
    text = "you git, bring me that blue book back you utter plonker and numpty"
    clean = "you bring me that blue book back you utter and"
    assert clean in found(text)
    assert text not in found(text)


def test_clauses_go_as_a_whole() -> None:
    assert "Look at his face." in found("He is an utter git, look at his face.")
    assert "He tries." in found("He tries, what a plonker.")
    parts = clauses("you git and I hope you learn".split())
    assert parts == [{0, 1, 2}, {2, 3, 4, 5, 6}]  # "and" goes with either
    assert clauses("one clause alone".split()) == []
    assert clauses("a, b, c, d, e, f, g".split()) == []  # a list


def test_words_that_tell_nothing_are_not_all_that_goes() -> None:
    def score(texts: Sequence[str]) -> Scores:
        alarm = [0.9 if "you're" in text else 0.1 for text in texts]
        return Scores(np.array(alarm, np.float32), None, None)

    tried = deletions(["you're a waste of oxygen"], {}, score, LIMITS).popitem()[1]
    assert "a waste of oxygen" not in tried
    assert "you're a waste of" in tried


def test_the_lexicon_is_tried_first_and_combined_with_others() -> None:
    tried = found("you utter plonker Bob, and git", {"utter": 2.0, "git": 2.0})
    assert next(iter(tried)) == "you plonker Bob, and"
    assert "you Bob, and" in tried
    assert list(found("word " * 50 + "git", {"git": 2.0})) == [("word " * 50).strip()]
    assert found("git", {"git": 2.0}) == {}
    assert found("") == {}


def test_harmless_words_are_missed() -> None:
    tried = found("bring the blue book you git", {"git": 2.0})
    assert tried["bring the blue book you"] == 1
    assert tried["bring the book you git"] == pytest.approx(0.8)
    assert found("He tries, what a plonker.")["He tries."] == pytest.approx(0.8)  # a clause is one
    named = deletions(["so dim a book"], {}, Alarms().score, LIMITS, toxic={"dim"})
    assert named["so dim a book"]["so a book"] == 1


def test_few_of_all_deletions_are_screened_and_none_twice() -> None:
    words = [f"w{n}" for n in range(28)]
    words[5], words[20] = "git", "plonker"
    texts = [" ".join(words), " ".join(reversed(words))]
    screener = Alarms()
    tried = deletions(texts, {}, ScoreCache(screener).score, LIMITS)  # type: ignore[arg-type]
    assert len(screener.seen) == len(set(screener.seen)) <= 2 * (1 + 28 + 8)
    for text in texts:
        kept = " ".join(word for word in text.split() if word not in RUDE)
        assert kept in tried[text]


def test_screeners_with_toxicity_alone_will_do() -> None:
    def score(texts: Sequence[str]) -> Scores:
        return Scores(Alarms().score(texts).toxicity, None, None)

    assert "you and Bob" in deletions(["you git and plonker Bob"], {}, score, LIMITS).popitem()[1]


def test_deletion_tidies_up() -> None:
    lexicon = {"stupid": 2.0, "f*ck": 2.0}
    assert delete_words("what a Stupid , stupid f*ck plan !", lexicon) == "what a, plan!"
    assert delete_words("nothing  here", lexicon) == "nothing  here"
    assert delete_words("#stupid is as #stupidity does", lexicon) == "is as #stupidity does"
