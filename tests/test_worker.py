"""The models in a process of their own: what it costs when that process dies."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import COMMENTS, FakeRewriter, assert_carried, read

from sro_edge import worker
from sro_edge.dump import Summary, rewrite_dump, screen_dump
from sro_edge.errors import BundleError, EngineError


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(worker.LOADERS, "rewrite", "engines:load")
    monkeypatch.setitem(worker.LOADERS, "screen", "engines:load_screener")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture
def rewriter() -> Iterator[worker.RemoteRewriter]:
    with worker.remote_rewriter(None) as remote:
        yield remote


def write(source: Path, texts: list[str]) -> None:
    pq.write_table(pa.table({"text": texts}), source)


def statuses(output: Path) -> list[tuple[str, str | None]]:
    table = read(output)
    columns = table["detox_status"].to_pylist(), table["detox_reason"].to_pylist()
    return list(zip(*columns, strict=True))


def test_the_same_answers_as_here(rewriter: worker.RemoteRewriter) -> None:
    assert rewriter.settings() == FakeRewriter().settings()
    texts = [*COMMENTS, "nul \x00, lone \ud800, \N{PILE OF POO}, \u2028"]
    assert list(rewriter.rewrite(texts)) == [FakeRewriter.one(text) for text in texts]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
@pytest.mark.parametrize("own", [None, "3"])
def test_the_child_has_one_heap_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    if own:
        monkeypatch.setenv("MALLOC_ARENA_MAX", own)
    with worker.Worker("rewrite", bundle=None) as child:
        child.ready()
        said = Path(f"/proc/{child.pid}/environ").read_bytes().split(b"\0")
    assert f"MALLOC_ARENA_MAX={own or 1}".encode() in said


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("abort", "was killed by SIGABRT at work"),
        ("kill", "was killed by SIGKILL, most likely because memory was short, at work"),
        ("kill SIGILL", "by SIGILL, most likely because llama.cpp was .*reinstall .*, at work"),
        ("exit", "ended with code 3 at work"),
        ("raise", r"the models failed with ValueError: some bug \(engines.py:\d+\)"),
        ("refuse", "llama.cpp could not decode a batch"),
    ],
)
def test_what_kills_the_engine_costs_one_unit(
    source: Path, output: Path, rewriter: worker.RemoteRewriter, order: str, message: str
) -> None:
    write(source, ["so stupid", "fine", order, "", "stupid too", "damn", "fine"])
    troubles: list[str] = []
    summary = rewrite_dump(source, output, rewriter, unit_rows=2, trouble=troubles.append)
    assert_carried(source, output)
    assert statuses(output) == [
        ("rewritten", None), ("clean", None),
        ("unresolved", "error"), ("empty", None),
        ("rewritten", None), ("unresolved", "toxic"), ("clean", None),
    ]  # fmt: skip
    assert read(output)["text_detox"].to_pylist()[2] is None
    assert summary.reasons == {"error": 1, "toxic": 1}
    assert len(troubles) == 2
    assert re.search(message, troubles[0])
    assert "trying them again" in troubles[0]
    assert "they become unresolved: error" in troubles[1]


def test_what_kills_the_screener_costs_one_unit(source: Path, output: Path) -> None:
    write(source, ["fine", "abort", "", "fine too"])
    with worker.remote_screener(None) as screener:
        identity = screener.identity()
        summary = screen_dump(
            source, output, screener, threshold=0.05, settings=identity, unit_rows=3
        )
        assert_carried(source, output)
        found = read(output)["text_toxicity"].to_pylist()
        assert found == [None, None, None, pytest.approx(0.08)]
        assert (summary.unresolved, summary.empty, summary.toxic) == (2, 1, 3)
        assert summary.reasons == {"error": 2}
        again = screen_dump(
            source, output, screener, threshold=0.05, settings=identity, overwrite=True, limit=1
        )
    assert again.clean == 1


def test_a_second_try_may_succeed(
    source: Path, output: Path, tmp_path: Path, rewriter: worker.RemoteRewriter
) -> None:
    write(source, ["fine", f"once {tmp_path / 'marker'}", "stupid"])
    troubles: list[str] = []
    summary = rewrite_dump(source, output, rewriter, trouble=troubles.append)
    assert (summary.clean, summary.rewritten, summary.unresolved) == (2, 1, 0)
    assert len(troubles) == 1


def test_an_engine_that_always_fails_ends_the_run(
    source: Path, output: Path, rewriter: worker.RemoteRewriter
) -> None:
    write(source, ["fine", "abort", "abort 2", "abort 3", "fine too"])
    with pytest.raises(EngineError, match="3 units in a row; the rows before them are kept"):
        rewrite_dump(source, output, rewriter, unit_rows=1)
    mended = FakeRewriter()
    assert rewrite_dump(source, output, mended, unit_rows=1).resumed_rows == 1
    assert mended.seen == ["abort", "abort 2", "abort 3", "fine too"]


def test_units_between_the_failures_cost_no_sound_one(
    source: Path, output: Path, rewriter: worker.RemoteRewriter
) -> None:
    write(source, ["fine", "abort", "fine", "abort 2", "abort 3", "fine too"])
    with pytest.raises(EngineError, match="3 units in a row"):
        rewrite_dump(source, output, rewriter, unit_rows=1)
    mended = FakeRewriter()
    assert rewrite_dump(source, output, mended, unit_rows=1).resumed_rows == 1
    assert mended.seen == ["abort", "abort 2", "abort 3", "fine too"]


@pytest.mark.parametrize(("policy", "text"), [("keep", "abort"), ("mask", "[removed]")])
def test_lost_comments_follow_the_policy(
    source: Path, output: Path, rewriter: worker.RemoteRewriter, policy: str, text: str
) -> None:
    rewriter.settings = lambda: {"on_unresolved": policy}  # type: ignore[method-assign]
    write(source, ["abort"])
    summary: Summary = rewrite_dump(source, output, rewriter)
    assert read(output)["text_detox"].to_pylist() == [text]
    assert summary.reasons == {"error": 1}


def test_what_cannot_be_loaded_is_said_as_by_the_loader() -> None:
    for bundle, error, sentence in [
        ("broken", BundleError, "broken is no bundle"),
        ("abort", EngineError, "SIGABRT while the models were loaded"),
    ]:
        with worker.remote_rewriter(Path(bundle)) as remote, pytest.raises(error, match=sentence):
            remote.settings()


def test_no_process_and_no_descriptor_is_left() -> None:
    before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    with worker.Worker("rewrite", bundle=None) as engine:
        first = engine.pid
        for order in ("fine", "abort", "fine", "raise", "fine"):
            with contextlib.suppress(EngineError):
                engine.call([order])
        last = engine.pid
    for pid in {first, last}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid or 0, 0)
    if before is not None:
        assert set(os.listdir("/proc/self/fd")) == before


def test_answers_come_in_turn_to_what_was_handed_over_ahead() -> None:
    with worker.Worker("rewrite", bundle=None) as engine:
        first, skipped, third = (engine.begin([text]) for text in ("fine", "damn", "so stupid"))
        assert first() == [vars(FakeRewriter.one("fine"))]
        assert third() == [vars(FakeRewriter.one("so stupid"))]
        with pytest.raises(RuntimeError, match="passed over"):
            skipped()
        fatal, behind = engine.begin(["abort"]), engine.begin(["fine"])
        with pytest.raises(EngineError, match="SIGABRT"):
            fatal()
        with pytest.raises(EngineError, match="before it came to these comments"):
            behind()
        assert engine.call(["fine"]) == [vars(FakeRewriter.one("fine"))]


PARENT = """
from sro_edge import worker
worker.LOADERS["rewrite"] = "engines:load"
engine = worker.Worker("rewrite", bundle=None)
engine.ready()
print(engine.pid, flush=True)
engine.call(["fine"])
"""


def test_the_child_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even in the middle of an answer, and even if the parent had no time to say so."""
    monkeypatch.setenv("SRO_EDGE_TOY_SECONDS", "30")
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.1)
        assert _alive(child)
        parent.kill()
    deadline = time.monotonic() + 20
    while _alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):  # nobody collects the dead in some containers
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return sys.platform != "linux"


def test_interrupting_the_terminal_does_not_reach_the_child() -> None:
    with worker.Worker("rewrite", bundle=None) as engine:
        engine.ready()
        assert engine.pid is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(engine.pid, number)
        assert os.getsid(engine.pid) == engine.pid
        assert engine.call(["fine"]) == [vars(FakeRewriter.one("fine"))]
