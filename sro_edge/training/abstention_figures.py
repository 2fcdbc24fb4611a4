"""What abstaining at a threshold gains and costs, on comments of which it is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, precision_recall_curve

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]

RECALL = 0.5  # the point that is reported beside the default one
_RESAMPLES = 1000
_STEPS = 10_000  # thresholds are written to four places


def strict_point(refused: Labels, scores: Floats, given_up: float) -> float:
    """The lowest threshold that gives up at most a share ``given_up`` of what can be reworded.

    Args:
        refused: (N,), whether nobody could reword the comment.
        scores: (N,), of each.
        given_up: that share.
    """
    mendable = np.sort(scores[~refused])[::-1]
    first = mendable[int(given_up * len(mendable))]  # the best that must stay below
    return min(1.0, float(np.floor(first * _STEPS) + 1) / _STEPS)


def recall_point(refused: Labels, scores: Floats, recall: float = RECALL) -> float:
    """The highest threshold that gives up a share ``recall`` of what nobody could reword."""
    hopeless = np.sort(scores[refused])[::-1]
    needed = max(1, int(np.ceil(recall * len(hopeless) - 1e-9)))
    return float(np.floor(hopeless[needed - 1] * _STEPS)) / _STEPS


def measure(
    refused: Labels, scores: Floats, thresholds: Sequence[float], seed: int
) -> dict[str, Any]:
    """Figures of scores (N,) under labels (N,), with 95 % bootstrap intervals.

    Returns:
        the count of ``comments`` and of the ``refused`` among them, ``average_precision``,
        ``precision_at_recall`` .5 on these very comments, and the ``points`` of the thresholds:
        precision, recall, and the share of comments that can be reworded that is ``given_up``.
    """
    rng = np.random.default_rng(seed)
    kinds = [np.flatnonzero(refused), np.flatnonzero(~refused)]
    resampled = []
    for _ in range(_RESAMPLES):  # each kind for itself
        rows = np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])
        resampled.append(precision_at(refused[rows], scores[rows]))
    return {
        "comments": len(scores),
        "refused": int(refused.sum()),
        "average_precision": round(float(average_precision_score(refused, scores)), 4),
        "recall": RECALL,
        "precision_at_recall": round(precision_at(refused, scores), 4),
        "interval": np.quantile(resampled, (0.025, 0.975)).round(4).tolist(),
        "points": [_point(refused, scores, threshold) for threshold in thresholds],
    }


def precision_at(refused: Labels, scores: Floats, recall: float = RECALL) -> float:
    """Precision at the highest threshold that reaches ``recall``."""
    precision, reached, _ = precision_recall_curve(refused, scores)
    return float(precision[np.flatnonzero(reached >= recall)[-1]])


def _point(refused: Labels, scores: Floats, threshold: float) -> dict[str, float | None]:
    gone = scores >= threshold
    return {
        "threshold": threshold,
        "precision": round(float(refused[gone].mean()), 4) if gone.any() else None,
        "recall": round(float(gone[refused].mean()), 4),
        "given_up": round(float(gone[~refused].mean()), 4),
    }
