"""What is kept for texts that come again, within bounds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

MOST_COMMENTS = 20_000  # comments of which the outcome is kept
LONGEST = 1_000  # characters of one that is


def remember(known: OrderedDict[K, V], new: Mapping[K, V], most: int) -> list[tuple[K, V]]:
    """Add what is ``new``; return the oldest, which go where there are more than ``most``."""
    known.update(new)
    return [known.popitem(last=False) for _ in range(len(known) - most)]
