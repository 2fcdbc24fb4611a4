"""Policies: an adapter is merged, and the GGUF says what torch and the tokenizer say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gguf
import jinja2
import llama_cpp
import pytest
import torch
import transformers
from tokenizers import normalizers
from toy_families import FAMILIES, write_family
from toy_models import (
    ABOUT,
    PRE_TOKENIZERS,
    SENTENCEPIECE,
    SENTENCES,
    make_model,
    make_policy,
    make_sentencepiece_tokenizer,
    make_tokenizer,
    make_word_tokenizer,
    values,
)

from sro_edge.detoxifier import Detoxifier, Request
from sro_edge.errors import ExportError, ModelError
from sro_edge.export import gguf_types, gguf_vocabulary, gguf_writer, proof_gguf
from sro_edge.export.figures import require
from sro_edge.export.gguf_vocabulary import explicit_spaces
from sro_edge.export.merge import load_policy
from sro_edge.export.probes import generated_probes
from sro_edge.export.runs import open_run
from sro_edge.prompt import SMALL_TEMPLATE, PromptTemplate
from sro_edge.training.tokens import tokenize_with

YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
# Seven layers: the sixth sees everything, the others a window that the probes outgrow.
GEMMA3 = {
    "num_hidden_layers": 7,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 16,
    "tie_word_embeddings": True,
    "initializer_range": 0.1,
}
GEMMA3_LONG = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
}
PROBES = generated_probes(300, seed=1)
CHAT = PromptTemplate("<s>[INST] Reword it: ", " [/INST]")
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
        ("Qwen3", {"rope_parameters": YARN}),
        ("SmolLM3", {"num_hidden_layers": 4}),  # the fourth has no positions
        (
            "Llama",
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
        ),
        ("Gemma3", GEMMA3),
        ("Gemma3", {**GEMMA3, "rope_parameters": GEMMA3_LONG, "query_pre_attn_scalar": 99}),
    ],
)
def test_gguf_gives_the_logits_of_torch(
    kind: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    policy = make_policy(make_model(kind, **settings), make_tokenizer())
    file = tmp_path / "model.gguf"
    gguf_writer.write_gguf(policy.model, policy.tokenizer, file, ABOUT)
    require(proof_gguf.prove_tokens(policy, file, PROBES))
    figures = values(require(proof_gguf.prove_logits(policy, {"f32": file})))
    assert 0 <= figures["gguf.f32.kl"] < 1e-4
    assert figures["gguf.f32.top1"] > 0.99


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"gemma3", "gpt2"}))
def test_a_family_with_its_own_tokenizer_and_chat_template(name: str, tmp_path: Path) -> None:
    policy = load_policy(open_run(write_family(tmp_path, name), "policy"))
    file = tmp_path / "model.gguf"
    gguf_writer.write_gguf(policy.model, policy.tokenizer, file, ABOUT)
    require(proof_gguf.prove_tokens(policy, file, PROBES[:100]))
    require(proof_gguf.prove_logits(policy, {"f32": file}))


def test_logit_proof_sees_a_wrong_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_writer, "_interleave", lambda array, heads: array)
    policy = make_policy(make_model(), make_tokenizer())
    file = tmp_path / "model.gguf"
    gguf_writer.write_gguf(policy.model, policy.tokenizer, file, ABOUT)
    figures = proof_gguf.prove_logits(policy, {"f32": file})
    with pytest.raises(ExportError, match=r"mean KL divergence.*above 0.001 \(gguf.f32.kl\)"):
        require(figures)


@pytest.mark.parametrize("kind", PRE_TOKENIZERS)
def test_llama_cpp_cuts_text_as_the_tokenizer_does(kind: str, tmp_path: Path) -> None:
    normalizer = normalizers.NFC() if kind == "qwen2" else None
    policy = make_policy(make_model(), make_tokenizer(kind, normalizer))
    file = tmp_path / "model.gguf"
    gguf_writer.write_gguf(policy.model, policy.tokenizer, file, ABOUT)
    found = values(require(proof_gguf.prove_tokens(policy, file, PROBES)))
    assert found["tokens.differing"] == 0
    assert found["tokens.probes"] > 300


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("kind", SENTENCEPIECE)
def test_llama_cpp_cuts_text_as_sentencepiece_tokenizers_do(
    kind: str, listed: bool, tmp_path: Path
) -> None:
    tokenizer = make_sentencepiece_tokenizer(kind, listed=listed)
    policy = make_policy(make_model(vocab_size=len(tokenizer)), tokenizer)
    file = tmp_path / "model.gguf"
    if not listed and kind == "llama-2":
        with pytest.raises(ExportError, match="but no merge of the first two"):
            gguf_writer.write_gguf(policy.model, policy.tokenizer, file, ABOUT)
        return
    gguf_writer.write_gguf(policy.model, policy.tokenizer, file, ABOUT)
    for template in (SMALL_TEMPLATE, CHAT):
        template = explicit_spaces(template, tokenize_with(tokenizer))
        asked = dataclasses.replace(policy, template=template)
        assert (
            values(require(proof_gguf.prove_tokens(asked, file, PROBES)))["tokens.differing"] == 0
        )


def test_token_proof_sees_another_pre_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_vocabulary, "pre_tokenizer_type", lambda *_: "llama-bpe")
    policy = make_policy(make_model(), make_tokenizer())
    file = tmp_path / "model.gguf"
    gguf_writer.write_gguf(policy.model, policy.tokenizer, file, ABOUT)
    with pytest.raises(ExportError, match=r"cut differently is .* the first is .* whose token"):
        require(proof_gguf.prove_tokens(policy, file, PROBES))


def test_unknown_tokenizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"splits text with .*Whitespace"):
        gguf_vocabulary.pre_tokenizer_type({"type": "Whitespace"})
    with pytest.raises(ExportError, match=r"WordLevel.*supported are byte-level BPE and"):
        gguf_writer.write_gguf(make_model(), make_word_tokenizer(), tmp_path / "a.gguf", ABOUT)
    with pytest.raises(ExportError, match=r"normalises text with .*Lowercase"):
        gguf_writer.write_gguf(
            make_model(),
            make_tokenizer(normalizer=normalizers.Lowercase()),
            tmp_path / "a.gguf",
            ABOUT,
        )
    with pytest.raises(ExportError, match="do not belong together"):
        gguf_writer.write_gguf(
            make_model(vocab_size=300),
            make_tokenizer(),
            tmp_path / "a.gguf",
            ABOUT,
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
    gguf_writer.write_gguf(policy.model, policy.tokenizer, exact, ABOUT)
    sizes = {}
    for kind in gguf_types.GGUF_TYPES:
        file = tmp_path / f"{kind}.gguf"
        gguf_types.convert_gguf(exact, file, kind)
        sizes[kind] = file.stat().st_size
    files = {kind: tmp_path / f"{kind}.gguf" for kind in ("bf16", "iq4_nl")}
    found = values(proof_gguf.prove_logits(policy, files))
    assert found["gguf.bf16.kl"] < found["gguf.iq4_nl.kl"]
    assert sizes["f32"] > sizes["f16"] == sizes["bf16"] > sizes["q8_0"] > sizes["q4_0"]


def test_file_says_where_it_comes_from_and_how_to_ask(tmp_path: Path) -> None:
    about = dataclasses.replace(ABOUT, base="someone/model-1b", license="Apache-2.0")
    gguf_writer.write_gguf(make_model(), make_tokenizer(), tmp_path / "a.gguf", about)
    fields = gguf.GGUFReader(tmp_path / "a.gguf").fields
    found = {name: field.contents() for name, field in fields.items()}
    assert found["general.license"] == "Apache-2.0"
    assert found["general.base_model.0.name"] == "model-1b"
    assert found["general.base_model.0.repo_url"] == "https://huggingface.co/someone/model-1b"
    assert found["tokenizer.ggml.pre"] == "gpt-2"
    assert found["tokenizer.ggml.eos_token_id"] == 1
    chat = jinja2.Template(found["tokenizer.chat_template"])
    comment = "What  a 'Stupid' idea"
    asked = chat.render(messages=[{"role": "user", "content": f" {comment} "}])
    assert asked == "<s> what  a 'stupid' idea<|rewrite|>"


def test_llama_cpp_answers_through_the_embedded_template(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    tokenizer = make_tokenizer()
    gguf_writer.write_gguf(make_model(vocab_size=len(tokenizer)), tokenizer, file, ABOUT)
    with Detoxifier(file, SMALL_TEMPLATE, threads=1, slots=1, max_prompt_tokens=96) as engine:
        ((_, (expected,)),) = engine.generate([Request(0, SENTENCES[1], max_new_tokens=8)])
    llama = llama_cpp.Llama(str(file), n_ctx=128, n_threads=1, verbose=False)
    message = {"role": "user", "content": SENTENCES[1]}
    answer = llama.create_chat_completion(
        [message], temperature=0.0, repeat_penalty=1.0, max_tokens=8
    )
    llama.close()
    found = answer["choices"][0]["message"]["content"]
    assert SMALL_TEMPLATE.restore(found, SENTENCES[1]) == expected.text.replace("\ufffd", "")


def test_features_that_llama_cpp_does_not_compute_are_refused(tmp_path: Path) -> None:
    for kind, settings, said in [
        ("Llama", {"hidden_act": "gelu"}, "with activation silu, but this model has gelu"),
        ("SmolLM3", {"no_rope_layers": [0, 1]}, r"no_rope_layers \[1, 1\]"),
        ("Gemma3", {**GEMMA3, "sliding_window_pattern": 1}, "sliding layer True"),
        ("Qwen2", {"rope_parameters": {**YARN, "rope_type": "dynamic"}}, "rope type 'dynamic'"),
    ]:
        with pytest.raises(ExportError, match=said):
            gguf_writer.write_gguf(
                make_model(kind, **settings), make_tokenizer(), tmp_path / "a.gguf", ABOUT
            )


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model = make_model()
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(ExportError, match=r"layers.1.mlp.up_proj.weight holds NaN.*diverged"):
        gguf_writer.write_gguf(model, make_tokenizer(), tmp_path / "a.gguf", ABOUT)
