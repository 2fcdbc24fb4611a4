"""Continuous batching: which slot reads or writes what, step by step.

A slot is one llama.cpp sequence at work on one sample of a job. Besides the slots there are a few
sequences that only hold tokens: prompts whose samples have yet to begin, and the prefix that all
prompts share.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from sro_edge.llama import Context, Floats
from sro_edge.lookup import Depth, Draft
from sro_edge.sampling import draw, mix

if TYPE_CHECKING:
    from sro_edge.detoxifier import Request

_SHARED_PREFIX = 8  # tokens from which on copying the prefix is faster than reading it
# From 64 tokens of one sequence on, llama.cpp's attention on a CPU goes by tiles and rounds by what
# else is in a tile.
_AT_ONCE = 63


@dataclass
class Job:
    """A request with its tokens, and the answers that are complete.

    Args:
        request: what is asked for.
        prompt: all its tokens.
        comment: those of the comment in it.
        samples: answers wanted; 0 where the request cannot be answered.
        limit: tokens of each answer, at most.
    """

    request: Request
    prompt: list[int]
    comment: list[int]
    samples: int
    limit: int
    begun: int = 0
    holder: int = -1  # the sequence that holds the prompt for samples yet to begin
    answers: dict[int, tuple[list[int], bool]] = field(default_factory=dict)  # tokens, ended


class _Slot:
    """One sequence and the sample it is writing.

    ``feed`` are tokens that the model has yet to read, ``position`` how many it has read. ``held``
    is the prompt that a free slot still holds, all but its last token.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.held: list[int] = []

    def begin(self, job: Job, read: int, ends: list[int]) -> None:
        """Take on the next sample of ``job``, of whose prompt ``read`` tokens are there already."""
        self.job, self.sample = job, job.begun
        job.begun += 1
        self.held = []
        self.position = read
        shared = job.samples > 1 and read < len(job.prompt) - 1
        self.feed = job.prompt[read:-1] if shared else job.prompt[read:]
        self.guess: list[int] = []
        self.answer: list[int] = []
        self.ended = False
        self.draft = Draft([*job.comment, *ends])
        request = job.request
        self.noise = random.Random(f"{request.seed} {self.sample} {request.key!r}").getrandbits(64)

    @property
    def done(self) -> bool:
        """The answer ended or reached its limit."""
        return self.ended or len(self.answer) >= self.job.limit

    def completes(self, tokens: Sequence[int]) -> bool:
        """Whether, with ``tokens`` read, the prompt is read and an answer token can be drawn."""
        return self.position + len(tokens) >= len(self.job.prompt)

    def guesses(self, most: int, *, fill: bool) -> list[int]:
        """How the answer may go on; with ``fill``, all that were asked for, good or not."""
        most = min(most, self.job.limit - len(self.answer) - 1)
        guess = self.draft.guess(most)
        return guess + self.job.prompt[-1:] * (most - len(guess)) if fill else guess

    def take(self, token: int, *, end: bool) -> bool:
        """Add a token to the answer, for the next step to feed; return whether it was guessed."""
        self.ended = end
        if not end:
            self.answer.append(token)
            self.feed = [token]
        return self.draft.follow(token)


class Source(Protocol):
    """Where a flight has its jobs from."""

    @property
    def closed(self) -> bool:
        """Whether the flight is to be given up, with what is in it."""

    def take(self, load: int) -> Job | None:
        """The next job; None where there is none, now or, for a flight with no ``load``, ever.

        Args:
            load: samples that the flight is at work on.
        """


_number = attrgetter("number")


class Flight:
    """The slots of one context, and what is in flight in them.

    Args:
        context: of the model; its sequences are the slots, then the holders, then the prefix.
        depth: how far to guess.
        prefix: tokens with which every prompt begins.
        slots: answers written at the same time.
        holders: prompts held for samples that have yet to begin.
        fixed: give llama.cpp batches of two shapes only: one prompt, or one token for every slot.
    """

    def __init__(
        self,
        context: Context,
        depth: Depth,
        *,
        prefix: list[int],
        slots: int,
        holders: int,
        fixed: bool,
    ) -> None:
        self.context, self._depth, self._fixed = context, depth, fixed
        self._slots = [_Slot(number) for number in range(slots)]
        self._all_holders = range(slots, slots + holders)
        self._prefix = prefix if len(prefix) >= _SHARED_PREFIX else []
        self._prefix_read = False
        self._end_tokens = context.model.end_tokens
        self._ends = sorted(self._end_tokens)[:1]

    def run(self, jobs: Source) -> Iterator[Job]:
        """Take a job whenever a slot falls free; yield each when its answers are complete."""
        self._free, self._active = list(self._slots), list[_Slot]()
        self._holders = list(self._all_holders)
        self._forks = deque[Job]()  # jobs whose prompt is held and whose samples wait for a slot
        while not jobs.closed:
            yield from self._fill(jobs)
            if not self._active:
                return
            self._close_ranks()
            self._step()
            for slot in [slot for slot in self._active if slot.done]:
                self._active.remove(slot)
                self._free.append(slot)
                slot.held = [] if self._fixed else slot.job.prompt
                slot.job.answers[slot.sample] = slot.answer, slot.ended
                if len(slot.job.answers) == slot.job.samples:
                    yield slot.job

    def _fill(self, jobs: Source) -> Iterator[Job]:
        """Give every free slot something to do; yield jobs that cannot be answered."""
        while self._free:
            if self._forks:
                self._fork(self._forks[0])
            elif self._holders and (job := jobs.take(len(self._active))) is not None:
                if job.samples:
                    self._begin(job)
                else:
                    yield job
            else:
                return

    def _close_ranks(self) -> None:
        """Where slots stay free, move answers down: llama.cpp evaluates neighbours together."""
        while self._free and not self._fixed:
            last, gap = max(self._active, key=_number), min(self._free, key=_number)
            if gap.number > last.number:
                return
            self.context.copy(last.number, gap.number)
            last.number, gap.number, gap.held = gap.number, last.number, []

    def _begin(self, job: Job) -> None:
        """Let a slot read the prompt: the one that still holds it, or the first one free."""
        slot = next((slot for slot in self._free if slot.held == job.prompt), None)
        if slot is not None:
            read = len(job.prompt) - 1
            self.context.cut(slot.number, read)
        else:
            slot = self._first_free()
            read = self._copy_prefix(slot.number)
        if job.samples > 1:
            job.holder = self._holders.pop()
        self._start(slot, job, read)
        if job.samples > 1 and read == len(job.prompt) - 1:
            self._hold(slot)

    def _hold(self, slot: _Slot) -> None:
        """Keep the shared prompt that a slot has read, all but its last token.

        Each sample then reads that last token for itself, which gives it its first logits.
        """
        job = slot.job
        self.context.copy(slot.number, job.holder)
        slot.feed = job.prompt[-1:]
        self._forks.append(job)

    def _fork(self, job: Job) -> None:
        """Begin the next sample of a job on the prompt that is held."""
        slot = self._first_free()
        self.context.copy(job.holder, slot.number)
        self._start(slot, job, len(job.prompt) - 1)
        if job.begun == job.samples:
            self._forks.remove(job)
            self._holders.append(job.holder)

    def _first_free(self) -> _Slot:
        return min(self._free, key=_number)

    def _start(self, slot: _Slot, job: Job, read: int) -> None:
        self._free.remove(slot)
        self._active.append(slot)
        slot.begin(job, read, self._ends)

    def _copy_prefix(self, sequence: int) -> int:
        """Empty a sequence but for the shared prefix; return how many tokens that has."""
        if not self._prefix:
            self.context.drop(sequence)
            return 0
        holder = len(self._slots) + len(self._all_holders)
        if not self._prefix_read:
            batch = self.context.batch
            for start in range(0, len(self._prefix), _AT_ONCE):
                batch.clear()
                batch.add(self._prefix[start : start + _AT_ONCE], start, holder, rows=0)
                self.context.decode()
            self._prefix_read = True
        self.context.copy(holder, sequence)
        return len(self._prefix)

    def _step(self) -> None:
        """Feed what the slots have to feed; give each answer the tokens drawn for it."""
        started = time.perf_counter()
        ready = self._feed_fixed() if self._fixed else self._feed()
        logits = self.context.decode()
        if len(logits) > len(ready) and self._fixed:  # rows of idle slots, too
            logits = logits[[slot.number for slot in ready]]
        if ready:
            tokens = _draw(ready, logits).tolist()
            for slot in ready:
                drawn, tokens = tokens[: 1 + len(slot.guess)], tokens[1 + len(slot.guess) :]
                self._take(slot, drawn)
        for slot in self._active:
            if not slot.feed and not slot.ended:
                self._hold(slot)
        batch = self.context.batch
        if batch.rows == batch.tokens:  # no prompt was read
            self._depth.took(batch.tokens, time.perf_counter() - started)

    def _feed(self) -> list[_Slot]:
        """Fill the batch, answers before prompts; return the slots that get logits, in order."""
        batch = self.context.batch
        batch.clear()
        self._active.sort(key=_number)
        answering = sum(slot.completes(slot.feed) for slot in self._active)
        depth = self._depth.choose(answering)
        room = batch.size - answering * depth - sum(len(slot.feed) == 1 for slot in self._active)
        ready = []
        for slot in self._active:
            tokens = slot.feed
            if len(tokens) > 1:
                tokens = tokens[: min(room, _AT_ONCE - depth)]
                room -= len(tokens)
            slot.feed = slot.feed[len(tokens) :]
            slot.guess = []
            rows = 0
            if slot.completes(tokens):
                # Of one length, the answers stay neighbours for llama.cpp.
                slot.guess = slot.guesses(depth, fill=answering > 1)
                rows = 1 + len(slot.guess)
                ready.append(slot)
            batch.add([*tokens, *slot.guess], slot.position, slot.number, rows)
            slot.position += len(tokens) + len(slot.guess)
        return ready

    def _feed_fixed(self) -> list[_Slot]:
        """Fill the batch with one prompt alone, or else with a token of every slot, idle or not."""
        batch = self.context.batch
        batch.clear()
        self._active.sort(key=_number)
        for slot in self._active:
            if slot.position < len(slot.job.prompt) - 1 or len(slot.feed) > 1:
                tokens, slot.feed = slot.feed[: batch.size], slot.feed[batch.size :]
                ready = [slot] if slot.completes(tokens) else []
                batch.add(tokens, slot.position, slot.number, rows=len(ready))
                slot.position += len(tokens)
                return ready
        working = {slot.number: slot for slot in self._active}
        for number in range(len(self._slots)):
            if number in working:
                slot = working[number]
                batch.add(slot.feed, slot.position, number, rows=1)
                slot.position, slot.feed = slot.position + 1, []
            else:
                self.context.drop(number)
                batch.add([0], 0, number, rows=1)
        return self._active[:]

    def _take(self, slot: _Slot, tokens: list[int]) -> None:
        """Give an answer its tokens, up to the first that no guess led to; unread wrong guesses."""
        guess, kept = slot.guess, 0
        for token in tokens:
            self._depth.saw(slot.take(token, end=token in self._end_tokens))
            if slot.done or kept == len(guess) or token != guess[kept]:
                break
            kept += 1
        if kept < len(guess):
            slot.position -= len(guess) - kept
            self.context.cut(slot.number, slot.position)


def _draw(slots: Sequence[_Slot], logits: Floats) -> npt.NDArray[np.intp]:
    """A token for every row of ``logits`` (R, V), which are each slot's 1 + guesses in turn."""
    rows = [1 + len(slot.guess) for slot in slots]
    requests = [slot.job.request for slot in slots]
    noise = np.repeat(np.array([slot.noise for slot in slots], dtype=np.uint64), rows)
    places = [
        len(slot.answer) + row for slot, n in zip(slots, rows, strict=True) for row in range(n)
    ]
    return draw(
        logits,
        np.repeat(np.array([r.temperature for r in requests], dtype=np.float32), rows),
        np.repeat(np.array([r.top_p for r in requests], dtype=np.float32), rows),
        mix(np.array(places), noise),
    )
