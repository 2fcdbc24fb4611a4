"""Whether a screener can be played against at all: asked before an hour is spent on it."""

from __future__ import annotations

from collections.abc import Sequence

from sro_edge.errors import InputError
from sro_edge.training.follower import Follower

_LOOKED_AT = 1_000  # comments of the pile
_HARMLESS = (
    "thank you for your help",
    "the meeting is on monday at noon",
    "i had soup and bread for lunch",
    "the train was ten minutes late",
    "she bought two tickets for the concert",
    "it will rain in the afternoon",
)


def passing_share(follower: Follower, comments: Sequence[str]) -> float:
    """The share of toxic ``comments`` that the screener passes as they are.

    A screener that passes nothing of a toxic pile may simply be right, so it is also asked about a
    few harmless sentences.

    Raises:
        InputError: it passes the whole pile, or neither that nor any harmless sentence.
    """
    sample = comments[:: max(1, len(comments) // _LOOKED_AT)]
    limit = follower.thresholds.toxicity
    seen = follower.classifier.judge([*sample, *_HARMLESS]).toxicity <= limit
    pile, harmless = seen[: len(sample)].float().mean(), seen[len(sample) :].float().mean()
    if pile == 1:
        raise InputError(
            f"the screener passes 100 % of the toxic pile at the threshold {limit:g}, so there is "
            "nothing to learn: lower --threshold, name its toxic label with --toxic-label, or give "
            "another pile"
        )
    if pile == 0 and harmless == 0:
        raise InputError(
            f"the screener passes 0 % of the toxic pile and 0 % of {len(_HARMLESS)} harmless "
            f"sentences at the threshold {limit:g}, so no rewrite could pass: raise --threshold, "
            "or name its toxic label with --toxic-label"
        )
    return float(pile)
