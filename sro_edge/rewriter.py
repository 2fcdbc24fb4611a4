"""The engine: screen -> rewrite -> guard -> re-screen -> retry, one frozen record a comment.

Only toxic sentences of a comment are rewritten, and nothing inside them that must survive; the rest
of the comment is byte-identical. All comments of a chunk go through one round together, so that
llama.cpp always has many sequences in flight and the screener full batches.
"""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sro_edge.abstention import REASON, load_abstainer
from sro_edge.bundle import Bundle, Thresholds
from sro_edge.choice import Choice, least_similarity, readable
from sro_edge.first_stage import stated
from sro_edge.guards import keeps_quotes, survives
from sro_edge.job import Job, Rewrite, free_spans
from sro_edge.memo import LONGEST, MOST_COMMENTS, remember
from sro_edge.proposals import Proposals
from sro_edge.score_cache import ScoreCache
from sro_edge.screener import passes
from sro_edge.segments import windows

if TYPE_CHECKING:
    from sro_edge.abstention import Abstainer
    from sro_edge.detoxifier import Detoxifier
    from sro_edge.first_stage import FirstStage
    from sro_edge.screener import Screener

POLICIES = ("null", "mask", "keep")
MASK = "[removed]"
_CHUNK = 512  # comments screened and rewritten together
_SUSPECT = 0.25  # share of the threshold from which on a sentence may be what makes a whole toxic
_NEARLY_THE_SAME = 0.8  # similarity of a comment without its curses
_CHOICES = 4  # answers of the last round with which a comment is put together, at most
_NOT_FAR = 0.5  # how far from the threshold to 1 a sentence may be that is left as it is


class Rewriter:
    """Rewords toxic comments with the models of a bundle.

    Args:
        bundle: the opened bundle.
        screener: its screener.
        detoxifier: its rewriter.
        thresholds: what a rewrite must reach; default: the bundle's.
        max_attempts: generation rounds: the first greedy, beside what the bundle's table of milder
            words has to say, the others sampled best-of-n; after them the toxic words are deleted,
            and what then still fails is unresolved.
        samples: candidates that a sampled round draws, 1 to 256; default: the bundle's.
        delete: delete words in the last resort, and leave words out of quotations; if not, what
            only that would mend is unresolved.
        on_unresolved: text of an unresolved comment: ``null``, ``mask`` or ``keep``.
        seed: of the sampling.
        first_stage: clears comments before the screener sees them; None for none.
        abstainer: gives comments up before they are rewritten; None to try them all.

    Attributes:
        remember: answers of the model that are kept between two calls, to be set by those who give
            a dump in pieces. A comment's rewrite does not depend on it.
    """

    def __init__(
        self,
        bundle: Bundle,
        screener: Screener,
        detoxifier: Detoxifier,
        *,
        thresholds: Thresholds | None = None,
        max_attempts: int = 3,
        samples: int | None = None,
        delete: bool = True,
        on_unresolved: str = "null",
        seed: int = 0,
        first_stage: FirstStage | None = None,
        abstainer: Abstainer | None = None,
    ) -> None:
        if max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {max_attempts}")
        if on_unresolved not in POLICIES:
            raise ValueError(f"on_unresolved must be one of {POLICIES}, not {on_unresolved!r}")
        self.bundle, self.screener, self.detoxifier = bundle, screener, detoxifier
        self.first_stage, self.abstainer = first_stage, abstainer
        self.thresholds = thresholds or bundle.thresholds
        self.sampling = bundle.sampling
        if samples is not None:
            self.sampling = dataclasses.replace(bundle.sampling, samples=samples)
        self.max_attempts, self.on_unresolved, self.seed = max_attempts, on_unresolved, seed
        self.delete = delete
        self._propose = Proposals(
            bundle,
            detoxifier,
            self.thresholds,
            self.sampling,
            rounds=max_attempts,
            delete=delete,
            seed=seed,
        )
        self.lexicon = self._propose.lexicon
        toxic = self._propose.toxic or None
        self._reveal = partial(screener.reveal, expected=toxic, hashtags=False)  # they may survive
        self.remember = 0
        self._begin()

    @classmethod
    def load(
        cls,
        bundle: Bundle | str | Path | None = None,
        *,
        threshold: float | None = None,
        max_attempts: int | None = None,
        samples: int | None = None,
        delete: bool = True,
        on_unresolved: str = "null",
        seed: int = 0,
        threads: int | None = None,
        device: str = "auto",
        deterministic: bool = False,
        cascade: bool = True,
        abstain: float | str | None = None,
    ) -> Rewriter:
        """Open a bundle (default: the embedded one) and its two models.

        Args:
            bundle: a :class:`Bundle` or its folder.
            threshold: highest toxicity that passes, in place of the bundle's.
            max_attempts: generation rounds (default 3).
            samples: see :class:`Rewriter`.
            delete: see :class:`Rewriter`.
            on_unresolved: see :class:`Rewriter`.
            seed: of the sampling.
            threads: CPU threads (default: one per physical core).
            device: ``auto``, ``cpu`` or ``cuda``.
            deterministic: see :class:`sro_edge.detoxifier.Detoxifier`.
            cascade: let the bundle's first stage, where it has one, clear what is surely clean.
            abstain: lowest score that gives a comment up, in place of the bundle's, or ``off``.

        Raises:
            BundleError: the bundle is incomplete or changed.
            MissingExtraError: no ONNX Runtime is installed.
            ModelError: the device or a model cannot be used.
        """
        from sro_edge.detoxifier import Detoxifier
        from sro_edge.first_stage import load_first_stage
        from sro_edge.screener import Screener

        opened = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
        thresholds = opened.thresholds.changed(threshold, abstain)
        screener = Screener(opened.screener, threads=threads, device=device)
        stage = None
        if cascade:
            stage = load_first_stage(opened, thresholds.toxicity, threads=threads)
        abstainer = load_abstainer(opened, screener, thresholds.abstain, threads, device)
        detoxifier = Detoxifier.of(
            opened, threads=threads, device=device, deterministic=deterministic
        )
        detoxifier.try_out()
        return cls(
            opened,
            screener,
            detoxifier,
            thresholds=thresholds,
            max_attempts=3 if max_attempts is None else max_attempts,
            samples=samples,
            delete=delete,
            on_unresolved=on_unresolved,
            seed=seed,
            first_stage=stage,
            abstainer=abstainer,
        )

    def settings(self) -> dict[str, Any]:
        """All that decides what a comment becomes, JSON-able: for manifests and resuming."""
        return {
            "bundle": self.bundle.name,
            "bundle_version": self.bundle.version,
            "bundle_digest": self.bundle.digest,
            "thresholds": dataclasses.asdict(self.thresholds),
            "max_attempts": self.max_attempts,
            "samples": self.sampling.samples,
            "delete": self.delete,
            "on_unresolved": self.on_unresolved,
            "seed": self.seed,
            "cascade": stated(self.first_stage),
            "deterministic": self.detoxifier.deterministic,
        }

    def rewrite(self, texts: Iterable[str | None]) -> Iterator[Rewrite]:
        """One :class:`Rewrite` a text, in order, lazily; None and blank texts are ``empty``.

        A text that comes again is not worked on again. Between two calls, nothing is remembered but
        ``remember`` answers.

        Raises:
            TypeError: ``texts`` is one string, or a text is no string.
        """
        if isinstance(texts, str):
            raise TypeError("give a list of texts, not one text")
        known: OrderedDict[str, Rewrite] = OrderedDict()
        stream = iter(texts)
        while chunk := list(islice(stream, _CHUNK)):
            if any(not isinstance(t, str | None) for t in chunk):
                raise TypeError("a text must be a string or None")
            new = list(dict.fromkeys(t for t in chunk if t and t.strip() and t not in known))
            results = dict(zip(new, self._rewrite_all(new), strict=True))
            for text in chunk:
                if text is None or not text.strip():
                    yield Rewrite(text=text, status="empty")
                else:
                    yield results.get(text) or known[text]
            short = {t: r for t, r in results.items() if len(t) <= LONGEST}
            remember(known, short, MOST_COMMENTS)

    def _rewrite_all(self, texts: Sequence[str]) -> list[Rewrite]:
        """One round after the other over the toxic ones among distinct, non-blank ``texts``."""
        if not texts:
            return []
        self._begin()
        results: list[Rewrite | None] = [None] * len(texts)
        seen = self._scores.screen(texts, self.first_stage)
        toxic = []
        for i, (text, score) in enumerate(zip(texts, seen.tolist(), strict=True)):
            if math.isnan(score):
                results[i] = Rewrite(text, "clean")
            elif passes(score, self.thresholds.toxicity):
                results[i] = Rewrite(text, "clean", toxicity_before=score, toxicity_after=score)
            else:
                toxic.append(i)
        before = self._scores.score([texts[i] for i in toxic])
        jobs: dict[int, Job] = {}
        for row, i in enumerate(toxic):
            embedding = None if before.embedding is None else before.embedding[row]
            jobs[i] = Job(texts[i], float(before.toxicity[row]), embedding, self._reveal)
        self._find_pieces(list(jobs.values()))
        if self.abstainer is not None:
            self._give_up(self.abstainer.given_up(list(jobs.values())), REASON)
        for attempt in range(self.max_attempts + self.delete):
            self._round([j for j in jobs.values() if not j.done], attempt)
        self._let_stand([j for j in jobs.values() if not j.done])
        if self.delete:
            self._leave_out([j for j in jobs.values() if not j.done])
        self._give_up([j for j in jobs.values() if not j.done])
        for i, job in jobs.items():
            results[i] = job.done
        return [r for r in results if r is not None]

    def _begin(self) -> None:
        """Forget the scores of the last chunk."""
        self._scores = ScoreCache(self.screener)
        leaks, knows = self.bundle.prompt.leaks, self.screener.knows
        self._choice = Choice(self.thresholds, leaks, self._scores.score, knows)

    def _find_pieces(self, jobs: Sequence[Job]) -> None:
        """Start every job with its failing sentences, or with the worst one."""
        spans = [(job, span) for job in jobs for span in free_spans(job.text)]
        scores = self._scores.screen([s.of(j.text) for j, s in spans], self.first_stage)
        for (job, span), toxicity in zip(spans, np.nan_to_num(scores).tolist(), strict=True):
            job.untouched.append((toxicity, span))
        for job in jobs:
            job.untouched.sort(key=lambda c: -c[0])
            while job.untouched and (
                not job.pieces or not passes(job.untouched[0][0], self.thresholds.toxicity)
            ):
                job.take_next()

    def _round(self, jobs: Sequence[Job], attempt: int) -> None:
        """One attempt at every open piece, then a second look at the comments put together."""
        pieces = [p for j in jobs for p in j.pieces if p.answer is None or p.doubtful]
        sampled = attempt == 0 and self.max_attempts > 1
        last = attempt + 1 == self.max_attempts + self.delete
        for job in jobs:
            job.attempts = min(attempt + 1, self.max_attempts)
        for _ in range(_CHOICES if last else 1):
            found = self._propose(pieces, attempt, self._scores.score, keep=self.remember)
            self._choice.take(pieces, found, sampled=sampled, last=last)
            left = [job for job in jobs if not job.done]
            self._look_again(left)
            pieces = [p for j in left for p in j.pieces if p.answer is None and p.spent]
            if not pieces:
                break

    def _look_again(self, jobs: Sequence[Job]) -> None:
        """Close the comments that pass put together; of others, more is to be rewritten."""
        whole = [j for j in jobs if j.pieces and all(p.answer and not p.doubtful for p in j.pieces)]
        self._settle(whole)
        self._try_more([j for j in whole if not j.done and all(p.answer for p in j.pieces)])

    def _settle(self, jobs: Sequence[Job]) -> None:
        """Re-screen whole comments whose pieces are all rewritten; done are those that pass.

        Where a quotation over several sentences broke, they are to be rewritten again.
        """
        if not jobs:
            return
        new = [job.assembled() for job in jobs]
        scores = self._scores.score(new)
        for i, (job, text) in enumerate(zip(jobs, new, strict=True)):
            toxicity = float(scores.toxicity[i])
            if not keeps_quotes(*map(self._reveal, (text, job.text))):
                job.reopen(reason="meaning")
                continue
            if not passes(toxicity, self.thresholds.toxicity):
                continue
            found = job.rewritten(text, scores, i)
            if self._means_the_same(found, job):
                job.done = found
            else:
                job.reopen(reason="meaning")

    def _try_more(self, jobs: Sequence[Job]) -> None:
        """Where every piece passes and the whole does not, look where it fails."""
        if not jobs:
            return
        texts = [job.assembled() for job in jobs]
        parts = list(dict.fromkeys(span.of(text) for text in texts for span in windows(text)))
        toxicity = dict(zip(parts, self._scores.score(parts).toxicity.tolist(), strict=True))
        limit = self.thresholds.toxicity
        for job, text in zip(jobs, texts, strict=True):
            found = windows(text)
            failing = [span for span in found if not passes(toxicity[span.of(text)], limit)]
            job.try_more(failing, limit * _SUSPECT)

    def _means_the_same(self, found: Rewrite, job: Job) -> bool:
        """Whether a rewrite is as similar as asked to the comment, disguised words or not.

        No more is asked than of its pieces, where milder words stand in all of them.
        """
        milder = all(piece.engine == "substitute" for piece in job.pieces)
        floor = least_similarity(self.thresholds, as_it_stood=milder)
        if found.similarity is None or found.similarity >= floor:
            return True
        said = [self._reveal(str(found.text)), self._reveal(job.text)]
        embedding = self._scores.score(said).embedding
        return embedding is not None and float(embedding[0] @ embedding[1]) >= floor

    def _let_stand(self, jobs: Sequence[Job]) -> None:
        """Close comments that pass with their unmended sentences, none of which is far from passing
        alone: out of its context the screener may take one amiss."""
        toxicity = self.thresholds.toxicity
        most = toxicity + _NOT_FAR * (1 - toxicity)
        self._accept([(j, t) for j in jobs if (t := j.with_open(most))], self.thresholds.similarity)

    def _leave_out(self, jobs: Sequence[Job]) -> None:
        """Close comments that pass, and say nearly the same, without their unmended curses."""
        texts = [(j, t) for j in jobs if (t := j.without_curses())]
        self._accept(texts, _NEARLY_THE_SAME, "delete")

    def _accept(
        self, texts: Sequence[tuple[Job, str]], similarity: float, engine: str | None = None
    ) -> None:
        """Close comments with texts that pass, are as similar and lose nothing."""
        scores = self._scores.score([text for _, text in texts])
        before = self._scores.score([job.text for job, _ in texts])
        for i, (job, text) in enumerate(texts):
            found = job.rewritten(text, scores, i, engine)
            if (
                passes(float(scores.toxicity[i]), self.thresholds.toxicity)
                and readable(scores, i, before, i)
                and (found.similarity is None or found.similarity >= similarity)
                and survives(*map(self._reveal, (text, job.text)))
            ):
                job.done = found

    def _give_up(self, jobs: Sequence[Job], reason: str | None = None) -> None:
        """Close what is left as unresolved, with the text that the user's policy gives it."""
        for job in jobs:
            reasons = [p.reason for p in job.pieces if p.answer is None] or ["toxic"]
            text, after = None, None
            if self.on_unresolved == "keep":
                text, after = job.text, job.toxicity
            elif self.on_unresolved == "mask":
                text, after = self._masked(job)
            job.done = Rewrite(
                text,
                "unresolved",
                reason=reason or reasons[0],
                toxicity_before=job.toxicity,
                toxicity_after=after,
                attempts=job.attempts,
            )

    def _masked(self, job: Job) -> tuple[str | None, float | None]:
        for text in (job.assembled(MASK), MASK):
            toxicity = float(self._scores.score([text]).toxicity[0])
            if passes(toxicity, self.thresholds.toxicity):
                return text, toxicity
        return None, None
