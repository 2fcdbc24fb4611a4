"""The rollout: K sampled paraphrases of each comment, in eval mode, and their token sequences.

One prefill a comment, its cache then shared out to the K samples; rows that have ended leave the
batch. A rewrite keeps most words of its comment, so the comment is the draft of the answer: tokens
are guessed and verified in one step, which changes no sample. Every sample draws from a random
stream of its own (seed, comment, k), so it is the same in any batch, on any number of processes and
after any resumption.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from transformers import DynamicCache

from sro_edge.lookup import Draft
from sro_edge.prompt import PromptTemplate
from sro_edge.training.memory import return_freed
from sro_edge.training.packing import float_rows, scoring
from sro_edge.training.tokens import tokenize_with

_GUESSES = 6  # tokens that are guessed for a row in one step, at most
_STEP_TOKENS = {"cpu": 192}  # of all rows; more cost more than the steps they save
_STEP_TOKENS_ELSEWHERE = 1024
_SLACK = 1.25  # length of the cache over that of its longest row from which on it is squeezed


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
    guesses: bool  # whether tokens of its cache can be masked out again

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
    answers = []
    for comment in comments:
        echo = prompter.answer(comment)
        limit = min(max_new_tokens, int(1.5 * len(echo)) + 16)
        answers += [_Answer(echo, limit) for _ in range(per_comment)]
    longest = max(answer.limit for answer in answers)
    noise = _noise(comments, samples, longest, seed) if temperature else torch.empty(0)
    training = policy.model.training
    policy.model.eval()
    with policy.autocast():
        state = _Decoding(policy, comments, per_comment)
        while state.rows:
            tokens = _draw(state, answers, noise, temperature)
            state.advance(answers, tokens)
    del state
    return_freed(policy.model)
    policy.model.train(training)
    found = []
    for row, answer in enumerate(answers):
        i = row // per_comment
        text = prompter.restore(answer.ids, comments[i])
        found.append(Sample(i, tuple(answer.ids), text, answer.ids[-1] == prompter.eos))
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


class _Answer:
    """An answer as it grows, and the guesses how it goes on that are being verified."""

    def __init__(self, echo: Sequence[int], limit: int) -> None:
        self.ids: list[int] = []
        self.limit, self._end = limit, echo[-1]
        self.guesses: list[int] = []
        self._draft = Draft(list(echo))

    def guess(self, most: int) -> list[int]:
        """What to feed next: the last token, and guesses of those after it."""
        self.guesses = self._draft.guess(min(most, self.limit - len(self.ids) - 1))
        return [self.ids[-1], *self.guesses]

    def take(self, tokens: Sequence[int]) -> int:
        """Append ``tokens``, as many as came where what was before them had been guessed."""
        for taken, token in enumerate(tokens, 1):
            self.ids.append(token)
            self._draft.follow(token)
            if self.ended or self.guesses[taken - 1 : taken] != [token]:
                break
        return taken

    @property
    def ended(self) -> bool:
        """Whether it has come to its end token or its limit."""
        return self.ids[-1] == self._end or len(self.ids) == self.limit


class _Decoding:
    """The rows still going, and the model's state after what was fed last.

    Attributes:
        rows: R of the answers.
        widths: tokens fed for each last.
        logits: (sum of ``widths``, V), of the token after each.
    """

    def __init__(self, policy: Leader, comments: Sequence[str], per_comment: int) -> None:
        """Read the prompts, padded left, and share each one's cache out to its samples."""
        self.model, self.pad = policy.model, policy.prompter.pad
        self.device = policy.model.device
        self.budget = _STEP_TOKENS.get(self.device.type, _STEP_TOKENS_ELSEWHERE)
        self.budget *= policy.guesses
        prompts = [policy.prompter.prompt(c) for c in comments]
        width = max(map(len, prompts))
        ids = torch.tensor([[self.pad] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        self.logits = torch.empty(0)
        self.mask = mask[:, :0]  # (R, T), of the tokens that the cache holds
        self.cache = DynamicCache(config=self.model.config)
        self._forward(ids, mask, [width * (row + 1) - 1 for row in range(len(prompts))])
        self.rows = list(range(len(prompts) * per_comment))
        self.widths = [1] * len(self.rows)
        places = torch.arange(len(self.rows)) // per_comment
        self.logits = self.logits[places.to(self.device)]
        self._keep(places)

    def advance(self, answers: Sequence[_Answer], tokens: Sequence[int]) -> None:
        """Give ``tokens`` (sum of ``widths``,) to the answers, and read on in those still going."""
        start, fed = 0, self.mask.shape[1] - max(self.widths)
        for i, (row, width) in enumerate(zip(self.rows, self.widths, strict=True)):
            taken = answers[row].take(tokens[start : start + width])
            if width > 1:
                self.mask[i, fed + taken :] = 0  # wrong guesses stay in the cache, unseen
            start += width
        kept = [i for i, row in enumerate(self.rows) if not answers[row].ended]
        if len(kept) < len(self.rows):
            self.rows = [self.rows[i] for i in kept]
            if not kept:
                return
            self._keep(torch.tensor(kept))
        self._squeeze()
        most = max(0, min(_GUESSES, self.budget // len(self.rows) - 1))
        parts = [answers[row].guess(most) for row in self.rows]
        self.widths = [len(part) for part in parts]
        width = max(self.widths)
        ids = torch.tensor([part + [self.pad] * (width - len(part)) for part in parts])
        seen = torch.tensor([[1] * n + [0] * (width - n) for n in self.widths])
        places = [width * i + p for i, n in enumerate(self.widths) for p in range(n)]
        self._forward(ids, seen, places)

    def _keep(self, places: torch.Tensor) -> None:
        """Go on with the rows at ``places``, which may also repeat."""
        self.cache.reorder_cache(places.to(self.device))
        self.mask = self.mask[places]

    def _squeeze(self) -> None:
        """Drop what no row sees: wrong guesses, of which there may be more than tokens."""
        longest = int(self.mask.sum(1).max())
        if not self.budget or self.mask.shape[1] < _SLACK * longest:
            return
        order = self.mask.argsort(dim=1, stable=True)[:, -longest:]  # (R, T'), unseen ones first
        self.mask = self.mask.gather(1, order)
        places = order[:, None, :, None].to(self.device)
        for layer in self.cache.layers:
            layer.keys, layer.values = (
                states.gather(2, places.expand(-1, states.shape[1], -1, states.shape[3]))
                for states in (layer.keys, layer.values)  # (R, heads, T, d)
            )
        return_freed(self.model)

    def _forward(self, ids: torch.Tensor, seen: torch.Tensor, places: Sequence[int]) -> None:
        """Read ``ids`` (R, W), of which ``seen`` (R, W) are tokens; logits at ``places``."""
        self.mask = torch.cat([self.mask, seen], 1)
        positions = (self.mask.cumsum(-1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        with scoring(self.model, torch.tensor(places, device=self.device)):
            self.logits = self.model(
                input_ids=ids.to(self.device),
                attention_mask=self.mask.to(self.device),
                position_ids=positions.to(self.device),
                past_key_values=self.cache,
                use_cache=True,
            ).logits[0]


@torch.no_grad()
def decodes(model: Any, pad: int) -> bool:
    """Whether a padded prompt and a token after it predict what they do when read at once."""
    ids = torch.arange(5, 10).remainder(model.get_input_embeddings().weight.shape[0])
    rows = torch.stack([ids, torch.cat([torch.full((2,), pad), ids[2:]])]).to(model.device)
    mask = torch.ones_like(rows)
    mask[1, :2] = 0
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    training = model.training
    model.eval()
    cache, logits = DynamicCache(config=model.config), torch.empty(0)
    for part in (slice(0, 4), slice(4, 5)):
        logits = model(
            input_ids=rows[:, part],
            attention_mask=mask[:, : part.stop],
            position_ids=positions[:, part],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    whole = [
        model(input_ids=r[None].to(model.device), use_cache=False).logits[0, -1]
        for r in (ids, ids[2:])
    ]
    model.train(training)
    expected = torch.stack(whole).float()
    wrong = (logits.float() - expected).norm()
    return bool(wrong < 0.1 * (expected - expected.mean()).norm())


def _draw(
    state: _Decoding, answers: Sequence[_Answer], noise: torch.Tensor, temperature: float
) -> list[int]:
    """The token after each that was fed: the likeliest, or by the answer's own random numbers."""
    if not temperature:
        greedy: list[int] = state.logits.argmax(-1).tolist()
        return greedy
    fed = zip(state.rows, state.widths, strict=True)
    spots = [(row, len(answers[row].ids) + i) for row, width in fed for i in range(width)]
    u = noise[tuple(torch.tensor(spots).T)].to(state.device)
    drawn: list[int] = []
    rows = float_rows(state.logits)
    for logits, part in zip(state.logits.split(rows), u.split(rows), strict=True):
        p = (logits.float() / temperature).softmax(-1)
        drawn += _inverse_cdf(p, part).tolist()
    return drawn


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
