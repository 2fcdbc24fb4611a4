"""The bench command: what it reports, in which shape. No figure is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tiny_models import write_bundle

from sro_edge.cli import main

CLEAN = ["thanks my friend", "this is a good idea", "i think all is very good . thanks"]
RUDE = ["you are an idiot", "what a stupid idea", "this moron is not my friend . really ?"]


@pytest.fixture
def comments(tmp_path: Path) -> Path:
    texts = [f"{text} {'really ' * (n % 9)}" for n in range(45) for text in (*CLEAN, *RUDE)]
    path = tmp_path / "comments.parquet"
    pq.write_table(pa.table({"text": [*texts, None, ""]}), path)
    return path


def test_bench_reports_every_figure(
    comments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("sro_edge.bench._ROUNDS", 1)
    write_bundle(tmp_path / "bundle")
    words = ["bench", str(comments), "--bundle", str(tmp_path / "bundle"), "--rows", "120"]
    words += ["--threads", "1", "--in-flight", "1,3", "--device", "cpu"]
    picture = tmp_path / "bench.png"
    result = CliRunner().invoke(main, [*words, "--png", str(picture)])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["toxic"] > 8
    assert found["machine"]["threads"] == [1]
    assert found["bundle"]["digest"]
    assert list(found["rewriter"]) == ["1", "3"]
    assert all(row["1"]["tokens_per_s"] > 0 for row in found["rewriter"].values())
    assert found["screener_comments_per_s"]["1"] > 0
    for rows in found["latency_ms"].values():
        assert rows
        assert all(row["p50"] <= row["p95"] <= row["p99"] for row in rows.values())
    cold = found["cold_start_s"]
    assert sum(cold.values()) - cold["in_all"] == pytest.approx(cold["in_all"], abs=0.2)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert max(map(len, result.stderr.splitlines())) <= 80


def test_bench_needs_toxic_comments_and_whole_numbers(comments: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    words = ["bench", str(comments), "--bundle", str(tmp_path / "bundle"), "--device", "cpu"]
    result = CliRunner().invoke(main, [*words, "--rows", "4", "--threads", "1"])
    assert result.exit_code == 1
    assert "at least 8 are needed" in result.stderr
    for wrong in ("0", "one", "1,,2"):
        assert CliRunner().invoke(main, [*words, "--threads", wrong]).exit_code == 2
