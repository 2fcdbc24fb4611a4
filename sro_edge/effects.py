"""What an edit does to a text's scores, so that several edits together can be predicted.

Their effects are added up as log-odds, and only the most promising combinations are screened.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sro_edge.bundle import Thresholds
    from sro_edge.screener import Scores


class Effects(NamedTuple):
    """Scores that add up: toxicity and fluency as log-odds, similarity as it is."""

    toxicity: float
    similarity: float
    fluency: float

    @classmethod
    def read(cls, scores: Scores, before: int, after: int) -> Effects:
        """Those of the text in row ``after`` of ``scores``, made of the one in row ``before``."""
        similarity, fluency = 1.0, 0.0
        if scores.embedding is not None:
            similarity = float(scores.embedding[before] @ scores.embedding[after])
        if scores.fluency is not None:
            fluency = _log_odds(float(scores.fluency[after]))
        return cls(_log_odds(float(scores.toxicity[after])), similarity, fluency)

    def minus(self, other: Effects) -> Effects:
        """What parts two texts."""
        return Effects(*(a - b for a, b in zip(self, other, strict=True)))

    def plus(self, *parts: Effects) -> Effects:
        """All of them together."""
        return Effects(*map(sum, zip(self, *parts, strict=True)))

    def worth(self, limits: Thresholds) -> float:
        """(1 - toxicity) x similarity x fluency, times the chance that it passes."""
        toxicity = _sigmoid(self.toxicity)
        passes = _sigmoid(12 * (limits.toxicity - toxicity))
        passes *= _sigmoid(20 * (self.similarity - limits.similarity))
        kept = max(self.similarity, 0.0) * _sigmoid(self.fluency)
        return (1 - toxicity) * kept * passes


def _log_odds(probability: float) -> float:
    inside = min(max(probability, 1e-4), 1 - 1e-4)
    return math.log(inside / (1 - inside))


def _sigmoid(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))
