"""Stackelberg response optimization: the leader rewrites, the follower answers pass or fail.

One step: sample K paraphrases of each comment (rollout), judge them (follower), and make those
that pass likelier than the toxic input echoed, those that fail less likely (objective). The
reference is the policy before training: the same model with its LoRA adapter disabled, or a frozen
copy of a small, fully fine-tuned one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sro_edge.errors import InputError
from sro_edge.training import checkpoint
from sro_edge.training.config import SROConfig
from sro_edge.training.follower import Follower
from sro_edge.training.journal import Journal
from sro_edge.training.policy import Policy
from sro_edge.training.rollout import Sample, greedy_answers, rollout
from sro_edge.training.step import sro_backward


def evaluate(
    policy: Policy, follower: Follower, comments: Sequence[str], config: SROConfig
) -> tuple[dict[str, float], list[Sample]]:
    """Greedy rewrites of held-out comments: pass rate, and mean of what the follower sees."""
    found = greedy_answers(policy, comments, max_new_tokens=config.max_new_tokens)
    return measure(follower, comments, found), found


def measure(
    follower: Follower, comments: Sequence[str], found: Sequence[Sample]
) -> dict[str, float]:
    """What a follower sees in answers: pass rate and means, under ``eval/`` names."""
    seen = follower.verdicts(
        [comments[s.comment] for s in found], [s.text for s in found], [s.finished for s in found]
    )
    metrics = {
        "eval/pass_rate": seen.passed.float().mean().item(),
        "eval/toxicity": seen.toxicity.mean().item(),
    }
    if seen.similarity is not None:
        metrics["eval/similarity"] = seen.similarity.mean().item()
    if seen.fluency is not None:
        metrics["eval/fluency"] = seen.fluency.mean().item()
        quality = (1 - seen.toxicity) * seen.fluency
        if seen.similarity is not None:
            quality = quality * seen.similarity
        metrics["eval/quality"] = quality.mean().item()
    return metrics


def comment_batches(comments: Sequence[str], config: SROConfig) -> Iterator[list[str]]:
    """Endless shuffled batches; the same for the same seed."""
    epoch = 0
    while True:
        order = list(comments)
        random.Random(f"{config.seed}/{epoch}").shuffle(order)
        epoch += 1
        for start in range(0, len(order) - config.comments + 1, config.comments):
            yield order[start : start + config.comments]


def train_sro(
    policy: Policy,
    follower: Follower,
    comments: Sequence[str],
    held_out: Sequence[str],
    run: Path,
    config: SROConfig,
    *,
    judge: Follower | None = None,
    progress: Callable[[dict[str, Any]], None] = lambda metrics: None,
    checkpoint_every: float = 120.0,
) -> Path:
    """Train ``policy`` against ``follower`` on toxic ``comments``; write it to ``run``.

    Args:
        policy: the leader, with its reference.
        follower: the screener that answers pass or fail.
        comments: the toxic pile.
        held_out: toxic comments that are only evaluated on.
        run: folder of checkpoints, ``metrics.jsonl`` and the result; resumed from a checkpoint.
        config: how to train.
        judge: another screener, trained on other data, that picks the best checkpoint; without
            one the last is kept, for the follower is what training bends.
        progress: called with the metrics of every step.
        checkpoint_every: seconds between checkpoints.

    Raises:
        InputError: fewer comments than one step needs.
    """
    if len(comments) < config.comments or not held_out:
        raise InputError(
            f"{len(comments)} toxic comments and {len(held_out)} held out are too few for steps of "
            f"{config.comments}; give more text or a smaller --comments"
        )
    model = policy.model
    model.train()
    trainable = policy.trained
    optimizer = torch.optim.AdamW(trainable, lr=policy.learning_rate, weight_decay=0.0)
    torch.manual_seed(config.seed)
    state: dict[str, Any] = checkpoint.load(run, model, [optimizer]) or {"step": 0, "best": None}
    held_out = list(held_out)[: config.eval_comments]
    with Journal(run, progress, checkpoint_every) as journal:
        for step, batch in enumerate(comment_batches(comments, config)):
            if step < state["step"]:
                continue
            if step % config.eval_every == 0 or step == config.steps:
                kept = _evaluate_and_keep(policy, follower, judge, held_out, run, config, state)
                journal.report({"step": step, **kept})
            if step == config.steps:
                break
            samples = rollout(
                policy,
                batch,
                samples=config.samples,
                temperature=config.temperature,
                max_new_tokens=config.max_new_tokens,
                seed=f"{config.seed}/{step}",
            )
            verdicts = follower.verdicts(
                [batch[s.comment] for s in samples],
                [s.text for s in samples],
                [s.finished for s in samples],
            )
            metrics = sro_backward(policy, batch, samples, verdicts, config)
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.param_groups[0]["lr"] = policy.learning_rate * min(1.0, (step + 1) / 10)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state["step"] = step + 1
            journal.report({"step": step + 1, **metrics, "seconds": journal.seconds})
            journal.checkpoint(model, [optimizer], state)
    return _finish(policy, run, config, state)


def _evaluate_and_keep(
    policy: Policy,
    follower: Follower,
    judge: Follower | None,
    held_out: Sequence[str],
    run: Path,
    config: SROConfig,
    state: dict[str, Any],
) -> dict[str, float]:
    """Evaluate on held-out comments; keep the weights when the judge finds them the best so far."""
    found = greedy_answers(policy, held_out, max_new_tokens=config.max_new_tokens)
    metrics = measure(follower, held_out, found)
    quality = None
    if judge is not None:
        judged = measure(judge, held_out, found)
        metrics |= {k.replace("eval/", "judge/"): v for k, v in judged.items()}
        quality = judged.get("eval/quality", judged["eval/pass_rate"])
    if quality is None or state["best"] is None or quality > state["best"]["quality"]:
        checkpoint.save_weights(run / "best.safetensors", policy.model)
        state["best"] = {"step": state["step"], "quality": quality, **metrics}
    state.setdefault("first", metrics)
    return metrics


def _finish(policy: Policy, run: Path, config: SROConfig, state: dict[str, Any]) -> Path:
    checkpoint.load_weights(run / "best.safetensors", policy.model)
    out = policy.save(run)
    record = {
        "kind": "sro",
        "base": policy.base,
        "lora": policy.lora,
        "learning_rate": policy.learning_rate,
        "config": asdict(config),
        "before": state["first"],
        "kept": state["best"],
    }
    origin = Path(policy.base).parent / "run.json"
    if origin.is_file():  # the model came from a run of ours: say how it was made, too
        record["base_run"] = json.loads(origin.read_text("utf-8"))
    (run / "run.json").write_text(json.dumps(record, indent=2))
    return out
