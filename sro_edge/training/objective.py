"""The SRO objective (arXiv 2410.20298), each term at its equation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

IGNORED = -100  # label of a token that carries no loss: prompt and padding


def answer_logprobs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of log-probabilities of the labelled tokens of each row.

    The logits at position t score the token at t + 1 (the released notebook scored the same
    position). The end token is labelled and counts; padding and prompt are :data:`IGNORED`.

    Args:
        logits: (B, T, V).
        labels: (B, T).

    Returns:
        (B,), in nats.
    """
    targets = labels[:, 1:]
    losses = F.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
    )  # (B, T-1), 0 where ignored
    return -losses.sum(1)


class SROLoss(NamedTuple):
    """Loss (scalar) and the margins z (N,) it came from."""

    loss: torch.Tensor
    margins: torch.Tensor


def sro_loss(
    ratio_y: torch.Tensor,
    ratio_x: torch.Tensor,
    passed: torch.Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.1,
) -> SROLoss:
    """SRO loss of sampled paraphrases y of toxic inputs x.

    With r = log pi(.|x) - log pi_ref(.|x):

        pass   z = r(y) - r(x)     the paraphrase is preferred to the input echoed as the answer
        fail   z = - r(y)          no pair exists: y only becomes less likely
        L = -(1 - eps) log sigmoid(beta z) - eps log sigmoid(-beta z)

    With eps > 0 (conservative DPO) the fail term has a finite minimum. On passing rows this is
    trl's ``sigmoid`` DPO loss with chosen = y and rejected = x.

    Args:
        ratio_y: r(y), (N,).
        ratio_x: r of what a passing sample is preferred to, (N,): its own input, or with full
            preferences a failing sample of that input. Not used where the sample failed.
        passed: the follower's verdicts, bool (N,).
        beta: inverse temperature of the implicit reward.
        label_smoothing: eps, in [0, 0.5).
    """
    z = torch.where(passed, ratio_y - ratio_x, -ratio_y)
    losses = -(1 - label_smoothing) * F.logsigmoid(beta * z) - label_smoothing * F.logsigmoid(
        -beta * z
    )
    return SROLoss(losses.mean(), z.detach())
