"""Prompt lookup: a comment is a free draft of its own rewrite, verified several tokens a step.

The idea is Saxena's prompt lookup decoding (2023), a form of speculative decoding (Leviathan et al.
2023) without a draft model. The answer stays the same, token for token; only its speed changes.
"""

from __future__ import annotations

_REACH = 24  # tokens of a comment that an answer may leave out at once
_MOST = 10  # tokens verified in one step
_WORTH = 1.15  # the gain, by the estimate, from which on guesses are verified
_OUTLIER = 2.0  # a step that took so many times what was expected was held up by something else
_MEMORY = 0.98  # how much of the past an estimate keeps at every step


class Draft:
    """Guesses how an answer goes on: as the comment does from where the answer stands.

    Args:
        tokens: those of the comment, and the one that ends an answer.
    """

    def __init__(self, tokens: list[int]) -> None:
        self._tokens, self._at = tokens, 0

    def guess(self, most: int) -> list[int]:
        """The next tokens, ``most`` of them at most."""
        return self._tokens[self._at : self._at + most]

    def follow(self, token: int) -> bool:
        """Move on by a token of the answer; return whether it was guessed.

        A token that comes later in the comment means that those before it were left out; a token
        that does not come stands for the one that was guessed.
        """
        hit = self._tokens[self._at : self._at + 1] == [token]
        try:
            self._at = self._tokens.index(token, self._at, self._at + _REACH) + 1
        except ValueError:
            self._at += 1
        return hit


class Depth:
    """How many guesses to verify in one step, from what the last steps cost and what they hit.

    A step over n tokens takes about a + b n seconds. Where a outweighs b n (few sequences, a GPU)
    guesses cost little; where the machine is compute-bound they cost what they save, and none are
    verified. A guess that nobody verifies is still compared with the token that came, so the share
    of hits is known without trying.

    Args:
        rows: answers and guesses of one step, at most; 0 never guesses.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._hits, self._guesses = 4.0, 5.0
        self._sums: list[float] = []  # of 1, n, n², t, n t
        self._fixed, self._each = 8.0, 1.0  # a and b, in any unit: only their ratio counts

    def saw(self, hit: bool) -> None:
        """Note whether a token of an answer was the one guessed."""
        self._hits = self._hits * _MEMORY + hit
        self._guesses = self._guesses * _MEMORY + 1

    def took(self, tokens: int, seconds: float) -> None:
        """Note what a step cost that fed ``tokens`` tokens of answers and nothing else."""
        if not self._sums:  # the first one scales the a and b that were assumed
            each = seconds / (self._fixed + tokens * self._each)
            self._sums = [0.0] * 5
            for size in (1, 33):
                self._add(size, each * (self._fixed + size * self._each))
            self._fixed, self._each = each * self._fixed, each * self._each
        seconds = min(seconds, _OUTLIER * (self._fixed + tokens * self._each))
        self._sums = [s * _MEMORY for s in self._sums]
        self._add(tokens, seconds)
        one, n, nn, t, nt = self._sums
        spread = one * nn - n * n
        if spread > 0.01 * one * one:
            each = max((one * nt - n * t) / spread, 1e-9)
            self._fixed, self._each = max((t - each * n) / one, 0.0), each

    def choose(self, answers: int) -> int:
        """Guesses for each of so many ``answers``."""
        if not answers or not self._rows:
            return 0
        rate = self._hits / self._guesses
        depth, best = 0, self._speed(answers, 0, rate) * _WORTH
        for guesses in range(1, min(_MOST, self._rows // answers - 1) + 1):
            if (speed := self._speed(answers, guesses, rate)) > best:
                depth, best = guesses, speed
        return depth

    def _add(self, tokens: int, seconds: float) -> None:
        terms = 1.0, tokens, tokens**2, seconds, tokens * seconds
        self._sums = [s + term for s, term in zip(self._sums, terms, strict=True)]

    def _speed(self, answers: int, guesses: int, rate: float) -> float:
        """Tokens gained a second: Leviathan et al. (2023), eq. 1, over the cost of the step."""
        gained = sum(rate**i for i in range(guesses + 1))
        return gained / (self._fixed + self._each * answers * (1 + guesses))
