"""Prompt lookup: a comment is a free draft of its own rewrite, verified several tokens a step.

The idea is Saxena's prompt lookup decoding (2023), a form of speculative decoding (Leviathan et al.
2023) without a draft model. The answer stays the same, token for token; only its speed changes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

_REACH = 24  # tokens of a comment that an answer may leave out at once
_BACK = 8  # tokens of an answer beyond those in whose place they stand, at most
_MOST = 15  # guesses verified in one step
# llama.cpp's kernels for a CPU take so many tokens at once, and what is left over one by one, which
# costs twice as much: three tokens take longer than four.
_BLOCK = 4
# The gain, by the estimate, from which on guesses are verified: of few answers, and of more, where
# a step is nearly as dear as its tokens and a wrong estimate costs more than a right one gains.
_WORTH, _FEW, _WORTH_OF_MORE = 1.15, 3, 1.5
_OUTLIER = 2.0  # a step that took so many times what was expected was held up by something else
_NEW = 0.1  # what the newest step over so many tokens weighs beside those before it
_RANGE = 4.0  # variance of the tokens of steps, from which on their costs tell a from b
_ASSUMED = 8.0  # a / b until then
_LONG_MEMORY = 0.999  # the same of hits, at every token
_TRY = 64  # of so many steps of few answers, one is of the other kind, for what that costs now


class Draft:
    """Guesses how an answer goes on: as the comment does from where the answer stands.

    Args:
        tokens: those of the comment, and the one that ends an answer.
        seldom: places of tokens that answers seldom repeat; a guess leaves them out.
    """

    def __init__(self, tokens: list[int], seldom: frozenset[int] = frozenset()) -> None:
        self._tokens, self._at = tokens, 0
        self._seldom = sorted(seldom)
        self._kept = [token for place, token in enumerate(tokens) if place not in seldom]
        self.sure = True  # the last token was guessed

    def guess(self, most: int) -> list[int]:
        """The next tokens, ``most`` of them at most.

        What comes behind tokens left out is uncertain: of that no more than fills a block.
        """
        passed = bisect_left(self._seldom, self._at)  # tokens left out that lie behind
        start = self._at - passed
        if passed < len(self._seldom):
            most -= max(0, most - (self._seldom[passed] - self._at)) // _BLOCK * _BLOCK
        return self._kept[start : start + most]

    def follow(self, token: int) -> bool:
        """Move on by a token of the answer; return whether it was guessed.

        A token that comes later in the comment means that those before it were left out; a token
        that does not come stands for the one that was guessed, or is one more than it had: then the
        next that comes is looked for farther back.
        """
        sure, self.sure = self.sure, self.guess(1) == [token]
        start = self._at if sure or self.sure else max(0, self._at - _BACK)
        try:
            self._at = self._tokens.index(token, start, self._at + _REACH) + 1
        except ValueError:
            self._at += 1
        return self.sure


def places_of(words: Mapping[int, Iterable[list[int]]], tokens: list[int]) -> frozenset[int]:
    """Where in ``tokens`` one of ``words`` stands, which are given by their first token."""
    return frozenset(
        place
        for start, token in enumerate(tokens)
        for word in words.get(token, ())
        if tokens[start : start + len(word)] == word
        for place in range(start, start + len(word))
    )


class Depth:
    """How many guesses to verify in one step, from what the last steps cost and what they hit.

    A step over n tokens takes about a + b n seconds. Where a outweighs b n (few sequences, a GPU)
    guesses cost little; where the machine is compute-bound they cost what they save, and none are
    verified. A guess that nobody verifies is still compared with the token that came, so the share
    of hits is known without trying: after a hit nearly all, after a miss few.

    Args:
        rows: answers and guesses of one step, at most; 0 never guesses.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._hits, self._seen = [30.0, 90.0], [100.0, 100.0]  # after a miss, after a hit
        self._costs: dict[int, tuple[float, int]] = {}  # tokens -> seconds, and how often measured
        self._sums = [0.0] * 5  # of 1, n, n², t, n t over these
        self._fixed, self._each = _ASSUMED, 1.0  # a and b, in any unit: only their ratio counts
        self._steps = 0  # of few answers

    def saw(self, hit: bool, *, sure: bool) -> None:
        """Note whether a token of an answer was the one guessed, and whether that before it was."""
        self._hits[sure] = self._hits[sure] * _LONG_MEMORY + hit
        self._seen[sure] = self._seen[sure] * _LONG_MEMORY + 1

    def took(self, tokens: int, seconds: float) -> None:
        """Note what a step cost that fed ``tokens`` tokens of answers and nothing else.

        Every size of a step counts once, however often it comes: else the fit would forget what
        the sizes cost that are not chosen now.
        """
        before, times = self._costs.get(tokens, (0.0, 0))
        if times:
            seconds = min(seconds, _OUTLIER * before)
        after = before + (seconds - before) * max(_NEW, 1 / (times + 1))
        self._costs[tokens] = after, times + 1
        seen = () if times else (1, tokens, tokens**2)
        change = (*seen, after - before, tokens * (after - before))
        for place, more in enumerate(change, 5 - len(change)):
            self._sums[place] += more
        one, n, nn, t, nt = self._sums
        spread = one * nn - n * n
        if spread < _RANGE * one * one:
            self._each = t / (one * _ASSUMED + n)
            self._fixed = _ASSUMED * self._each
        else:
            self._each = max((one * nt - n * t) / spread, 1e-9)
            self._fixed = max((t - self._each * n) / one, 0.0)

    def choose(self, drafts: Sequence[Draft], tokens: int) -> int:
        """Guesses for each answer, by its draft, in a step over ``tokens`` tokens beside them."""
        answers = len(drafts)
        if not answers or not self._rows:
            return 0
        after_miss, rate = (min(h / n, 0.999) for h, n in zip(self._hits, self._seen, strict=True))
        first = sum(rate if draft.sure else after_miss for draft in drafts)  # hits to be expected
        worth = _WORTH if answers <= _FEW else _WORTH_OF_MORE
        depth, best = 0, answers / self._cost(answers) * worth
        for guesses in range(_BLOCK - 1, min(_MOST, self._rows // answers - 1) + 1, _BLOCK):
            # Leviathan et al. (2023), eq. 1, with another rate for the first guess.
            gained = answers + first * (1 - rate**guesses) / (1 - rate)
            if (speed := gained / self._cost(answers * (1 + guesses))) > best:
                depth, best = guesses, speed
        if answers <= _FEW:
            self._steps += 1
            if self._steps % _TRY == _BLOCK and self._rows >= _BLOCK * answers:
                depth = 0 if depth else _BLOCK - 1
        return depth + (-(tokens + depth) % _BLOCK if depth and answers == 1 else 0)

    def _cost(self, tokens: int) -> float:
        """Seconds of a step over so many tokens."""
        return self._fixed + self._each * tokens
