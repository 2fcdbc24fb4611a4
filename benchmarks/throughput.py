"""How many comments a second are reworded? The engine beside what people would use instead.

    python benchmarks/throughput.py comments.parquet --model bundle|17m|135m [--comments N]
        [--server path/to/llama-server] [--slots N] [--threads N] [--out result.json]

All rivals answer the same toxic comments of a dump greedily, with the same limit of tokens for each
comment. `17m` and `135m` are models of these shapes with random weights (`shapes.py`), the embedded
bundle is what it is. Rivals run in turns, A B A B; the medians of the ratios are what counts.

    loop           `llama_cpp.Llama.create_completion`, one comment after the other
    transformers   `generate` in batches of 32 sorted by length, fp32, against the engine in fp32
                   with as many slots as it takes by default
    llama-server   as many parallel slots as the engine, over HTTP with as many connections
    full batches   the same model evaluating full batches of as many sequences, one context for each
                   thread, behind as many earlier tokens as the engine's have on average and with
                   logits asked of the same share of them: what no engine can pass without guessing

`--parts` picks some of them. The last line on stdout is one JSON object, which takes the place of
the same model's on such a processor in the list in `--out`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from record import keep
from rich.console import Console
from rich.table import Table

from sro_edge.bundle import Bundle
from sro_edge.detoxifier import Detoxifier, Request
from sro_edge.llama import Context, Model
from sro_edge.machine import describe_machine, physical_cores
from sro_edge.screener import Screener, passes

_BATCH = 512
_CEILING = "full batches"


@dataclass(frozen=True)
class Work:
    """The comments with their prompts and the tokens that each answer may have."""

    bundle: Bundle
    comments: list[str]
    prompts: list[list[int]]
    limits: list[int]


Rival = Callable[[], int]  # answers everything; returns prompt and answer tokens


def main() -> None:
    """Race the rivals and print the table."""
    options = _options()
    bundle = Bundle.load(options.bundle)
    small = full = bundle.detoxifier
    trained = None
    if options.model != "bundle":
        from shapes import make

        trained, full, small = make(options.model, bundle, options.work)
    work = _work(bundle, small, toxic_comments(bundle, options))
    races: dict[str, Any] = {}
    if "loop" in options.parts:
        engine = _engine(work, small, options)
        rivals = {
            "loop": _loop(work, small, options.threads),
            _CEILING: _full_batches(work, small, engine(), options),
            "engine without lookup": _engine(work, small, options, lookup=False),
            "engine": engine,
        }
        races["quantized"] = _below(race(rivals, len(work.comments), options.rounds))
    if "transformers" in options.parts and trained is not None:
        rivals = {
            "transformers": _transformers(work, trained, options.threads),
            "engine": _engine(work, full, options, slots=None),
        }
        races["fp32"] = race(rivals, len(work.comments), options.rounds)
    if options.server is not None and "server" in options.parts:
        with _server(options, small) as url:
            rivals = {
                "llama-server": _over_http(work, url, options.slots),
                "engine": _engine(work, small, options),
            }
            races["server"] = race(rivals, len(work.comments), options.rounds)
    result = {
        "benchmark": "throughput",
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine() | {"threads": options.threads},
        "model": options.model,
        "slots": options.slots,
        "comments": len(work.comments),
        "prompt_tokens": sum(map(len, work.prompts)),
        "races": races,
    }
    show(result)
    keep(options.out, result, "model", "machine.simd")
    print(json.dumps(result))


def race(rivals: dict[str, Rival], comments: int, rounds: int) -> dict[str, Any]:
    """Seconds of each rival in turns, after a warm-up; the last one's ratio to each other."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    tokens = {name: run() for name, run in rivals.items()}
    for _ in range(rounds):
        for name, run in rivals.items():
            started = time.perf_counter()
            run()
            seconds[name].append(round(time.perf_counter() - started, 4))
    last = list(rivals)[-1]
    ratios = {
        name: [a / b for a, b in zip(seconds[name], seconds[last], strict=True)]
        for name in rivals
        if name != last
    }
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "tokens": tokens,
        "seconds": seconds,
        "comments_per_s": {name: round(comments / s, 2) for name, s in middle.items()},
        "tokens_per_s": {name: round(tokens[name] / s, 1) for name, s in middle.items()},
        "engine_to": {name: round(statistics.median(r), 2) for name, r in ratios.items()},
        "range": {name: [round(min(r), 2), round(max(r), 2)] for name, r in ratios.items()},
    }


def _below(found: dict[str, Any]) -> dict[str, Any]:
    """A race with full batches told as what they are, a ceiling, and the engine's share of it."""
    speeds = [
        [found["tokens"][name] / s for s in found["seconds"][name]]
        for name in ("engine without lookup", _CEILING)
    ]
    shares = [ours / full for ours, full in zip(*speeds, strict=True)]
    for ratios in ("comments_per_s", "engine_to", "range"):
        del found[ratios][_CEILING]
    return found | {
        "ceiling": found["tokens_per_s"].pop(_CEILING),
        "share_of_ceiling": round(statistics.median(shares), 3),
        "range_of_share": [round(min(shares), 3), round(max(shares), 3)],
    }


def toxic_comments(bundle: Bundle, options: argparse.Namespace) -> list[str]:
    """The first toxic comments of a dump, 21 to 200 characters long, each once."""
    column = pq.read_table(options.dump, columns=["text"])["text"].to_pylist()
    texts = list(dict.fromkeys(t for t in column if t and 20 < len(t.strip()) <= 200))
    screener = Screener(bundle.screener, threads=options.threads, device="cpu")
    limit, toxic = bundle.thresholds.toxicity, list[str]()
    for start in range(0, len(texts), 512):
        some = texts[start : start + 512]
        scores = screener.score(some).toxicity.tolist()
        toxic += [t for t, s in zip(some, scores, strict=True) if not passes(s, limit)]
        if len(toxic) >= options.comments:
            break
    return toxic[: options.comments]


def _work(bundle: Bundle, model: Path, comments: list[str]) -> Work:
    with Detoxifier(model, bundle.prompt, threads=1, device="cpu", slots=1) as engine:
        prompts = [bundle.prompt.encode(c, engine.tokenize) for c in comments]
    limits = [int(1.5 * (len(prompt) - 2)) + 16 for prompt in prompts]
    return Work(bundle, comments, prompts, limits)


def _engine(work: Work, model: Path, options: argparse.Namespace, **settings: Any) -> Rival:
    engine = Detoxifier(
        model,
        work.bundle.prompt,
        threads=options.threads,
        device="cpu",
        seldom=work.bundle.lexicon(),
        **{"slots": options.slots} | settings,
    )
    requests = [
        Request(n, comment, max_new_tokens=limit)
        for n, (comment, limit) in enumerate(zip(work.comments, work.limits, strict=True))
    ]

    def run() -> int:
        answers = [c for _, candidates in engine.generate(requests) for c in candidates]
        return sum(map(len, work.prompts)) + sum(answer.tokens for answer in answers)

    return run


def _loop(work: Work, model: Path, threads: int) -> Rival:
    import llama_cpp

    loaded = llama_cpp.Llama(
        str(model), n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False
    )

    def run() -> int:
        tokens = 0
        for prompt, limit in zip(work.prompts, work.limits, strict=True):
            done = loaded.create_completion(prompt, max_tokens=limit, temperature=0.0)
            tokens += len(prompt) + done["usage"]["completion_tokens"]
        return tokens

    return run


def _full_batches(work: Work, model: Path, total: int, options: argparse.Namespace) -> Rival:
    """As many tokens as the engine's ``total``, of prompts and answers, in full batches."""
    from concurrent.futures import ThreadPoolExecutor

    answers = total - sum(map(len, work.prompts))
    part = answers / sum(work.limits)  # of its limit, that an answer takes
    lengths = [len(p) + part * limit for p, limit in zip(work.prompts, work.limits, strict=True)]
    share = answers / sum(lengths)
    each = _BATCH // options.slots
    middle = sum(length * length for length in lengths) / (2 * sum(lengths))
    earlier = max(0, round(middle - each / 2))
    loaded = Model(model, device="cpu")
    longest = max(256, earlier + each)
    contexts = [
        Context(loaded, threads=1, sequences=options.slots, longest=longest, rows=_BATCH)
        for _ in range(options.threads)
    ]

    def tokens(sequence: int, many: int) -> list[int]:
        return [10 + (7 * sequence + place) % 500 for place in range(many)]

    for context in contexts:
        for sequence in range(options.slots):
            context.batch.clear()
            context.batch.add(tokens(sequence, earlier), 0, sequence, rows=0)
            context.decode()
        context.batch.clear()
        for sequence in range(options.slots):
            context.batch.add(tokens(sequence, each), earlier, sequence, rows=round(share * each))
    batches = -(-total // (each * options.slots * len(contexts)))  # of every context

    def evaluate(context: Context) -> None:
        for _ in range(batches):
            for sequence in range(options.slots):
                context.cut(sequence, earlier)
            context.decode()

    def run() -> int:
        with ThreadPoolExecutor(options.threads) as pool:
            list(pool.map(evaluate, contexts))
        return batches * each * options.slots * len(contexts)

    return run


def _transformers(work: Work, folder: Path, threads: int) -> Rival:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # random weights: every answer has its limit
    pad = model.config.pad_token_id
    order = sorted(range(len(work.prompts)), key=lambda n: len(work.prompts[n]))

    @torch.inference_mode()
    def run() -> int:
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            width = max(len(work.prompts[n]) for n in rows)
            ids = [[pad] * (width - len(work.prompts[n])) + work.prompts[n] for n in rows]
            mask = [[0] * (width - len(work.prompts[n])) + [1] * len(work.prompts[n]) for n in rows]
            model.generate(
                input_ids=torch.tensor(ids),
                attention_mask=torch.tensor(mask),
                max_new_tokens=max(work.limits[n] for n in rows),
                do_sample=False,
            )
        return sum(map(len, work.prompts)) + sum(work.limits)

    return run


@contextmanager
def _server(options: argparse.Namespace, model: Path) -> Iterator[str]:
    """A running llama-server; its address."""
    import socket
    import subprocess
    import urllib.request

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["-m", model, "--port", port, "-np", options.slots, "-c", 512 * options.slots]
    words += ["-t", options.threads, "-tb", options.threads, "--no-webui"]
    command = [str(word) for word in (options.server, *words)]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        try:
            for _ in range(200):
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield url
        finally:
            child.terminate()


def _over_http(work: Work, url: str, connections: int) -> Rival:
    import http.client
    from concurrent.futures import ThreadPoolExecutor
    from urllib.parse import urlsplit

    address = urlsplit(url).netloc

    def one(prompt: list[int], limit: int) -> int:
        asked = {"prompt": prompt, "n_predict": limit, "temperature": 0, "cache_prompt": False}
        connection = http.client.HTTPConnection(address, timeout=300)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/completion", json.dumps(asked), headers)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return len(prompt) + int(answer["tokens_predicted"])

    def run() -> int:
        with ThreadPoolExecutor(connections) as pool:
            return sum(pool.map(one, work.prompts, work.limits))

    return run


def show(result: dict[str, Any]) -> None:
    """The table for people, on stderr."""
    table = Table(title=f"{result['model']}, {result['comments']} comments")
    for name in ("weights", "rival", "comments/s", "tokens/s", "engine / rival", "range"):
        table.add_column(name, justify="left" if name in ("weights", "rival") else "right")
    for weights, found in result["races"].items():
        for name, speed in found["comments_per_s"].items():
            ratio = str(found["engine_to"].get(name, ""))
            spread = "-".join(map(str, found["range"].get(name, [])))
            table.add_row(
                weights, name, f"{speed:.1f}", f"{found['tokens_per_s'][name]:.0f}", ratio, spread
            )
        if "ceiling" in found:
            share = f"{found['share_of_ceiling']:.0%}"
            spread = "-".join(f"{part:.0%}" for part in found.get("range_of_share", []))
            table.add_row(weights, _CEILING, "", f"{found['ceiling']:.0f}", share, spread)
    Console(stderr=True).print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dump", type=Path)
    parser.add_argument("--model", choices=["bundle", "17m", "135m"], default="bundle")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--work", type=Path, default=Path("build/shapes"), help="made models")
    parser.add_argument("--parts", nargs="+", default=["loop", "transformers", "server"])
    parser.add_argument("--server", type=Path, help="llama-server built from llama.cpp")
    parser.add_argument("--comments", type=int, default=384, help="a few leave slots idle")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
