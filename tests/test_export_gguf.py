"""Policies: an adapter is merged, and the GGUF says what torch and the tokenizer say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import normalizers
from toy_models import (
    PRE_TOKENIZERS,
    make_model,
    make_policy,
    make_tokenizer,
    make_word_tokenizer,
    values,
)

from sro_edge.errors import ExportError, ModelError
from sro_edge.export import gguf_writer, proof_gguf
from sro_edge.export.figures import require
from sro_edge.export.merge import load_policy
from sro_edge.export.runs import open_run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Llama", {}),
        ("Llama", {"tie_word_embeddings": True, "head_dim": 32, "rope_theta": 5e5}),
        (
            "Llama",
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 1e4,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                }
            },
        ),
        ("Mistral", {"sliding_window": 128}),
        ("Qwen2", {"tie_word_embeddings": True}),
        ("Qwen3", {"head_dim": 32}),
    ],
)
def test_gguf_gives_the_logits_of_torch(
    kind: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    policy = make_policy(make_model(kind, **settings), make_tokenizer())
    file = tmp_path / "model.gguf"
    gguf_writer.write_gguf(policy.model, policy.tokenizer, file, name="tiny", license="MIT")
    require(proof_gguf.prove_tokens(policy, file))
    figures = require(
        proof_gguf.prove_logits(policy, file, "f32", kl_at_most=1e-4, top1_at_least=0.99)
    )
    assert values(figures)["gguf.f32.kl"] >= 0


def test_logit_proof_sees_a_wrong_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_writer, "_interleave", lambda array, heads: array)
    policy = make_policy(make_model(), make_tokenizer())
    file = tmp_path / "model.gguf"
    gguf_writer.write_gguf(policy.model, policy.tokenizer, file, name="tiny", license="MIT")
    figures = proof_gguf.prove_logits(policy, file, "f32", kl_at_most=1e-3, top1_at_least=0.99)
    with pytest.raises(ExportError, match=r"mean KL divergence.*above 0.001 \(gguf.f32.kl\)"):
        require(figures)


@pytest.mark.parametrize("kind", PRE_TOKENIZERS)
def test_llama_cpp_cuts_text_as_the_tokenizer_does(kind: str, tmp_path: Path) -> None:
    normalizer = normalizers.NFC() if kind == "qwen2" else None
    policy = make_policy(make_model(), make_tokenizer(kind, normalizer))
    file = tmp_path / "model.gguf"
    gguf_writer.write_gguf(policy.model, policy.tokenizer, file, name="tiny", license="MIT")
    found = values(require(proof_gguf.prove_tokens(policy, file)))
    assert found["tokens.differing"] == 0
    assert found["tokens.probes"] > 100


def test_token_proof_sees_another_pre_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_writer, "pre_tokenizer_type", lambda _: "llama-bpe")
    policy = make_policy(make_model(), make_tokenizer())
    file = tmp_path / "model.gguf"
    gguf_writer.write_gguf(policy.model, policy.tokenizer, file, name="tiny", license="MIT")
    with pytest.raises(ExportError, match=r"cuts .* of .* probe comments into other tokens"):
        proof_gguf.prove_tokens(policy, file)


def test_unknown_tokenizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"splits text with .*Whitespace"):
        gguf_writer.pre_tokenizer_type({"type": "Whitespace"})
    with pytest.raises(ExportError, match="not a byte-level BPE"):
        gguf_writer.write_gguf(
            make_model(), make_word_tokenizer(), tmp_path / "a.gguf", name="a", license="MIT"
        )
    with pytest.raises(ExportError, match=r"normalises text with .*Lowercase"):
        gguf_writer.write_gguf(
            make_model(),
            make_tokenizer(normalizer=normalizers.Lowercase()),
            tmp_path / "a.gguf",
            name="a",
            license="MIT",
        )
    with pytest.raises(ExportError, match="do not belong together"):
        gguf_writer.write_gguf(
            make_model(vocab_size=300),
            make_tokenizer(),
            tmp_path / "a.gguf",
            name="a",
            license="MIT",
        )


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=1)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(ExportError, match=r"GPT2LMHeadModel.*supported are LlamaForCausalLM"):
        load_policy(open_run(tmp_path, "policy"))


def test_pickled_weights_are_never_read(policy_run: Path, tmp_path: Path) -> None:
    model = policy_run / "model"
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="with safetensors weights"):
        load_policy(open_run(tmp_path, "policy"))


def test_adapter_is_merged_and_embeddings_stay_tied(adapter_run: Path, policy_run: Path) -> None:
    policy = load_policy(open_run(adapter_run, "policy"))
    assert 0 <= values(policy.figures)["merge.logits"] < 1e-3
    inputs, outputs = policy.model.get_input_embeddings(), policy.model.get_output_embeddings()
    assert inputs.weight.data_ptr() == outputs.weight.data_ptr()
    assert policy.lexicon == {"idiot": 3.5}  # from the base
    base = load_policy(open_run(policy_run, "policy")).model
    query = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(base.state_dict()[query], policy.model.state_dict()[query])


def test_every_gguf_type_can_be_written(policy_run: Path, tmp_path: Path) -> None:
    run = open_run(policy_run, "policy")
    policy = load_policy(run)
    exact = tmp_path / "exact.gguf"
    gguf_writer.write_gguf(policy.model, policy.tokenizer, exact, name="tiny", license="MIT")
    sizes = {}
    for kind in gguf_writer.GGUF_TYPES:
        file = tmp_path / f"{kind}.gguf"
        gguf_writer.convert_gguf(exact, file, kind)
        figures = proof_gguf.prove_logits(policy, file, kind, kl_at_most=10)
        assert np.isfinite(values(figures)[f"gguf.{kind}.kl"])
        sizes[kind] = file.stat().st_size
    assert sizes["f32"] > sizes["f16"] == sizes["bf16"] > sizes["q8_0"] > sizes["q4_0"]
