"""The best of n rewrites of each comment, as pairs to train on; no human pair is needed.

A rewriter that passes once in n tries is taught to pass at once: best-of-n candidates become the
targets of supervised fine-tuning (RAFT, Dong et al. 2023). Candidates come from the engine that
rewrites dumps, so what is learned is what will be asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from sro_edge.detoxifier import Request
from sro_edge.guards import is_degenerate, is_refusal, survives, tidy
from sro_edge.rewriter import Rewriter

_CHUNK = 512  # comments drawn and screened together


class Drawn(NamedTuple):
    """A candidate that lost nothing of its comment, with its scores.

    Fluency and similarity are 1 where the screener has no such output.
    """

    comment: str
    text: str
    toxicity: float
    similarity: float
    fluency: float
    comment_fluency: float

    @property
    def worth(self) -> float:
        """What is maximised; fluency weighs more than in a rewrite, or holes would be taught."""
        return (1 - self.toxicity) * self.similarity * float(self.fluency**1.5)


@dataclass(frozen=True)
class Floors:
    """What a target must reach: stricter than what a rewrite must, or faults would be taught.

    Args:
        toxicity: highest toxicity.
        similarity: lowest cosine to the comment.
        fluency: lowest fluency.
        fluency_drop: how far the fluency may fall below the comment's own.
    """

    toxicity: float = 0.25
    similarity: float = 0.62
    fluency: float = 0.55
    fluency_drop: float = 0.15

    def pass_(self, drawn: Drawn) -> bool:
        """Whether ``drawn`` may become a target."""
        return (
            drawn.toxicity <= self.toxicity
            and drawn.similarity >= self.similarity
            and drawn.fluency >= max(self.fluency, drawn.comment_fluency - self.fluency_drop)
        )


def best_of(
    rewriter: Rewriter, comments: Iterable[str], *, samples: int, floors: Floors, seed: int = 0
) -> Iterator[tuple[str, Drawn | None]]:
    """Each comment with the best candidate that passes ``floors``, or None; lazily, in order.

    Args:
        rewriter: an opened bundle.
        comments: toxic comments.
        samples: candidates beside the greedy one.
        floors: what a target must reach.
        seed: of the sampling.
    """
    stream = iter(comments)
    while chunk := list(islice(stream, _CHUNK)):
        best: dict[str, Drawn] = {}
        for drawn in _score(rewriter, _candidates(rewriter, chunk, samples, seed)):
            held = best.get(drawn.comment)
            if floors.pass_(drawn) and (held is None or drawn.worth > held.worth):
                best[drawn.comment] = drawn
        yield from ((comment, best.get(comment)) for comment in chunk)


def _candidates(
    rewriter: Rewriter, comments: Sequence[str], samples: int, seed: int
) -> dict[str, list[str]]:
    """Comment -> distinct sound candidates: one greedy, the others sampled."""
    sampling, leaks = rewriter.bundle.sampling, rewriter.bundle.prompt.leaks
    requests = [Request(("greedy", c), c) for c in comments]
    requests += [
        Request(("sample", c), c, samples, sampling.temperature, sampling.top_p, seed)
        for c in comments
    ]
    found: dict[str, dict[str, None]] = {c: {} for c in comments}  # ordered, each once
    for request, answers in rewriter.detoxifier.generate(requests):
        comment = request.prompt
        for answer in answers:
            text = tidy(answer.text, comment)
            broken = is_degenerate(text, comment) or is_refusal(text, comment)
            if not answer.finished or broken or leaks(text, comment):
                continue
            if survives(text, comment):
                found[comment][text] = None
    return {comment: list(texts) for comment, texts in found.items()}


def _score(rewriter: Rewriter, candidates: dict[str, list[str]]) -> Iterator[Drawn]:
    texts = list(dict.fromkeys([*candidates, *(t for found in candidates.values() for t in found)]))
    row = {text: i for i, text in enumerate(texts)}
    scores = rewriter.screener.score(texts)
    fluency = np.ones(len(texts)) if scores.fluency is None else scores.fluency
    for comment, found in candidates.items():
        i = row[comment]
        for text in found:
            j = row[text]
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
            )
