"""A supervised first phase, for those who have pairs: the clean side is the answer to learn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from sro_edge.training import checkpoint, processes
from sro_edge.training.config import FREE, SROConfig
from sro_edge.training.journal import Journal
from sro_edge.training.memory import explain_shortage
from sro_edge.training.packing import Group, micro_batches
from sro_edge.training.policy import Policy
from sro_edge.training.runs import begin_run, digest

FOLDER = "pairs"  # of the phase, in the run's

Pair = tuple[str, str]


def train_on_pairs(
    policy: Policy,
    pairs: Sequence[Pair],
    run: Path,
    config: SROConfig,
    *,
    progress: Callable[[dict[str, Any]], None] = lambda metrics: None,
) -> None:
    """Train ``policy`` on pairs; as it then is, it is the reference of the phase that follows.

    Cross entropy of the clean text's tokens, end token included, given the toxic text's prompt. A
    phase that was killed goes on from its newest checkpoint, and one that is done is only loaded.

    Args:
        policy: the leader; changed.
        pairs: (toxic, clean) texts.
        run: the run folder; metrics and weights lie in ``pairs/`` in it.
        config: ``pairs_epochs`` passes in batches of ``comments`` pairs.
        progress: called with the metrics of every step.

    Raises:
        ModelError: the memory does not suffice.
        OutputError: the phase was begun with other settings or other pairs.
    """
    folder = run / FOLDER
    weights = folder / "weights.safetensors"
    steps = pair_steps(pairs, config)
    optimizer = policy.optimizer()
    writes = processes.is_main()
    if writes:
        asked = {"policy": policy.base, "config": asdict(config)}
        begin_run(folder, {**asked, "pairs": digest(chain.from_iterable(pairs))}, FREE)
    if not processes.from_main(weights.is_file()):
        with Journal(folder, progress, config.checkpoint_seconds, writes=writes) as journal:
            state = journal.resume(policy.model, [optimizer]) or {"step": 0}
            with explain_shortage():
                for batch in islice(_batches(pairs, config), state["step"], steps):
                    loss = _step(policy, batch, optimizer, state["step"], config)
                    state["step"] += 1
                    metrics = {"step": state["step"], "loss": loss, "seconds": journal.seconds}
                    journal.report(metrics)
                    journal.checkpoint(policy.model, [optimizer], state)
        if writes:
            checkpoint.save_weights(weights, policy.model)
    checkpoint.load_weights(processes.from_main(weights), policy.model)
    policy.freeze_reference()


def pair_steps(pairs: Sequence[Pair], config: SROConfig) -> int:
    """Steps of the phase."""
    return max(1, round(config.pairs_epochs * len(pairs) / config.comments))


def _batches(pairs: Sequence[Pair], config: SROConfig) -> Iterator[Sequence[Pair]]:
    """Endless shuffled batches; the same for the same seed."""
    epoch = 0
    while True:
        order = list(pairs)
        random.Random(f"{config.seed}/pairs/{epoch}").shuffle(order)
        epoch += 1
        for start in range(0, len(order), config.comments):
            yield order[start : start + config.comments]


def _step(
    policy: Policy,
    batch: Sequence[Pair],
    optimizer: torch.optim.Optimizer,
    step: int,
    config: SROConfig,
) -> float:
    """One update; returns the mean loss of a token, over the batches of all processes."""
    prompter = policy.prompter
    groups = [Group(prompter.prompt(x), [prompter.answer(y)]) for x, y in processes.share(batch)]
    own = sum(len(group.answers[0]) for group in groups)
    tokens = sum(processes.gather([own]))
    total = 0.0
    for places in micro_batches(groups, policy.pass_tokens):
        packed = policy.pack([groups[i] for i in places])
        loss = -policy.logprobs(packed).sum() / tokens
        (loss * processes.count()).backward()  # the gradients are averaged below
        total += loss.item()
    policy.update(optimizer, step)
    return sum(processes.gather([total]))
