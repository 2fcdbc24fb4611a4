"""What the first stage of a screener learns from: pieces of text, and what the screener says.

No labels are needed: the screener is asked about every piece. So comments of any kind serve, and of
general text pieces of a comment's length.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sro_edge.screener import Screener
from sro_edge.segments import windows
from sro_edge.training.piles import fold

Floats = npt.NDArray[np.float32]

_LENGTHS = (60, 120, 240, 400)  # characters at most of a piece of general text
_PIECES = 2  # of one text
_CHUNK = 2048  # pieces between two writes


def pieces(
    comments: Iterable[str],
    plain: Iterable[str],
    most: int,
    folds: tuple[float, float],
    seed: int,
) -> list[str]:
    """Distinct pieces as a screener reads them, shuffled.

    Args:
        comments: taken whole, window by window.
        plain: general text, of which pieces of random length are taken.
        most: pieces of ``plain``.
        folds: shares of the hash between which a text of either kind is used.
        seed: of lengths, places and order.
    """
    low, high = folds
    found = dict.fromkeys(
        span.of(text) for text in comments if low <= fold(text) < high for span in windows(text)
    )
    rng = random.Random(seed)
    general = [text for text in plain if low <= fold(text) < high]
    rng.shuffle(general)
    wanted = len(found) + most
    for text in general:
        spans = windows(text, rng.choice(_LENGTHS))
        for span in rng.sample(spans, min(_PIECES, len(spans))):
            if len(found) < wanted:
                found[span.of(text)] = None
    shuffled = list(found)
    rng.shuffle(shuffled)
    return shuffled


def ask(
    screener: Screener,
    texts: Sequence[str],
    file: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> Floats:
    """Toxicity (N,) of every text, kept in ``file`` as it comes, so that a killed run goes on."""
    done = file.stat().st_size // 4 if file.is_file() else 0
    with file.open("ab") as handle:
        handle.truncate(done * 4)
        while done < len(texts):
            progress(done)
            chunk = texts[done : done + _CHUNK]
            handle.write(screener.score(chunk).toxicity.astype("<f4").tobytes())
            handle.flush()
            done += len(chunk)
    return np.fromfile(file, dtype="<f4")[: len(texts)]
