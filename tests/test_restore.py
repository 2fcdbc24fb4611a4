"""A bundle's models as runs again: they say what it says, and training goes on from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from sro_edge.bundle import Bundle
from sro_edge.cli import main
from sro_edge.errors import ExportError, OutputError
from sro_edge.export import ExportConfig, export_bundle, restore_bundle
from sro_edge.first_stage import FirstStage
from sro_edge.screener import Screener
from sro_edge.training.first_stage import load, score

pytestmark = pytest.mark.usefixtures("one_thread")


def export(policy: Path, screener: Path, out: Path, **settings: str) -> Bundle:
    """A bundle of the runs, whose rewriter is stored in fp32."""
    config = ExportConfig(gguf_types=("f32",), accept_drift=True, **settings)
    export_bundle(policy, screener, out, config)
    return Bundle.load(out)


@pytest.fixture
def trained_screener(screener_run: Path, tmp_path: Path) -> Path:
    """A screener no two weights of which are equal: an exporter keeps equal ones only once."""
    run = tmp_path / "trained"
    shutil.copytree(screener_run, run)
    file, rng = run / "model" / "model.safetensors", np.random.default_rng(0)
    weights = load_file(file).items()
    moved = {n: (w + rng.normal(0, 0.02, w.shape)).astype(w.dtype) for n, w in weights}
    save_file(moved, file, {"format": "pt"})
    return run


def test_the_runs_are_those_that_were_exported(
    policy_run: Path, trained_screener: Path, tmp_path: Path
) -> None:
    bundle = export(policy_run, trained_screener, tmp_path / "bundle")
    restored = tmp_path / "restored"
    proof = restore_bundle(bundle, restored)
    assert proof["tokens.differing"]["value"] == 0
    assert proof["gguf.stored.kl"]["value"] < 1e-4
    trained = load_file(policy_run / "model" / "model.safetensors")
    found = load_file(restored / "policy" / "model" / "model.safetensors")
    assert trained.keys() == found.keys()
    assert all(np.array_equal(trained[name], found[name]) for name in trained)
    record = json.loads((restored / "policy" / "run.json").read_text())
    assert record.pop("restored")["digest"] == bundle.digest
    assert record == bundle.training["policy"]
    assert json.loads((restored / "policy/model/prompt.json").read_text()) == (
        bundle.prompt.to_dict()
    )

    again = export(restored / "policy", restored / "screener", tmp_path / "again")
    files = ["screener/tokenizer.json", "lexicon.json"]
    assert all(bundle.files[name].sha256 == again.files[name].sha256 for name in files)
    texts = ["you are an idiot", "thanks my friend"]
    before, after = (Screener(b.screener).score(texts) for b in (bundle, again))
    np.testing.assert_allclose(before.toxicity, after.toxicity, atol=1e-6)
    assert not (restored / "first-stage").exists()


@pytest.mark.parametrize("weights", ["int8", "fp16"])
def test_weights_that_cannot_be_read_back_leave_nothing(
    policy_run: Path, screener_run: Path, tmp_path: Path, weights: str
) -> None:
    bundle = export(policy_run, screener_run, tmp_path / "bundle", screener_weights=weights)
    with pytest.raises(ExportError, match=f"stores its weights as {weights}"):
        restore_bundle(bundle, tmp_path / "restored")
    assert [file.name for file in tmp_path.iterdir()] == ["bundle"]


def test_only_an_earlier_restoration_is_replaced(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "taken"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError):
            restore_bundle(Bundle.load(bundle), out, overwrite=overwrite)
    assert (out / "notes.txt").read_text() == "mine"


def test_a_graph_of_elsewhere_is_refused(bundle: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["bundle", "restore", str(bundle), "-o", str(tmp_path / "x")])
    assert result.exit_code == 1
    assert "weights" in result.output
    assert "Traceback" not in result.output


def test_the_embedded_bundle_comes_back_whole(tmp_path: Path) -> None:
    out = tmp_path / "embedded"
    result = CliRunner().invoke(main, ["bundle", "restore", "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out}\n"
    assert all(len(line) <= 80 for line in result.stderr.splitlines())
    bundle = Bundle.load()
    texts = ["you are an idiot", "thank you, that helps a lot", "see you at the station"]
    screener = Screener(bundle.screener, deobfuscate=False)
    pieces = sorted(screener.pieces(texts), key=lambda piece: len(piece[1]))
    alarms = score(load(out / "first-stage" / "model.safetensors"), [ids for _, ids in pieces])
    stage = FirstStage(bundle.screener, bundle.thresholds.toxicity)
    assert stage.point is not None
    suspects = {number for number, _ in stage.suspects(pieces, screener.pad)}
    loud = alarms > stage.point.alarm
    assert suspects == {n for (n, _), heard in zip(pieces, loud, strict=True) if heard}
    assert 0 < len(suspects) < len(texts)
