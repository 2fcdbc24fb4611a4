"""The end that matters: the same comments reworded by torch and by each GGUF file, and judged.

Both write greedily. llama.cpp works through the engine that users run, and the judge is the
screener that is shipped, so a figure here is what a user of the bundle will see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sro_edge.bundle import Thresholds
from sro_edge.detoxifier import Detoxifier, Request
from sro_edge.export.figures import Figure
from sro_edge.export.gguf_writer import context_length
from sro_edge.export.merge import Policy
from sro_edge.export.proof_gguf import proof_threads
from sro_edge.guards import is_degenerate, is_refusal, survives, tidy
from sro_edge.screener import Screener, passes
from sro_edge.training.rollout import Prompter, greedy_answers
from sro_edge.training.tokens import tokenize_with

COMMENTS_REWRITTEN = 128
_SCREENED = 4096  # comments looked at in search of toxic ones
_LONGEST = 200  # characters
_BATCH = 32
_MAX_NEW_TOKENS = 96
# How far below torch's a figure may fall: (STA, SIM, pass rate).
_FALLS = {"sta": 0.05, "sim": 0.03, "pass": 0.05}
_NAMES = {"sta": "STA of rewrites", "sim": "SIM of rewrites", "pass": "rewrites that pass"}


@dataclass(frozen=True)
class Rewrites:
    """Answers to comments as they were judged.

    Args:
        texts: the answer to each comment.
        sta: share of answers that the screener passes.
        sim: mean cosine of comment and answer; None where the screener has no embedding.
        passed: share of answers that a user would get: passed by the screener and by every guard.
    """

    texts: list[str]
    sta: float
    sim: float | None
    passed: float


def compare_rewrites(
    policy: Policy,
    files: Mapping[str, Path],
    screener: Screener,
    thresholds: Thresholds,
    comments: Sequence[str],
) -> list[Figure]:
    """Greedy rewrites by torch and by each file.

    Args:
        policy: the trained model.
        files: GGUF type -> file.
        screener: as it will be shipped.
        thresholds: what a rewrite must reach.
        comments: among them toxic ones; the first 128 of at most 200 characters are taken.
    """
    toxic = toxic_comments(policy, screener, thresholds, comments)
    by_torch = judge(toxic, torch_answers(policy, toxic), screener, thresholds)
    figures = [Figure("rewrites.comments", "toxic comments reworded by both", len(toxic))]
    figures += _figures("torch", by_torch, None)
    for name, file in files.items():
        found = judge(toxic, llama_answers(policy, file, toxic), screener, thresholds)
        figures += _figures(name, found, by_torch)
        same = [a == b for a, b in zip(found.texts, by_torch.texts, strict=True)]
        key = f"rewrites.{name}.same"
        figures.append(Figure(key, f"rewrites equal to torch's, {name}", float(np.mean(same))))
    return figures


def toxic_comments(
    policy: Policy, screener: Screener, thresholds: Thresholds, comments: Sequence[str]
) -> list[str]:
    """The first short comments that the screener finds toxic; failing these, any."""
    tokenize = tokenize_with(policy.tokenizer)
    limit = _prompt_limit(policy)
    fitting = (
        text
        for text in dict.fromkeys(comments)
        if 8 <= len(text.strip()) <= _LONGEST
        and any(c.isalpha() for c in text)
        and len(policy.template.encode(text, tokenize)) <= limit
    )
    found: list[str] = []
    seen: list[str] = []
    while len(found) < COMMENTS_REWRITTEN and len(seen) < _SCREENED:
        part = list(islice(fitting, 256))
        if not part:
            break
        seen += part
        scores = screener.score(part).toxicity.tolist()
        found += [
            text
            for text, score in zip(part, scores, strict=True)
            if not passes(score, thresholds.toxicity)
        ]
    return (found or seen)[:COMMENTS_REWRITTEN]


def torch_answers(policy: Policy, comments: Sequence[str]) -> list[str | None]:
    """Greedy answers of the trained model; None where an answer does not end within its limit."""
    leader = _Leader(policy)
    found: list[str | None] = []
    answers = greedy_answers(leader, comments, max_new_tokens=_new_tokens(policy), batch=_BATCH)
    for comment, answer in zip(comments, answers, strict=True):
        read = len(policy.template.encode_text(comment, leader.prompter.tokenize))
        ended = answer.finished and len(answer.ids) <= int(1.5 * read) + 16  # the engine's limit
        found.append(answer.text if ended else None)
    return found


class _Leader:
    """The exported policy, as the rollout of the training asks for it."""

    def __init__(self, policy: Policy) -> None:
        self.model = policy.model
        self.prompter = Prompter(policy.tokenizer, policy.template)
        self.guesses = False  # the plain path proves more

    def autocast(self) -> AbstractContextManager[Any]:
        """Fp32 throughout."""
        return nullcontext()


def llama_answers(policy: Policy, file: Path, comments: Sequence[str]) -> list[str | None]:
    """The same by llama.cpp, through the engine."""
    found: list[str | None] = [None] * len(comments)
    with Detoxifier(
        file,
        policy.template,
        threads=proof_threads(),
        device="cpu",
        max_prompt_tokens=_prompt_limit(policy),
        max_new_tokens=_new_tokens(policy),
    ) as engine:
        requests = (Request(key=i, prompt=text) for i, text in enumerate(comments))
        for request, candidates in engine.generate(requests):
            if candidates and candidates[0].finished:
                found[request.key] = candidates[0].text
    return found


def judge(
    comments: Sequence[str],
    answers: Sequence[str | None],
    screener: Screener,
    thresholds: Thresholds,
) -> Rewrites:
    """Screen answers and hold them to every guard; a missing one counts as toxic and unlike."""
    texts = [
        "" if answer is None else tidy(answer, comment)
        for comment, answer in zip(comments, answers, strict=True)
    ]
    before, after = screener.score(comments), screener.score(texts)
    there = np.array([bool(text.strip()) for text in texts])
    clean = there & np.array([passes(t, thresholds.toxicity) for t in after.toxicity.tolist()])
    sound = clean & np.array(
        [
            survives(text, comment)
            and not is_degenerate(text, comment)
            and not is_refusal(text, comment)
            for comment, text in zip(comments, texts, strict=True)
        ]
    )
    similarity = None
    if before.embedding is not None and after.embedding is not None:
        cosines = (before.embedding * after.embedding).sum(1) * there
        sound &= cosines >= thresholds.similarity
        similarity = float(cosines.mean())
    if before.fluency is not None and after.fluency is not None:
        sound &= after.fluency >= before.fluency - thresholds.fluency_drop
    return Rewrites(texts, float(clean.mean()), similarity, float(sound.mean()))


def _figures(name: str, found: Rewrites, reference: Rewrites | None) -> list[Figure]:
    figures = []
    values = {"sta": found.sta, "sim": found.sim, "pass": found.passed}
    for key, value in values.items():
        if value is None:
            continue
        bound = None
        if reference is not None:
            base = {"sta": reference.sta, "sim": reference.sim, "pass": reference.passed}[key]
            bound = max(0.0, (base or 0.0) - _FALLS[key])
        figures.append(
            Figure(
                f"rewrites.{name}.{key}",
                f"{_NAMES[key]}, {name}",
                value,
                at_least=bound,
                advice="torch's own is better by more than that; choose a --gguf type with more "
                "bits",
            )
        )
    return figures


def _new_tokens(policy: Policy) -> int:
    return min(_MAX_NEW_TOKENS, context_length(policy.model.config) // 4)


def _prompt_limit(policy: Policy) -> int:
    return min(512, context_length(policy.model.config) - _new_tokens(policy))
