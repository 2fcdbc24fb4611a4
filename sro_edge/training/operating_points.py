"""Up to which alarm a first stage may clear: picked on held-out texts, for several thresholds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from sro_edge.first_stage import OperatingPoint
from sro_edge.screener import SCREEN_TOLERANCE

Floats = npt.NDArray[np.float32]

TOXICITIES = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)  # beside the bundle's own threshold
_CONFIDENCE = 0.95
_MARGIN = 2e-5  # by which alarms may differ between torch and the exported graph


@dataclass(frozen=True)
class HeldOut:
    """Texts of one kind that training has not seen.

    Args:
        toxicity: (N,), the screener's.
        alarm: (N,), the first stage's.
    """

    toxicity: Floats
    alarm: Floats


def pick(groups: Mapping[str, HeldOut], toxicity: float, most_missed: float) -> OperatingPoint:
    """The highest alarm at which no group has a larger share missed than ``most_missed``.

    Missed is a text that is cleared while the screener's toxicity is above the threshold.

    Args:
        groups: kinds of held-out texts; each must keep the bound for itself.
        toxicity: highest toxicity that passes.
        most_missed: largest share of the toxic texts of a group that may be cleared.
    """
    alarm = min(_highest(group, toxicity, most_missed) for group in groups.values())
    toxic = missed = cleared = texts = 0
    for group in groups.values():
        flagged, clear = _flagged(group, toxicity), group.alarm <= alarm
        toxic, missed = toxic + int(flagged.sum()), missed + int((flagged & clear).sum())
        cleared, texts = cleared + int(clear.sum()), texts + len(clear)
    return OperatingPoint(
        toxicity=toxicity,
        alarm=alarm,
        toxic=toxic,
        missed=missed,
        cleared=round(cleared / texts, 4),
        upper=upper_bound(missed, toxic),
    )


def points(
    groups: Mapping[str, HeldOut], threshold: float, most_missed: float
) -> list[OperatingPoint]:
    """Operating points for the bundle's ``threshold`` and others, in their order."""
    wanted: Iterable[float] = sorted({*TOXICITIES, threshold})
    return [pick(groups, toxicity, most_missed) for toxicity in wanted]


def upper_bound(missed: int, toxic: int) -> float:
    """95 % upper confidence bound of a share, one-sided (Clopper & Pearson 1934)."""
    if missed >= toxic:
        return 1.0
    return float(beta.ppf(_CONFIDENCE, missed + 1, toxic - missed))


def _highest(group: HeldOut, toxicity: float, most_missed: float) -> float:
    """Just below the alarm of the first toxic text that may not be missed any more."""
    alarms = np.sort(group.alarm[_flagged(group, toxicity)])
    allowed = math.floor(most_missed * len(alarms))
    if allowed >= len(alarms):
        return 0.0  # no toxic text: nothing is known
    return max(0.0, math.floor((float(alarms[allowed]) - _MARGIN) * 1e6) / 1e6)


def _flagged(group: HeldOut, toxicity: float) -> npt.NDArray[np.bool_]:
    flagged: npt.NDArray[np.bool_] = group.toxicity > toxicity - SCREEN_TOLERANCE
    return flagged
