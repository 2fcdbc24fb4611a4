"""llama.cpp engine: prompts -> candidates, many sequences in flight in one context.

Every step sends one batch to llama.cpp that mixes prompts being read with answers being written
(continuous batching): a slot whose answer ends takes the next work at once. The samples of one
request share one reading of its prompt. A candidate depends on its request only, not on what else
is in flight, but for the last bits of float arithmetic.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from sro_edge.errors import ModelError
from sro_edge.llama import Floats, Llama, physical_cores
from sro_edge.prompt import PromptTemplate

_MAX_SLOTS = 128  # llama.cpp keeps 256 sequences; a slot needs one, and one to hold its prompt


@dataclass(frozen=True)
class Request:
    """A comment or span to reword.

    Args:
        key: the caller's name for it; its ``repr`` seeds the sampling, so it should be stable.
        prompt: the text itself; the template is put around it here.
        samples: how many candidates.
        temperature: 0 takes the likeliest token always.
        top_p: draw from the smallest set of tokens with at least this probability.
        seed: same seed, key and prompt: same candidates.
        max_new_tokens: below the engine's own limit, or None for that.
    """

    key: Any
    prompt: str
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled."""
        if self.samples < 1 or (self.max_new_tokens is not None and self.max_new_tokens < 1):
            raise ValueError("samples and max_new_tokens must be at least 1")
        if not 0 <= self.temperature < float("inf") or not 0 < self.top_p <= 1:
            raise ValueError("temperature must be 0 or more and top_p in (0, 1]")


@dataclass(frozen=True)
class Candidate:
    """One answer.

    Args:
        text: the answer, in the comment's letter case where the template asks for it.
        tokens: its length, without the end token.
        finished: False when it was cut off at the limit.
        logprob: mean log-probability per token under the model, at temperature 1.
    """

    text: str
    tokens: int
    finished: bool
    logprob: float


class Detoxifier:
    """A GGUF model ready to answer. Use as a context manager, or call :meth:`close`.

    Args:
        path: the GGUF file.
        template: how a comment becomes a prompt.
        threads: CPU threads; default one per physical core.
        device: ``cpu``, ``cuda``, or ``auto`` for the GPU where llama.cpp was built for one.
        slots: answers written at the same time.
        max_prompt_tokens: longer prompts get no candidate.
        max_new_tokens: limit of every answer.

    Raises:
        BundleError: llama.cpp cannot read the file.
        ModelError: the device or the sizes cannot be had.
    """

    def __init__(
        self,
        path: str | Path,
        template: PromptTemplate,
        *,
        threads: int | None = None,
        device: str = "auto",
        slots: int = 16,
        max_prompt_tokens: int = 256,
        max_new_tokens: int = 128,
    ) -> None:
        """Load the model."""
        if not 1 <= slots <= _MAX_SLOTS:
            raise ModelError(f"slots must be 1 to {_MAX_SLOTS}, not {slots}")
        longest = max_prompt_tokens + max_new_tokens
        self.template = template
        self.slots = slots
        self.max_prompt_tokens = max_prompt_tokens
        self.max_new_tokens = max_new_tokens
        self._llama = Llama(
            Path(path),
            threads=threads or physical_cores(),
            device=device,
            sequences=2 * slots,
            longest=longest,
            cells=slots * longest,
        )
        self._running = False
        framed = len(template.encode("", self.tokenize))
        self._frame = framed - len(template.encode_text("", self.tokenize))

    def tokenize(self, text: str, parse_special: bool) -> list[int]:
        """Token ids of ``text``; control tokens in it are recognised only on ``parse_special``."""
        return self._llama.tokenize(text, parse_special)

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[Request, list[Candidate]]]:
        """Answer every request once, in the order in which the answers are complete.

        Requests are taken from the iterable when slots fall free. A comment without tokens, or a
        prompt of more than ``max_prompt_tokens``, gives an empty list.

        Raises:
            ModelError: llama.cpp refused a batch.
        """
        if self._llama.closed or self._running:
            state = "is closed" if self._llama.closed else "is already generating"
            raise RuntimeError(f"this Detoxifier {state}; make another one")
        self._running = True
        try:
            yield from self._run(iter(requests))
        finally:
            self._running = False
            if not self._llama.closed:
                self._llama.drop_all()

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self._llama.close()

    def __enter__(self) -> Detoxifier:
        """The engine itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _run(self, requests: Iterator[Request]) -> Iterator[tuple[Request, list[Candidate]]]:
        free = [_Slot(number) for number in reversed(range(self.slots))]
        active: list[_Slot] = []
        forks: deque[_Job] = deque()  # jobs whose prompt is held and whose samples wait for a slot
        while True:
            self._hold_prompts(active, forks)
            while free and forks:
                active.append(self._fork(free.pop(), forks))
            while free and (request := next(requests, None)) is not None:
                job = self._prepare(request)
                if job is None:
                    yield request, []
                else:
                    active.append(free.pop().begin(job))
            if not active:
                return
            ready, logits = self._decode(active)
            for slot, token, logprob in _sample(logits, ready):
                slot.take(token, logprob, end=token in self._llama.end_tokens)
                if slot.done:
                    active.remove(slot)
                    free.append(slot)
                    yield from self._finish(slot)

    def _prepare(self, request: Request) -> _Job | None:
        """The request with its prompt's tokens; None where they are too many, or none at all."""
        prompt = self.template.encode(request.prompt, self.tokenize)
        comment = len(prompt) - self._frame
        if not comment or len(prompt) > self.max_prompt_tokens:
            return None
        limit = min(request.max_new_tokens or self.max_new_tokens, self.max_new_tokens)
        return _Job(request, prompt, min(limit, int(1.5 * comment) + 16))

    def _hold_prompts(self, active: list[_Slot], forks: deque[_Job]) -> None:
        """Keep every shared prompt that was just read, all but its last token.

        Each sample then reads that last token for itself, which gives it its first logits.
        """
        for slot in active:
            if not slot.feed:
                job = slot.job
                job.holder = self.slots + slot.number
                self._llama.copy(slot.number, job.holder)
                slot.feed = job.prompt[-1:]
                forks.append(job)

    def _fork(self, slot: _Slot, forks: deque[_Job]) -> _Slot:
        """Begin the next sample of the first waiting job, on the prompt that it holds."""
        job = forks[0]
        slot.begin(job, held=len(job.prompt) - 1)
        self._llama.copy(job.holder, slot.number)
        if job.begun == job.request.samples:
            # No prompt is read while jobs wait here, so the holder's number is free again in time.
            self._llama.drop(job.holder)
            forks.popleft()
        return slot

    def _decode(self, active: list[_Slot]) -> tuple[list[_Slot], Floats]:
        """Feed what the slots have to feed; return those that now sample, and logits (R, V)."""
        ready = []
        batch = self._llama.batch
        batch.clear()
        for slot in sorted(active, key=lambda slot: len(slot.feed)):  # answers before prompts
            taken = batch.add(slot.feed, slot.position, slot.number, slot.samples_next)
            slot.position += taken
            slot.feed = slot.feed[taken:]
            if not slot.feed and slot.position >= len(slot.job.prompt):
                ready.append(slot)
        return ready, self._llama.decode()

    def _finish(self, slot: _Slot) -> Iterator[tuple[Request, list[Candidate]]]:
        """Turn a slot's answer into a candidate; yield the request if that was its last one."""
        self._llama.drop(slot.number)
        job = slot.job
        text = self._llama.text(slot.answer).strip()
        job.candidates[slot.sample] = Candidate(
            text=self.template.restore(text, job.request.prompt),
            tokens=len(slot.answer),
            finished=slot.ended,
            logprob=slot.logprob / (len(slot.answer) + slot.ended),
        )
        if len(job.candidates) == job.request.samples:
            yield job.request, [job.candidates[sample] for sample in sorted(job.candidates)]


@dataclass
class _Job:
    """A request at work: prompt tokens, the limit of each answer, what is begun and done."""

    request: Request
    prompt: list[int]
    limit: int
    begun: int = 0
    holder: int = -1  # the sequence that keeps the prompt, where samples share it
    candidates: dict[int, Candidate] = field(default_factory=dict)


class _Slot:
    """One llama.cpp sequence and the sample it is writing.

    ``feed`` are tokens that the model has yet to read, ``position`` how many it has read.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def begin(self, job: _Job, held: int = 0) -> _Slot:
        """Take on the next sample of ``job``, of whose prompt ``held`` tokens are there already."""
        self.job = job
        self.sample = job.begun
        job.begun += 1
        self.position = held
        shared = not held and job.request.samples > 1
        self.feed = job.prompt[held:-1] if shared else job.prompt[held:]
        self.answer: list[int] = []
        self.logprob = 0.0
        self.ended = False
        request = job.request
        self.random = random.Random(f"{request.seed} {self.sample} {request.key!r}")
        return self

    def take(self, token: int, logprob: float, *, end: bool) -> None:
        """Add a sampled token, which the next step feeds."""
        self.logprob += logprob
        self.ended = end
        if not end:
            self.answer.append(token)
            self.feed = [token]

    @property
    def samples_next(self) -> bool:
        """Whether a token is to be drawn after ``feed`` was read."""
        return self.position + len(self.feed) >= len(self.job.prompt)

    @property
    def done(self) -> bool:
        """The answer ended or reached its limit."""
        return self.ended or len(self.answer) >= self.job.limit


def _sample(logits: Floats, slots: list[_Slot]) -> Iterator[tuple[_Slot, int, float]]:
    """Draw one token for every row of ``logits`` (R, V): (slot, token, its log-probability)."""
    if not slots:
        return
    requests = [slot.job.request for slot in slots]
    rows = np.arange(len(slots))
    tokens = logits.argmax(axis=1)  # (R,)
    scaled = logits - logits[rows, tokens][:, None]  # (R, V), the likeliest token at 0
    total = np.exp(scaled).sum(axis=1)
    hot = [row for row, request in enumerate(requests) if request.temperature > 0]
    if hot:
        tokens[hot] = _draw(
            scaled[hot],
            np.array([requests[row].temperature for row in hot], dtype=np.float32),
            np.array([requests[row].top_p for row in hot], dtype=np.float32),
            np.array([slots[row].random.getrandbits(64) for row in hot], dtype=np.uint64),
        )
    logprobs = scaled[rows, tokens] - np.log(total)
    yield from zip(slots, tokens.tolist(), logprobs.tolist(), strict=True)


def _draw(
    logits: Floats, temperature: Floats, top_p: Floats, keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.intp]:
    """Draw per row from the nucleus of softmax(logits / temperature), by the Gumbel-max trick.

    Every token id has its own noise, so a change in the last bits of some logits changes a draw
    only where two tokens nearly tie. Walking the distribution function would let it change more.

    Args:
        logits: (R, V), at most 0.
        temperature: (R,), above 0.
        top_p: (R,).
        keys: (R,), the noise of each row.
    """
    scaled = logits / temperature[:, None]
    probs = np.exp(scaled)
    probs /= probs.sum(axis=1, keepdims=True)
    # Tokens below (1 - top_p) / V weigh less than 1 - top_p together: none is in the nucleus.
    near = probs > ((1 - top_p) / probs.shape[1])[:, None]
    drawn = np.empty(len(probs), dtype=np.intp)
    for row, key in enumerate(keys):
        tokens = np.flatnonzero(near[row])
        weights = probs[row, tokens]
        if top_p[row] < 1:
            ordered = np.sort(weights)[::-1]
            last = min(int(np.searchsorted(ordered.cumsum(), top_p[row])), len(ordered) - 1)
            tokens = tokens[weights >= ordered[last]]
        gumbel = -np.log(-np.log(_uniform(tokens, key)))
        drawn[row] = tokens[np.argmax(scaled[row, tokens] + gumbel)]
    return drawn


def _uniform(tokens: npt.NDArray[np.intp], key: np.uint64) -> npt.NDArray[np.float64]:
    """A number in (0, 1) for every token id and key: SplitMix64 (Steele et al. 2014)."""
    bits = tokens.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    high = (bits >> np.uint64(12)).astype(np.float64)
    return (high + 0.5) * 2.0**-52
