"""The best of n rewrites of each comment, as pairs to train on; no human pair is needed.

A rewriter that passes once in n tries is taught to pass at once: best-of-n candidates become the
targets of supervised fine-tuning (RAFT, Dong et al. 2023). Candidates come from the engine that
rewrites dumps, so what is learned is what will be asked; and, where there is a table of milder
words, from a search (:mod:`sro_edge.training.rewording`), for a policy cannot be taught by its own
answers what it never says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sro_edge.detoxifier import Request
from sro_edge.guards import is_degenerate, is_refusal, survives, tidy
from sro_edge.job import free_spans
from sro_edge.rewriter import Rewriter
from sro_edge.screener import Screener, passes
from sro_edge.segments import words
from sro_edge.training.piles import key
from sro_edge.training.rewording import Rewording

Floats = npt.NDArray[np.float32]

_CHUNK = 512  # comments drawn and screened together
_WORDS = (4, 36)  # of a toxic sentence
_FIT, _KEPT = 0.15, 0.4  # what an ill fit and lost words take of a candidate's worth
_BROKEN, _FALL = 0.6, 0.15  # of a second opinion: broken below, if that far below the comment


Candidates = dict[str, dict[str, None]]  # comment -> candidates, ordered, each once


class Drawn(NamedTuple):
    """A candidate that lost nothing of its comment, with its scores.

    Fluency and similarity are 1 where the screener has no such output. ``fit`` is what speaks
    against the words beside its edits (0 or less), and ``kept`` the share of the comment's words
    that it has, both as a search found them. ``judged`` is a second opinion on its fluency.
    """

    comment: str
    text: str
    toxicity: float
    similarity: float
    fluency: float
    comment_fluency: float
    fit: float = 0.0
    kept: float = 1.0
    judged: float = 1.0

    @property
    def worth(self) -> float:
        """What is maximised; fluency weighs more than in a rewrite, or holes would be taught."""
        found = (1 - self.toxicity) ** 3 * self.similarity * float(self.fluency**1.5) * self.judged
        return found * float(10 ** (_FIT * self.fit) * min(1.0, self.kept) ** _KEPT)


@dataclass(frozen=True)
class Floors:
    """What a target must reach: stricter than what a rewrite must, or faults would be taught.

    Args:
        toxicity: highest toxicity.
        similarity: lowest cosine to the comment.
        fluency: lowest fluency.
        fluency_drop: how far the fluency may fall below the comment's own.
        fit: lowest fit of the words beside an edit, where a search knows it.
        worth: lowest worth of the best candidate.
    """

    toxicity: float = 0.15
    similarity: float = 0.62
    fluency: float = 0.75
    fluency_drop: float = 0.15
    fit: float = -2.2
    worth: float = 0.18

    def pass_(self, drawn: Drawn) -> bool:
        """Whether ``drawn`` may become a target."""
        return (
            drawn.toxicity <= self.toxicity
            and drawn.similarity >= self.similarity
            and drawn.fit >= self.fit
            and drawn.worth >= self.worth
            and drawn.fluency >= max(self.fluency, drawn.comment_fluency - self.fluency_drop)
        )


def best_of(
    rewriter: Rewriter,
    comments: Iterable[str],
    *,
    samples: int,
    floors: Floors,
    search: Rewording | None = None,
    fluency_judge: Callable[[Sequence[str]], Floats] | None = None,
    seed: int = 0,
) -> Iterator[tuple[str, Drawn | None]]:
    """Each comment with the best candidate that passes ``floors``, or None; lazily, in order.

    Args:
        rewriter: an opened bundle.
        comments: toxic comments.
        samples: candidates beside the greedy one.
        floors: what a target must reach.
        search: finds more candidates, and says which words a candidate may have; None for none.
        fluency_judge: a second opinion (N,) in [0, 1] on how fluent N texts are; None for none.
        seed: of the sampling.
    """
    stream = iter(comments)
    while chunk := list(islice(stream, _CHUNK)):
        candidates = _candidates(rewriter, chunk, samples, seed)
        if search is not None:
            _widen(candidates, search)
        good = [drawn for drawn in _score(rewriter, candidates, search) if floors.pass_(drawn)]
        if fluency_judge is not None:
            good = [drawn for drawn in _judged(good, fluency_judge) if floors.pass_(drawn)]
        best: dict[str, Drawn] = {}
        for drawn in good:
            if drawn.comment not in best or drawn.worth > best[drawn.comment].worth:
                best[drawn.comment] = drawn
        yield from ((comment, best.get(comment)) for comment in chunk)


def toxic_sentences(comments: Iterable[str], screener: Screener, threshold: float) -> Iterator[str]:
    """Distinct sentences of toxic ``comments`` that the screener flags by themselves, lazily.

    Args:
        comments: such as labelled ones, of which most sentences may be harmless.
        screener: that of the bundle.
        threshold: highest toxicity that passes.
    """
    low, high = _WORDS
    stream, known = iter(comments), set[str]()
    while chunk := list(islice(stream, _CHUNK)):
        new: dict[str, str] = {}
        for sentence in (span.of(text) for text in chunk for span in free_spans(text)):
            if low <= len(words(sentence)) <= high and key(sentence) not in known:
                new.setdefault(key(sentence), sentence)
        known.update(new)
        scores = screener.score(list(new.values())).toxicity.tolist()
        flagged = (not passes(toxicity, threshold) for toxicity in scores)
        yield from compress(new.values(), flagged)


def _candidates(rewriter: Rewriter, comments: Sequence[str], samples: int, seed: int) -> Candidates:
    """Distinct sound candidates of each comment: one greedy, the others sampled."""
    sampling, leaks = rewriter.bundle.sampling, rewriter.bundle.prompt.leaks
    requests = [Request(("greedy", c), c) for c in comments]
    requests += [
        Request(("sample", c), c, samples, sampling.temperature, sampling.top_p, seed)
        for c in comments
    ]
    found: Candidates = {c: {} for c in comments}
    for request, answers in rewriter.detoxifier.generate(requests):
        comment = request.prompt
        for answer in answers:
            if answer.finished and not leaks(answer.text, comment):
                _add(found, comment, answer.text)
    return found


def _widen(candidates: Candidates, search: Rewording) -> None:
    """Add what the search finds, and take out candidates with words that it does not allow."""
    for comment, found in candidates.items():
        allowed = search.allowed(comment)
        for text in [text for text in found if not allowed.issuperset(words(text))]:
            del found[text]
        for text in search.propose(comment):
            _add(candidates, comment, text)


def _add(candidates: Candidates, comment: str, answer: str) -> None:
    """Add an answer, tidied, if it is sound and lost nothing."""
    text = tidy(answer, comment)
    broken = is_degenerate(text, comment) or is_refusal(text, comment)
    if not broken and survives(text, comment):
        candidates[comment][text] = None


def _score(rewriter: Rewriter, candidates: Candidates, search: Rewording | None) -> Iterator[Drawn]:
    texts = list(dict.fromkeys([*candidates, *(t for found in candidates.values() for t in found)]))
    row = {text: i for i, text in enumerate(texts)}
    scores = rewriter.screener.score(texts)
    fluency = np.ones(len(texts)) if scores.fluency is None else scores.fluency
    for comment, found in candidates.items():
        i, said = row[comment], words(comment)
        for text in found:
            j, says = row[text], words(text)
            similarity = 1.0
            if scores.embedding is not None:
                similarity = float(scores.embedding[i] @ scores.embedding[j])
            yield Drawn(
                comment,
                text,
                float(scores.toxicity[j]),
                similarity,
                float(fluency[j]),
                float(fluency[i]),
                *((search.clean.fit(said, says), len(says) / len(said)) if search else ()),
            )


def _judged(
    candidates: Sequence[Drawn], judge: Callable[[Sequence[str]], Floats]
) -> Iterator[Drawn]:
    """Candidates with a second opinion, less those that it calls broken and their comment not."""
    texts = list(dict.fromkeys(t for d in candidates for t in (d.comment, d.text)))
    fluent = dict(zip(texts, map(float, judge(texts)), strict=True)) if texts else {}
    for drawn in candidates:
        if fluent[drawn.text] >= min(_BROKEN, fluent[drawn.comment] - _FALL):
            yield drawn._replace(judged=fluent[drawn.text])
