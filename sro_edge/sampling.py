"""Drawing tokens from logits: many at once, each with noise of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.intp]

_FINE, _STEPS = 4, 64  # steps of the histogram of scores: of a quarter, down to e**-16


def draw(
    logits: Floats, temperature: Floats, top_p: Floats, rows: Numbers, keys: Keys
) -> npt.NDArray[np.intp]:
    """One token (N,) for each of N draws, several of which may be from one row of ``logits``.

    Args:
        logits: (R, V).
        temperature: (R,); 0 takes the likeliest token.
        top_p: (R,); draw from the smallest set of tokens with at least this probability.
        rows: (N,), the row that each is drawn from.
        keys: (N,), the noise of each draw: the same key and logits give the same token.
    """
    likeliest = logits.argmax(axis=1)  # (R,)
    tokens: npt.NDArray[np.intp] = likeliest[rows]  # (N,)
    hot = np.flatnonzero(temperature > 0)
    if len(hot):
        scaled = logits[hot]  # (H, V), a copy
        scaled -= logits[hot, likeliest[hot], None]  # the likeliest token at 0
        scaled /= temperature[hot, None]
        drawn = np.flatnonzero(temperature[rows] > 0)
        which = hot.searchsorted(rows[drawn])
        tokens[drawn] = _draw_hot(scaled, top_p[hot], which, keys[drawn])
    return tokens


def _draw_hot(scaled: Floats, top_p: Floats, which: Numbers, keys: Keys) -> npt.NDArray[np.intp]:
    """Draw from the nuclei of softmax(scaled)[which], by the Gumbel-max trick.

    Every token id has its own noise, so a change in the last bits of some logits changes a draw
    only where two tokens nearly tie. Walking the distribution function would let it change more.
    """
    shares = np.exp(scaled)
    sums = shares.sum(axis=1)
    # Tokens below (1 - top_p) / V weigh less than 1 - top_p together: none is in the nucleus.
    least = sums * (1 - top_p) / shares.shape[1]
    rows, tokens = np.divmod(np.flatnonzero(shares > least[:, None]), shares.shape[1])
    scores = scaled[rows, tokens]
    weights = (shares[rows, tokens] / sums[rows]).astype(np.float64)
    near = _near(scores, weights, rows, top_p)
    rows, tokens, scores, weights = rows[near], tokens[near], scores[near], weights[near]
    # From here on every draw has tokens of its own, which begin at ``starts``.
    many = np.bincount(rows, minlength=len(sums))[which]
    starts = many.cumsum() - many
    draws = np.repeat(np.arange(len(which)), many)
    own = np.arange(len(draws)) + (rows.searchsorted(which) - starts)[draws]
    tokens, weights, scores = tokens[own], weights[own], scores[own]
    noisy = scores - np.log(-np.log(uniform(tokens, keys[draws])))
    # Nearly every token drawn is in the nucleus: to look whether it is costs less than sorting all.
    place = np.arange(len(draws))
    while True:
        best = np.flatnonzero(noisy == np.maximum.reduceat(noisy, starts)[draws])
        best = best[draws[best].searchsorted(np.arange(len(which)))]  # the first where two tie
        drawn = best[draws]
        likelier = weights > weights[drawn]
        likelier |= (weights == weights[drawn]) & (place < drawn)
        outside = (np.bincount(draws, weights * likelier) >= top_p[which]) & (top_p[which] < 1)
        if not outside.any():
            return tokens[best]
        noisy[outside[draws] & ~likelier] = -np.inf  # what is no likelier is outside, too


def _near(
    scores: Floats, weights: npt.NDArray[np.float64], rows: Numbers, top_p: Floats
) -> npt.NDArray[np.bool_]:
    """Which of M tokens may be in the nucleus of their row, by a histogram of their scores."""
    steps = np.minimum(scores * -_FINE, _STEPS - 1).astype(np.intp)  # (M,), the likeliest at 0
    at = rows * _STEPS + steps
    held = np.bincount(at, weights, len(top_p) * _STEPS).reshape(-1, _STEPS)  # (R, steps)
    above = held.cumsum(axis=1) - held  # what all likelier steps hold
    inside: npt.NDArray[np.bool_] = (above < top_p[:, None]).ravel()[at]
    return inside


def uniform(counters: npt.NDArray[Any], key: Any) -> npt.NDArray[np.float64]:
    """A number in (0, 1) for every counter and key: SplitMix64 (Steele et al. 2014)."""
    high = (mix(counters, key) >> np.uint64(12)).astype(np.float64)
    return (high + 0.5) * 2.0**-52


def mix(counters: npt.NDArray[Any], key: Any) -> Keys:
    """64 bits for every counter and key; a result may be the key of other counters."""
    bits: Keys = counters.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return bits
