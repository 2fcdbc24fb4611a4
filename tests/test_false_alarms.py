"""Clean sentences of general text that words alone, or a screener, take for toxic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sro_edge.training import false_alarms as module
from sro_edge.training.config import ScreenerConfig
from sro_edge.training.false_alarms import SOURCE, false_alarms, own_alarms
from sro_edge.training.piles import Labelled
from sro_edge.training.screener_rows import make_rows

LABELLED = Labelled(
    [f"kill him now {i}" for i in range(30)] + [f"thank you so much {i}" for i in range(30)],
    [1] * 30 + [0] * 30,
    ["s"] * 60,
)


def names_are_toxic(texts: Sequence[str]) -> np.ndarray:
    return np.array([0.9 if "Sai" in t else 0.6 if "Moe" in t else 0.1 for t in texts])


def test_what_words_alone_make_look_toxic_is_found_in_general_text() -> None:
    plain = ["how do i kill a process?", "thank you all", "how do i kill a process?"]
    assert false_alarms(LABELLED, plain, 5) == ["how do i kill a process?"]
    assert false_alarms(LABELLED, plain, 0) == []
    assert false_alarms(LABELLED, [], 5) == []


def test_what_a_screener_flags_without_a_toxic_word_is_found_the_surest_first() -> None:
    plain = ["thank you Moe", "thank you Sai", "thank you all", "kill Sai now", "thank you Sai"]
    found = own_alarms(LABELLED, plain, 5, names_are_toxic, 0.5)
    assert found == ["thank you Sai", "thank you Moe"]
    assert own_alarms(LABELLED, plain, 1, names_are_toxic, 0.5) == ["thank you Sai"]
    assert own_alarms(LABELLED, plain, 5, names_are_toxic, 0.7) == ["thank you Sai"]
    assert own_alarms(LABELLED, ["kill Sai now"], 5, names_are_toxic, 0.5) == []


def test_a_screener_is_asked_about_a_sample_of_long_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ASKED", 3)
    asked: list[str] = []

    def screener(texts: Sequence[str]) -> np.ndarray:
        asked.extend(texts)
        return np.ones(len(texts))

    found = own_alarms(LABELLED, [f"thank you {i}" for i in range(9)], 9, screener, 0.5)
    assert len(asked) == 3
    assert sorted(found) == sorted(asked)


def test_a_false_alarm_corrects_what_an_earlier_screener_says() -> None:
    train = Labelled(["thank you Sai", "so kind of you"], [0, 0], [SOURCE, "s"])
    rows = make_rows(train, [], ScreenerConfig(), 0)
    assert {row.text: row.corrects for row in rows} == {
        "thank you Sai": True,
        "so kind of you": False,
    }
