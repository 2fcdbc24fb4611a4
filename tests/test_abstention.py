"""Abstaining: the figures, the engine, and the way from labelled comments into a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from stand_ins import rewriter

from sro_edge.abstention import Abstainer, load_abstainer
from sro_edge.bundle import Bundle, Thresholds
from sro_edge.cli import main
from sro_edge.errors import BundleError, InputError
from sro_edge.manifest import read_manifest, write_manifest
from sro_edge.rewriter import Rewriter


class HatesBob(Abstainer):
    """Gives up what speaks of Bob."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.asked: list[str] = []

    def score(self, texts: Any) -> Any:
        self.asked += texts
        return np.array([0.9 if "bob" in text else 0.1 for text in texts], np.float32)


@pytest.mark.parametrize(("policy", "text"), [("null", None), ("mask", "Hi. [removed]")])
def test_what_cannot_be_mended_is_not_rewritten(policy: str, text: str | None) -> None:
    abstainer = HatesBob(0.5)
    engine = rewriter(
        lambda p, greedy: ["you are wrong"], abstainer=abstainer, on_unresolved=policy
    )
    found = list(engine.rewrite(["hello bob", "you idiot", "Hi. bob is stupid"]))
    assert [r.status for r in found] == ["clean", "rewritten", "unresolved"]
    assert (found[2].reason, found[2].text, found[2].attempts) == ("abstained", text, 0)
    assert [r.prompt for r in engine.detoxifier.requests] == ["you idiot"]  # type: ignore[attr-defined]
    assert abstainer.asked == ["you idiot", "bob is stupid"]  # only toxic sentences


def test_a_score_below_the_threshold_is_rewritten() -> None:
    engine = rewriter(lambda p, greedy: ["bob is wrong"], abstainer=HatesBob(0.95))
    assert next(engine.rewrite(["bob is stupid"])).status == "rewritten"


def test_points_and_figures() -> None:
    pytest.importorskip("sklearn")
    from sro_edge.training.abstention_figures import measure, recall_point, strict_point

    refused = np.array([True] * 4 + [False] * 4)
    scores = np.array([0.9, 0.8, 0.4, 0.2, 0.85, 0.3, 0.1, 0.05])
    assert strict_point(refused, scores, 0.0) == 0.8501  # just above the best that must stay
    assert strict_point(refused, scores, 0.25) == 0.3001
    assert recall_point(refused, scores) == 0.8
    found = measure(refused, scores, [0.8501, 0.8], seed=0)
    assert found["precision_at_recall"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["interval"][0] <= found["precision_at_recall"] <= found["interval"][1]
    assert found["points"] == [
        {"threshold": 0.8501, "precision": 1.0, "recall": 0.25, "given_up": 0.0},
        {"threshold": 0.8, "precision": 0.6667, "recall": 0.5, "given_up": 0.25},
    ]
    assert measure(refused, scores, [0.95], seed=0)["points"][0]["precision"] is None


def test_thresholds_without_abstaining_stay_as_they_were() -> None:
    assert Thresholds(0.5).given() == {"toxicity": 0.5, "similarity": 0.6, "fluency_drop": 0.2}
    with pytest.raises(ValueError, match="abstain must lie between 0 and 1"):
        Thresholds(0.5, abstain=7)


def test_a_bundle_without_the_model_cannot_abstain(bundle: Path) -> None:
    opened, screener = Bundle.load(bundle), None
    assert load_abstainer(opened, screener, None) is None  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="--abstain off"):
        Rewriter.load(bundle, threads=1, abstain=0.5)


def invoke(*words: str) -> str:
    result = CliRunner().invoke(main, list(words), catch_exceptions=False)
    return f"{result.exit_code} {result.output}"


def write_comments(file: Path, count: int = 300) -> None:
    """Comments of words known to the toy; those with "idiot" nobody could reword."""
    rng = np.random.default_rng(1)
    words = "you are an this is a bad idea thanks my friend very stupid good".split()
    texts = [f"{i} " + " ".join(rng.choice(words, rng.integers(2, 8))) for i in range(count)]
    texts = [text + " idiot" * (i % 2) for i, text in enumerate(texts)]
    kinds = ["refused" if i % 2 else "reworded" for i in range(count)]
    pq.write_table(pa.table({"text": texts, "kind": kinds}), file)


def test_contrasts_are_learned_from_and_not_measured_on(screener_run: Path, tmp_path: Path) -> None:
    from sro_edge.training.abstention import load, open_probe, read_rows, train_abstain
    from sro_edge.training.config import AbstainConfig
    from sro_edge.training.contrasts import Contrast

    write_comments(tmp_path / "comments.parquet")
    rows = read_rows([tmp_path / "comments.parquet"], "text", "kind", "refused")
    made = [Contrast(f"{i} thanks my friend", "threat", True, True) for i in range(60)]
    made += [Contrast(f"{i} good idea", "clean", False, False) for i in range(60)]
    _, tokenizer, _ = open_probe(screener_run)
    encoded = tokenizer(["7 thanks my friend", "7 very bad"], padding=True, return_tensors="pt")
    asked = encoded["input_ids"], encoded["attention_mask"]
    scores = {}
    for name, beside in (("without", []), ("with", made)):
        run = tmp_path / name
        train_abstain(rows, screener_run, run, AbstainConfig(folds=2), made=beside)
        record = json.loads((run / "run.json").read_text())
        assert record["made"] == len(beside)
        assert record["cross_validated"]["comments"] + record["held_out"]["comments"] == 300
        probe, _ = load(run, screener_run)
        scores[name] = probe(*asked)[0].tolist()
    assert scores["with"][0] > scores["without"][0] + 0.1
    assert scores["with"][1] == pytest.approx(scores["without"][1], abs=0.05)


def test_from_labelled_comments_into_a_bundle(
    policy_run: Path, screener_run: Path, tiny_gguf: Path, tmp_path: Path, one_thread: None
) -> None:
    from sro_edge.export import ExportConfig, export_bundle
    from sro_edge.headers import check_onnx

    run, out, comments = tmp_path / "run", tmp_path / "bundle", tmp_path / "comments.parquet"
    write_comments(comments)
    asked = ["train-abstain", "--screener", str(screener_run), "--comments", str(comments)]
    asked += ["--label", "kind", "--strength", "1", "-o", str(run)]
    assert "which says refused, reworded" in invoke(*asked)
    assert invoke(*asked, "--value", "refused").startswith("0")
    record = json.loads((run / "run.json").read_text())
    assert record["held_out"]["average_precision"] > 0.9  # the toy sees the word
    assert record["data"] == {"comments": [f"{tmp_path.name}/comments.parquet"]}
    again = invoke(*asked, "--value", "refused", "--folds", "3", "--resume")
    assert "holds a run with other settings" in again

    config = ExportConfig(abstain=run, accept_drift=True)  # the toys reword nothing
    proof = export_bundle(policy_run, screener_run, out, config)
    assert proof["abstain.graph"]["value"] <= 0.15
    manifest = json.loads((out / "bundle.json").read_text())
    assert {"screener/abstain.onnx", "screener/abstain.json"} <= set(manifest["files"])
    assert manifest["thresholds"]["abstain"] == record["threshold"]
    assert manifest["scores"]["abstain"]["held_out"] == record["held_out"]
    assert "### Abstaining" in (out / "README.md").read_text()
    assert check_onnx(out / "screener" / "abstain.onnx") == ["model.onnx"]  # shares its weights
    _use(_with_another_rewriter(out, tiny_gguf), tmp_path)


def _with_another_rewriter(bundle: Path, gguf: Path) -> Path:
    """The bundle with a rewriter of longer prompts than the exported toy takes."""
    manifest = read_manifest(bundle)
    shutil.copyfile(gguf, bundle / "detoxifier.gguf")
    (bundle / "bundle.json").unlink()
    write_manifest(
        bundle, {k: v for k, v in manifest.items() if k not in ("files", "schema_version")}
    )
    return bundle


def _use(bundle: Path, tmp_path: Path) -> None:
    """Rewrite with the bundle; tamper with it."""
    comments = ["you are an idiot", "thanks my friend"]
    every = Rewriter.load(bundle, threads=1, threshold=0, abstain=0.0)
    assert every.settings()["thresholds"]["abstain"] == 0
    assert [r.reason for r in every.rewrite(comments)] == ["abstained"] * 2
    never = Rewriter.load(bundle, threads=1, threshold=0, abstain="off")
    assert never.settings()["thresholds"]["abstain"] is None
    assert "abstained" not in [r.reason for r in never.rewrite(comments)]
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"text": comments}), source)
    asked = ["rewrite", str(source), str(output), "--bundle", str(bundle), "--threshold", "0"]
    assert invoke(*asked, "--abstain", "0", "--threads", "1").startswith("0")
    assert pq.read_table(output)["detox_reason"].to_pylist() == ["abstained"] * 2
    assert json.loads(Path(f"{output}.json").read_text())["settings"]["thresholds"]["abstain"] == 0
    assert invoke(*asked, "--abstain", "often").startswith("2")

    notes = bundle / "screener" / "abstain.json"
    engine = every.abstainer
    assert engine is not None
    fresh = Abstainer(bundle / "screener", every.screener, 0.5, threads=1, device="cpu")
    assert engine.score(comments) == pytest.approx(fresh.score(comments))
    kept = notes.read_bytes()
    notes.write_text('{"screener": "' + "0" * 64 + '"}')
    other = Abstainer(bundle / "screener", every.screener, 0.5, threads=1, device="cpu")
    with pytest.raises(BundleError, match="another screener"):
        other.score(comments)
    notes.write_bytes(kept)
    (bundle / "screener" / "abstain.onnx").write_bytes(b"another")
    with pytest.raises(BundleError, match=r"abstain\.onnx"):
        Bundle.load(bundle)


def test_a_probe_of_another_screener_is_refused(
    policy_run: Path, screener_run: Path, tmp_path: Path, one_thread: None
) -> None:
    from safetensors.torch import load_file, save_file

    from sro_edge.export import ExportConfig, export_bundle

    other, run = tmp_path / "other", tmp_path / "run"
    shutil.copytree(screener_run, other)
    weights = other / "model" / "model.safetensors"
    tensors = {name: tensor * 0.5 for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    write_comments(tmp_path / "c.parquet")
    asked = ["train-abstain", "--screener", str(other), "--comments", str(tmp_path / "c.parquet")]
    asked += ["--label", "kind", "--value", "refused", "-o", str(run)]
    assert invoke(*asked).startswith("0")
    with pytest.raises(Exception, match="was fitted to another screener"):
        export_bundle(policy_run, screener_run, tmp_path / "out", ExportConfig(abstain=run))
    assert not (tmp_path / "out").exists()


def test_contrasts_come_from_a_file(screener_run: Path, tmp_path: Path) -> None:
    from sro_edge.training.contrasts import read_contrasts

    run, comments, file = tmp_path / "run", tmp_path / "c.parquet", tmp_path / "made.toml"
    write_comments(comments)
    said = "[[sentences]]\nkind = 'threat'\ntoxic = true\ntemplates = ['an idiot, my friend']\n"
    asked = ["train-abstain", "--screener", str(screener_run), "--comments", str(comments)]
    asked += ["--label", "kind", "--value", "refused", "--contrasts", str(file), "-o", str(run)]
    file.write_text(said)
    assert "none of the contrasts is beyond rewording" in invoke(*asked)
    file.write_text(said + "beyond_rewording = true\n")
    assert invoke(*asked).startswith("0")
    record = json.loads((run / "run.json").read_text())
    assert record["made"] == len(read_contrasts(file)) > 1
    assert record["data"]["contrasts"] == [f"{tmp_path.name}/made.toml"]


def test_too_few_comments_are_refused(screener_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    from sro_edge.training.abstention import Row, train_abstain
    from sro_edge.training.config import AbstainConfig

    rows = [Row(f"you idiot {i}", i < 5) for i in range(200)]
    with pytest.raises(InputError, match="people found no rewording"):
        train_abstain(rows, screener_run, tmp_path / "run", AbstainConfig())
