"""Continuous batching: which slot reads or writes what, step by step.

A slot is one llama.cpp sequence, at work on one strand: those samples of a job that have drawn the
same tokens so far. All samples of a job begin as one strand; where they part, each goes on in a
slot of its own, from a copy of what was read until there. Another sequence holds the prefix that
all prompts share.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

import numpy as np

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
        seldom: places in the comment of what answers seldom repeat.
    """

    request: Request
    prompt: list[int]
    comment: list[int]
    samples: int
    limit: int
    seldom: frozenset[int] = frozenset()
    answers: dict[int, tuple[list[int], bool]] = field(default_factory=dict)  # tokens, ended


class _Strand:
    """The samples of a job that have the same answer so far.

    Args:
        job: whose they are.
        noise: the key of each sample's draws.
        draft: guesses how the answer goes on.
    """

    def __init__(self, job: Job, noise: dict[int, int], draft: Draft) -> None:
        self.job, self.noise, self.draft = job, noise, draft
        self.answer: list[int] = []
        self.ended = False

    @property
    def done(self) -> bool:
        """The answer ended or reached its limit."""
        return self.ended or len(self.answer) >= self.job.limit

    @property
    def read(self) -> int:
        """Tokens to be read before the last one of the answer, or of the prompt."""
        return len(self.job.prompt) + len(self.answer) - 1

    def part(self, samples: Sequence[int]) -> _Strand:
        """A strand of these samples only."""
        strand = _Strand(self.job, {n: self.noise[n] for n in samples}, copy.copy(self.draft))
        strand.answer = self.answer[:]
        return strand

    def guesses(self, most: int, *, fill: bool) -> list[int]:
        """How the answer may go on; with ``fill``, all that were asked for, good or not."""
        most = min(most, self.job.limit - len(self.answer) - 1)
        guess = self.draft.guess(most)
        return guess + self.job.prompt[-1:] * (most - len(guess)) if fill else guess

    def take(self, token: int, *, end: bool) -> bool:
        """Add a token to the answer; return whether it was guessed."""
        self.ended = end
        if not end:
            self.answer.append(token)
        return self.draft.follow(token)


class _Slot:
    """One sequence and the strand that it writes.

    ``feed`` are tokens that the model has yet to read, ``position`` how many it has read. ``held``
    is the prompt that a free slot still holds, all but its last token.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.held: list[int] = []

    def begin(self, strand: _Strand, read: int) -> None:
        """Take on a strand, of which ``read`` tokens are there already."""
        self.strand, self.position, self.held = strand, read, []
        self.feed = [*strand.job.prompt, *strand.answer][read:]
        self.guess: list[int] = []

    def completes(self, tokens: Sequence[int]) -> bool:
        """Whether, with ``tokens`` read, the prompt is read and an answer token can be drawn."""
        return self.position + len(tokens) >= len(self.strand.job.prompt)


class Source(Protocol):
    """Where a flight has its jobs from."""

    @property
    def closed(self) -> bool:
        """Whether the flight is to be given up, with what is in it."""

    def take(self, load: int) -> Job | None:
        """The next job; None where there is none, now or, for a flight with no ``load``, ever.

        Args:
            load: strands that the flight is at work on.
        """

    def note(self, load: int) -> None:
        """Hear before every step what the flight is at work on, and what waits for its slots."""


_number = attrgetter("number")


class Flight:
    """The slots of one context, and what is in flight in them.

    Args:
        context: of the model; its sequences are the slots, then the prefix.
        depth: how far to guess.
        prefix: tokens with which every prompt begins.
        slots: strands written at the same time.
        fixed: give llama.cpp batches of two shapes only: one prompt, or one token for every slot.
    """

    def __init__(
        self, context: Context, depth: Depth, *, prefix: list[int], slots: int, fixed: bool
    ) -> None:
        self.context, self._depth, self._fixed = context, depth, fixed
        self._slots = [_Slot(number) for number in range(slots)]
        self._prefix = prefix if len(prefix) >= _SHARED_PREFIX else []
        self._prefix_read = False
        self._end_tokens = context.model.end_tokens
        self._ends = sorted(self._end_tokens)[:1]

    def run(self, jobs: Source) -> Iterator[Job]:
        """Take a job whenever a slot falls free; yield each when its answers are complete."""
        self._free, self._active = list(self._slots), list[_Slot]()
        # Strands without a slot, each with the slot that has read what comes before.
        self._parted = list[tuple[_Strand, _Slot | None]]()
        while not jobs.closed:
            yield from self._fill(jobs)
            if not self._active:
                return
            jobs.note(len(self._active) + len(self._parted))
            self._close_ranks()
            yield from self._step()

    def _fill(self, jobs: Source) -> Iterator[Job]:
        """Give every free slot something to do; yield jobs that cannot be answered."""
        while self._free:
            if self._parted:
                self._go_on()
            elif (job := jobs.take(len(self._active))) is not None:
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
        request, draft = job.request, Draft([*job.comment, *self._ends], job.seldom)
        noise = {
            n: random.Random(f"{request.seed} {n} {request.key!r}").getrandbits(64)
            for n in range(job.samples)
        }
        strand = _Strand(job, noise, draft)
        if not self.context.model.can_cut:  # every sample reads for itself
            strand, *others = (strand.part([n]) for n in noise)
            self._parted += [(other, None) for other in others]
        slot = next((slot for slot in self._free if slot.held == job.prompt), None)
        if slot is not None:
            self.context.cut(slot.number, strand.read)
            self._start(slot, strand, strand.read)
        else:
            slot = self._first_free()
            self._start(slot, strand, self._copy_prefix(slot.number))

    def _go_on(self) -> None:
        """Give a strand that parted from another a slot of its own.

        A free slot that has read what comes before some is theirs first; the one that has the most
        in common with it goes on in it, so that the others find there what they need, too.
        """
        own = [entry for entry in self._parted if entry[1] in self._free]
        strand, source = max(own, key=lambda entry: entry[0].read) if own else self._parted[0]
        self._parted.remove((strand, source))
        slot = source if own and source else self._first_free()
        if source is None:
            read = self._copy_prefix(slot.number)
        else:
            read = strand.read
            if slot is not source:
                self.context.copy(source.number, slot.number)
            self.context.cut(slot.number, read)
        self._start(slot, strand, read)

    def _first_free(self) -> _Slot:
        return min(self._free, key=_number)

    def _start(self, slot: _Slot, strand: _Strand, read: int) -> None:
        self._free.remove(slot)
        self._active.append(slot)
        slot.begin(strand, read)

    def _copy_prefix(self, sequence: int) -> int:
        """Empty a sequence but for the shared prefix; return how many tokens that has."""
        if not self._prefix:
            self.context.drop(sequence)
            return 0
        holder = len(self._slots)
        if not self._prefix_read:
            batch = self.context.batch
            for start in range(0, len(self._prefix), _AT_ONCE):
                batch.clear()
                batch.add(self._prefix[start : start + _AT_ONCE], start, holder, rows=0)
                self.context.decode()
            self._prefix_read = True
        self.context.copy(holder, sequence)
        return len(self._prefix)

    def _step(self) -> list[Job]:
        """Feed what the slots have to feed, give samples their tokens; the jobs then done."""
        started = time.perf_counter()
        ready = self._feed_fixed() if self._fixed else self._feed()
        logits = self.context.decode()
        if len(logits) > len(ready) and self._fixed:  # rows of idle slots, too
            logits = logits[[slot.number for slot in ready]]
        taken = [self._take(*entry) for entry in zip(ready, _draw(ready, logits), strict=True)]
        batch = self.context.batch
        if batch.rows == batch.tokens:  # no prompt was read
            self._depth.took(batch.tokens, time.perf_counter() - started)
        return [job for job in taken if job]

    def _feed(self) -> list[_Slot]:
        """Fill the batch, answers before prompts; return the slots that get logits, in order."""
        batch = self.context.batch
        batch.clear()
        self._active.sort(key=_number)
        drafts = [slot.strand.draft for slot in self._active if slot.completes(slot.feed)]
        answering = len(drafts)
        depth = self._depth.choose(drafts, sum(len(slot.feed) for slot in self._active))
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
                slot.guess = slot.strand.guesses(depth, fill=answering > 1)
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
            if slot.position < len(slot.strand.job.prompt) - 1 or len(slot.feed) > 1:
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

    def _take(self, slot: _Slot, drawn: dict[int, list[int]]) -> Job | None:
        """Give each sample its tokens, up to the first that no guess led to; the job, if then done.

        Samples that drew the same go on together: those that came farthest in this slot, which may
        have read wrong guesses; for the others a slot is to be found.
        """
        old, job = slot.strand, slot.strand.job
        paths: dict[tuple[int, ...], list[int]] = {}
        for sample, tokens in drawn.items():
            right = 0
            while right < len(slot.guess) and tokens[right] == slot.guess[right]:
                right += 1
            paths.setdefault(tuple(tokens[: right + 1]), []).append(sample)
        going: list[_Strand] = []
        for path, samples in sorted(paths.items(), key=lambda entry: -len(entry[0])):
            strand = old.part(samples) if len(paths) > 1 else old
            for token in path:
                sure = strand.draft.sure
                self._depth.saw(strand.take(token, end=token in self._end_tokens), sure=sure)
                if strand.done:
                    job.answers |= dict.fromkeys(samples, (strand.answer, strand.ended))
                    break
            else:
                going.append(strand)
        if going:
            slot.strand, *others = going
            self._parted += [(other, slot) for other in others]
            slot.feed = slot.strand.answer[-1:]
            if slot.position > slot.strand.read:
                slot.position = slot.strand.read
                self.context.cut(slot.number, slot.position)
        else:
            self._active.remove(slot)
            self._free.append(slot)
            slot.held = job.prompt if self.context.model.can_cut and not self._fixed else []
        return job if len(job.answers) == job.samples else None


def _draw(slots: Sequence[_Slot], logits: Floats) -> Iterator[dict[int, list[int]]]:
    """Of each slot, by sample, a token for each of its 1 + guesses rows of ``logits`` (R, V)."""
    rows: list[int] = []
    places: list[int] = []
    noise: list[int] = []
    temperature: list[float] = []
    top_p: list[float] = []
    for slot in slots:
        strand, many, start = slot.strand, 1 + len(slot.guess), len(top_p)
        temperature += [strand.job.request.temperature] * many
        top_p += [strand.job.request.top_p] * many
        for key in strand.noise.values():
            rows += range(start, start + many)
            places += range(len(strand.answer), len(strand.answer) + many)
            noise += [key] * many
    keys = np.array(noise, dtype=np.uint64)
    if any(temperature):
        keys = mix(np.array(places), keys)
    tokens: list[int] = draw(
        logits,
        np.array(temperature, dtype=np.float32),
        np.array(top_p, dtype=np.float32),
        np.array(rows, dtype=np.intp),
        keys,
    ).tolist()
    drawn = iter(tokens)
    for slot in slots:
        many = 1 + len(slot.guess)
        yield {sample: list(islice(drawn, many)) for sample in slot.strand.noise}
