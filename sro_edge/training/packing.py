"""Comments with all their answers as trees of tokens, several to a row.

    token      p0 p1 | a0 a1 a2 | b2 b3 || q0 ...     one comment, two answers that begin alike;
    position    0  1 |  2  3  4 |  4  5 ||  0 ...     then the next comment of the row

A token sees those on its own branch, never another answer or comment, so a log-probability is that
of a row of its own. What answers have in common, the prompt and, as rewrites keep most words, much
of themselves, is computed once, and hardly anything is padding. The vocabulary, which is most of
the work of a small model, is scored only where an answer's token is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from itertools import chain
from typing import Any

import torch

_FLOATS = {"cpu": 2**20}  # of the logits that are float32 at a time
_FLOATS_ELSEWHERE = 2**23
_BLOCKED = -1e9  # added to the attention scores of what a token may not see
_WIDE = 96  # tokens of a row from which on another comment gets a row of its own


@dataclass(frozen=True)
class Tree:
    """Tokens, depth first: where each stands in its text, and which tokens see it.

    Args:
        ids: (T,).
        positions: (T,), tokens before it in its text.
        ends: (T,): the token at place p is seen by those from p up to, not with, ``ends[p]``.
        sources: of each answer, the places whose states predict its tokens.
    """

    ids: list[int]
    positions: list[int]
    ends: list[int]
    sources: list[list[int]]


@dataclass(frozen=True)
class Group:
    """The ids of one prompt and of the answers to it, end tokens included."""

    prompt: Sequence[int]
    answers: Sequence[Sequence[int]]

    @cached_property
    def tree(self) -> Tree:
        """Prompt and answers; the last token of an answer predicts nothing, so it is left out."""
        ids, path = list(self.prompt), list(range(len(self.prompt)))
        tree = Tree(ids, list(path), [0] * len(ids), [[] for _ in self.answers])
        # In sorted order, an answer has the longest common beginning with the one before it.
        for i in sorted(range(len(self.answers)), key=lambda i: list(self.answers[i])):
            inner = self.answers[i][:-1]
            depth = len(self.prompt)
            for token in inner:
                if depth == len(path) or ids[path[depth]] != token:
                    break
                depth += 1
            for place in path[depth:]:
                tree.ends[place] = len(ids)
            del path[depth:]
            for token in inner[depth - len(self.prompt) :]:
                tree.positions.append(len(path))
                path.append(len(ids))
                ids.append(token)
                tree.ends.append(0)
            tree.sources[i][:] = path[len(self.prompt) - 1 :]
        for place in path:
            tree.ends[place] = len(ids)
        return tree

    def apart(self) -> list[Group]:
        """A group of each answer alone."""
        return [Group(self.prompt, [answer]) for answer in self.answers]


@dataclass(frozen=True)
class Packed:
    """B packed rows of at most T tokens that hold R answers of M tokens in all.

    Args:
        inputs: ``input_ids`` and ``position_ids`` (B, T) and ``attention_mask`` for the model:
            (B, 1, T, T), added to the attention scores, or (B, T) where nothing is shared.
        sources: (M,), places in B x T of the states that predict the answers' tokens.
        targets: (M,), these tokens.
        answers: (M,), the answer in [0, R) that each belongs to.
        lengths: (R,), tokens of each answer.
    """

    inputs: dict[str, torch.Tensor]
    sources: torch.Tensor
    targets: torch.Tensor
    answers: torch.Tensor
    lengths: torch.Tensor

    def to(self, device: Any) -> Packed:
        """The same on another device."""
        inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        rest = (self.sources, self.targets, self.answers, self.lengths)
        return Packed(inputs, *(tensor.to(device) for tensor in rest))


def pack(groups: Sequence[Group], pad: int, *, shared: bool = True) -> Packed:
    """Pack groups into rows, padded right; answers are numbered group after group.

    Args:
        groups: prompts with their answers.
        pad: id that fills the rows up.
        shared: trees, for models that keep to a mask of their branches; else a row an answer.
    """
    if not shared:
        groups = [part for group in groups for part in group.apart()]
    rows = _rows([len(g.tree.ids) for g in groups]) if shared else [[i] for i in range(len(groups))]
    width = max(sum(len(groups[i].tree.ids) for i in row) for row in rows)
    ids = torch.full((len(rows), width), pad)
    positions, ends = torch.zeros_like(ids), torch.arange(1, width + 1).repeat(len(rows), 1)
    sources: list[list[int]] = [[] for _ in groups]
    lengths = torch.zeros_like(ids[:, :1])
    for r, row in enumerate(rows):
        start = 0
        for i in row:
            tree = groups[i].tree
            end = start + len(tree.ids)
            ids[r, start:end] = torch.tensor(tree.ids)
            positions[r, start:end] = torch.tensor(tree.positions)
            ends[r, start:end] = torch.tensor(tree.ends) + start
            sources[i] = [r * width + start + place for part in tree.sources for place in part]
            start = end
        lengths[r] = start
    answers = [answer for group in groups for answer in group.answers]
    owners = [i for i, answer in enumerate(answers) for _ in answer]
    inputs = {
        "input_ids": ids,
        "position_ids": positions,
        "attention_mask": _tree_mask(ends) if shared else (torch.arange(width) < lengths).long(),
    }
    flat = (list(chain.from_iterable(sources)), [t for answer in answers for t in answer], owners)
    return Packed(inputs, *map(torch.tensor, (*flat, [len(answer) for answer in answers])))


def _rows(widths: Sequence[int]) -> list[list[int]]:
    """Share places of ``widths`` out to rows that are about equally full."""
    count = max(1, sum(widths) // max(_WIDE, *widths))
    rows: list[list[int]] = [[] for _ in range(count)]
    full = [0] * count
    for i in sorted(range(len(widths)), key=lambda i: -widths[i]):
        row = full.index(min(full))
        rows[row].append(i)
        full[row] += widths[i]
    return [row for row in rows if row]


def _tree_mask(ends: torch.Tensor) -> torch.Tensor:
    """(B, 1, T, T), of (B, T): a token sees the tokens before it that have not ended, and itself.

    Padding, each token of which ends at once, sees itself: no row of the softmax is empty.
    """
    place = torch.arange(ends.shape[1])
    seen = (place <= place[:, None]) & (place[:, None] < ends[:, None, :])
    return torch.where(seen, 0.0, _BLOCKED).unsqueeze(1)


def answer_logprobs(model: Any, packed: Packed) -> torch.Tensor:
    """log pi(answer | prompt), summed over the answer's tokens, end token included.

    The state at position t predicts the token at t + 1 (the released notebook scored the same
    position).

    Args:
        model: any decoder-only language model of transformers.
        packed: R answers.

    Returns:
        (R,), in nats, float32.
    """
    packed = packed.to(model.device)
    with scoring(model, packed.sources):
        logits = model(**packed.inputs, use_cache=False).logits[0]  # (M, V)
    tokens = _TokenLogprobs.apply(logits, packed.targets)  # (M,)
    zeros = torch.zeros(len(packed.lengths), device=tokens.device)
    return zeros.index_add(0, packed.answers, tokens)


@torch.no_grad()
def keeps_to_branches(model: Any) -> bool:
    """Whether an answer scores the same, to the last bit, beside any other answer of its length.

    It does not where a model has no mask of attention to keep to, such as a state-space model or
    one with convolutions, or makes its own; nor where places count in the place of positions.
    """
    own = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "position_ids" not in signature(own.forward).parameters:
        return False
    ids = [i % model.get_input_embeddings().weight.shape[0] for i in range(5, 17)]
    scores = []
    try:
        for other in (ids[:4], ids[4:8]):
            packed = pack([Group(ids[10:], [other, ids[8:10]])], pad=0)
            scores.append(answer_logprobs(model, packed)[1])
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False
    return bool(torch.equal(*scores))


@contextmanager
def scoring(model: Any, places: torch.Tensor) -> Iterator[None]:
    """Inside, the logits are (1, M, V): the vocabulary is scored at ``places`` (M,) in B x T only.

    ``logits_to_keep`` can do this for one column; its slice is not contiguous, and in bf16 a CPU
    then copies the whole head for every row.
    """

    def select(_: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (args[0].flatten(0, 1)[places].unsqueeze(0),)  # (1, M, d)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()


def float_rows(logits: torch.Tensor) -> int:
    """How many rows of ``logits`` (M, V) to work on in float32 at a time."""
    vocabulary: int = logits.shape[-1]
    return max(1, _FLOATS.get(logits.device.type, _FLOATS_ELSEWHERE) // vocabulary)


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(logits) at the targets, (M,), worked out a few rows at a time.

    F.cross_entropy keeps two float32 copies of the logits until the backward pass; with a
    vocabulary of 150,000 these are most of the memory of a step.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """From logits (M, V) of any precision, in float32."""
        rows = [part.float().logsumexp(-1) for part in logits.split(float_rows(logits))]
        normalisers = torch.cat(rows)
        ctx.save_for_backward(logits, targets, normalisers)
        chosen = logits.gather(1, targets.unsqueeze(1)).squeeze(1).float()
        return chosen - normalisers

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The gradient of a row is g (onehot - softmax)."""
        logits, targets, normalisers = ctx.saved_tensors
        result = torch.empty_like(logits)
        rows = float_rows(logits)
        parts = (t.split(rows) for t in (result, logits, targets, normalisers, gradients[0]))
        for out, part, target, normaliser, g in zip(*parts, strict=True):
            p = (part - normaliser.unsqueeze(1)).exp_()  # float32
            p.scatter_add_(1, target.unsqueeze(1), -torch.ones_like(p[:, :1]))
            out.copy_(p.mul_(-g.unsqueeze(1)))
        return result, None


def micro_batches(groups: Sequence[Group], tokens: int) -> Iterator[list[int]]:
    """Places of groups of like width, at most ``tokens`` a batch (but one group)."""
    widths = [len(group.tree.ids) for group in groups]
    batch: list[int] = []
    total = 0
    for i in sorted(range(len(groups)), key=lambda i: -widths[i]):
        if batch and total + widths[i] > tokens:
            yield batch
            batch, total = [], 0
        batch.append(i)
        total += widths[i]
    if batch:
        yield batch
