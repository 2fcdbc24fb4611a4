"""The proof of a rewriter: its probes, its rewrites, and what happens when a bound is missed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import namedtuple
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers
from click.testing import CliRunner
from toy_models import ABOUT, make_model, make_policy, make_tokenizer, values, write_adapter_run

from sro_edge import folders
from sro_edge.bundle import Bundle, Thresholds
from sro_edge.cli import main
from sro_edge.errors import ExportError, InputError, ModelError, OutputError
from sro_edge.export import (
    ExportConfig,
    export_bundle,
    gguf_writer,
    probes,
    proof_gguf,
    proof_rewrites,
)
from sro_edge.export.figures import require
from sro_edge.export.merge import load_policy
from sro_edge.export.probes import generated_probes, is_awkward, read_probes
from sro_edge.export.runs import open_run
from sro_edge.screener import Screener

pytestmark = pytest.mark.usefixtures("one_thread")

CONVERTER = """
import argparse, json, pathlib, shutil, sys
parser = argparse.ArgumentParser()
parser.add_argument("model"), parser.add_argument("--outfile"), parser.add_argument("--outtype")
options = parser.parse_args()
config = json.loads((pathlib.Path(options.model) / "config.json").read_text())
assert config["architectures"] == ["LlamaForCausalLM"] and options.outtype == "f32"
if SOURCE == "fail":
    sys.exit("Model FooForCausalLM is not supported")
shutil.copy(SOURCE, options.outfile)
"""


def test_generated_probes_are_awkward_long_and_the_same_every_time() -> None:
    found = generated_probes(2000, seed=0)
    assert found == generated_probes(2000, seed=0) != generated_probes(2000, seed=1)
    assert len(found) == 2000
    assert [len(text) for text in found[:2]] == [20_000, 20_000]
    joined = "".join(found)
    for mark in ("\x00", "🙂", "你", "<|im_start|>", "</s>"):
        assert mark in joined


def test_probes_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    texts = ["plain one", "plain two", "an <|im_end|> awkward one", "ümläut", " ", None]
    table = pa.table({"number": range(6), "text": texts})
    pq.write_table(table, tmp_path / "a.parquet")
    pa.csv.write_csv(table, tmp_path / "a.csv")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts[:4]))
    (tmp_path / "a.txt").write_text("\n".join(texts[:5]), "utf-8")
    for kind in ("parquet", "csv", "jsonl", "txt"):
        assert sorted(read_probes(tmp_path / f"a.{kind}")) == sorted(texts[:4]), kind
    pq.write_table(pa.table({"number": [1]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="no column of strings; it has number"):
        read_probes(tmp_path / "b.parquet")
    (tmp_path / "b.txt").write_text("\n \n")
    with pytest.raises(InputError, match="holds no comments"):
        read_probes(tmp_path / "b.txt")


def test_probes_of_a_large_file_hold_its_awkward_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "PROBES", 20)
    lines = [f"plain comment {i}" for i in range(500)] + [f"kommentar für {i}" for i in range(5)]
    (tmp_path / "a.txt").write_text("\n".join(lines), "utf-8")
    found = read_probes(tmp_path / "a.txt")
    assert len(found) == 20
    assert sum(map(is_awkward, found)) == 5


def test_token_proof_shows_the_first_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make_policy(make_model(), make_tokenizer())
    file = tmp_path / "model.gguf"
    gguf_writer.write_gguf(policy.model, policy.tokenizer, file, ABOUT)
    other = dataclasses.replace(policy, tokenizer=make_tokenizer("smollm"))
    figures = proof_gguf.prove_tokens(other, file, ["in 2025"])
    assert values(figures)["tokens.differing"] > 0
    with pytest.raises(ExportError, match=r"whose token \d+ is \[.*\] in llama.cpp and \["):
        require(figures)
    assert require(figures, accept_drift=True)[1].to_dict()["accepted"]


def test_rewrites_of_torch_and_llama_cpp_are_judged_alike(
    tmp_path: Path, tiny_screener_folder: Path
) -> None:
    policy = make_policy(make_model(vocab_size=400), make_tokenizer())
    file = tmp_path / "model.gguf"
    gguf_writer.write_gguf(policy.model, policy.tokenizer, file, ABOUT)
    screener = Screener(tiny_screener_folder, threads=1)
    limits = Thresholds(0.5)
    comments = ["thanks , what a good idea !", "you are an idiot !", "x" * 300, "what a moron ."]
    toxic = proof_rewrites.toxic_comments(policy, screener, limits, comments)
    assert toxic == [comments[1], comments[3]]
    torch_made = proof_rewrites.torch_answers(policy, comments[:2])
    assert torch_made == proof_rewrites.llama_answers(policy, file, comments[:2])
    found = values(
        proof_rewrites.compare_rewrites(policy, {"f32": file}, screener, limits, comments)
    )
    assert found["rewrites.comments"] == 2
    assert found["rewrites.f32.same"] == 1
    assert found["rewrites.f32.sta"] == found["rewrites.torch.sta"]


def test_judge_counts_what_a_user_would_get(tiny_screener_folder: Path) -> None:
    screener = Screener(tiny_screener_folder, threads=1)
    comments = ["you are an idiot !"] * 4
    answers = ["you are my friend !", "you are a moron !", None, "you are an idiot !"]
    found = proof_rewrites.judge(comments, answers, screener, Thresholds(0.5, 0.0, 1.0))
    assert found.sta == found.passed == 0.25
    assert found.sim is not None
    assert 0 < found.sim < 1
    strict = proof_rewrites.judge(comments, answers, screener, Thresholds(0.5, 1.0, 1.0))
    assert (strict.sta, strict.passed) == (0.25, 0)


def test_several_types_and_accepted_drift_are_in_the_bundle(
    policy_run: Path, screener_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof_gguf, "_STORED", (1e-12, 0.0))
    config = ExportConfig(gguf_types=("f32", "q4_0"), accept_drift=True)
    figures = export_bundle(policy_run, screener_run, tmp_path / "b", config)
    assert figures["gguf.q4_0.kl"]["accepted"]
    assert "accepted" not in figures["gguf.f16.kl"]
    assert {"rewrites.torch.pass", "rewrites.f32.sta", "rewrites.q4_0.sim"} <= set(figures)
    bundle = Bundle.load(tmp_path / "b")
    assert {"detoxifier.gguf", "detoxifier-q4_0.gguf"} <= set(bundle.files)
    card = (tmp_path / "b" / "README.md").read_text()
    assert "(missed, accepted)" in card
    assert "`detoxifier-q4_0.gguf`" in card


def test_converter_of_a_checkout_writes_what_is_then_proven(
    policy_run: Path, tmp_path: Path
) -> None:
    policy = load_policy(open_run(policy_run, "policy"))
    made = tmp_path / "made.gguf"
    gguf_writer.write_gguf(policy.model, policy.tokenizer, made, ABOUT)
    script = tmp_path / "checkout" / "convert_hf_to_gguf.py"
    script.parent.mkdir()
    with pytest.raises(ExportError, match=r"holds no convert_hf_to_gguf.py"):
        export_bundle(policy_run, None, tmp_path / "b", ExportConfig(llama_cpp=tmp_path))
    config = ExportConfig(llama_cpp=script.parent)
    script.write_text(f"SOURCE = {str(made)!r}\n{CONVERTER}")
    figures = export_bundle(policy_run, None, tmp_path / "b", config)
    assert figures["gguf.f32.kl"]["value"] < 1e-4
    script.write_text(f"SOURCE = 'fail'\n{CONVERTER}")
    with pytest.raises(ExportError, match=r"failed \(exit code 1\): Model FooForCausalLM is not"):
        export_bundle(policy_run, None, tmp_path / "c", config)
    wrong = make_model()
    gguf_writer.write_gguf(wrong, policy.tokenizer, made, ABOUT)
    script.write_text(f"SOURCE = {str(made)!r}\n{CONVERTER}")
    with pytest.raises(ExportError, match=r"mean KL divergence, f32 .* above 0.001"):
        export_bundle(policy_run, None, tmp_path / "c", config)
    assert not (tmp_path / "c").exists()


def test_other_architectures_load_for_a_converter(tmp_path: Path) -> None:
    config = transformers.GPT2Config(
        vocab_size=400, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=1
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "prompt.json").write_text('{"prefix": "<s>", "suffix": "<|rewrite|>"}')
    run = open_run(tmp_path, "policy")
    assert type(load_policy(run, any_architecture=True).model).__name__ == "GPT2LMHeadModel"
    with pytest.raises(ExportError, match=r"name a llama.cpp checkout with --llama-cpp"):
        load_policy(run)


def test_full_disk_is_seen_before_anything_is_written(
    policy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: usage(2e9, 1.9e9, 1_000_000))
    with pytest.raises(OutputError, match=r"b needs 49 MB, but .* has 1 MB left"):
        export_bundle(policy_run, None, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_unfinished_run_is_told_from_an_empty_folder(policy_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(policy_run, run)
    (run / "run.json").unlink()
    (run / "metrics.jsonl").write_text("{}")
    with pytest.raises(ExportError, match="still being written, or that was interrupted"):
        open_run(run, "policy")
    result = CliRunner().invoke(main, ["export", str(run), "--gguf", "-o", str(tmp_path / "b")])
    assert result.exit_code == 1
    assert "go on with the command that began it" in result.stderr


def test_adapter_for_another_base_is_refused(policy_run: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(policy_run, base)
    write_adapter_run(tmp_path / "sro", base)
    record = json.loads((tmp_path / "sro" / "run.json").read_text())
    record["base_run"] = json.loads((base / "run.json").read_text())
    (tmp_path / "sro" / "run.json").write_text(json.dumps(record))
    assert load_policy(open_run(tmp_path / "sro", "policy")).figures
    (base / "run.json").write_text('{"kind": "warm-start", "step": 8}')
    with pytest.raises(ModelError, match="trained on an earlier model than the one that is now"):
        load_policy(open_run(tmp_path / "sro", "policy"))
    (base / "run.json").unlink()
    make_model(tie_word_embeddings=True, hidden_size=32).save_pretrained(base / "model")
    with pytest.raises(ModelError, match=r"does not fit .*base.*: it was trained on another model"):
        load_policy(open_run(tmp_path / "sro", "policy"))
