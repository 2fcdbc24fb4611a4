"""Drawing tokens from logits: many rows at once, each with noise of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]


def draw(logits: Floats, temperature: Floats, top_p: Floats, keys: Keys) -> npt.NDArray[np.intp]:
    """One token (R,) for every row of ``logits``.

    Args:
        logits: (R, V).
        temperature: (R,); 0 takes the likeliest token.
        top_p: (R,); draw from the smallest set of tokens with at least this probability.
        keys: (R,), the noise of each row: the same key and logits give the same token.
    """
    tokens: npt.NDArray[np.intp] = logits.argmax(axis=1)  # (R,)
    hot = np.flatnonzero(temperature > 0)
    if len(hot):
        rows = logits if len(hot) == len(logits) else logits[hot]
        scaled = rows - logits[hot, tokens[hot], None]  # (H, V), the likeliest token at 0
        scaled /= temperature[hot, None]
        tokens[hot] = _draw_hot(scaled, top_p[hot], keys[hot])
    return tokens


def _draw_hot(scaled: Floats, top_p: Floats, keys: Keys) -> npt.NDArray[np.intp]:
    """Draw per row from the nucleus of softmax(scaled), by the Gumbel-max trick.

    Every token id has its own noise, so a change in the last bits of some logits changes a draw
    only where two tokens nearly tie. Walking the distribution function would let it change more.
    """
    shares = np.exp(scaled)
    sums = shares.sum(axis=1)
    # Tokens below (1 - top_p) / V weigh less than 1 - top_p together: none is in the nucleus.
    least = sums * (1 - top_p) / shares.shape[1]
    rows, tokens = np.divmod(np.flatnonzero(shares > least[:, None]), shares.shape[1])
    weights = (shares[rows, tokens] / sums[rows]).astype(np.float64)
    noisy = scaled[rows, tokens] - np.log(-np.log(uniform(tokens, keys[rows])))
    # Nearly every token drawn is in the nucleus: to look whether it is costs less than sorting all.
    row, place = np.arange(len(sums)), np.arange(len(rows))
    starts = rows.searchsorted(row)
    while True:
        best = np.flatnonzero(noisy == np.maximum.reduceat(noisy, starts)[rows])
        best = best[rows[best].searchsorted(row)]  # (H,), the first where two tie
        drawn = best[rows]
        likelier = weights > weights[drawn]
        likelier |= (weights == weights[drawn]) & (place < drawn)
        outside = (np.bincount(rows, weights * likelier) >= top_p) & (top_p < 1)
        if not outside.any():
            return tokens[best]
        noisy[outside[rows] & ~likelier] = -np.inf  # what is no likelier is outside, too


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
