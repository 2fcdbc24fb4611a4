"""What do wrong verdicts do to the policy? Training at several flip rates, plain and robust.

    python benchmarks/robustness.py --policy runs/warm-start --screener runs/screener \
        --toxic toxic.parquet --judge runs/judges --dev dev.parquet --work runs/robustness \
        [--seeds 3] [--steps N] [--comments N] [--out result.json]

A cell is one training run: a flip rate, a leader and a seed. `robust` is the default leader, told
the rate (``verdict_weights``); `plain` is the same but takes each verdict as 1 or 0: at rate 0 they
are one. `published` is the paper's: verdicts as 1 or 0, one sample a comment (of as many comments
as make up for it), no likelihood term, no full preferences, beta 0.1; `weighed` is the same with
the weights of `robust`. These two run at the lowest and the highest rate only. Cells of a seed see
the same comments in the same order, and a verdict flipped at one rate is flipped at every higher
one. Finished cells lie in ``cells.jsonl`` under --work; the same command goes on from there, and
draws ``robustness.png`` and --out from all of them.

J is that of greedy, ungated answers to the dev comments under a judge that is not the follower. The
pass rate is the follower's own without flips over the samples of the last steps: what was trained.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

from sro_edge.evaluation.judges import JudgeNames, load_judges
from sro_edge.evaluation.scores import Judges, score_rewrites, settle_cut
from sro_edge.machine import describe_machine
from sro_edge.training.config import SROConfig
from sro_edge.training.follower import Classifier, Follower
from sro_edge.training.piles import read_texts
from sro_edge.training.policy import Policy
from sro_edge.training.rollout import greedy_answers, rollout
from sro_edge.training.runs import model_folder, stored_thresholds
from sro_edge.training.step import sro_backward

RATES = (0.0, 0.02, 0.05, 0.1)
LEADERS = {
    "published": "tab:gray",
    "weighed": "tab:green",
    "plain": "tab:red",
    "robust": "tab:blue",
}
SAME_AT_ZERO = {"robust": "plain", "weighed": "published"}  # without error a weight is the verdict
PUBLISHED = {"samples": 1, "rpo_alpha": 0.0, "full_preference": False, "beta": 0.1}
LAST = 10  # steps over which the pass rate at the end is taken


class Cell(NamedTuple):
    """One training run; ``leader`` is "start" for the policy before training."""

    leader: str
    rate: float
    seed: int


def plan(seeds: int) -> list[Cell]:
    """All cells, the extremes first, so that an unfinished set still compares them."""
    cells = [Cell("start", 0.0, 0)]
    low, *between, high = RATES
    pairs = [("plain", low), ("plain", high), ("robust", high)]
    cells += [Cell(*pair, seed) for seed in range(seeds) for pair in pairs]
    pairs = [("published", low), ("published", high), ("weighed", high)]
    cells += [Cell(*pair, seed) for seed in range(seeds) for pair in pairs]
    for rate in reversed(between):
        cells += [Cell(leader, rate, s) for s in range(seeds) for leader in ("plain", "robust")]
    return cells


def train(cell: Cell, options: argparse.Namespace, pile: list[str], screener: Classifier) -> Any:
    """The policy after a cell's training, and the share of samples that pass rightly at the end."""
    config = SROConfig(
        lora=False,
        robust=cell.leader in SAME_AT_ZERO,
        screener_flip_rate=cell.rate,
        comments=options.comments,
        seed=cell.seed,
        **json.loads(options.settings),
    )
    if cell.leader in ("published", "weighed"):
        many = config.comments * config.samples
        config = dataclasses.replace(config, comments=many, **PUBLISHED)
    policy = Policy(model_folder(options.policy), config)
    limits = stored_thresholds(options.screener)
    follower = Follower(screener, limits, flip_rate=cell.rate, seed=cell.seed)
    optimizer = torch.optim.AdamW(policy.trained, lr=policy.learning_rate, weight_decay=0.0)
    order = random.Random(cell.seed).sample(pile, options.steps * config.comments)
    rates = []
    for step in range(options.steps if cell.leader != "start" else 0):
        batch = order[step * config.comments : (step + 1) * config.comments]
        samples = rollout(
            policy,
            batch,
            samples=config.samples,
            max_new_tokens=config.max_new_tokens,
            seed=f"{cell.seed}/{step}",
        )
        pairs = [(batch[s.comment], s.text) for s in samples]
        seen = follower.verdicts(*zip(*pairs, strict=True), [s.finished for s in samples])
        right = seen.passed ^ torch.tensor([follower.flips(*pair) for pair in pairs])
        rates.append(right.float().mean().item())
        sro_backward(policy, batch, samples, seen, config)
        torch.nn.utils.clip_grad_norm_(policy.trained, 1.0)
        optimizer.param_groups[0]["lr"] = policy.learning_rate * min(1.0, (step + 1) / 5)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return policy, statistics.mean(rates[-LAST:]) if rates else None


def run_cells(options: argparse.Namespace, file: Path) -> None:
    """Train and judge every cell that ``file`` does not hold yet; one line a cell."""
    done = {_cell(record) for record in _read(file)}
    todo = [cell for cell in plan(options.seeds) if cell not in done][: options.most_cells]
    if not todo:
        return
    dev = pq.read_table(options.dev).to_pydict()
    judges = _judges(options, [r for some in dev["references"] for r in some])
    inputs = dev["toxic"][: options.dev_comments]
    screener = Classifier.load(model_folder(options.screener))
    pile = list(dict.fromkeys(read_texts([options.toxic])))
    for cell in todo:
        began = time.perf_counter()
        policy, passing = train(cell, options, pile, screener)
        trained = time.perf_counter()
        policy.model.eval()
        answers = [s.text for s in greedy_answers(policy, inputs)]
        record = {
            **cell._asdict(),
            **score_rewrites(inputs, answers, judges).means(),
            "pass_rate": passing,
            "seconds": [round(trained - began), round(time.perf_counter() - trained)],
        }
        with file.open("a") as lines:
            lines.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)


def _judges(options: argparse.Namespace, references: list[str]) -> Judges:
    return settle_cut(load_judges(JudgeNames(options.judge)), references)[0]


def _cell(record: dict[str, Any]) -> Cell:
    return Cell(record["leader"], record["rate"], record["seed"])


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def curves(records: list[dict[str, Any]], figure: str) -> dict[str, list[dict[str, float]]]:
    """Of each leader, mean and spread of a figure over the seeds at each rate."""
    found: dict[str, list[dict[str, float]]] = {}
    for leader in LEADERS:
        found[leader] = []
        for rate in RATES:
            name = leader if rate else SAME_AT_ZERO.get(leader, leader)
            values = [r[figure] for r in records if (r["leader"], r["rate"]) == (name, rate)]
            if values:
                found[leader].append(
                    {
                        "rate": rate,
                        "mean": round(statistics.mean(values), 4),
                        "low": min(values),
                        "high": max(values),
                        "seeds": len(values),
                    }
                )
    return found


def draw(result: dict[str, Any], file: Path) -> None:
    """J and the pass rate against the flip rate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    image, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, name in zip(axes, ("J", "pass_rate"), strict=True):
        for leader, colour in LEADERS.items():
            points = result["curves"][name][leader]
            if not points:
                continue
            x = [100 * p["rate"] for p in points]
            mean = [p["mean"] for p in points]
            axis.plot(x, mean, marker="o", color=colour, label=leader)
            low, high = [p["low"] for p in points], [p["high"] for p in points]
            axis.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        start = result["start"].get(name)
        if start is not None:
            axis.axhline(start, color="black", linestyle=":", label="before training")
        axis.set_xlabel("verdicts turned round, %")
        axis.set_ylim(0, None)
    axes[0].set_ylabel("J under the judge")
    axes[1].set_ylabel("pass rate under right verdicts")
    axes[0].legend()
    image.savefig(file, dpi=130)


def main() -> None:
    """Run what is missing, then draw and report what is there."""
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    file = options.work / "cells.jsonl"
    run_cells(options, file)
    records = _read(file)
    trained = [r for r in records if r["leader"] != "start"]
    figures = {name: curves(trained, name) for name in ("J", "STA", "SIM", "FL", "pass_rate")}
    kept = {
        leader: round(points[-1]["mean"] / points[0]["mean"], 4)
        for leader, points in figures["J"].items()
        if points and points[-1]["rate"] == RATES[-1]
    }
    result = {
        "benchmark": "robustness",
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine() | {"threads": torch.get_num_threads()},
        "judges": JudgeNames(options.judge).describe(),
        "settings": {name: getattr(options, name) for name in ("steps", "comments", "dev_comments")}
        | json.loads(options.settings),
        "start": next((r for r in records if r["leader"] == "start"), {}),
        "curves": figures,
        "J_at_10_percent_over_J_at_0": kept,
        "cells": trained,
    }
    show(result)
    draw(result, options.work / "robustness.png")
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def show(result: dict[str, Any]) -> None:
    """The table for people, on stderr."""
    table = Table(title=f"means over seeds; before training J {result['start'].get('J')}")
    for name in ("flip rate", "leader", "J", "STA", "SIM", "FL", "pass rate", "seeds"):
        table.add_column(name, justify="right")
    figures = result["curves"]
    for leader in LEADERS:
        for k, point in enumerate(figures["J"][leader]):
            values = (figures[n][leader][k]["mean"] for n in ("J", "STA", "SIM", "FL", "pass_rate"))
            cells = [f"{v:.3f}" for v in values]
            table.add_row(f"{point['rate']:.0%}", leader, *cells, str(point["seeds"]))
    Console(stderr=True).print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--screener", required=True)
    parser.add_argument("--judge", required=True, help="never the screener, nor of its split")
    parser.add_argument("--toxic", type=Path, required=True)
    parser.add_argument("--dev", type=Path, required=True, help="columns `toxic` and `references`")
    parser.add_argument("--dev-comments", type=int, default=700)
    parser.add_argument("--work", type=Path, required=True, help="folder of finished cells")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--comments", type=int, default=16, help="comments a step")
    parser.add_argument("--settings", default="{}", help="more of SROConfig, as JSON")
    parser.add_argument("--most-cells", type=int, help="stop after so many new cells; 0: only draw")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
