"""How many comments of a dump are screened in a second, and what does the first stage miss?

    python benchmarks/screening.py comments.parquet [--bundle BUNDLE] [--screener RUN] [--rows N]
        [--offset N] [--rounds N] [--threads N] [--parts speed,misses] [--out result.json]

    pytorch   the trained screener in batches of 32 in the order of the dump, as a plain script
              does it; a tenth of the rows, for it is slow
    onnx      ONNX Runtime, batches sorted by length: `--no-cascade`
    cascade   the same behind the bundle's first stage

Both latter ones read disguised words twice; the script does not. Rivals run in turns, A B A B; the
medians of the ratios to `onnx` are what counts. Comments that come again are left out. Units are of
512 comments, as in a run. `misses` compares decisions: what the full screener calls toxic and the
cascade does not. `--labels FILE` counts misses on labelled comments as well. Results with another
`--offset` are added up in `--out`, for the same bundle and threshold. The last line on stdout is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from record import earlier, keep
from rich.console import Console
from rich.table import Table

from sro_edge.bundle import Bundle
from sro_edge.first_stage import Cascade, FirstStage, load_first_stage
from sro_edge.machine import describe_machine, physical_cores
from sro_edge.screener import Screener, passes
from sro_edge.training.operating_points import upper_bound

_UNIT = 512
_SHARE_OF_PYTORCH = 10


def main() -> None:
    """Race, count, and print the table."""
    options = _options()
    bundle = Bundle.load(options.bundle)
    screener = Screener(bundle.screener, threads=options.threads, device="cpu")
    threshold = bundle.thresholds.toxicity
    stage = load_first_stage(bundle, threshold, threads=options.threads)
    if stage is None:
        raise SystemExit(f"{bundle.name} has no first stage; give a --bundle that has one")
    texts = _texts(options.dump, options.rows, options.offset)
    result: dict[str, Any] = {
        "question": "how many comments are screened in a second, and what does the cascade miss",
        "machine": describe_machine(),
        "threads": options.threads,
        "bundle": {"name": bundle.name, "version": bundle.version, "digest": bundle.digest},
        "threshold": threshold,
    }
    known = earlier(options.out, result, "bundle", "threshold", "machine.simd")
    if "speed" in options.parts:
        result["speed"] = _speed(options, screener, stage, texts)
    if "misses" in options.parts:
        result["misses"] = dict(known.get("misses", {}))
        for name, some in _kinds(options, texts).items():
            found = _misses(screener, stage, some, threshold)
            result["misses"][name] = _added(result["misses"].get(name), found)
    result = {**known, **result}
    _show(result)
    keep(options.out, result, "question", "machine.simd")
    print(json.dumps(result))


def _speed(
    options: argparse.Namespace, screener: Screener, stage: FirstStage, texts: list[str]
) -> dict[str, Any]:
    """Comments a second of each rival, with the ratios to ``onnx``."""
    cascade = Cascade(screener, stage)
    rivals: dict[str, tuple[Callable[[list[str]], object], list[str]]] = {
        "onnx": (screener.score, texts),
        "cascade": (cascade.score, texts),
    }
    if options.screener:
        rivals["pytorch"] = (_script(options), texts[: len(texts) // _SHARE_OF_PYTORCH])
    rates: dict[str, list[float]] = {name: [] for name in rivals}
    for name, (work, _) in rivals.items():
        work(texts[:64])  # warm-up
        del name
    for _ in range(options.rounds):
        for name, (work, some) in rivals.items():
            started = time.perf_counter()
            for start in range(0, len(some), _UNIT):
                work(some[start : start + _UNIT])
            rates[name].append(round(len(some) / (time.perf_counter() - started), 1))
    rows: dict[str, Any] = {}
    for name, found in rates.items():
        ratios = [a / b for a, b in zip(found, rates["onnx"], strict=True)]
        rows[name] = {
            "comments": len(rivals[name][1]),
            "comments_per_s": round(statistics.median(found), 1),
            "ratio_to_onnx": round(statistics.median(ratios), 2),
            "range": [round(min(ratios), 2), round(max(ratios), 2)],
            "raw": found,
        }
    rows["first stage alone"] = _alone(screener, stage, texts)
    return rows


def _alone(screener: Screener, stage: FirstStage, texts: list[str]) -> dict[str, Any]:
    started = time.perf_counter()
    windows = tokens = left = 0
    for at in range(0, len(texts), _UNIT):
        readings, _ = screener.readings(texts[at : at + _UNIT])
        pieces = sorted(screener.pieces(readings), key=lambda piece: len(piece[1]))
        suspects = stage.suspects(pieces, screener.pad)
        windows += len(pieces)
        tokens += sum(len(ids) for _, ids in pieces)
        left += sum(len(ids) for _, ids in suspects)
    rate = len(texts) / (time.perf_counter() - started)
    return {
        "comments": len(texts),
        "comments_per_s": round(rate, 1),
        "windows": windows,
        "tokens_cleared": round(1 - left / tokens, 4),
    }


def _script(options: argparse.Namespace) -> Callable[[list[str]], object]:
    """The trained screener as a plain script uses it."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from sro_edge.training.runs import model_folder

    torch.set_num_threads(options.threads)
    folder = model_folder(options.screener)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def work(texts: list[str]) -> object:
        scores = []
        for start in range(0, len(texts), 32):
            batch = tokenizer(
                texts[start : start + 32],
                padding=True,
                truncation=True,
                max_length=512,
                return_tensors="pt",
            )
            with torch.inference_mode():
                scores.append(model(**batch).logits.sigmoid()[:, 0])
        return torch.cat(scores)

    return work


def _misses(
    screener: Screener, stage: FirstStage, texts: list[str], threshold: float
) -> dict[str, Any]:
    """How many texts the screener flags, and how many of them were cleared."""
    cascade, cleared = Cascade(screener, stage), 0
    both: list[tuple[float, float]] = []
    for at in range(0, len(texts), _UNIT):
        unit = texts[at : at + _UNIT]
        full, found = screener.score(unit), cascade.score(unit)
        both += zip(full.toxicity.tolist(), found.toxicity.tolist(), strict=True)
        cleared += int(np.asarray(found.cleared).sum())
    toxic = [pair for pair in both if not passes(pair[0], threshold)]
    missed = [a for a, b in toxic if math.isnan(b) or passes(b, threshold)]
    return {
        "texts": len(texts),
        "cleared": cleared,
        "toxic": len(toxic),
        "missed": len(missed),
        "toxicity_of_the_missed": sorted(round(score, 3) for score in missed),
    }


def _added(earlier: dict[str, Any] | None, found: dict[str, Any]) -> dict[str, Any]:
    """Both counts together, with the share missed and its upper bound."""
    if earlier:
        found = {key: earlier[key] + value for key, value in found.items()}
    share = found["missed"] / max(1, found["toxic"])
    bound = upper_bound(found["missed"], found["toxic"])
    return found | {"share_missed": round(share, 6), "upper_95": round(bound, 6)}


def _kinds(options: argparse.Namespace, texts: list[str]) -> dict[str, list[str]]:
    if not options.labels:
        return {options.dump.name: texts}
    return {path.name: _texts(path, None, 0) for path in options.labels}


def _texts(path: Path, rows: int | None, offset: int) -> list[str]:
    column = pq.read_table(path, columns=["text"])["text"].to_pylist()
    some = column[offset : None if rows is None else offset + rows]
    return list(dict.fromkeys(t for t in some if t and t.strip()))


def _show(result: dict[str, Any]) -> None:
    for part in ("speed", "misses"):
        table = Table(box=None, pad_edge=False)
        table.add_column(part)
        rows = result.get(part, {})
        names = list(dict.fromkeys(key for row in rows.values() for key in row))
        names = [name for name in names if name not in ("raw", "toxicity_of_the_missed")]
        for name in names:
            table.add_column(name.replace("_", " "), justify="right")
        for name, row in rows.items():
            table.add_row(name, *(str(row.get(key, "")) for key in names))
        Console(stderr=True).print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dump", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--screener", type=Path)
    parser.add_argument("--labels", type=Path, nargs="*")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--parts", default="speed,misses")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.parts = options.parts.split(",")
    if not set(options.parts) <= {"speed", "misses"}:
        parser.error("--parts must be some of speed,misses")
    return options


if __name__ == "__main__":
    main()
