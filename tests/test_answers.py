"""Units asked for ahead: what the models are asked is what they would be asked one at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from sro_edge import answers
from sro_edge.answers import Answers
from sro_edge.columns import Row
from sro_edge.errors import EngineError
from sro_edge.formats import Comment


class Asked:
    """An annotator that fails for good over "bad", once over "shy", and notes what happens."""

    command = "rewrite"

    def __init__(self) -> None:
        self.events: list[tuple[str, tuple[str | None, ...]]] = []
        self.shy = True
        self.life = 0  # a failure ends the process, and all that was begun in it

    def begin(self, texts: Sequence[str | None]) -> Callable[[], list[Row]]:
        asked, life = tuple(texts), self.life
        self.events.append(("begin", asked))

        def wait() -> list[Row]:
            assert life == self.life
            self.events.append(("wait", asked))
            if "bad" in asked or ("shy" in asked and self.shy):
                self.shy = self.shy and "shy" not in asked
                self.life += 1
                raise EngineError("broken")
            return [Row("clean", None, (text,)) for text in asked]

        return wait

    def lost(self, text: str | None) -> Row:
        return Row("unresolved", "error", (text,))

    @property
    def waited(self) -> list[tuple[str | None, ...]]:
        return [asked for event, asked in self.events if event == "wait"]


def units(*rows: str) -> list[list[Comment]]:
    return [[Comment(text) for text in row.split()] for row in rows]


def test_a_unit_is_begun_before_the_one_before_it_is_waited_for() -> None:
    models = Asked()
    found = Answers(models, print).give(units("a b a", "b c", "c a"))  # type: ignore[arg-type]
    assert next(found)[1] == [Row("clean", None, (text,)) for text in "aba"]
    assert models.events == [("begin", ("a", "b")), ("begin", ("c",)), ("wait", ("a", "b"))]
    assert [[row.values[0] for row in rows] for _, rows in found] == [["b", "c"], ["c", "a"]]
    assert models.waited == [("a", "b"), ("c",)]  # the third holds nothing new


@pytest.mark.parametrize("seed", range(20))
def test_asked_as_if_nobody_asked_ahead(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """With failures, a full cache and comments too long for it: same requests, same rows."""
    monkeypatch.setattr(answers, "MOST_COMMENTS", 6)
    monkeypatch.setattr(answers, "LONGEST", 3)
    rng = random.Random(seed)
    words = [*"abcdefghij", "long one", "long two", "bad", "shy"]
    given = [[Comment(rng.choice(words)) for _ in range(rng.randint(1, 5))] for _ in range(30)]
    ahead, one_by_one = Asked(), Asked()
    found = list(Answers(ahead, lambda _: None).give(given))  # type: ignore[arg-type]
    slow = Answers(one_by_one, lambda _: None)  # type: ignore[arg-type]
    assert found == [pair for unit in given for pair in slow.give([unit])]
    assert ahead.waited == one_by_one.waited
    assert [unit for unit, _ in found] == given
    assert any(row.reason for _, rows in found for row in rows)
