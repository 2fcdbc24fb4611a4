"""What training looks at between steps: greedy rewrites of comments that it never learns from."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sro_edge.durable import durable
from sro_edge.evaluation.scores import Judges, score_rewrites
from sro_edge.training import processes
from sro_edge.training.follower import Follower
from sro_edge.training.policy import Policy
from sro_edge.training.rollout import Sample, greedy_answers

EXAMPLES = 10  # rewrites that a run shows, before and after
EXAMPLES_FILE = "rewrites.csv"


def answer_all(policy: Policy, comments: Sequence[str], *, max_new_tokens: int) -> list[Sample]:
    """The greedy answer to every comment, in order; the work is shared among the processes."""
    own = processes.share(range(len(comments)))
    found = greedy_answers(policy, [comments[i] for i in own], max_new_tokens=max_new_tokens)
    placed = [replace(sample, comment=own[sample.comment]) for sample in found]
    return sorted(processes.gather(placed), key=lambda sample: sample.comment)


def measure(
    follower: Follower, judges: Judges | None, comments: Sequence[str], found: Sequence[Sample]
) -> dict[str, float]:
    """What the follower (``eval/``) and the judges (``judge/``) see in answers to comments.

    Args:
        follower: the screener that training plays against: pass rate and means.
        judges: models that it does not: STA, SIM, FL and J.
        comments: (N,).
        found: one answer to each.
    """
    texts = [s.text for s in found]
    seen = follower.verdicts(comments, texts, [s.finished for s in found])
    metrics = {
        "eval/pass_rate": seen.passed.float().mean().item(),
        "eval/toxicity": seen.toxicity.mean().item(),
    }
    if seen.similarity is not None:
        metrics["eval/similarity"] = seen.similarity.mean().item()
    if seen.fluency is not None:
        metrics["eval/fluency"] = seen.fluency.mean().item()
    if judges is not None:
        means = score_rewrites(comments, texts, judges).means()
        metrics |= {f"judge/{name}": means[name] for name in ("STA", "SIM", "FL", "J")}
    return metrics


def record_held_out(run: Path, comments: Sequence[str]) -> None:
    """Write ``held_out.jsonl``: the comments that this run is evaluated on."""
    with durable(run / "held_out.jsonl") as temporary:
        lines = (json.dumps({"text": text}, ensure_ascii=False) for text in comments)
        temporary.write_text("\n".join([*lines, ""]), "utf-8")


def write_examples(
    run: Path, comments: Sequence[str], before: Sequence[str], after: Sequence[str]
) -> None:
    """Write ``rewrites.csv``: held-out comments with their rewrites before and after training."""
    with durable(run / EXAMPLES_FILE) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["comment", "before", "after"])
        table.writerows(zip(comments, before, after, strict=False))


def read_examples(run: Path) -> list[dict[str, str]]:
    """The rows of ``rewrites.csv``."""
    with (run / EXAMPLES_FILE).open(newline="") as file:
        return list(csv.DictReader(file))
