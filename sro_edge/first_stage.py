"""The first stage of a screener: clears what is surely clean, so that only the rest is screened.

    screener/first_stage.onnx   token ids -> ``alarm`` (B,) in [0, 1]
    screener/first_stage.json   which screener it imitates, and up to which alarm a text is cleared,
                                for several thresholds of toxicity, with how many held-out texts
                                were cleared that the screener calls toxic

It looks at every window that the screener would, of a text as it is and without disguise, and the
screener at those that are not cleared. So of a long text only what is suspect is screened, and a
text is cleared if all of it is. A bundle without these files has no first stage.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sro_edge.errors import BundleError
from sro_edge.manifest import FIRST_STAGE, SCREENER, sha256
from sro_edge.onnx_session import Piece, feeds, load_session, token_batches

if TYPE_CHECKING:
    from sro_edge.bundle import Bundle
    from sro_edge.screener import Scores, Screener

GRAPH, NOTES = "first_stage.onnx", "first_stage.json"
_BATCH_TOKENS = 4096  # padding included
_MOST_POINTS = 100
INPUTS = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class OperatingPoint:
    """Up to which alarm a text is cleared, where a given toxicity still passes.

    Args:
        toxicity: the screener's threshold.
        alarm: highest alarm that is cleared.
        toxic: held-out texts that the screener calls toxic at that threshold.
        missed: those of them that are cleared.
        cleared: share of all held-out texts that are.
        upper: 95 % upper confidence bound of the share missed (Clopper & Pearson 1934).
    """

    toxicity: float
    alarm: float
    toxic: int
    missed: int
    cleared: float
    upper: float


class FirstStage:
    """The first stage of a screener, ready to clear.

    Args:
        folder: the screener's folder.
        toxicity: the highest toxicity that passes. The point for the highest toxicity up to this
            one is used: it misses less, not more, than it would for that toxicity.
        threads: CPU threads; default one per physical core.
        screener: sha256 of the screener's graph, where it is known already.

    Raises:
        BundleError: the files are damaged, or made for another screener.
    """

    def __init__(
        self,
        folder: Path,
        toxicity: float,
        *,
        threads: int | None = None,
        screener: str | None = None,
    ) -> None:
        """Load the graph."""
        points = read_points(folder, screener)
        fitting = [point for point in points if point.toxicity <= toxicity + 1e-9]
        self.point = max(fitting, key=lambda p: p.toxicity) if fitting else None
        if self.point is not None:
            self._session = load_session(folder / GRAPH, threads, "cpu")

    def suspects(self, pieces: Sequence[Piece], pad: int) -> list[Piece]:
        """The pieces that are not cleared, in their order.

        Args:
            pieces: token ids of windows, shortest first.
            pad: the token that fills a batch.
        """
        if self.point is None:
            return list(pieces)
        left: list[Piece] = []
        for batch in token_batches(pieces, _BATCH_TOKENS):
            _, given = feeds(batch, pad)
            (alarms,) = self._session.run(["alarm"], {name: given[name] for name in INPUTS})
            loud = (alarms > self.point.alarm).tolist()
            left += [piece for piece, heard in zip(batch, loud, strict=True) if heard]
        return left


class Cascade:
    """A screener behind its first stage, for those who want toxicity and fluency only.

    Args:
        screener: the screener.
        stage: what stands before it.
    """

    def __init__(self, screener: Screener, stage: FirstStage) -> None:
        self._screener, self._stage = screener, stage

    def score(self, texts: Sequence[str]) -> Scores:
        """See :meth:`sro_edge.screener.Screener.score`."""
        return self._screener.score(texts, self._stage)


def read_points(folder: Path, screener: str | None = None) -> list[OperatingPoint]:
    """The operating points in ``first_stage.json``, for the screener with this sha256.

    Raises:
        BundleError: the file cannot be used, or tells of another screener than the one beside it.
    """
    file = folder / NOTES
    try:
        notes: dict[str, Any] = json.loads(file.read_text("utf-8"))
        points = [OperatingPoint(**point) for point in notes["points"]]
        made_for = notes["screener"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{file} is not usable: {error!r}; export the bundle again") from error
    for point in points[:_MOST_POINTS]:
        if not all(_is_share(value) for value in (point.toxicity, point.alarm)):
            raise BundleError(f"{file}: toxicity and alarm must lie between 0 and 1, not {point}")
    if made_for != (screener or sha256(folder / "model.onnx")):
        raise BundleError(
            f"{file}: this first stage imitates another screener than the one beside it, and would "
            "clear what that one flags; fit it anew with `sro-edge train-first-stage`, or take "
            f"{GRAPH} and {NOTES} out of the bundle"
        )
    return points


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def load_first_stage(
    bundle: Bundle, toxicity: float, *, threads: int | None = None
) -> FirstStage | None:
    """The first stage in a bundle; None where there is none, or none for ``toxicity``.

    Raises:
        BundleError: see :class:`FirstStage`.
    """
    if FIRST_STAGE not in bundle.files:
        return None
    checked = bundle.files[SCREENER].sha256  # the bundle has made sure that the file has it
    stage = FirstStage(bundle.screener, toxicity, threads=threads, screener=checked)
    return stage if stage.point is not None else None


def stated(stage: FirstStage | None) -> dict[str, Any] | None:
    """What a manifest says of a first stage; None where every comment was screened."""
    if stage is None or stage.point is None:
        return None
    return {"toxicity": stage.point.toxicity, "alarm": stage.point.alarm}
