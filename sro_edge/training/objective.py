"""The SRO objective (arXiv 2410.20298), each term at its equation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

IGNORED = -100  # label of a token that carries no loss: prompt and padding


class SROLoss(NamedTuple):
    """Losses (N,), and the margins z (N,) of the likelier verdicts they came from."""

    losses: torch.Tensor
    margins: torch.Tensor


def sro_loss(
    ratio_y: torch.Tensor,
    ratio_x: torch.Tensor,
    weight: torch.Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.1,
) -> SROLoss:
    """SRO losses of sampled paraphrases y of toxic inputs x.

    With r = log pi(.|x) - log pi_ref(.|x):

        pass   z = r(y) - r(x)     the paraphrase is preferred to the input echoed as the answer
        fail   z = - r(y)          no pair exists: y only becomes less likely
        l(z) = -(1 - eps) log sigmoid(beta z) - eps log sigmoid(-beta z)
        L = w l(z_pass) + (1 - w) l(z_fail)

    With eps > 0 (conservative DPO, Mitchell 2023) the fail term has a finite minimum. In the paper
    w is the follower's verdict, 1 or 0; on passing rows that is trl's ``sigmoid`` DPO loss with
    chosen = y and rejected = x. Other weights come from :func:`verdict_weights`.

    Args:
        ratio_y: r(y), (N,).
        ratio_x: r of what a passing sample is preferred to, (N,): its own input, or with full
            preferences a failing sample of that input. Not used where w is 0.
        weight: w, (N,).
        beta: inverse temperature of the implicit reward.
        label_smoothing: eps, in [0, 0.5).
    """

    def smoothed(z: torch.Tensor) -> torch.Tensor:
        right, wrong = F.logsigmoid(beta * z), F.logsigmoid(-beta * z)
        return -(1 - label_smoothing) * right - label_smoothing * wrong

    z_pass, z_fail = ratio_y - ratio_x, -ratio_y
    losses = weight * smoothed(z_pass) + (1 - weight) * smoothed(z_fail)
    return SROLoss(losses, torch.where(weight > 0.5, z_pass, z_fail).detach())
