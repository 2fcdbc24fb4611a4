"""What is asked for again: each text of a chunk of comments is screened once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sro_edge.screener import Scores

if TYPE_CHECKING:
    import numpy.typing as npt

    from sro_edge.first_stage import FirstStage
    from sro_edge.screener import Screener

    Floats = npt.NDArray[np.float32]


class ScoreCache:
    """A screener that remembers its answers.

    A comment of one sentence is asked about as a comment, as its sentence, and beside each
    candidate in every round. The cache has no bound of its own: make one for a chunk of comments.
    """

    def __init__(self, screener: Screener) -> None:
        self._screener = screener
        self._known: dict[str, tuple[float, float | None, Floats | None]] = {}

    def screen(self, texts: Sequence[str], first_stage: FirstStage | None) -> Floats:
        """Toxicity (N,) of distinct or repeated texts, NaN where a first stage cleared all of one.

        Where it cleared a part of one, that is left out. What was screened whole is remembered.
        """
        if first_stage is None:
            return self.score(texts).toxicity
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        scores = self._screener.score(new, first_stage)
        found = dict(zip(new, scores.toxicity.tolist(), strict=True))
        for row, text in enumerate(new):
            values = [v for v in (scores.fluency, scores.embedding) if v is not None]
            if not (np.isnan(found[text]) or any(np.isnan(v[row]).any() for v in values)):
                self._keep(text, scores, row)
        return np.array([found[t] if t in found else self._known[t][0] for t in texts], np.float32)

    def score(self, texts: Sequence[str]) -> Scores:
        """See :meth:`sro_edge.screener.Screener.score`; new texts are screened in one call."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new or not texts:
            scores = self._screener.score(new)
            for row, text in enumerate(new):
                self._keep(text, scores, row)
            if len(new) == len(texts):
                return scores
        toxicity, fluency, embedding = zip(*(self._known[text] for text in texts), strict=True)
        return Scores(
            np.array(toxicity, dtype=np.float32),
            None if fluency[0] is None else np.array(fluency, dtype=np.float32),
            None if embedding[0] is None else np.array(embedding, dtype=np.float32),
        )

    def _keep(self, text: str, scores: Scores, row: int) -> None:
        self._known[text] = (
            float(scores.toxicity[row]),
            None if scores.fluency is None else float(scores.fluency[row]),
            None if scores.embedding is None else scores.embedding[row],
        )
