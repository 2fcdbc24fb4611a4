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


def verdict_weights(
    passed: torch.Tensor, sound: torch.Tensor | None = None, error: float = 0.0
) -> torch.Tensor:
    """The robust leader's weights w (N,) of verdicts of which a share ``error`` is wrong.

        w = (v - e) / (1 - 2 e)         v the verdict, 1 or 0; e the error

    Over the errors, the mean of w is the right verdict, and so the mean of :func:`sro_loss`, which
    is linear in w, is the loss under right verdicts: the unbiased estimator of Natarajan et al.
    2013 (Lemma 1), which Chowdhury et al. 2024 (robust DPO, eq. 9) brought to preferences. At e = 0
    it is the plain bit. Label smoothing does the opposite, it moves the labels towards the noise.

    What is known without asking a screener cannot be wrong: an answer that is empty, an echo, cut
    off or degenerate has failed, whatever the verdict says.

    Args:
        passed: verdicts, bool (N,).
        sound: answers that are neither degenerate nor cut off, bool (N,); None: all.
        error: e, in [0, 0.5).
    """
    w = (passed.float() - error) / (1 - 2 * error)
    return w if sound is None else torch.where(sound, w, torch.zeros_like(w))
