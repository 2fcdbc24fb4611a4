"""How good are the rewrites of a bundle? STA, SIM, FL and J beside the baselines, one table.

    python benchmarks/quality.py --dev paradetox_dev.parquet --judge runs/judge \
        --words profanity.parquet [--bundle DIR] [--policy NAME=RUN ...] [--out result.json]

The dev file has the columns `toxic` (string) and `references` (list). The judge must not be the
bundle's screener, nor trained on its split. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from machine import describe_machine
from rich.console import Console
from rich.table import Table

from sro_edge import Rewriter
from sro_edge.deletion import delete_words
from sro_edge.evaluation.scores import Judges, fluency_cut, score_rewrites
from sro_edge.training.config import SROConfig
from sro_edge.training.encoder import Encoder
from sro_edge.training.follower import Classifier
from sro_edge.training.rollout import rollout
from sro_edge.training.runs import model_folder

Outputs = Sequence[str | None]


def main() -> None:
    """Run every system over the dev set and print the table."""
    options = _options()
    data = pq.read_table(options.dev).to_pydict()
    inputs, references = data["toxic"], data["references"]
    rewriter = Rewriter.load(options.bundle, on_unresolved="null")
    words = {w.lower(): 1.0 for w in pq.read_table(options.words)["term"].to_pylist()}
    judges = Judges(Classifier.load(model_folder(options.judge)), Encoder())
    cut = fluency_cut([r for refs in references for r in refs], judges)
    judges = dataclasses.replace(judges, fluency_cut=cut)
    systems: dict[str, Callable[[], Outputs]] = {
        "copy": lambda: inputs,
        "delete (word lists)": lambda: [delete_words(t, words) for t in inputs],
        "delete (bundle's lexicon)": lambda: [delete_words(t, rewriter.lexicon) for t in inputs],
        "human reference": lambda: [refs[0] for refs in references],
    }
    for name, run in (p.split("=", 1) for p in options.policy):
        systems[f"{name}, greedy"] = lambda run=run: greedy(run, inputs)
    records = list(rewriter.rewrite(inputs))
    systems["bundle as shipped"] = lambda: [r.text for r in records]
    result: dict[str, Any] = {
        "benchmark": "quality",
        "date": time.strftime("%Y-%m-%d"),
        "rows": len(inputs),
        "bundle": rewriter.settings(),
        "judges": {
            "toxicity and fluency": _recipe_of(options.judge),
            "meaning": "all-MiniLM-L6-v2",
            "fluency_cut": round(cut, 4),
        },
        "machine": describe_machine(),
        "systems": {
            n: score_rewrites(inputs, make(), judges).means() for n, make in systems.items()
        },
        "status": dict(Counter(r.status for r in records)),
        "reasons": dict(Counter(r.reason for r in records if r.reason)),
        "engines": dict(Counter(r.engine for r in records if r.engine)),
    }
    show(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def greedy(run: str, inputs: Sequence[str]) -> Outputs:
    """Ungated greedy answers of a policy run, made with torch."""
    from sro_edge.training.policy import Policy

    policy = Policy(model_folder(run), SROConfig(lora=False))
    order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
    found: list[str | None] = [None] * len(inputs)
    for start in range(0, len(order), 50):
        rows = order[start : start + 50]
        part = [inputs[i] for i in rows]
        for sample in rollout(policy.model, policy.prompter, part, samples=1, temperature=0):
            found[rows[sample.comment]] = sample.text
    return found


def show(result: dict[str, Any]) -> None:
    """The table for people, on stderr."""
    table = Table(title=f"{result['rows']} comments")
    table.add_column("system")
    for name in next(iter(result["systems"].values())):
        table.add_column(name, justify="right")
    for system, figures in result["systems"].items():
        table.add_row(system, *(f"{v:.3f}" for v in figures.values()))
    console = Console(stderr=True)
    console.print(table)
    console.print(f"status {result['status']}  reasons {result['reasons']}")
    console.print(f"engines {result['engines']}")


def _recipe_of(run: str) -> dict[str, Any]:
    record = json.loads((Path(run) / "run.json").read_text("utf-8"))
    return {"model": "screener of recipes/judge.toml", "config": record["config"]}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--judge", required=True)
    parser.add_argument("--words", type=Path, required=True, help="word list, column `term`")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--policy", action="append", default=[], metavar="NAME=RUN")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
