"""Lanes: contexts side by side answer as one does, and nothing is left when a run is given up."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sro_edge.detoxifier import Detoxifier, Request
from sro_edge.errors import ModelError
from sro_edge.export.gguf_types import convert_gguf
from sro_edge.lanes import _Race
from sro_edge.llama import Context
from sro_edge.prompt import SMALL_TEMPLATE

WORDS = ["what a moron you are", "this is silly", "an idiot with a really bad idea !", "thanks"]
REQUESTS = [
    Request(n, f"{WORDS[n % 4]} {n}", 1 + n % 5, temperature=n % 2, max_new_tokens=4 + n % 9)
    for n in range(60)
]


def engine(path: Path, **settings: Any) -> Detoxifier:
    defaults = {"threads": 3, "slots": 24, "max_prompt_tokens": 100, "max_new_tokens": 24}
    return Detoxifier(path, SMALL_TEMPLATE, device="cpu", **defaults | settings)


def answers(model: Detoxifier, requests: list[Request]) -> dict[Any, list[str]]:
    return {r.key: [c.text for c in candidates] for r, candidates in model.generate(requests)}


def lanes() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("lane")]


def test_slots_by_default(tiny_gguf: Path, tmp_path: Path) -> None:
    convert_gguf(tiny_gguf, tmp_path / "f16.gguf", "f16")
    for path, slots in ((tiny_gguf, 96), (tmp_path / "f16.gguf", 48)):
        with engine(path, slots=None) as model:
            assert model.slots == slots


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> dict[Context, list[int]]:
    """The threads of every step, by context."""
    seen: dict[Context, list[int]] = {}
    decode = Context.decode

    def noted(self: Context) -> Any:
        seen.setdefault(self, []).append(self.threads)
        return decode(self)

    monkeypatch.setattr(Context, "decode", noted)
    return seen


def test_lanes_answer_as_one_context_does(
    tiny_gguf: Path, decoded: dict[Context, list[int]]
) -> None:
    with engine(tiny_gguf, threads=1) as one:
        alone = answers(one, REQUESTS)
        assert len(decoded) == 1
    decoded.clear()
    with engine(tiny_gguf) as three:
        assert answers(three, REQUESTS) == alone
        assert len(decoded) == 3  # every lane had work
        assert answers(three, REQUESTS[:1]) == {0: alone[0]}
    assert lanes() == []


def test_a_large_model_has_one_context(
    tiny_gguf: Path, decoded: dict[Context, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sro_edge.detoxifier._SMALL", 1)
    with engine(tiny_gguf, slots=None) as large:
        assert large.slots == 32
        answers(large, REQUESTS)
    assert [set(threads) for threads in decoded.values()] == [{3}]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 3),
        ({"slots": 16}, 2),
        ({"slots": 7}, 1),
        ({"threads": 16, "slots": None}, 8),
        ({"threads": 2, "slots": None}, 2),
        ({"deterministic": True}, 1),
    ],
)
def test_a_lane_has_a_thread_and_eight_slots_at_least(
    tiny_gguf: Path, settings: dict[str, Any], expected: int
) -> None:
    with engine(tiny_gguf, **settings) as model:
        assert len(model._flights) == expected
        assert sum(len(flight._slots) for flight in model._flights) == model.slots


def test_one_answer_alone_has_all_threads(
    tiny_gguf: Path, decoded: dict[Context, list[int]]
) -> None:
    with engine(tiny_gguf) as model:
        answers(model, REQUESTS[:1])
    assert {n for steps in decoded.values() for n in steps} == {3}


def test_idle_lanes_lend_their_threads(tiny_gguf: Path) -> None:
    with engine(tiny_gguf) as model:
        race = _Race(model._flights, 3)
        contexts = [flight.context for flight in model._flights]
        loads = [(0, 4), (2, 1), (2, 2), (1, 1), (0, 0), (2, 0)]
        shares = []
        for lane, load in loads:
            race._note(lane, load)
            busy = [n for n, load in enumerate(race._loads) if load]
            shares.append([contexts[n].threads for n in busy])
    assert shares == [[3], [2, 1], [2, 1], [1, 1, 1], [2, 1], [3]]


def test_requests_are_read_in_the_callers_thread_as_slots_fall_free(tiny_gguf: Path) -> None:
    taken = []

    def source() -> Iterator[Request]:
        while True:
            taken.append(threading.current_thread())
            yield Request(len(taken), WORDS[len(taken) % 4], max_new_tokens=2)

    with engine(tiny_gguf) as model:
        stream = model.generate(source())
        for done in range(1, 100):
            next(stream)
            assert len(taken) <= done + model.slots + 3
        stream.close()
        assert set(taken) == {threading.main_thread()}
        assert lanes() == []
        assert len(answers(model, REQUESTS)) == len(REQUESTS)


def test_what_stops_a_lane_stops_the_run(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(tiny_gguf) as model:
        whole = answers(model, REQUESTS)

        def refuse() -> Any:
            raise ModelError("no memory")

        with monkeypatch.context() as patch:
            patch.setattr(model._flights[1].context, "decode", refuse)
            with pytest.raises(ModelError, match="no memory"):
                answers(model, REQUESTS)
        assert lanes() == []
        assert answers(model, REQUESTS) == whole


@pytest.mark.parametrize("threads", [1, 3])
def test_an_engine_may_be_closed_in_the_middle_of_a_run(tiny_gguf: Path, threads: int) -> None:
    model = engine(tiny_gguf, threads=threads)
    stream = model.generate(REQUESTS)
    next(stream)
    model.close()
    assert lanes() == []
    with pytest.raises(RuntimeError, match="closed before the last answer"):
        list(stream)


def test_an_engine_may_be_closed_by_another_thread(tiny_gguf: Path) -> None:
    model = engine(tiny_gguf)
    later = threading.Timer(0.05, model.close)
    later.start()
    with pytest.raises(RuntimeError, match="closed before the last answer"):
        for _ in model.generate(itertools.cycle(REQUESTS)):
            pass
    later.join()
    assert lanes() == []


def test_what_stops_the_caller_stops_the_lanes(tiny_gguf: Path) -> None:
    def source() -> Iterator[Request]:
        yield from REQUESTS[:9]
        raise OSError("the disk is gone")

    with engine(tiny_gguf) as model:
        with pytest.raises(OSError, match="the disk is gone"):
            list(model.generate(source()))
        assert lanes() == []
        assert len(answers(model, REQUESTS)) == len(REQUESTS)
