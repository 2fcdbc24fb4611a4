"""llama.cpp engine: prompts -> candidates, many sequences in flight, a context for each core.

Every step sends one batch to llama.cpp that mixes prompts being read with answers being written
(continuous batching): a slot whose answer ends takes the next work at once. The samples of one
request are one sequence until they part, all prompts share one reading of the template's prefix,
and a request that comes again finds its prompt where no other took the slot. Where few answers are
in flight, the comment is their draft (:mod:`sro_edge.lookup`). A candidate depends on its request
only, not on what else is in flight, but for the last bits of float arithmetic; q8_0 and q4_0 models
on a CPU have not even those (:class:`sro_edge.llama.Context`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sro_edge.errors import ModelError
from sro_edge.flight import Flight, Job
from sro_edge.lanes import Lanes
from sro_edge.llama import Context, Model
from sro_edge.lookup import Depth, places_of
from sro_edge.machine import physical_cores
from sro_edge.prompt import PromptTemplate

if TYPE_CHECKING:
    from sro_edge.bundle import Bundle

_MAX_SLOTS = 128  # llama.cpp keeps 256 sequences
# Measured on 7 M to 135 M parameters: a lane of 16 slots is best, one of fewer than 8 worse than
# one context for all threads. In fp32, 32 slots do 1.1 to 1.2 times the work of 16.
_BEST_LANE, _LEAST_LANE, _FP32_LANE = 16, 8, 32
_MOST_LANES = 8  # as many as one interpreter can draw tokens for
# Bytes of a model whose slots need little memory. A larger one has one lane: each would have its
# weights come from memory once more, and too few slots of them.
_SMALL = 256 << 20


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
    """

    text: str
    tokens: int
    finished: bool


class Detoxifier:
    """A GGUF model ready to answer. Use as a context manager, or call :meth:`close`.

    Args:
        path: the GGUF file.
        template: how a comment becomes a prompt.
        threads: CPU threads; default one per physical core.
        device: ``cpu``, ``cuda``, or ``auto`` for the GPU where llama.cpp was built for one.
        slots: answers written at the same time; default 16 for each thread, up to 128, or 16 where
            the model has more than 256 MB; in fp32 twice as many.
        max_prompt_tokens: longer prompts get no candidate.
        max_new_tokens: limit of every answer.
        deterministic: give llama.cpp batches of fixed shapes, which is slower: what else is in
            flight then changes not even the last bits of an answer, whatever the weights' type.
        lookup: let the comment be the draft of its answer where that is faster; the answers are
            the same without.
        seldom: words that answers seldom repeat: a draft leaves them out.

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
        slots: int | None = None,
        max_prompt_tokens: int = 256,
        max_new_tokens: int = 128,
        deterministic: bool = False,
        lookup: bool = True,
        seldom: Iterable[str] = (),
    ) -> None:
        """Load the model."""
        threads = threads or physical_cores()
        if slots is not None and not 1 <= slots <= _MAX_SLOTS:
            raise ModelError(f"slots must be 1 to {_MAX_SLOTS}, not {slots}")
        self.template = template
        self.deterministic = deterministic
        self.max_prompt_tokens = max_prompt_tokens
        self.max_new_tokens = max_new_tokens
        self._model = Model(Path(path), device=device)
        small = self._model.bytes <= _SMALL
        lane = _FP32_LANE if self._model.fp32 else _BEST_LANE
        self.slots = slots or min(lane * threads if small else lane, _MAX_SLOTS)
        self._running = self._closed = False
        self._prefix = self.tokenize(template.prefix, True)
        self._suffix = self.tokenize(template.suffix, True)
        self._seldom: dict[int, list[list[int]]] = {}
        for word in seldom:
            for tokens in (self.tokenize(lead + word, False) for lead in ("", " ")):
                if tokens:
                    self._seldom.setdefault(tokens[0], []).append(tokens)
        lanes = 1
        if small and not deterministic and not self._model.on_gpu:
            lanes = max(1, min(threads, self.slots // _LEAST_LANE, _MOST_LANES))
        guess = lookup and self._model.can_cut and not deterministic
        self._flights = [
            self._flight(self.slots // lanes + (n < self.slots % lanes), guess, deterministic)
            for n in range(lanes)
        ]
        self._lanes = Lanes(self._flights, threads)

    @classmethod
    def of(cls, bundle: Bundle, **options: Any) -> Detoxifier:
        """The rewriter of a bundle, with its prompt, its lexicon and its limit of answers.

        Args:
            bundle: an opened bundle.
            options: the other settings, by name.
        """
        return cls(
            bundle.detoxifier,
            bundle.prompt,
            seldom=bundle.lexicon(),
            max_new_tokens=bundle.sampling.max_new_tokens,
            **options,
        )

    def _flight(self, slots: int, guess: bool, fixed: bool) -> Flight:
        """A flight with a context of its own."""
        rows = max(64, 2 * slots)  # answers and guesses of one step
        context = Context(
            self._model,
            threads=1,
            sequences=slots + 1,  # and one for the prefix
            longest=self.max_prompt_tokens + self.max_new_tokens,
            rows=rows + slots,
        )
        depth = Depth(rows if guess else 0)
        return Flight(context, depth, prefix=self._prefix, slots=slots, fixed=fixed)

    def tokenize(self, text: str, parse_special: bool) -> list[int]:
        """Token ids of ``text``; control tokens in it are recognised only on ``parse_special``."""
        return self._model.tokenize(text, parse_special)

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[Request, list[Candidate]]]:
        """Answer every request once, in the order in which the answers are complete.

        Requests are taken from the iterable when slots fall free, or a few ahead. A comment without
        tokens, or a prompt of more than ``max_prompt_tokens``, gives an empty list.

        Raises:
            ModelError: llama.cpp refused a batch.
            RuntimeError: it is generating already, or was closed before the last answer.
        """
        if self._closed or self._running:
            state = "is closed" if self._closed else "is already generating"
            raise RuntimeError(f"this Detoxifier {state}; make another one")
        self._running = True
        try:
            jobs = (self._prepare(request) for request in requests)
            for job in self._lanes.run(jobs):
                yield job.request, self._candidates(job)
        finally:
            self._running = False

    def try_out(self) -> None:
        """Read two tokens and forget them: what cannot run here says so, or dies, before any work.

        One alone would try other kernels than those that batches need.
        """
        context = self._flights[0].context
        context.batch.clear()
        context.batch.add([0, 0], 0, 0, rows=2)
        context.decode()
        context.drop(0)

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self._closed = True
        self._lanes.close()
        self._model.close()

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

    def _prepare(self, request: Request) -> Job:
        """The request with its tokens; with no samples where they are too many, or none at all."""
        comment = self.template.encode_text(request.prompt, self.tokenize)
        prompt = [*self._prefix, *comment, *self._suffix]
        fits = comment and len(prompt) <= self.max_prompt_tokens
        limit = min(request.max_new_tokens or self.max_new_tokens, self.max_new_tokens)
        return Job(
            request,
            prompt,
            comment,
            samples=request.samples if fits else 0,
            limit=min(limit, int(1.5 * len(comment)) + 16),
            seldom=places_of(self._seldom, comment),
        )

    def _candidates(self, job: Job) -> list[Candidate]:
        """The answers of a job as texts, in the order of the samples."""
        texts: dict[tuple[int, ...], str] = {}  # most samples say the same
        candidates = []
        for tokens, ended in (job.answers[sample] for sample in range(job.samples)):
            said = tuple(tokens)
            if said not in texts:
                answer = self._model.text(tokens).strip()
                texts[said] = self.template.restore(answer, job.request.prompt)
            candidates.append(Candidate(texts[said], len(tokens), ended))
        return candidates
