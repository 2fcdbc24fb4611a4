"""All answers to one comment behind one copy of its prompt, in one row.

    token      p0 p1 p2 | a0 a1 | b0 b1 b2        one comment, two answers
    position    0  1  2 |  3  4 |  3  4  5

An answer sees the prompt and itself, never the other answer, so its log-probability is that of a
row of its own. The prompt is computed once instead of once an answer (chat instructions are longer
than most comments), and little is padding. The vocabulary, which is most of the work of a small
model, is scored only where an answer's token is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

_ROWS = 64  # of the logits that are float32 at a time
_BLOCKED = -1e9  # added to the attention scores of what a token may not see


class Group(NamedTuple):
    """The ids of one prompt and of the answers to it, end tokens included."""

    prompt: Sequence[int]
    answers: Sequence[Sequence[int]]

    @property
    def width(self) -> int:
        """Tokens of the packed row: the last token of an answer predicts nothing."""
        return len(self.prompt) + sum(len(a) - 1 for a in self.answers)


@dataclass(frozen=True)
class Packed:
    """B packed rows of at most T tokens that hold R answers of M tokens in all.

    Args:
        inputs: ``input_ids`` and ``position_ids`` (B, T) and ``attention_mask`` for the model:
            (B, 1, T, T), added to the attention scores, or (B, T) where no prompt is shared.
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


def pack(groups: Sequence[Group], pad: int) -> Packed:
    """Pack every group into a row, padded right; answers are numbered group after group."""
    width = max(group.width for group in groups)
    ids = torch.full((len(groups), width), pad)
    positions, segments = torch.zeros_like(ids), torch.full_like(ids, -1)
    sources: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    lengths: list[int] = []
    for row, (prompt, answers) in enumerate(groups):
        end = len(prompt)
        ids[row, :end] = torch.tensor(prompt)
        positions[row, :end] = torch.arange(end)
        segments[row, :end] = 0
        for segment, answer in enumerate(answers, 1):
            start, end = end, end + len(answer) - 1
            ids[row, start:end] = torch.tensor(answer[:-1])
            positions[row, start:end] = torch.arange(len(prompt), len(prompt) + end - start)
            segments[row, start:end] = segment
            # The prompt's last token predicts the answer's first, each of those the next.
            sources += [row * width + p for p in (len(prompt) - 1, *range(start, end))]
            targets += answer
            owners += [len(lengths)] * len(answer)
            lengths.append(len(answer))
    shared = any(len(group.answers) > 1 for group in groups)
    inputs = {
        "input_ids": ids,
        "position_ids": positions,
        "attention_mask": _tree_mask(segments) if shared else (segments >= 0).long(),
    }
    return Packed(inputs, *map(torch.tensor, (sources, targets, owners, lengths)))


def _tree_mask(segments: torch.Tensor) -> torch.Tensor:
    """(B, 1, T, T): a token sees earlier tokens of the prompt (segment 0) and of its own answer."""
    key, query = segments[:, None, :], segments[:, :, None]
    causal = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool).tril()
    seen = ((key == 0) | (key == query)) & causal  # padding (-1) sees padding: no empty row
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


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(logits) at the targets, (M,), worked out a few rows at a time.

    F.cross_entropy keeps two float32 copies of the logits until the backward pass; with a
    vocabulary of 150,000 these are most of the memory of a step.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """From logits (M, V) of any precision, in float32."""
        rows = [part.float().logsumexp(-1) for part in logits.split(_ROWS)]
        normalisers = torch.cat(rows)
        ctx.save_for_backward(logits, targets, normalisers)
        chosen = logits.gather(1, targets.unsqueeze(1)).squeeze(1).float()
        return chosen - normalisers

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The gradient of a row is g (onehot - softmax)."""
        logits, targets, normalisers = ctx.saved_tensors
        result = torch.empty_like(logits)
        parts = (t.split(_ROWS) for t in (result, logits, targets, normalisers, gradients[0]))
        for out, part, target, normaliser, g in zip(*parts, strict=True):
            p = (part.float() - normaliser.unsqueeze(1)).exp_()
            p.scatter_add_(1, target.unsqueeze(1), -torch.ones_like(p[:, :1]))
            out.copy_(p.mul_(-g.unsqueeze(1)))
        return result, None


def micro_batches(widths: Sequence[int], tokens: int, device: str) -> Iterator[list[int]]:
    """Places of rows of like width, at most ``tokens`` a batch, padding included (but one row).

    With 0 tokens, 256 on a CPU, where larger passes take more memory and no less time, else 4096.
    """
    tokens = tokens or (256 if device == "cpu" else 4096)
    batch: list[int] = []
    for row in sorted(range(len(widths)), key=lambda i: -widths[i]):
        if batch and (len(batch) + 1) * widths[batch[0]] > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
