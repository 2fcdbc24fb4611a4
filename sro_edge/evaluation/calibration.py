"""A toxicity threshold for a user's own comments, from a labelled sample of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sro_edge.errors import InputError
from sro_edge.screener import SCREEN_TOLERANCE
from sro_edge.training.piles import fold

Floats = npt.NDArray[np.float64]

_FOLDS = 5
_FEWEST = 30  # comments of each class, below which a threshold would be chance
_STEPS = 10_000  # thresholds are written to four places


@dataclass(frozen=True)
class Quality:
    """What a threshold does to a sample.

    Args:
        precision: share of the flagged comments that are toxic; 1 where none is flagged.
        recall: share of the toxic comments that are flagged.
        flagged: share of all comments that are flagged, and so rewritten.
    """

    precision: float
    recall: float
    flagged: float


@dataclass(frozen=True)
class Calibration:
    """A threshold, and what it does.

    Args:
        threshold: highest toxicity that passes.
        sample: on the comments that it was chosen on: a little flattering.
        held_out: estimated by choosing on four fifths and measuring on the last, five times over.
        precision_interval: 95 % Wilson interval of the held-out precision.
        recall_interval: the same of the recall.
        rows: comments in the sample.
        toxic: of these, labelled toxic.
    """

    threshold: float
    sample: Quality
    held_out: Quality
    precision_interval: tuple[float, float]
    recall_interval: tuple[float, float]
    rows: int
    toxic: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, to four places."""
        rounded: dict[str, Any] = _rounded(asdict(self))
        return rounded


def calibrate(
    texts: Sequence[str],
    labels: Sequence[int],
    scores: Sequence[float],
    *,
    recall: float | None = None,
    precision: float | None = None,
) -> Calibration:
    """The highest threshold with at least ``recall``, or the lowest with at least ``precision``.

    Args:
        texts: the labelled comments (N,); equal ones fall into the same fold.
        labels: 1 = toxic (N,).
        scores: the screener's toxicity (N,).
        recall: share of toxic comments that must be flagged; this or ``precision``.
        precision: share of flagged comments that must be toxic.

    Raises:
        InputError: too few comments of a class, or no threshold reaches ``precision``.
    """
    if (recall is None) == (precision is None):
        raise ValueError("give either recall or precision")
    y, s = np.array(labels, bool), np.array(scores, np.float64)
    for name, count in (("toxic", int(y.sum())), ("clean", int((~y).sum()))):
        if count < _FEWEST:
            raise InputError(
                f"the sample has {count} {name} comments; label at least {_FEWEST}, or the "
                "threshold would be chance"
            )
    folds = np.array([int(fold(t) * _FOLDS) for t in texts])
    flagged = np.zeros(len(y), bool)
    for number in range(_FOLDS):
        rows = folds == number
        flagged[rows] = is_flagged(s[rows], choose(y[~rows], s[~rows], recall, precision))
    threshold = choose(y, s, recall, precision)
    hits = int((flagged & y).sum())
    return Calibration(
        threshold=threshold,
        sample=quality(y, is_flagged(s, threshold)),
        held_out=quality(y, flagged),
        precision_interval=wilson(hits, int(flagged.sum())),
        recall_interval=wilson(hits, int(y.sum())),
        rows=len(y),
        toxic=int(y.sum()),
    )


def choose(
    labels: npt.NDArray[np.bool_], scores: Floats, recall: float | None, precision: float | None
) -> float:
    """The threshold, to four places; see :func:`calibrate`.

    Raises:
        InputError: no threshold reaches ``precision``.
    """
    if recall is not None:
        toxic = np.sort(scores[labels])[::-1]
        needed = max(1, math.ceil(recall * len(toxic) - 1e-9))
        return float(math.floor(toxic[needed - 1] * _STEPS) / _STEPS)
    assert precision is not None
    order = np.argsort(-scores, kind="stable")
    reached = np.cumsum(labels[order]) / np.arange(1, len(order) + 1)  # (N,), of the first n
    # A threshold flags all comments of one score or none.
    last = np.append(np.diff(scores[order]) < 0, True)
    good = np.flatnonzero((reached >= precision) & last)
    for n in good[::-1]:
        threshold = float(math.floor(scores[order[n]] * _STEPS) / _STEPS)
        if quality(labels, is_flagged(scores, threshold)).precision >= precision:
            return threshold
    raise InputError(
        f"no threshold reaches a precision of {precision:g} on this sample; the highest is "
        f"{reached[last].max():.3f}: ask for less, or train the screener on comments like these"
    )


def is_flagged(scores: Floats, threshold: float) -> npt.NDArray[np.bool_]:
    """Which comments do not pass, as :func:`sro_edge.screener.passes` decides it."""
    flagged: npt.NDArray[np.bool_] = ~(scores <= threshold - SCREEN_TOLERANCE)
    return flagged


def quality(labels: npt.NDArray[np.bool_], flagged: npt.NDArray[np.bool_]) -> Quality:
    """Precision, recall and share of ``flagged`` under ``labels``, both (N,)."""
    hits = int((labels & flagged).sum())
    return Quality(
        precision=hits / int(flagged.sum()) if flagged.any() else 1.0,
        recall=hits / int(labels.sum()) if labels.any() else 1.0,
        flagged=float(flagged.mean()),
    )


def wilson(hits: int, of: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    if not of:
        return 0.0, 1.0
    z, share = 1.959964, hits / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return max(0.0, middle - half), min(1.0, middle + half)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [_rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value
