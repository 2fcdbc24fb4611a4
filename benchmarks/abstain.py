"""Which comments a bundle gives up: hateful test cases, and comments that people could reword.

    python benchmarks/abstain.py DATA [--bundle FOLDER] [--out FILE]

At the bundle's own threshold and at the one that finds half of what people could not reword. Only
toxic comments are asked about, sentence by sentence, as in a run. Of DATA are read: the functional
cases that no contrast can make (`functional.py`), the dev comments, all of which people reworded,
and the part of the comments with labels that the model has not learned from.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from functional import unseen_cases

from sro_edge.abstention import Abstainer
from sro_edge.bundle import Bundle
from sro_edge.job import free_spans
from sro_edge.machine import describe_machine
from sro_edge.screener import Screener, passes
from sro_edge.training.piles import fold

Floats = npt.NDArray[np.float32]


class Engine:
    """A bundle's screener and what abstains."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self.limit = bundle.thresholds.toxicity
        self.screener = Screener(bundle.screener, threads=threads, device="cpu")
        self.abstainer = Abstainer(bundle.screener, self.screener, 0, threads=threads, device="cpu")

    def scores(self, texts: Sequence[str]) -> Floats:
        """The score (N,) of each text: that of its worst toxic sentence; NaN where it passes."""
        found = np.full(len(texts), np.nan, np.float32)
        toxicity = self.screener.score(texts).toxicity.tolist()
        pieces = [
            (i, self.screener.reveal(span.of(text)))
            for i, text in enumerate(texts)
            if not passes(toxicity[i], self.limit)
            for span in free_spans(text)
        ]
        owners = np.array([i for i, _ in pieces])
        seen = self.screener.score([piece for _, piece in pieces]).toxicity
        worst = np.zeros(len(texts), np.float32)
        np.maximum.at(worst, owners, seen)
        # The failing sentences, or where none fails alone, the worst one.
        asked = np.flatnonzero((seen > self.limit) | (seen == worst[owners]))
        scores = self.abstainer.score([pieces[row][1] for row in asked])
        np.fmax.at(found, owners[asked], scores)
        return found


def shares(scores: Floats, thresholds: dict[str, float]) -> dict[str, Any]:
    """How many texts there are, how many are toxic, and which share of these is given up."""
    toxic = scores[~np.isnan(scores)]
    given_up = {
        n: round(float((toxic >= t).mean()), 4) if len(toxic) else None
        for n, t in thresholds.items()
    }
    return {"texts": len(scores), "toxic": len(toxic), "given_up": given_up}


def functional(engine: Engine, data: Path, thresholds: dict[str, float]) -> dict[str, Any]:
    """Shares of the functional cases: hateful and not, by functionality."""
    rows = unseen_cases(data)
    scores = engine.scores([row["text"] for row in rows])
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        kind = "hateful" if row["label"] else "not hateful"
        groups.setdefault(f"{row['source']}: {kind}", []).append(i)
        if row["label"]:
            groups.setdefault(f"{row['source']}: {row['functionality']}", []).append(i)
    return {name: shares(scores[some], thresholds) for name, some in groups.items()}


def labelled(engine: Engine, data: Path, held_out: float, thresholds: dict[str, float]) -> Any:
    """Precision, recall and cost on comments that the model has not learned from, as in a run."""
    rows = pq.read_table(data / "train/toxic.parquet").to_pylist()
    rows = [row for row in rows if fold(row["text"]) < held_out]
    refused = np.array([row["source"] == "paradetox_cannot_rewrite" for row in rows])
    scores = engine.scores([row["text"] for row in rows])
    found = {}
    for name, threshold in thresholds.items():
        gone = scores >= threshold  # never for NaN
        found[name] = {
            "precision": round(float(refused[gone].mean()), 4),
            "recall": round(float(gone[refused].mean()), 4),
            "given_up": round(float(gone[~refused].mean()), 4),
        }
    return {"comments": len(rows), "refused": int(refused.sum()), **found}


def main() -> None:
    """Measure, show, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/abstain.json"))
    asked = parser.parse_args()
    bundle = Bundle.load(asked.bundle)
    record = bundle.training["abstain"]
    strict, half = (p["threshold"] for p in record["cross_validated"]["points"])
    thresholds = {"default": strict, "recall .5": half}
    engine = Engine(bundle, asked.threads)
    dev = pq.read_table(asked.data / "eval/paradetox_dev.parquet")["toxic"].to_pylist()
    result = {
        "machine": describe_machine(),
        "bundle": {"name": bundle.name, "version": bundle.version, "digest": bundle.digest},
        "thresholds": thresholds,
        "cross_validated": record["cross_validated"],
        "held_out": record["held_out"],
        "held_out_in_a_run": labelled(engine, asked.data, record["config"]["held_out"], thresholds),
        "dev": shares(engine.scores(dev), thresholds),
        "functional": functional(engine, asked.data, thresholds),
    }
    asked.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    for name, row in {"dev": result["dev"], **result["functional"]}.items():
        print(f"{name:48} {row['texts']:5} {row['toxic']:5}  {row['given_up']}")
    print(json.dumps({k: result[k] for k in ("held_out_in_a_run", "dev")}))


if __name__ == "__main__":
    main()
