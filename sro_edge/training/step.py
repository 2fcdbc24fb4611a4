"""One training step: the loss of a rollout that the follower has judged, and its metrics."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sro_edge.training.config import SROConfig
from sro_edge.training.follower import Verdicts
from sro_edge.training.objective import IGNORED, sro_loss
from sro_edge.training.policy import Policy
from sro_edge.training.rollout import Sample


def step_loss(
    policy: Policy,
    comments: Sequence[str],
    samples: Sequence[Sample],
    verdicts: Verdicts,
    config: SROConfig,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of one rollout and its metrics, under trl's names."""
    prompter = policy.prompter
    verdict = list(zip(samples, verdicts.passed.tolist(), strict=True))
    used = sorted({s.comment for s, ok in verdict if ok})
    rows: list[tuple[int, Sequence[int]]] = [(s.comment, s.ids) for s in samples]
    rows += [(i, prompter.answer(comments[i])) for i in used]  # the input echoed, for r(x)
    rejected = {comment: len(samples) + k for k, comment in enumerate(used)}
    if config.full_preference:
        rejected |= {s.comment: row for row, (s, ok) in enumerate(verdict) if not ok}
    batch = prompter.collate(comments, rows)
    logps = policy.logprobs(batch)
    ratios = logps - policy.reference_logprobs(batch)
    # A failing sample's counterpart is not used: any row will do.
    ratio_x = ratios[torch.tensor([rejected.get(s.comment, 0) for s in samples])]
    passed = verdicts.passed.to(ratios.device)
    loss, margins = sro_loss(
        ratios[: len(samples)],
        ratio_x,
        passed,
        beta=config.beta,
        label_smoothing=config.label_smoothing,
    )
    chosen = passed.nonzero().flatten()
    if config.rpo_alpha and len(chosen):
        # RPO (Pang et al. 2024, eq. 3; trl's rpo_alpha): without it the margin grows mostly by
        # making the echo unlikely, and copying, which every rewrite needs, goes down with it.
        lengths = (batch["labels"][chosen.cpu()] != IGNORED).sum(1).to(logps.device)
        loss = loss - config.rpo_alpha * (logps[chosen] / lengths).mean()
    metrics = {
        "loss": loss.item(),
        "pass_rate": verdicts.passed.float().mean().item(),
        "rewards/margins": config.beta * margins.mean().item(),
        "rewards/accuracies": (margins > 0).float().mean().item(),
        "completions/mean_length": sum(len(s.ids) for s in samples) / len(samples),
    }
    if len(chosen):
        metrics["logps/chosen"] = logps[chosen].mean().item()
    if verdicts.similarity is not None:
        metrics["similarity"] = verdicts.similarity.mean().item()
    return loss, metrics
