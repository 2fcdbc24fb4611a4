"""Small stand-ins for the engine's two models, and an engine made of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sro_edge.bundle import Bundle, Sampling, Thresholds
from sro_edge.detoxifier import Candidate, Request
from sro_edge.job import Rewrite
from sro_edge.mild_words import Table
from sro_edge.prompt import SMALL_TEMPLATE
from sro_edge.rewriter import Rewriter
from sro_edge.screener import Scores

RUDE = {"idiot": 2.0, "stupid": 2.0}


class WordScreener:
    """Toxic where a rude word stands; 'odd' is unfluent; texts about cats mean something else.

    'Harsh' is nearly toxic, 'flat' less fluent than other words, and 'blorp' no word.
    """

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def reveal(
        self, text: str, expected: Collection[str] | None = None, *, hashtags: bool = True
    ) -> str:
        assert expected is None or "idiot" in expected
        return text.replace("1d10t", "idiot")

    def knows(self, word: str) -> bool:
        return "blorp" not in word

    def score(self, texts: Sequence[str]) -> Scores:
        self.calls.append(list(texts))
        rude = [any(w in self.reveal(t).lower() for w in RUDE) for t in texts]
        embedding = [
            (0.0, 1.0) if "cat" in t else (0.8, 0.6) if "mouse" in t.lower() else (1.0, 0.0)
            for t in texts
        ]
        return Scores(
            toxicity=np.array(
                [
                    0.9 if r else 0.4 if "harsh" in t else 0.1
                    for r, t in zip(rude, texts, strict=True)
                ],
                np.float32,
            ),
            fluency=np.array(
                [
                    0.1
                    if "odd" in t or t == "zz"
                    else 0.5
                    if t == "hm"
                    else 0.75
                    if "flat" in t
                    else 0.9
                    for t in texts
                ],
                np.float32,
            ),
            embedding=np.array(embedding, np.float32).reshape(len(texts), 2),
        )


class Scripted:
    """Answers by a function of (prompt, greedy?)."""

    deterministic = False

    def __init__(self, answer: Callable[[str, bool], list[str]]) -> None:
        self.answer = answer
        self.requests: list[Request] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[Request, list[Candidate]]]:
        for request in requests:
            self.requests.append(request)
            texts = self.answer(request.prompt, request.temperature == 0)
            yield request, [Candidate(t, len(t.split()), True) for t in texts]


class StubBundle(Bundle):
    mild: Table = {}  # noqa: RUF012

    def lexicon(self) -> dict[str, float]:
        return RUDE

    def mild_words(self) -> Table:
        return self.mild


def rewriter(
    answer: Callable[[str, bool], list[str]], mild: Table | None = None, **options: Any
) -> Rewriter:
    kind = type("Stub", (StubBundle,), {"mild": mild or {}})
    bundle = kind(
        path=Path("nowhere"),
        name="stub",
        version="0",
        license="Apache-2.0",
        prompt=SMALL_TEMPLATE,
        thresholds=Thresholds(0.5, 0.6, 0.2),
        sampling=Sampling(samples=4),
        files={},
    )
    screener: Any = WordScreener()
    detoxifier: Any = Scripted(answer)
    return Rewriter(bundle, screener, detoxifier, **options)


def one(text: str, answer: Callable[[str, bool], list[str]], **options: Any) -> Rewrite:
    return next(rewriter(answer, **options).rewrite([text]))
