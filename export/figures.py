"""Figures of the proof: what was measured, and the bound it must keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sro_edge.errors import ExportError

_OUR_FAULT = "the export of this model is wrong and nothing was written; please report it"


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Args:
        key: its name in ``proof.json``.
        meaning: its name for people.
        value: what was measured.
        at_most: highest value that passes, or None.
        at_least: lowest value that passes, or None.
        advice: what to do when it does not pass.
    """

    key: str
    meaning: str
    value: float
    at_most: float | None = None
    at_least: float | None = None
    advice: str = _OUR_FAULT

    @property
    def passed(self) -> bool:
        """Whether the value keeps its bound; NaN keeps none."""
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    def to_dict(self) -> dict[str, Any]:
        """The form stored in ``proof.json``, under :attr:`key`."""
        bounds = {"at_most": self.at_most, "at_least": self.at_least}
        return {
            "meaning": self.meaning,
            "value": self.value,
            **{name: bound for name, bound in bounds.items() if bound is not None},
            **({} if self.passed else {"accepted": True}),  # else nothing would be written
        }


def require(figures: Iterable[Figure], accept_drift: bool = False) -> list[Figure]:
    """The figures, all of which keep their bounds, unless the user accepts what they say.

    Args:
        figures: what was measured.
        accept_drift: let figures outside their bounds pass; ``proof.json`` says so.

    Raises:
        ExportError: names the first that does not, and its bound.
    """
    found = list(figures)
    for figure in found:
        if not figure.passed and not accept_drift:
            above = figure.at_most is not None and not figure.value <= figure.at_most
            bound = f"above {figure.at_most:g}" if above else f"below {figure.at_least:g}"
            raise ExportError(
                f"proof failed: {figure.meaning} is {figure.value:.3g}, {bound} ({figure.key}); "
                f"{figure.advice}; --accept-drift writes the bundle all the same"
            )
    return found
