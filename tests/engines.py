"""Engines that a worker process can load in a test: quick, deterministic, and able to die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tables import FakeRewriter

from sro_edge.errors import BundleError, ModelError
from sro_edge.job import Rewrite
from sro_edge.screener import Scores


class Toy(FakeRewriter):
    """A ``FakeRewriter`` that obeys the comments: "abort", "kill", "raise", "refuse", "exit".

    "once FILE" aborts unless FILE exists, and makes it first. ``SRO_EDGE_TOY_SECONDS`` is how long
    it screens and then rewrites a unit.
    """

    def rewrite(self, texts: Iterable[str | None]) -> Iterator[Rewrite]:
        seconds = float(os.environ.get("SRO_EDGE_TOY_SECONDS", 0))
        for stage in ("screening", "rewriting"):
            _say(stage)
            time.sleep(seconds)
        for text in texts:
            _obey(text or "")
            yield self.one(text)
        _say("idle")


def _say(stage: str) -> None:
    """Leave word of what is going on where a drill looks for it."""
    if folder := os.environ.get("SRO_EDGE_TOY_STAGE"):
        Path(folder).write_text(stage)


def _obey(text: str) -> None:
    order, _, argument = text.partition(" ")
    if order == "once" and not Path(argument).exists():
        Path(argument).touch()
        order = "abort"
    if order == "abort":
        os.abort()
    if order == "kill":
        os.kill(os.getpid(), signal.Signals[argument or "SIGKILL"])
    if order == "exit":
        os._exit(3)
    if order == "raise":
        raise ValueError("some bug")
    if order == "refuse":
        raise ModelError("llama.cpp could not decode a batch")


class ToyScreener:
    """Scores by length, and obeys the comments as ``Toy`` does."""

    identity: ClassVar = {"bundle": "fake", "threshold": 0.5}

    def score(self, texts: list[str]) -> Scores:
        """Toxicity of one part in a hundred for each letter; no fluency."""
        for text in texts:
            _obey(text)
        return Scores(np.array([len(t) / 100 for t in texts], np.float32), None, None)


def load_screener(bundle: str | None, **asked: Any) -> ToyScreener:
    """In the place of ``sro_edge.worker.load_screener``."""
    return ToyScreener()


def load(bundle: str | None = None, **asked: Any) -> Toy:
    """In the place of ``Rewriter.load``; the bundle "broken" cannot be loaded, "abort" aborts."""
    if bundle == "broken":
        raise BundleError("broken is no bundle")
    if bundle == "abort":
        os.abort()
    toy = Toy(threshold=asked.get("threshold") or 0.5)
    toy.name = bundle or toy.name
    return toy
