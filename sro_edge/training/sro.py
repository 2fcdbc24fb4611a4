"""Stackelberg response optimization: the leader rewrites, the follower answers pass or fail.

One step: sample K paraphrases of each comment (rollout), judge them (follower), and make those
that pass likelier than the toxic input echoed, those that fail less likely (objective). Between
steps, greedy rewrites of held-out comments are scored by judges that training never meets; they
pick the checkpoint that is kept.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from sro_edge.durable import write_json
from sro_edge.errors import InputError, ModelError
from sro_edge.evaluation.scores import Judges
from sro_edge.prompt import PromptTemplate
from sro_edge.training import checkpoint, processes
from sro_edge.training.config import FREE, SROConfig
from sro_edge.training.follower import Follower
from sro_edge.training.held_out import (
    EXAMPLES,
    answer_all,
    measure,
    record_held_out,
    write_examples,
)
from sro_edge.training.journal import Journal
from sro_edge.training.memory import explain_shortage
from sro_edge.training.policy import Policy
from sro_edge.training.rollout import rollout
from sro_edge.training.runs import begin_run, digest, run_record
from sro_edge.training.step import sro_backward


def train_sro(
    policy: Policy,
    follower: Follower,
    comments: Sequence[str],
    held_out: Sequence[str],
    run: Path,
    config: SROConfig,
    *,
    judges: Judges | None = None,
    settings: Mapping[str, Any] = {},
    progress: Callable[[dict[str, Any]], None] = lambda metrics: None,
) -> Path:
    """Train ``policy`` against ``follower`` on toxic ``comments``; write it to ``run``.

    A run that was killed goes on from its newest checkpoint, with the same losses as if it had not
    been. Under ``accelerate launch`` every process calls this and trains on its share of a batch.

    Args:
        policy: the leader, with its reference.
        follower: the screener that answers pass or fail.
        comments: the toxic pile.
        held_out: toxic comments that are only evaluated on.
        run: folder of checkpoints, ``metrics.jsonl`` and the result.
        config: how to train.
        judges: models trained on other data than the follower, which pick the best checkpoint by
            J; without them the last is kept, for the follower is what training bends.
        settings: what else decides the result, such as the names of models; a run is only resumed
            with the settings that it began with.
        progress: called with the metrics of every step.

    Returns:
        the folder of the model or adapter.

    Raises:
        InputError: fewer comments than one step needs.
        ModelError: the memory does not suffice, or the loss is no longer a number.
        OutputError: ``run`` was begun with other settings or other texts.
    """
    _check_sizes(comments, held_out, config)
    _begin(policy, run, config, comments, held_out, settings)
    held_out = held_out[: config.eval_comments]
    with (
        Journal(run, progress, config.checkpoint_seconds, writes=processes.is_main()) as journal,
        explain_shortage(),
    ):
        state = _fit(policy, follower, judges, comments, held_out, config, journal)
    return _finish(policy, run, config, state, held_out)


def _fit(
    policy: Policy,
    follower: Follower,
    judges: Judges | None,
    comments: Sequence[str],
    held_out: Sequence[str],
    config: SROConfig,
    journal: Journal,
) -> dict[str, Any]:
    """The training loop; returns its state at the end."""
    optimizer = policy.optimizer()

    def look(state: dict[str, Any]) -> dict[str, float]:
        found = answer_all(policy, held_out, max_new_tokens=config.max_new_tokens)
        own = measure(follower, judges, held_out, found) if journal.writes else None
        metrics = processes.from_main(own)
        if _is_best(state, metrics, [s.text for s in found[:EXAMPLES]]) and journal.writes:
            checkpoint.save_weights(_best_file(journal.run, state), policy.model)
        return metrics

    state = journal.resume(policy.model, [optimizer])
    if state is None:
        state = {"step": 0, "best": None, "waited": 0}
        journal.report({"step": 0, **look(state), "seconds": journal.seconds})
    for batch in islice(comment_batches(comments, config), state["step"], config.steps):
        if 0 < config.patience <= state["waited"]:
            break
        metrics = _train_step(policy, follower, batch, optimizer, state["step"], config)
        state["step"] += 1
        metrics["epoch"] = state["step"] * config.comments / len(comments)
        if state["step"] % config.eval_every == 0 or state["step"] == config.steps:
            metrics |= look(state)
        journal.report({"step": state["step"], **metrics, "seconds": journal.seconds})
        if journal.checkpoint(policy.model, [optimizer], state):
            _drop_stale(journal.run, state)
    journal.checkpoint(policy.model, [optimizer], state, now=True)
    return state


def comment_batches(comments: Sequence[str], config: SROConfig) -> Iterator[list[str]]:
    """Endless shuffled batches; the same for the same seed."""
    epoch = 0
    while True:
        order = list(comments)
        random.Random(f"{config.seed}/{epoch}").shuffle(order)
        epoch += 1
        for start in range(0, len(order) - config.comments + 1, config.comments):
            yield order[start : start + config.comments]


def _train_step(
    policy: Policy,
    follower: Follower,
    batch: Sequence[str],
    optimizer: torch.optim.Optimizer,
    step: int,
    config: SROConfig,
) -> dict[str, float]:
    """One update of the policy; returns its metrics, under trl's names."""
    started = time.monotonic()
    own = processes.share(batch)
    samples = rollout(
        policy,
        own,
        samples=config.samples,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        seed=f"{config.seed}/{step}",
    )
    verdicts = follower.verdicts(
        [own[s.comment] for s in samples],
        [s.text for s in samples],
        [s.finished for s in samples],
    )
    metrics = processes.average_metrics(sro_backward(policy, own, samples, verdicts, config))
    if not abs(metrics["loss"]) < float("inf"):
        raise ModelError(
            f"the loss is {metrics['loss']} at step {step + 1}; lower --learning-rate, or compute "
            "in full precision with --no-bf16"
        )
    norm, rate = policy.update(optimizer, step)
    tokens = sum(len(s.ids) for s in samples) * processes.count()
    speed = tokens / (time.monotonic() - started)
    return {**metrics, "grad_norm": norm, "learning_rate": rate, "tokens_per_second": speed}


def _is_best(state: dict[str, Any], metrics: dict[str, float], texts: list[str]) -> bool:
    """Note an evaluation in ``state``; whether its weights are the ones to keep so far.

    Without judges these are always the newest: the follower's own figures are what training bends.
    """
    state.setdefault("first", metrics)
    state.setdefault("before", texts)
    quality, best = metrics.get("judge/J"), state["best"]
    if quality is not None and best is not None and quality <= best["judge/J"]:
        state["waited"] += 1
        return False
    state |= {"waited": 0, "best": {"step": state["step"], **metrics}, "after": texts}
    return True


def _best_file(run: Path, state: Mapping[str, Any]) -> Path:
    # Named by its step: after a kill, the state and the file of another step must not meet.
    return run / f"best-{state['best']['step']:06d}.safetensors"


def _drop_stale(run: Path, state: Mapping[str, Any]) -> None:
    for file in run.glob("best-*.safetensors"):
        if file != _best_file(run, state):
            file.unlink()


def _check_sizes(comments: Sequence[str], held_out: Sequence[str], config: SROConfig) -> None:
    if len(comments) < config.comments or not held_out:
        raise InputError(
            f"{len(comments)} toxic comments and {len(held_out)} held out are too few for steps of "
            f"{config.comments}; give more text or a smaller --comments"
        )
    if config.comments % processes.count():
        raise InputError(
            f"{config.comments} comments a step cannot be shared out evenly among "
            f"{processes.count()} processes; give --comments a multiple of that"
        )


def _begin(
    policy: Policy,
    run: Path,
    config: SROConfig,
    comments: Sequence[str],
    held_out: Sequence[str],
    settings: Mapping[str, Any],
) -> None:
    """Note what the run was asked to do, or check that it is asked the same again."""
    asked = {
        **settings,
        "policy": policy.base,
        "config": asdict(config),
        "data": {
            "comments": len(comments),
            "held_out": len(held_out),
            "sha256": digest([*comments, *held_out]),
        },
        "template": policy.template.to_dict(),
    }
    stored = None
    if processes.is_main():
        stored = begin_run(run, asked, (*FREE, "template"))
        record_held_out(run, held_out)
    stored = processes.from_main(stored)
    # A chat template may name the date: a resumed run keeps the prompt it began with.
    policy.use_template(PromptTemplate.from_dict(stored["template"]))


def _finish(
    policy: Policy,
    run: Path,
    config: SROConfig,
    state: Mapping[str, Any],
    held_out: Sequence[str],
) -> Path:
    """Write the best weights, ten rewrites and ``run.json``."""
    checkpoint.load_weights(processes.from_main(_best_file(run, state)), policy.model)
    if not processes.is_main():
        return policy.folder(run)
    _drop_stale(run, state)
    out = policy.save(run)
    write_examples(run, held_out, state["before"], state["after"])
    record = {
        "kind": "sro",
        "base": policy.base,
        "lora": policy.lora,
        "learning_rate": policy.learning_rate,
        "config": asdict(config),
        "steps": state["step"],
        "before": state["first"],
        "kept": state["best"],
    }
    if origin := run_record(policy.base):  # a run of ours: say how the model was made, too
        record["base_run"] = origin
    write_json(run / "run.json", record)
    return out
