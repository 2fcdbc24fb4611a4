"""The rollout: K sampled paraphrases of each comment, in eval mode, and their token sequences.

One prefill a comment, its cache then shared out to the K samples; rows that have ended leave the
batch. Every sample draws from a random stream of its own (seed, comment, k), so it is the same in
any batch, on any number of processes and after any resumption.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch.nn import functional as F
from transformers import DynamicCache

from sro_edge.prompt import PromptTemplate
from sro_edge.training.packing import scoring
from sro_edge.training.tokens import tokenize_with


@dataclass(frozen=True)
class Sample:
    """One answer to one comment.

    Args:
        comment: index of the comment in the batch.
        ids: token ids of the answer, end token included where it was reached.
        text: the answer as the user would get it.
        finished: whether the end token was reached within the limit.
    """

    comment: int
    ids: tuple[int, ...]
    text: str
    finished: bool


class Prompter:
    """Comments to token ids and back for one tokenizer and template."""

    def __init__(self, tokenizer: Any, template: PromptTemplate) -> None:
        self.tokenizer, self.template = tokenizer, template
        self.tokenize = tokenize_with(tokenizer)
        self.eos: int = tokenizer.eos_token_id
        self.pad: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos

    def prompt(self, comment: str) -> list[int]:
        """Ids of the whole prompt."""
        return self.template.encode(comment, self.tokenize)

    def answer(self, text: str) -> tuple[int, ...]:
        """Ids of ``text`` as an answer, end token included."""
        return (*self.template.encode_text(text, self.tokenize), self.eos)

    def restore(self, ids: Sequence[int], comment: str) -> str:
        """The text of generated ``ids``."""
        return self.template.restore(self.tokenizer.decode(ids, skip_special_tokens=True), comment)


class Leader(Protocol):
    """What a rollout asks of a policy."""

    model: Any
    prompter: Prompter

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision the model computes in."""


@torch.no_grad()
def rollout(
    policy: Leader,
    comments: Sequence[str],
    *,
    samples: int,
    temperature: float = 1.0,
    max_new_tokens: int = 96,
    seed: str | int = 0,
) -> list[Sample]:
    """``samples`` answers to every comment (``temperature`` 0: one greedy answer), batched.

    An answer may be half as long again as its comment, plus 16 tokens, but not longer than
    ``max_new_tokens``. Dropout is off; the model's mode is restored afterwards.

    Args:
        policy: the leader.
        comments: (B,).
        samples: K.
        temperature: of the sampling; nothing else is cut off or reweighted.
        max_new_tokens: limit of an answer.
        seed: of the random streams.

    Returns:
        B x K samples, comment after comment.
    """
    per_comment = samples if temperature else 1
    prompter = policy.prompter
    lengths = [len(prompter.answer(c)) for c in comments]
    limits = [min(max_new_tokens, int(1.5 * n) + 16) for n in lengths for _ in range(per_comment)]
    if temperature:
        noise = _noise(comments, samples, max(limits), seed).to(policy.model.device)
    answers: list[list[int]] = [[] for _ in limits]
    training = policy.model.training
    policy.model.eval()
    with policy.autocast():
        state = _Decoding(policy, comments, per_comment)
        while len(state.rows):
            if temperature:
                p = (state.logits.float() / temperature).softmax(-1)
                tokens = _inverse_cdf(p, noise[state.rows.to(noise.device), state.step])
            else:
                tokens = state.logits.argmax(-1)
            going = []
            for row, token in zip(state.rows.tolist(), tokens.tolist(), strict=True):
                answers[row].append(token)
                going.append(token != prompter.eos and len(answers[row]) < limits[row])
            state.advance(tokens, going)
    policy.model.train(training)
    found = []
    for row, ids in enumerate(answers):
        i = row // per_comment
        text = prompter.restore(ids, comments[i])
        found.append(Sample(i, tuple(ids), text, ids[-1] == prompter.eos))
    return found


def greedy_answers(
    policy: Leader, comments: Sequence[str], *, max_new_tokens: int = 96, batch: int = 64
) -> list[Sample]:
    """The likeliest answer, token by token, to every comment, in order.

    Comments of like length are answered together, ``batch`` at a time.
    """
    order = sorted(range(len(comments)), key=lambda i: len(comments[i]))
    found: dict[int, Sample] = {}
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        part = [comments[i] for i in places]
        for sample in rollout(
            policy, part, samples=1, temperature=0, max_new_tokens=max_new_tokens
        ):
            place = places[sample.comment]
            found[place] = replace(sample, comment=place)
    return [found[i] for i in range(len(comments))]


class _Decoding:
    """The rows still going, and the model's state after their last token.

    Attributes:
        rows: (R,), which of the answers each is.
        logits: (R, V), of their next token.
        step: tokens of each so far.
    """

    def __init__(self, policy: Leader, comments: Sequence[str], per_comment: int) -> None:
        """Read the prompts, padded left, and share each one's cache out to its samples."""
        self.model, pad = policy.model, policy.prompter.pad
        prompts = [policy.prompter.prompt(c) for c in comments]
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        self.step = 0
        self.logits = torch.empty(0)
        self.rows = torch.arange(len(prompts) * per_comment)
        self.mask = mask.to(self.model.device)
        self.cache = DynamicCache(config=self.model.config)
        self._forward(ids.to(self.model.device))
        self._keep(self.rows // per_comment)

    def advance(self, tokens: torch.Tensor, going: Sequence[bool]) -> None:
        """Append ``tokens`` (R,) and predict the next ones of the rows that are ``going`` on."""
        self.step += 1
        if not all(going):
            kept = torch.tensor(going).nonzero().flatten()
            self.rows = self.rows[kept]
            if not len(kept):
                return
            tokens = tokens[kept.to(tokens.device)]
            self._keep(kept)
        self.mask = F.pad(self.mask, (0, 1), value=1)
        self._forward(tokens.unsqueeze(1))

    def _keep(self, places: torch.Tensor) -> None:
        places = places.to(self.model.device)
        self.cache.reorder_cache(places)  # an index selection, so that it may also repeat or drop
        self.mask, self.logits = self.mask[places], self.logits[places]

    def _forward(self, ids: torch.Tensor) -> None:
        positions = (self.mask.cumsum(-1) - 1).clamp_min(0)
        rows, width = ids.shape
        ends = torch.arange(1, rows + 1, device=ids.device) * width - 1
        with scoring(self.model, ends):
            self.logits = self.model(
                input_ids=ids,
                attention_mask=self.mask,
                position_ids=positions[:, -width:],
                past_key_values=self.cache,
                use_cache=True,
            ).logits[0]


def _noise(comments: Sequence[str], samples: int, steps: int, seed: str | int) -> torch.Tensor:
    """Uniform numbers (B x K, steps), each row from its own stream."""
    rows = []
    for comment in comments:
        for k in range(samples):
            key = hashlib.sha256(f"{seed}/{k}/{comment}".encode()).digest()
            stream = torch.Generator().manual_seed(int.from_bytes(key[:7]))
            rows.append(torch.rand(steps, generator=stream))
    return torch.stack(rows)


def _inverse_cdf(p: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Draw a token (R,) from each distribution (R, V) with one uniform number u (R,)."""
    cdf = p.cumsum(-1)
    places = torch.searchsorted(cdf, u.unsqueeze(-1) * cdf[:, -1:], right=True)
    return places.squeeze(-1).clamp_max(p.shape[-1] - 1)
