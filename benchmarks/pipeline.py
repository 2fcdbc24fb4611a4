"""Where does the time of a run go, and does its memory grow with the rows?

    python benchmarks/pipeline.py comments.parquet [--command rewrite|screen] [--rows N,N]
        [--clean-heavy | --cleared] [--no-cascade] [--bundle BUNDLE] [--threads N] [--out FILE]

A run as the command line makes it, with the models in a process of their own, over the first rows
of a dump, for each number of rows. Counted are

    native    seconds in which some thread of that process is inside ONNX Runtime (first stage and
              screener) or llama.cpp, of the seconds from the first unit to the finished output
    memory    the most that either process has had resident, the models included

`--clean-heavy` leaves out most rows whose comment is toxic, until one in fifty is, as in a forum
that is moderated. `--cleared` leaves out what the first stage does not clear, but for one in fifty,
and takes the rest several times over, each time with another word behind it, until there are rows
enough: so many rows take minutes, and what memory they leave behind shows. With the cascade, ONNX
Runtime has less to do, so its share falls although the run gets faster: the comments a second stand
beside it. The last line on stdout is one JSON object, which takes the place of one with the same
options in the list in `--out`.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from record import keep
from rich.console import Console
from rich.table import Table

from sro_edge import worker
from sro_edge.bundle import Bundle
from sro_edge.dump import rewrite_dump, screen_dump
from sro_edge.first_stage import Cascade, FirstStage, load_first_stage
from sro_edge.machine import describe_machine, physical_cores
from sro_edge.screener import Screener

_NOTE = "SRO_EDGE_BENCHMARK_NOTE"  # where the child leaves its figures
_TOXIC = 0.02  # share of toxic rows that is left
_LOADERS = dict(worker.LOADERS)


def main() -> None:
    """Run, and print the table."""
    options = _options()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source = options.dump
        if options.clean_heavy or options.cleared:
            source = Path(folder, "source.parquet")
            _alone(_clean_heavy if options.clean_heavy else _cleared, options, source)
        for count in options.rows:
            rows.append(_alone(_run, options, source, count, Path(folder)))
    bundle = Bundle.load(options.bundle)
    result = {
        "question": "where does the time of a run go, and does its memory grow with the rows",
        "machine": describe_machine(),
        "threads": options.threads,
        "bundle": {"name": bundle.name, "version": bundle.version, "digest": bundle.digest},
        "command": options.command,
        "clean_heavy": options.clean_heavy,
        "cleared": options.cleared,
        "cascade": not options.no_cascade,
        "runs": rows,
    }
    if len(rows) > 1:
        peaks = [row["parent_mb"] + row["child_mb"] for row in rows]
        result["memory_growth"] = round(peaks[-1] / peaks[0] - 1, 4)
    _show(rows)
    alike = ("command", "clean_heavy", "cleared", "cascade", "threads", "machine.simd")
    keep(options.out, result, *alike)
    print(json.dumps(result))


def _alone(work: Callable[..., Any], *given: Any) -> Any:
    """What ``work`` returns in a process of its own, whose peak of memory is nobody else's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def _run(options: argparse.Namespace, source: Path, count: int, folder: Path) -> dict[str, Any]:
    """One run over the first ``count`` rows."""
    note, output = folder / "note.json", folder / f"out-{count}.parquet"
    os.environ[_NOTE] = str(note)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    asked: dict[str, Any] = {
        "bundle": None if options.bundle is None else str(options.bundle),
        "threads": options.threads,
        "device": "cpu",
        "cascade": not options.no_cascade,
    }
    worker.LOADERS[options.command] = f"pipeline:load_{options.command}"
    with worker.Worker(options.command, **asked) as child:
        ready = child.ready()
        started = time.perf_counter()
        if options.command == "rewrite":
            summary = rewrite_dump(source, output, worker.RemoteRewriter(child), limit=count)
        else:
            screener = worker.RemoteScreener(child)
            identity = dict(ready)
            threshold = identity.pop("threshold")
            summary = screen_dump(
                source, output, screener, threshold=threshold, settings=identity, limit=count
            )
        seconds = time.perf_counter() - started
        peak = _peak_mb(child.pid)
    native = json.loads(note.read_text())
    inside = sum(native.values())
    return {
        "rows": summary.rows,
        "toxic": summary.toxic,
        "seconds": round(seconds, 2),
        "rows_per_s": round(summary.rows / seconds, 1),
        **{name: round(value, 2) for name, value in native.items()},
        "native_share": round(inside / seconds, 4),
        "parent_mb": _peak_mb(os.getpid()),
        "child_mb": peak,
    }


def load_rewrite(**asked: Any) -> Any:
    """In the child: the rewriter, its native calls timed."""
    engine = worker_loader("rewrite")(**asked)
    watch = Watch()
    watch.sessions(engine.screener, engine.first_stage)
    for flight in engine.detoxifier._flights:
        watch.method(flight.context, "decode", "llama.cpp")
    if engine.abstainer is not None:
        engine.abstainer.score(["a"])  # it loads its graph late, and loading is not what counts
        watch.method(engine.abstainer._session, "run", "abstainer")
    return watch.noted(engine, "rewrite")


def load_screen(**asked: Any) -> Any:
    """In the child: the screener, its native calls timed."""
    engine = worker_loader("screen")(**asked)
    watch = Watch()
    watch.sessions(getattr(engine, "_screener", engine), getattr(engine, "_stage", None))
    return watch.noted(engine, "score")


def worker_loader(role: str) -> Callable[..., Any]:
    """The loader of a role that a run without this benchmark uses."""
    module, path = _LOADERS[role].split(":")
    found: Any = __import__(module, fromlist=["_"])
    for name in path.split("."):
        found = getattr(found, name)
    loader: Callable[..., Any] = found
    return loader


class Watch:
    """Seconds inside native code, by library and model; those of two threads at once count once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside: dict[str, int] = {}
        self._lock = threading.Lock()

    def timed(self, work: Callable[..., Any], name: str) -> Callable[..., Any]:
        """``work``, whose seconds count."""
        self.seconds.setdefault(name, 0.0)
        self._inside.setdefault(name, 0)

        def step(change: int) -> None:
            """Between the first thread's entry and the last one's exit, time counts."""
            with self._lock:
                before = self._inside[name] > 0
                self._inside[name] += change
                after = self._inside[name] > 0
                if before != after:
                    self.seconds[name] += time.perf_counter() * (-1 if after else 1)

        @functools.wraps(work)
        def call(*given: Any, **named: Any) -> Any:
            step(1)
            try:
                return work(*given, **named)
            finally:
                step(-1)

        return call

    def method(self, owner: Any, method: str, name: str) -> None:
        """Time a method of one object."""
        setattr(owner, method, self.timed(getattr(owner, method), name))

    def sessions(self, screener: Any, stage: Any) -> None:
        """Time the sessions of a screener and of its first stage."""
        self.method(screener._session, "run", "screener")
        if stage is not None:
            self.method(stage._session, "run", "first stage")

    def noted(self, engine: Any, method: str) -> Any:
        """``engine``, which leaves the seconds so far behind each answer."""
        work = getattr(engine, method)

        def call(texts: Any) -> Any:
            found = work(texts)
            found = list(found) if method == "rewrite" else found
            Path(os.environ[_NOTE]).write_text(json.dumps(self.seconds))
            return found

        setattr(engine, method, call)
        return engine


def _clean_heavy(options: argparse.Namespace, target: Path) -> None:
    """The rows of the dump without most toxic ones, as many as are asked for."""
    bundle = Bundle.load(options.bundle)
    screener = Screener(bundle.screener, threads=options.threads, device="cpu")
    threshold = bundle.thresholds.toxicity
    stage = load_first_stage(bundle, threshold, threads=options.threads)
    scorer: Any = screener if stage is None else Cascade(screener, stage)
    table = pq.read_table(options.dump, columns=["text"])
    kept: list[str | None] = []
    toxic = 0
    for batch in table.to_batches(max_chunksize=512):
        texts = batch["text"].to_pylist()
        scores = scorer.score([text or "" for text in texts]).toxicity.tolist()
        for text, score in zip(texts, scores, strict=True):
            rude = score > threshold
            if not rude or toxic < _TOXIC * len(kept):
                kept.append(text)
                toxic += rude
        if len(kept) >= max(options.rows):
            break
    pq.write_table(pa.table({"text": kept[: max(options.rows)]}), target, row_group_size=20_000)


def _cleared(options: argparse.Namespace, target: Path) -> None:
    """Rows that the first stage clears, and one in fifty that it does not."""
    bundle = Bundle.load(options.bundle)
    screener = Screener(bundle.screener, threads=options.threads, device="cpu")
    stage = FirstStage(bundle.screener, bundle.thresholds.toxicity, threads=options.threads)
    with pq.ParquetWriter(target, pa.schema([("text", pa.string())])) as writer:
        rows = suspects = taken = 0
        while rows < max(options.rows):
            taken += 1
            for batch in pq.ParquetFile(options.dump).iter_batches(20_000, columns=["text"]):
                ending = f" {taken}" if taken > 1 else ""
                texts = [text + ending for text in batch["text"].to_pylist() if text]
                pieces = sorted(screener.pieces(texts), key=lambda piece: len(piece[1]))
                loud = {number for number, _ in stage.suspects(pieces, screener.pad)}
                kept = []
                for number, text in enumerate(texts):
                    if number not in loud or suspects < _TOXIC * (rows + len(kept)):
                        suspects += number in loud
                        kept.append(text)
                writer.write_table(pa.table({"text": kept}))
                rows += len(kept)
                if rows >= max(options.rows):
                    break


def _peak_mb(pid: int | None) -> float:
    """Most memory that a process has had resident (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name in rows[0]:
        table.add_row(name.replace("_", " "), *(f"{row[name]:>12,}" for row in rows))
    Console(stderr=True).print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dump", type=Path)
    parser.add_argument("--command", choices=["rewrite", "screen"], default="rewrite")
    parser.add_argument("--rows", default="2000")
    parser.add_argument("--clean-heavy", action="store_true")
    parser.add_argument("--cleared", action="store_true")
    parser.add_argument("--no-cascade", action="store_true")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.rows = [int(count) for count in options.rows.split(",")]
    return options


if __name__ == "__main__":
    sys.exit(main())
