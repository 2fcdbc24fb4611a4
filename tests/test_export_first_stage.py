"""From a bundle to a first stage fitted to it, and back into a bundle of the same screener."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sro_edge.bundle import Bundle
from sro_edge.cli import main
from sro_edge.export import ExportConfig, export_bundle
from sro_edge.first_stage import load_first_stage, stated


def invoke(*words: str) -> str:
    result = CliRunner().invoke(main, list(words), catch_exceptions=False)
    return f"{result.exit_code} {result.output}"


def test_a_first_stage_is_fitted_exported_and_used(
    policy_run: Path, screener_run: Path, tmp_path: Path, one_thread: None
) -> None:
    first, run, out = tmp_path / "first", tmp_path / "run", tmp_path / "bundle"
    export_bundle(policy_run, screener_run, first, ExportConfig(accept_drift=True))
    rng = np.random.default_rng(1)
    words = "you are an idiot this is a bad idea thanks my friend very stupid good".split()
    lines = [" ".join(rng.choice(words, rng.integers(2, 9))) for _ in range(300)]
    for name, some in (("learn", lines[:200]), ("dev", lines[200:])):
        (tmp_path / f"{name}.txt").write_text("\n".join(some))
    asked = ["train-first-stage", "--bundle", str(first), "-o", str(run)]
    asked += ["--comments", str(tmp_path / "learn.txt"), "--dev", str(tmp_path / "dev.txt")]
    asked += ["--base", str(screener_run / "model"), "--width", "8", "--channels", "8"]
    asked += ["--batch-rows", "16", "--epochs", "1", "--threads", "1"]
    made = tmp_path / "made.toml"
    made.write_text("[[sentences]]\nkind = 'x'\ntoxic = true\ntemplates = ['a threat']\n")
    asked += ["--contrasts", str(made)]
    assert invoke(*asked).startswith("0")
    record = json.loads((run / "run.json").read_text())
    assert record["learned"] > len(set(lines[:200]))
    assert record["data"]["contrasts"] == [f"{tmp_path.name}/made.toml"]
    said = (run / "learned.f32").read_bytes()
    assert invoke(*asked, "--resume").startswith("0")  # nothing is asked again
    assert (run / "learned.f32").read_bytes() == said
    assert "holds a run with other settings" in invoke(*asked, "--seed", "3", "--resume")

    again = [str(tmp_path / "again") if word == str(run) else word for word in asked]
    assert "a width of 8" in invoke(*again, "--init", str(run), "--width", "4")
    assert "holds no run of" in invoke(*again, "--init", str(first), "--resume")
    assert invoke(*again, "--init", str(run), "--resume").startswith("0")
    assert json.loads((tmp_path / "again/run.json").read_text())["base_run"] == record

    config = ExportConfig(first_stage=run, accept_drift=True)  # the toys reword nothing
    proof = export_bundle(policy_run, screener_run, out, config)
    assert proof["first_stage.graph"]["value"] <= 1e-5
    manifest = json.loads((out / "bundle.json").read_text())
    assert {"screener/first_stage.onnx", "screener/first_stage.json"} <= set(manifest["files"])
    points = manifest["scores"]["first_stage"]["points"]
    assert all(p["missed"] <= 0.001 * p["toxic"] for p in points)
    assert "The first stage" in (out / "README.md").read_text()

    at = manifest["thresholds"]["toxicity"]
    stage = load_first_stage(Bundle.load(out), at, threads=1)
    assert stated(stage) == {
        "toxicity": at, "alarm": next(p["alarm"] for p in points if p["toxicity"] == at),
    }  # fmt: skip


def test_a_first_stage_of_another_screener_is_refused(
    policy_run: Path, screener_run: Path, tmp_path: Path, one_thread: None
) -> None:
    record = {"kind": "first-stage", "screener": "0" * 64, "points": []}
    (tmp_path / "run.json").write_text(json.dumps(record))
    config = ExportConfig(first_stage=tmp_path)
    with pytest.raises(Exception, match="imitates another screener"):
        export_bundle(policy_run, screener_run, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()
