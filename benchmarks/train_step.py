"""How fast is a step of SRO, and how much memory does it take? Beside two rivals, same model.

    python benchmarks/train_step.py --policy runs/warm-start --screener runs/screener \
        --toxic toxic.parquet [--comments N] [--lora] [--part speed|memory] [--out F.json]

A step is rollout, verdicts and update. `loop` is the released notebook's loop, written correctly:
one comment at a time, a second full model as the reference, fp32; `loop bf16` is the same in bf16,
as ours computes where the processor can. `trl` is its Online DPO trainer (two samples a comment)
with the follower as the reward. Rivals run A B A B on the same comments;
the median of the ratios counts. Peak memory is that of one process a rival, with LoRA on all sides,
as a whole (``peak_mb``) and without what the imported libraries take (``net_mb``). On a GPU the
model FLOP utilisation of the update is printed as well. With --part only that part is run anew and
put beside the other. A result takes the place of one with the same options in the list in --out.
The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import train_rivals
from record import earlier, keep
from rich.console import Console
from rich.table import Table
from train_rivals import BATCH, Rival, loop, ours, trl
from transformers import LlamaConfig, LlamaForCausalLM

from sro_edge.machine import describe_machine
from sro_edge.training.config import SROConfig
from sro_edge.training.piles import read_texts
from sro_edge.training.policy import Policy
from sro_edge.training.runs import model_folder

ROUNDS = 3
SHAPES = {
    "smollm2-135m": (49_152, 576, 30, 9, 3, 1536),
    "qwen2.5-0.5b": (151_936, 896, 24, 14, 2, 4864),
}
# Several steps, for what a library keeps of one is not free in the next.
_ALIKE = "benchmark", "gpu", "lora"
_MEMORY_COMMENTS = {"loop": 6, "loop bf16": 6, "trl": BATCH, "ours": 3 * BATCH}
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "4090": 165e12}


def race(rivals: dict[str, Rival], comments: Sequence[str]) -> dict[str, Any]:
    """Comments per second of each rival, in turns after a warm-up; the last one over the first."""
    for rival in rivals.values():
        rival(comments[:BATCH])
    speeds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(ROUNDS):
        for name, rival in rivals.items():
            speeds[name].append(round(len(comments) / rival(comments), 2))
    first, last = speeds.values()
    ratios = [b / a for a, b in zip(first, last, strict=True)]
    return {
        "comments_per_second": speeds,
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def peak_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of a few steps of each rival, with LoRA, on a model of random weights."""
    found: dict[str, Any] = {"shape": options.memory_shape}
    with tempfile.TemporaryDirectory() as folder:
        _random_model(options, folder)
        for name in _MEMORY_COMMENTS:
            command = [sys.executable, __file__, "--only", name, "--policy", folder]
            command += ["--screener", options.screener, "--toxic", str(options.toxic)]
            command += ["--comments", str(max(_MEMORY_COMMENTS.values()))]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name] = json.loads(out.splitlines()[-1])
    for kind in ("peak_mb", "net_mb"):
        figures = {name: found[name][kind] for name in _MEMORY_COMMENTS}
        found[f"ratio_{kind}"] = {
            rival: round(figures["ours"] / figure, 3)
            for rival, figure in figures.items()
            if rival != "ours"
        }
    return found


def _random_model(options: argparse.Namespace, folder: str) -> None:
    vocabulary, width, layers, heads, key_heads, inner = SHAPES[options.memory_shape]
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_heads,
            intermediate_size=inner,
            tie_word_embeddings=True,
        )
    ).to(torch.bfloat16).save_pretrained(folder)  # as such models are published
    source = Path(model_folder(options.policy))
    for file in ("tokenizer.json", "tokenizer_config.json", "prompt.json"):
        (Path(folder) / file).write_bytes((source / file).read_bytes())


def _measure_one(options: argparse.Namespace, comments: list[str]) -> None:
    """In a process of its own: a few steps of one rival, then the peak."""
    folder, screener = model_folder(options.policy), options.screener
    before = _memory_mb(peak=False)
    make: dict[str, Callable[[], Rival]] = {
        "ours": lambda: ours(folder, screener, 1, True, {}),
        "loop": lambda: loop(folder, screener, 1, True),
        "loop bf16": lambda: loop(folder, screener, 1, True, bf16=True),
        "trl": lambda: trl(folder, screener, True),
    }
    make[options.only]()(comments[: _MEMORY_COMMENTS[options.only]])
    peak = _memory_mb(peak=True)
    print(json.dumps({"peak_mb": round(peak), "net_mb": round(peak - before)}))


def _memory_mb(*, peak: bool) -> float:
    """Of the GPU, else resident; rusage would count what the parent held when it forked."""
    if torch.cuda.is_available():
        cuda = torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated
        return float(cuda()) / 2**20
    name = "VmHWM:" if peak else "VmRSS:"
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index(name) + 1]) / 1024


def shares(spent: dict[str, float], parameters: int, lora: bool) -> dict[str, Any]:
    """Where our time went, and on a known GPU the FLOP utilisation of the update.

    A token costs 2 N forward for the policy and 2 N for the reference, and backward 4 N, or 2 N
    where only an adapter has weight gradients (N parameters; Chowdhery et al. 2022, appendix B).
    """
    seconds = sum(spent[name] for name in ("rollout", "verdicts", "update"))
    found: dict[str, Any] = {
        name: round(spent[name] / seconds, 3) for name in ("rollout", "verdicts", "update")
    }
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak = next((flops for card, flops in PEAK_FLOPS.items() if card in name), None)
    if peak:
        flops = (6 if lora else 8) * parameters * spent["tokens"]
        found["update_mfu"] = round(flops / spent["update"] / peak, 4)
    return found


def speed(options: argparse.Namespace, comments: list[str]) -> dict[str, Any]:
    """The races, and where our time went."""
    folder, lora = model_folder(options.policy), options.lora
    spent: dict[str, float] = {}
    races = {}
    for name, bf16 in (("loop", False), ("loop bf16", True)):
        for samples in (1, 4):
            timed = spent if samples == 4 and not bf16 else {}
            races[f"{name}, {samples} a comment"] = race(
                {
                    name: loop(folder, options.screener, samples, lora, bf16=bf16),
                    "ours": ours(folder, options.screener, samples, lora, timed),
                },
                comments,
            )
    races["trl Online DPO, 2 a comment"] = race(
        {
            "trl": trl(folder, options.screener, lora),
            "ours": ours(folder, options.screener, 2, lora, {}),
        },
        comments,
    )
    parameters = Policy(folder, SROConfig(lora=False)).model.num_parameters()
    return {
        "policy": {"parameters": parameters, "lora": lora},
        "settings": {"comments": len(comments), "batch": BATCH, "rounds": ROUNDS}
        | {"clock": "CPU seconds" if options.cpu_time else "seconds passed"},
        "races": races,
        "time_shares": shares(spent, parameters, lora),
    }


def main() -> None:
    """Race the rivals, measure their memory, print the tables."""
    options = _options()
    if options.cpu_time:
        train_rivals.clock = time.process_time
        torch.set_num_threads(1)
    comments = [t for t in dict.fromkeys(read_texts([options.toxic])) if len(t) < 200]
    comments = comments[: options.comments // BATCH * BATCH]
    if options.only:
        return _measure_one(options, comments)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    result: dict[str, Any] = {"benchmark": "train_step", "gpu": gpu, "lora": options.lora}
    if options.part:
        result = earlier(options.out, result, *_ALIKE) or result
    machine = describe_machine() | {"threads": torch.get_num_threads()}
    result |= {"date": time.strftime("%Y-%m-%d"), "machine": machine}
    if options.part != "memory":
        result |= speed(options, comments)
    if options.part != "speed":
        result["memory"] = peak_memory(options)
    show(result)
    keep(options.out, result, *_ALIKE)
    print(json.dumps(result))


def show(result: dict[str, Any]) -> None:
    """The tables for people, on stderr."""
    table = Table(title="comments per second (rollout, verdicts, update), median")
    for name in ("rival", "rival's", "ours", "ratio"):
        table.add_column(name, justify="left" if name == "rival" else "right")
    for name, figures in result.get("races", {}).items():
        rival, own = (statistics.median(v) for v in figures["comments_per_second"].values())
        table.add_row(name, f"{rival:.2f}", f"{own:.2f}", str(figures["ratio"]))
    console = Console(stderr=True)
    console.print(table)
    console.print(f"shares of our time {result.get('time_shares')}")
    console.print(f"memory {result.get('memory')}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--screener", required=True)
    parser.add_argument("--toxic", type=Path, required=True)
    parser.add_argument("--comments", type=int, default=32, help="comments of one round")
    parser.add_argument("--lora", action="store_true", help="an adapter instead of all weights")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="one thread, and count the seconds it ran: for a machine that others use too",
    )
    parser.add_argument("--memory-shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--part", choices=("speed", "memory"), help="only this [default: both]")
    parser.add_argument("--only", choices=_MEMORY_COMMENTS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
