"""Abstaining: which toxic comments are given up, because no rewording can mend what they say.

    screener/abstain.onnx   token ids -> ``abstain`` (B,) in [0, 1]
    screener/abstain.json   which screener it shares weights with

The graph reads all layers of the screener's encoder (:mod:`sro_edge.training.abstention`); the
weights that both have in common lie in ``model.onnx`` only. A comment is given up where the score
of one of its toxic sentences reaches a threshold (:attr:`sro_edge.bundle.Thresholds.abstain`).
Nothing is loaded before the first toxic comment. A bundle without these files never abstains.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sro_edge.errors import BundleError
from sro_edge.manifest import ABSTAIN, SCREENER, sha256
from sro_edge.onnx_session import feeds, load_session, token_batches

if TYPE_CHECKING:
    from sro_edge.bundle import Bundle
    from sro_edge.job import Job
    from sro_edge.screener import Screener

Floats = npt.NDArray[np.float32]

GRAPH, NOTES = "abstain.onnx", "abstain.json"
OUTPUT = "abstain"
REASON = "abstained"
INPUTS = ("input_ids", "attention_mask")
_BATCH_TOKENS = 512  # padding included, as the screener's on a CPU


class Abstainer:
    """The decision of a bundle to give comments up.

    Args:
        folder: the screener's folder.
        screener: cuts texts into windows of token ids.
        threshold: lowest score that gives a comment up.
        threads: CPU threads; default one per physical core.
        device: ``auto``, ``cpu`` or ``cuda``.
        identity: sha256 of the screener's graph, where it is known already.
    """

    def __init__(
        self,
        folder: Path,
        screener: Screener,
        threshold: float,
        *,
        threads: int | None = None,
        device: str = "auto",
        identity: str | None = None,
    ) -> None:
        self.threshold = threshold
        self._folder, self._screener, self._identity = folder, screener, identity
        self._threads, self._device = threads, device
        self._session: Any = None

    def score(self, texts: Sequence[str]) -> Floats:
        """How surely no rewording can mend each text (N,): the highest score of its windows.

        Raises:
            BundleError: the files are damaged, or made for another screener.
        """
        if not texts:
            return np.zeros(0, dtype=np.float32)
        if self._session is None:
            _check(self._folder, self._identity)
            self._session = load_session(self._folder / GRAPH, self._threads, self._device)
        return highest(self._screener, texts, lambda given: self._session.run([OUTPUT], given)[0])

    def given_up(self, jobs: Sequence[Job]) -> list[Job]:
        """The comments, all of them toxic, one of whose pieces nothing can mend."""
        texts = list(dict.fromkeys(piece.text for job in jobs for piece in job.pieces))
        hopeless = {
            text
            for text, at in zip(texts, self.score(texts).tolist(), strict=True)
            if at >= self.threshold
        }
        return [job for job in jobs if any(piece.text in hopeless for piece in job.pieces)]


def highest(
    screener: Screener, texts: Sequence[str], run: Callable[[dict[str, Any]], Floats]
) -> Floats:
    """The highest of the scores (B,) that ``run`` gives the windows of each text (N,).

    Args:
        screener: cuts texts into windows of token ids.
        texts: the texts.
        run: scores a batch, given as :data:`INPUTS` by name, (B, T) each.
    """
    scores = np.zeros(len(texts), dtype=np.float32)
    pieces = sorted(screener.pieces(texts), key=lambda piece: len(piece[1]))
    for batch in token_batches(pieces, _BATCH_TOKENS):
        _, given = feeds(batch, screener.pad)
        found = run({name: given[name] for name in INPUTS})
        np.maximum.at(scores, [number for number, _ in batch], found)
    return scores


def load_abstainer(
    bundle: Bundle,
    screener: Screener,
    threshold: float | None,
    threads: int | None = None,
    device: str = "auto",
) -> Abstainer | None:
    """What gives comments up from ``threshold`` on; None where that is None.

    Raises:
        BundleError: the bundle has no such model.
    """
    if threshold is None:
        return None
    if ABSTAIN not in bundle.files:
        raise BundleError(
            f"{bundle.path} has no {ABSTAIN}, so it cannot abstain at {threshold:g}: export it "
            "with --abstain RUN (of `sro-edge train-abstain`), or rewrite with --abstain off"
        )
    return Abstainer(
        bundle.screener,
        screener,
        threshold,
        threads=threads,
        device=device,
        identity=bundle.files[SCREENER].sha256,
    )


def _check(folder: Path, identity: str | None) -> None:
    """Refuse a graph that shares weights with another screener than the one beside it."""
    file = folder / NOTES
    try:
        made_for = json.loads(file.read_text("utf-8"))["screener"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{file} is not usable: {error!r}; export the bundle again") from error
    if made_for != (identity or sha256(folder / "model.onnx")):
        raise BundleError(
            f"{file}: {GRAPH} shares weights with another screener than the one beside it; export "
            "both together (`sro-edge export --abstain RUN`), or rewrite with --abstain off"
        )
