"""Which GGUF type is best on this CPU? Size, load time, memory, tokens per second, and quality.

    python benchmarks/quantization.py quality --policy runs/sro --screener runs/screener \
        --judge runs/judges --dev paradetox_dev.parquet [--limit N]
    python benchmarks/quantization.py speed --policy runs/sro [--random] [--rounds N]
    python benchmarks/quantization.py plot

`--files DIR` keeps the GGUF files, and `write` only makes them: speed is then measured alone.
The parts write into one JSON file (--out, benchmarks/results/quantization.json), so that each can
be run when the machine is free; `plot` draws the PNG beside it and prints the table for README.md.

Speed: every type has a process of its own, which loads the file and decodes through the engine's
own llama.cpp layer with 1 and 16 sequences in flight (one token each a step) and with full batches
of 512 prompt tokens (four prompts of 128), on one thread. What counts is processor time, so that a
busy machine shows nearly the same. The types take turns; medians over the rounds are reported.
`--random` measures a Llama of 135 M parameters (SmolLM2's shape) with random weights, for speed
only.

Quality: mean KL divergence and equal likeliest tokens against the trained model in fp32, and STA,
SIM, FL and J of greedy rewrites under a judge that is not the screener, beside the trained model's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sro_edge.machine import describe_machine

RESULT = Path(__file__).parent / "results" / "quantization.json"
SECONDS = 0.4  # of processor time for decoding at each number of tokens a step, after a warm-up
FLOWS = {1: (1, 1), 16: (16, 1), 512: (4, 128)}  # tokens a step: sequences, tokens of each
LONGEST = 128
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


def main() -> None:
    """Run the part asked for."""
    options = _options()
    if options.part == "worker":
        print(json.dumps(measure(options.file, options.threads)))
        return
    result = json.loads(options.out.read_text("utf-8")) if options.out.exists() else {}
    if options.part == "plot":
        plot(result, options.out.with_suffix(".png"))
        show(result)
        return
    with tempfile.TemporaryDirectory() as folder:
        policy = load(options)
        files = write_types(policy, options.files or Path(folder))
        if options.part == "write":
            return
        if options.part == "speed":
            name = "random 135 M" if options.random else "small"
            result.setdefault("speed", {})[name] = race(files, options.rounds, options.threads)
            result["machine"] = describe_machine() | {"threads": options.threads}
        else:
            result["quality"] = quality(policy, files, options)
    result |= {"benchmark": "quantization", "date": time.strftime("%Y-%m-%d")}
    options.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(result))


def load(options: argparse.Namespace) -> Any:
    """The policy, or one of SmolLM2's shape with random weights and the policy's tokenizer."""
    from dataclasses import replace

    import torch
    import transformers

    from sro_edge.export.merge import load_policy
    from sro_edge.export.quiet import quiet
    from sro_edge.export.runs import open_run

    with quiet():
        policy = load_policy(open_run(options.policy, "policy"))
        if not getattr(options, "random", False):
            return policy
        torch.manual_seed(0)
        ids = {n: getattr(policy.tokenizer, n) for n in ("bos_token_id", "eos_token_id")}
        config = transformers.LlamaConfig(**SMOLLM2, **ids)
        return replace(policy, model=transformers.LlamaForCausalLM(config).eval())


def write_types(policy: Any, folder: Path) -> dict[str, Path]:
    """Every type -> its file."""
    from sro_edge.export.gguf_types import GGUF_TYPES, convert_gguf
    from sro_edge.export.gguf_writer import About, write_gguf

    files = {name: folder / f"{name}.gguf" for name in GGUF_TYPES}
    if all(file.is_file() for file in files.values()):
        return files
    folder.mkdir(parents=True, exist_ok=True)
    about = About("benchmark", "Apache-2.0", None, policy.template)
    write_gguf(policy.model, policy.tokenizer, files["f32"], about)
    for name in list(files)[1:]:
        convert_gguf(files["f32"], files[name], name)
    return files


def race(files: dict[str, Path], rounds: int, threads: int) -> dict[str, Any]:
    """Median figures of each type over ``rounds``, in turns; the raw values are kept."""
    raw: dict[str, list[dict[str, float]]] = {name: [] for name in files}
    command = [sys.executable, __file__, "worker", "--threads", str(threads), "--file"]
    for number in range(rounds):
        for name, file in files.items():
            done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=True)
            raw[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {number + 1} {name} {raw[name][-1]}", file=sys.stderr)
    return {
        name: {
            "megabytes": round(files[name].stat().st_size / 1e6, 2),
            **{key: round(statistics.median(r[key] for r in runs), 4) for key in runs[0]},
            "rounds": runs,
        }
        for name, runs in raw.items()
    }


def measure(file: Path, threads: int) -> dict[str, float]:
    """Load time in seconds, peak memory in megabytes, tokens per second; in a fresh process."""
    from sro_edge.llama import Context, Model, library

    library()
    before = time.process_time()
    model = Model(file, device="cpu")
    llama = Context(model, threads=threads, sequences=16, longest=LONGEST)
    found = {"load_seconds": time.process_time() - before}
    for flow in FLOWS:
        found[f"tokens_per_second_{flow}"] = tokens_per_second(llama, flow)
    status = Path("/proc/self/status").read_text("ascii")  # Linux; getrusage counts the parent too
    peak = next(int(row.split()[1]) for row in status.splitlines() if row.startswith("VmHWM"))
    return {**found, "peak_megabytes": peak / 1e3}


def tokens_per_second(llama: Any, flow: int) -> float:
    """Decode ``flow`` tokens a step, over and over."""
    sequences, run = FLOWS[flow]
    steps = 0
    started = time.process_time()
    position = 0
    warm = False
    while not warm or time.process_time() - started < SECONDS:
        if position + run > LONGEST:
            _drop(llama, sequences)
            position = 0
        llama.batch.clear()
        for sequence in range(sequences):
            llama.batch.add([7 + sequence] * run, position, sequence, 1)
        llama.decode()
        position += run
        steps += 1
        if not warm and steps == (1 if flow > 16 else 3):
            warm, steps, started = True, 0, time.process_time()
    rate = steps * flow / (time.process_time() - started)
    _drop(llama, sequences)
    return rate


def _drop(llama: Any, sequences: int) -> None:
    for sequence in range(sequences):
        llama.drop(sequence)


def quality(policy: Any, files: dict[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """KL divergence, top-1 and judged rewrites of every type, beside the trained model's."""
    import pyarrow.parquet as pq

    from sro_edge.evaluation.judges import JudgeNames, load_judges
    from sro_edge.evaluation.scores import score_rewrites, settle_cut
    from sro_edge.export.proof_gguf import prove_logits
    from sro_edge.export.proof_rewrites import judge, llama_answers, torch_answers
    from sro_edge.screener import Screener
    from sro_edge.training.runs import stored_thresholds

    data = pq.read_table(options.dev).slice(0, options.limit).to_pydict()
    comments = data["toxic"]
    names = JudgeNames(str(options.judge))
    references = [r for refs in data["references"] for r in refs]
    judges, _ = settle_cut(load_judges(names), references)
    screener = Screener(options.bundle_screener, threads=1, device="cpu")
    limits = stored_thresholds(options.screener)
    logits = {figure.key: figure.value for figure in prove_logits(policy, files)}
    answers: dict[str, Callable[[], list[str | None]]] = {
        "torch": lambda: torch_answers(policy, comments)
    }
    answers |= {n: lambda f=f: llama_answers(policy, f, comments) for n, f in files.items()}
    types = {}
    for name, make in answers.items():
        texts = make()
        types[name] = {
            **score_rewrites(comments, texts, judges).means(),
            "pass": round(judge(comments, texts, screener, limits).passed, 4),
        }
        if name != "torch":
            types[name] |= {k: logits[f"gguf.{name}.{k}"] for k in ("kl", "top1")}
        print(name, types[name], file=sys.stderr)
    return {"comments": len(comments), "judges": names.describe(), "types": types}


def plot(result: dict[str, Any], file: Path) -> None:
    """J against tokens per second with 16 in flight, one point a type, its area the file's size."""
    import matplotlib.pyplot as plt

    speed, types = result["speed"]["small"], result["quality"]["types"]
    large = result["speed"].get("random 135 M", {})
    figure, panels = plt.subplots(
        1, 2 if large else 1, figsize=(10 if large else 6, 4.2), squeeze=False, layout="constrained"
    )
    axes = panels[0, 0]
    for name, row in speed.items():
        x, y = row["tokens_per_second_16"], types[name]["J"]
        axes.scatter(x, y, s=12 * row["megabytes"], alpha=0.6)
        axes.annotate(name, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.axhline(types["torch"]["J"], ls=":", color="grey", lw=1)
    axes.set(
        title=f"7 M rewriter, {result['quality']['comments']} comments; area: file size",
        xlabel="tokens per processor second, 16 in flight, one thread",
        ylabel="J of greedy rewrites (dotted: torch)",
    )
    if large:
        _plot_ratios(panels[0, 1], large)
    figure.savefig(file, dpi=130)


def _plot_ratios(axes: Any, speed: dict[str, Any]) -> None:
    for name, row in speed.items():
        keys = [f"tokens_per_second_{flow}" for flow in FLOWS]
        ratios = [row[key] / speed["q8_0"][key] for key in keys]
        axes.plot([str(flow) for flow in FLOWS], ratios, marker="o", label=name, lw=1)
    axes.set(
        title="135 M shape (random weights): speed relative to q8_0",
        xlabel="tokens a step",
        ylabel="ratio of tokens per processor second",
    )
    axes.legend(fontsize=8, ncols=2)


def show(result: dict[str, Any]) -> None:
    """The table of README.md here."""
    types = result["quality"]["types"]
    small, large = result["speed"]["small"], result["speed"].get("random 135 M", {})
    print(
        "| type | MB | load ms | peak MB | t/s 1 | 16 | 512 | KL | top-1 | STA | SIM | J | pass |"
    )
    print("|---|" + "---|" * 12)
    for name, row in small.items():
        q = types[name]
        rates = " | ".join(f"{row[f'tokens_per_second_{flow}']:,.0f}" for flow in FLOWS)
        print(
            f"| {name} | {row['megabytes']:.1f} | {1e3 * row['load_seconds']:.0f} | "
            f"{row['peak_megabytes']:.0f} | {rates} | {q['kl']:.1e} | {q['top1']:.3f} | "
            f"{q['STA']:.3f} | {q['SIM']:.3f} | {q['J']:.3f} | {q['pass']:.3f} |"
        )
    t = types["torch"]
    print(
        f"| torch fp32 | | | | | | | | | {t['STA']:.3f} | {t['SIM']:.3f} | {t['J']:.3f} | "
        f"{t['pass']:.3f} |"
    )
    if large:
        print("\n| 135 M, random weights | MB | load ms | peak MB | t/s 1 | 16 | 512 |")
        print("|---|" + "---|" * 6)
    for name, row in large.items():
        rates = " | ".join(f"{row[f'tokens_per_second_{flow}']:,.0f}" for flow in FLOWS)
        print(
            f"| {name} | {row['megabytes']:.0f} | {1e3 * row['load_seconds']:.0f} | "
            f"{row['peak_megabytes']:.0f} | {rates} |"
        )


def _options() -> argparse.Namespace:
    from sro_edge.bundle import default_path

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("write", "quality", "speed", "plot"):
        part = parts.add_parser(name)
        part.add_argument("--out", type=Path, default=RESULT)
        if name != "plot":
            part.add_argument("--policy", type=Path, required=True)
            part.add_argument("--files", type=Path, help="folder of GGUF files, made once")
        if name == "quality":
            part.add_argument("--screener", type=Path, required=True)
            part.add_argument("--judge", type=Path, required=True)
            part.add_argument("--dev", type=Path, required=True)
            part.add_argument("--limit", type=int, default=700)
            part.add_argument("--bundle-screener", type=Path, default=default_path() / "screener")
        if name in ("write", "speed"):
            part.add_argument("--random", action="store_true")
        if name == "speed":
            part.add_argument("--rounds", type=int, default=5)
            part.add_argument("--threads", type=int, default=1)
    worker = parts.add_parser("worker")
    worker.add_argument("--file", type=Path, required=True)
    worker.add_argument("--threads", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
