"""One training step: the gradients of a rollout that the follower has judged, and its metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from sro_edge.training.config import SROConfig
from sro_edge.training.follower import Verdicts
from sro_edge.training.memory import return_freed
from sro_edge.training.objective import sro_loss, verdict_weights
from sro_edge.training.packing import Group, micro_batches
from sro_edge.training.policy import Policy
from sro_edge.training.rollout import Sample


class _Plan(NamedTuple):
    """What one comment adds to the loss.

    Args:
        group: its prompt with every different answer to score.
        samples: places of its samples in the rollout.
        chosen: for each of them, its place among the group's answers.
        rejected: and the place of what it is preferred to if it passes.
    """

    group: Group
    samples: list[int]
    chosen: list[int]
    rejected: list[int]


def sro_backward(
    policy: Policy,
    comments: Sequence[str],
    samples: Sequence[Sample],
    verdicts: Verdicts,
    config: SROConfig,
    backward: Callable[[torch.Tensor], None] = torch.Tensor.backward,
) -> dict[str, float]:
    """Add the gradients of one rollout's loss to the policy's parameters.

    The loss is the mean over all samples, whatever micro-batches it is worked out in: their losses
    are divided by the samples of the whole rollout, and so add up to it.

    Args:
        policy: the leader, with its reference.
        comments: the comments of the step.
        samples: K paraphrases of each.
        verdicts: the follower's, one a sample.
        config: how to train.
        backward: called with the loss of each micro-batch.

    Returns:
        Means over the samples, under trl's names.
    """
    error = config.verdict_error if config.robust else 0.0
    sound = verdicts.sound if config.robust else None
    weights = verdict_weights(verdicts.passed, sound, error)
    plans = list(_plans(policy, comments, samples, weights, config))
    total: Counter[str] = Counter()
    groups = [plan.group for plan in plans]
    for places in micro_batches(groups, policy.pass_tokens):
        part = [plans[i] for i in places]
        loss, sums = _part_loss(policy, part, weights, config)
        backward(loss / len(samples))
        total.update(sums)
        return_freed(policy.model)
    passing = int(verdicts.passed.sum())
    metrics = {name: value / len(samples) for name, value in total.items()}
    metrics |= {
        "pass_rate": passing / len(samples),
        "completions/mean_length": sum(len(s.ids) for s in samples) / len(samples),
    }
    for name, count in (("chosen", passing), ("rejected", len(samples) - passing)):
        value = metrics.pop(f"logps/{name}")
        if count:
            metrics[f"logps/{name}"] = value * len(samples) / count
    if verdicts.similarity is not None:
        metrics["similarity"] = verdicts.similarity.mean().item()
    return metrics


def _plans(
    policy: Policy,
    comments: Sequence[str],
    samples: Sequence[Sample],
    weights: torch.Tensor,
    config: SROConfig,
) -> Iterator[_Plan]:
    """For each comment, the answers to score: samples that came twice count twice, but once run."""
    of: list[list[int]] = [[] for _ in comments]
    for k, sample in enumerate(samples):
        of[sample.comment].append(k)
    for comment, own in zip(comments, of, strict=True):
        ids = {k: samples[k].ids for k in own}
        echo = policy.prompter.answer(comment)  # the input as the answer, for r(x)
        failing = [ids[k] for k in own if weights[k] < 0.5] if config.full_preference else []
        against = {k: next((a for a in failing if a != ids[k]), echo) for k in own}
        # Where no sample of the comment may have passed, the echo takes no part.
        used = [against[k] if weights[k] else ids[k] for k in own]
        place = {a: i for i, a in enumerate(dict.fromkeys([*ids.values(), *used]))}
        yield _Plan(
            Group(policy.prompter.prompt(comment), list(place)),
            own,
            [place[ids[k]] for k in own],
            [place[a] for a in used],
        )


def _part_loss(
    policy: Policy, plans: Sequence[_Plan], weights: torch.Tensor, config: SROConfig
) -> tuple[torch.Tensor, dict[str, float]]:
    """Sum of the losses of some comments' samples, and sums of the metrics over them."""
    packed = policy.pack([plan.group for plan in plans])
    base = policy.reference_logprobs(packed)  # while nothing is kept for the backward pass yet
    logps = policy.logprobs(packed)
    lengths = packed.lengths.to(logps.device)
    ratios = logps - base
    if config.length_normalised:
        ratios = ratios / lengths
    chosen, rejected, first = [], [], 0
    for plan in plans:
        chosen += [first + i for i in plan.chosen]
        rejected += [first + i for i in plan.rejected]
        first += len(plan.group.answers)
    w = weights[[k for plan in plans for k in plan.samples]].to(logps.device)
    losses, margins = sro_loss(
        ratios[chosen],
        ratios[rejected],
        w,
        beta=config.beta,
        label_smoothing=config.label_smoothing,
    )
    # RPO (Pang et al. 2024, eq. 3; trl's rpo_alpha): without it the margin grows mostly by making
    # the echo unlikely, and copying, which every rewrite needs, goes down with it.
    likelihood = w * logps[chosen] / lengths[chosen]
    loss = (losses - config.rpo_alpha * likelihood).sum()
    passed = w > 0.5
    seen = logps[chosen].detach()
    return loss, {
        "loss": loss.item(),
        "rewards/margins": config.beta * margins.sum().item(),
        "rewards/accuracies": (margins > 0).float().sum().item(),
        "logps/chosen": seen[passed].sum().item(),
        "logps/rejected": seen[~passed].sum().item(),
    }
