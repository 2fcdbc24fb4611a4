"""The loop in which an encoder is fine-tuned, whatever it learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from sro_edge.training.journal import Journal
from sro_edge.training.memory import bound_kernel_caches


def fine_tune(
    model: torch.nn.Module,
    batches: Callable[[int], Iterator[Any]],
    losses: Callable[[Any], dict[str, torch.Tensor]],
    run: Path,
    *,
    steps: int,
    rate: Callable[[int], float],
    progress: Callable[[dict[str, Any]], None],
    checkpoint_every: float,
) -> None:
    """Train the weights of ``model`` that want gradients, with AdamW; on from a checkpoint.

    Args:
        model: changed; to be in evaluation mode afterwards is up to the caller.
        batches: endless batches, of which the first so many are skipped.
        losses: of a batch; ``loss`` is minimised, all are reported.
        run: folder of checkpoints and ``metrics.jsonl``.
        steps: updates in all.
        rate: learning rate of the step that comes after so many.
        progress: called with the metrics of every logged step.
        checkpoint_every: seconds between checkpoints.
    """
    bound_kernel_caches()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=rate(0), weight_decay=0.01, fused=True)
    with Journal(run, progress, checkpoint_every) as journal:
        state = journal.resume(model, [optimizer]) or {"step": 0}
        for batch in batches(state["step"]):
            if state["step"] >= steps:
                break
            optimizer.param_groups[0]["lr"] = rate(state["step"])
            model.train()
            found = losses(batch)
            found["loss"].backward()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state["step"] += 1
            if state["step"] % 25 == 0 or state["step"] == steps:
                figures = {k: v.item() for k, v in found.items()}
                journal.report({**state, "steps": steps, **figures, "seconds": journal.seconds})
            journal.checkpoint(model, [optimizer], state)
        journal.checkpoint(model, [optimizer], state, now=True)
