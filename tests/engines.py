"""Engines that a worker process can load in a test: quick, deterministic, and able to die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tables import FakeRewriter

from sro_edge.errors import BundleError, ModelError
from sro_edge.rewriter import Rewrite


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
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "exit":
        os._exit(3)
    if order == "raise":
        raise ValueError("some bug")
    if order == "refuse":
        raise ModelError("llama.cpp could not decode a batch")


def load(bundle: str | None = None, **asked: Any) -> Toy:
    """In the place of ``Rewriter.load``; the bundle "broken" cannot be loaded, "abort" aborts."""
    if bundle == "broken":
        raise BundleError("broken is no bundle")
    if bundle == "abort":
        os.abort()
    toy = Toy(threshold=asked.get("threshold") or 0.5)
    toy.name = bundle or toy.name
    return toy
