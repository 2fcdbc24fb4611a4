"""Export: what is proven, and a bundle that appears whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tokenizers import normalizers
from toy_models import SENTENCES, make_model, make_tokenizer

from sro_edge.bundle import Bundle
from sro_edge.cli import main
from sro_edge.errors import ExportError, InputError, OutputError
from sro_edge.export import ExportConfig, export_bundle, gguf_types, proof_gguf
from sro_edge.export.figures import Figure, require
from sro_edge.export.merge import load_policy
from sro_edge.export.runs import newest_run, open_run
from sro_edge.export.screener_graph import load_screener
from sro_edge.prompt import SMALL_TEMPLATE

pytestmark = pytest.mark.usefixtures("one_thread")


def test_kl_divergence_of_known_distributions() -> None:
    expected = np.log(np.array([[0.5, 0.5], [0.9, 0.1]], dtype=np.float32))
    found = np.log(np.array([[0.5, 0.5], [0.5, 0.5]], dtype=np.float32)) + 7
    known = [0, 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)]
    np.testing.assert_allclose(proof_gguf.kl_divergence(expected, found), known, atol=1e-6)


def test_figures_outside_their_bounds_are_named() -> None:
    assert require([Figure("a", "a", 1.0, at_most=1), Figure("b", "b", 1.0, at_least=1)])
    with pytest.raises(ExportError, match=r"the gap is 2, above 1 \(x.gap\); mend it"):
        require([Figure("x.gap", "the gap", 2.0, at_most=1, advice="mend it")])
    with pytest.raises(ExportError, match=r"the share is nan, below 0.9 \(x.share\)"):
        require([Figure("x.share", "the share", float("nan"), at_least=0.9)])


def test_bundle_is_whole_and_proven(adapter_run: Path, screener_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny-bundle"
    (tmp_path / ".tiny-bundle.partial" / "bundle").mkdir(parents=True)  # a killed export's
    mild = tmp_path / "mild.tsv"
    mild.write_text("idiot\tperson\n")
    config = ExportConfig(version="2.0.0", accept_drift=True, mild=mild)
    figures = export_bundle(adapter_run, screener_run, out, config)
    mild.unlink()
    assert [f.name for f in tmp_path.iterdir()] == ["tiny-bundle"]
    bundle = Bundle.load(out)
    assert (bundle.name, bundle.version, bundle.license) == ("tiny-bundle", "2.0.0", "Apache-2.0")
    assert bundle.prompt == SMALL_TEMPLATE
    assert bundle.thresholds.similarity == 0.7
    assert bundle.lexicon() == {"idiot": 3.5}
    assert bundle.mild_words() == {("idiot",): [("person",)]}
    assert bundle.training["proof"] == figures == json.loads((out / "proof.json").read_text())
    assert bundle.training["screener"]["kind"] == "screener"
    assert bundle.scores == {
        "policy": {"judge/quality": 0.5},
        "screener": {"dev": {"f1": 0.9}},
    }
    assert {"merge.logits", "gguf.q8_0.kl", "screener.flips"} <= set(figures)
    card = (out / "README.md").read_text()
    assert all(row["meaning"] in card for row in figures.values())
    assert "A comment passes up to a toxicity of " in card
    assert "`mild_words.tsv`" in card


def test_a_broken_table_is_told_before_the_work(adapter_run: Path, tmp_path: Path) -> None:
    mild, steps = tmp_path / "mild.tsv", list[str]()
    mild.write_text("idiot person\n")
    with pytest.raises(InputError, match="line 1"):
        export_bundle(
            adapter_run, None, tmp_path / "out", ExportConfig(mild=mild), progress=steps.append
        )
    assert not steps


def test_chat_model_is_prompted_through_its_own_template(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("qwen2", normalizers.NFC())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    make_model("Qwen2").save_pretrained(tmp_path / "chat")
    tokenizer.save_pretrained(tmp_path / "chat")
    export_bundle(tmp_path / "chat", None, tmp_path / "out")
    template = load_policy(open_run(tmp_path / "chat", "policy")).template
    assert template.prefix.startswith("<|im_start|>user\n")
    assert template.suffix == "<|im_end|>\n<|im_start|>assistant\n"
    assert not (tmp_path / "out" / "lexicon.json").exists()


def test_bundle_serves_the_runtime(policy_run: Path, screener_run: Path, tmp_path: Path) -> None:
    from sro_edge.detoxifier import Detoxifier, Request
    from sro_edge.screener import Screener

    export_bundle(policy_run, screener_run, tmp_path / "b", ExportConfig(gguf_types=("f32",)))
    bundle = Bundle.load(tmp_path / "b")
    screener = load_screener(open_run(screener_run, "screener"))
    ids = screener.tokenizer.encode(SENTENCES[1]).ids
    with torch.inference_mode():
        expected = screener.graph(torch.tensor([ids]), torch.ones((1, len(ids))).long())
    scores = Screener(bundle.screener, threads=1).score([SENTENCES[1]])
    assert scores.fluency is not None
    assert scores.toxicity[0] == pytest.approx(expected[0].item(), abs=0.1)
    assert scores.fluency[0] == pytest.approx(expected[1].item(), abs=0.1)
    with Detoxifier(
        bundle.detoxifier, bundle.prompt, threads=1, slots=2, max_prompt_tokens=96
    ) as engine:
        (answer,) = engine.generate([Request(0, SENTENCES[1], max_new_tokens=8)])
    assert answer[1][0].tokens <= 8


def test_places_of_the_training_machine_are_not_published(
    policy_run: Path, screener_run: Path, tmp_path: Path
) -> None:
    export_bundle(policy_run, screener_run, tmp_path / "b", ExportConfig(gguf_types=("f32",)))
    manifest = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert manifest["training"]["policy"]["config"] == {"base": "base"}
    assert "/home" not in (tmp_path / "b" / "README.md").read_text()


def test_failed_proof_leaves_nothing(
    policy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof_gguf, "_STORED", (1e-12, 0.9))
    with pytest.raises(ExportError, match=r"above 1e-12 \(gguf.q4_0.kl\); choose a --gguf type"):
        export_bundle(policy_run, None, tmp_path / "out", ExportConfig(gguf_types=("q4_0",)))
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_replaced_only_when_asked_and_ours(
    policy_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_bundle(policy_run, None, out)
    before = (out / "detoxifier.gguf").stat().st_size
    with pytest.raises(OutputError, match="exists: choose another folder or give --overwrite"):
        export_bundle(policy_run, None, out)
    export_bundle(policy_run, None, out, ExportConfig(gguf_types=("f32",)), overwrite=True)
    assert (out / "detoxifier.gguf").stat().st_size > before
    assert sorted(f.name for f in out.iterdir()) == [
        "detoxifier.gguf",
        "lexicon.json",
        "proof.json",
    ]
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "diary.txt").write_text("mine")
    with pytest.raises(OutputError, match="neither an earlier export nor an empty folder"):
        export_bundle(policy_run, None, precious, overwrite=True)
    assert (precious / "diary.txt").read_text() == "mine"


def test_runs_are_told_apart(policy_run: Path, screener_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is a 'screener' run, but a policy was asked for"):
        open_run(screener_run, "policy")
    with pytest.raises(ExportError, match="holds no model"):
        open_run(tmp_path, "policy")
    assert open_run(policy_run / "model", "policy").record == {}  # a plain folder
    for order, (name, kind) in enumerate(
        [("old", "warm-start"), ("new", "sro"), ("newest", "screener")]
    ):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "run.json"
        file.write_text(json.dumps({"kind": kind}))
        os.utime(file, (order, order))
    assert newest_run("policy", tmp_path).name == "new"
    assert newest_run("screener", tmp_path).name == "newest"
    with pytest.raises(ExportError, match="has no finished screener run"):
        newest_run("screener", tmp_path / "old")


def test_config_refuses_what_cannot_be_written() -> None:
    with pytest.raises(ExportError, match="'q3' is not one of f32, f16"):
        ExportConfig(gguf_types=("q3",))
    with pytest.raises(ExportError, match="'int4' are not one of small, fp32"):
        ExportConfig(screener_weights="int4")
    assert dataclasses.asdict(ExportConfig())["gguf_types"] == ("q8_0",)


def test_command_finds_the_newest_runs_and_shows_the_proof(
    policy_run: Path, screener_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    for name, run in (("warm-start", policy_run), ("screener", screener_run)):
        (tmp_path / "runs" / name).symlink_to(run)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["export", "--gguf", "-o", "only"])
    assert result.exit_code == 0, result.output
    assert result.stdout == "only\n"
    assert "Rewriter, by GGUF type" in result.stderr
    assert sorted(f.name for f in Path("only").glob("*.gguf")) == ["detoxifier.gguf"]
    assert not Path("only/screener").exists()
    result = CliRunner().invoke(
        main, ["export", "--accept-drift", "--quiet", "-o", "whole", "--name", "mine"]
    )
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert Bundle.load("whole").name == "mine"


def test_command_says_what_is_wrong_in_one_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["export", str(tmp_path), "--gguf", "-o", "x"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "holds no model" in result.stderr
    result = CliRunner().invoke(main, ["export", "--gguf", "q9", "-o", "x"])
    assert result.exit_code == 2


def test_command_offers_every_gguf_type() -> None:
    from sro_edge.cli import export as command

    assert tuple(gguf_types.GGUF_TYPES) == command._GGUF_TYPES
    assert gguf_types.DEFAULT_TYPE == command._DEFAULT_TYPE
