"""Export: GGUF and ONNX say what the models say, and a bundle appears whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from click.testing import CliRunner
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from sro_edge.bundle import Bundle
from sro_edge.cli import main
from sro_edge.errors import ExportError, ModelError, OutputError
from sro_edge.export import ExportConfig, bundler, export_bundle, gguf_writer, proof
from sro_edge.export.figures import Figure, require
from sro_edge.export.merge import Policy, load_policy
from sro_edge.export.onnx_writer import (
    find_toxic,
    is_multi_label,
    load_screener,
    round_rows,
    to_int8,
    write_screener,
)
from sro_edge.export.runs import newest_run, open_run
from sro_edge.prompt import SMALL_TEMPLATE

SENTENCES = [
    "the weather was fine and we walked along the river until it was dark .",
    "what a stupid idea , only an idiot would say this about my friend !",
    "people like you never listen , you just shout and shout again .",
    "i think your point is wrong , but thanks for writing it down .",
    "the new bridge opens in 2025 and costs 1,250,000 euros .",
]
SPECIALS = ["<s>", "</s>", "<pad>", "<|rewrite|>"]
QWEN2 = gguf_writer._QWEN2_REGEX
LLAMA3 = gguf_writer._LLAMA3_REGEX
PRE_TOKENIZERS: dict[str, Any] = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "qwen2": [
        pre_tokenizers.Split(Regex(QWEN2), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "llama-bpe": [
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "smollm": [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ],
}


def make_tokenizer(kind: str = "gpt-2", normalizer: Any = None) -> Any:
    """A byte-level BPE of 400 tokens."""
    core = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    steps = PRE_TOKENIZERS[kind]
    core.pre_tokenizer = pre_tokenizers.Sequence(steps) if isinstance(steps, list) else steps
    core.decoder = decoders.ByteLevel()
    if normalizer is not None:
        core.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator((" " + s for s in SENTENCES), trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<|rewrite|>"],
        clean_up_tokenization_spaces=False,
    )


def make_model(kind: str = "Llama", **settings: Any) -> Any:
    """A random decoder with grouped key heads, whose distributions are far from flat."""
    torch.manual_seed(3)
    shape = {
        "vocab_size": 408,  # more than the tokenizer has: the rest is unused
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
    }
    config = getattr(transformers, f"{kind}Config")(**{**shape, **settings})
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "norm.weight")):  # else 0 and 1, which hide mistakes
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy models gain nothing from threads, and lose much on a busy machine."""
    monkeypatch.setattr(proof, "physical_cores", lambda: 1)


def make_policy(model: Any, tokenizer: Any) -> Policy:
    return Policy(model, tokenizer, SMALL_TEMPLATE, {}, [])


def values(figures: list[Figure]) -> dict[str, float]:
    return {figure.key: figure.value for figure in figures}


@pytest.fixture(scope="session")
def policy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished warm start, as the trainer leaves it."""
    run = tmp_path_factory.mktemp("warm-start")
    make_model(tie_word_embeddings=True).save_pretrained(run / "model")
    make_tokenizer().save_pretrained(run / "model")
    (run / "model" / "prompt.json").write_text(json.dumps(SMALL_TEMPLATE.to_dict()))
    (run / "model" / "lexicon.json").write_text('{"idiot": 3.5}')
    record = {"kind": "warm-start", "config": {"base": "/home/someone/models/base"}, "step": 7}
    (run / "run.json").write_text(json.dumps(record))
    return run


@pytest.fixture(scope="session")
def adapter_run(policy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished SRO run with a LoRA adapter on top of the warm start."""
    from peft import LoraConfig, get_peft_model

    run = tmp_path_factory.mktemp("sro")
    base = transformers.AutoModelForCausalLM.from_pretrained(policy_run / "model")
    tuned = get_peft_model(
        base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    )
    torch.manual_seed(5)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1)
    tuned.save_pretrained(run / "adapter")
    for name in ("tokenizer.json", "tokenizer_config.json", "prompt.json"):
        (run / "adapter" / name).write_bytes((policy_run / "model" / name).read_bytes())
    (run / "run.json").write_text('{"kind": "sro", "kept": {"judge/quality": 0.5}}')
    return run


@pytest.fixture(scope="session")
def screener_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished screener run: a tiny BERT with both labels and an embedding."""
    run = tmp_path_factory.mktemp("screener")
    classifier = make_classifier(
        id2label={0: "toxic", 1: "fluent"}, problem_type="multi_label_classification"
    )
    classifier.config.sro_embedding = "mean"
    classifier.save_pretrained(run / "model")
    make_word_tokenizer().save_pretrained(run / "model")
    (run / "model" / "thresholds.json").write_text('{"toxicity": 0.99, "similarity": 0.7}')
    (run / "run.json").write_text('{"kind": "screener", "metrics": {"dev": {"f1": 0.9}}}')
    return run


@pytest.fixture(scope="session")
def written_screener(screener_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The screener's ONNX folder, matrices stored as int8 rows."""
    folder = tmp_path_factory.mktemp("onnx") / "screener"
    write_screener(load_screener(open_run(screener_run, "screener")), folder, "int8")
    return folder


def make_classifier(**settings: Any) -> Any:
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        **settings,
    )
    return transformers.BertForSequenceClassification(config)


def make_word_tokenizer() -> Any:
    words = sorted({word for s in SENTENCES for word in s.split()})
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    core.enable_truncation(16)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", model_max_length=100
    )


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
    require(proof.prove_tokens(policy, file))
    figures = require(proof.prove_logits(policy, file, "f32", kl_at_most=1e-4, top1_at_least=0.99))
    assert values(figures)["gguf.f32.kl"] >= 0


def test_logit_proof_sees_a_wrong_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_writer, "_interleave", lambda array, heads: array)
    policy = make_policy(make_model(), make_tokenizer())
    file = tmp_path / "model.gguf"
    gguf_writer.write_gguf(policy.model, policy.tokenizer, file, name="tiny", license="MIT")
    figures = proof.prove_logits(policy, file, "f32", kl_at_most=1e-3, top1_at_least=0.99)
    with pytest.raises(ExportError, match=r"mean KL divergence.*above 0.001 \(gguf.f32.kl\)"):
        require(figures)


@pytest.mark.parametrize("kind", PRE_TOKENIZERS)
def test_llama_cpp_cuts_text_as_the_tokenizer_does(kind: str, tmp_path: Path) -> None:
    normalizer = normalizers.NFC() if kind == "qwen2" else None
    policy = make_policy(make_model(), make_tokenizer(kind, normalizer))
    file = tmp_path / "model.gguf"
    gguf_writer.write_gguf(policy.model, policy.tokenizer, file, name="tiny", license="MIT")
    found = values(require(proof.prove_tokens(policy, file)))
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
        proof.prove_tokens(policy, file)


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


@pytest.mark.parametrize("weights", ["int8", "fp32"])
def test_onnx_gives_the_scores_of_torch(weights: str, screener_run: Path, tmp_path: Path) -> None:
    screener = load_screener(open_run(screener_run, "screener"))
    stored = write_screener(screener, tmp_path / "screener", weights)
    file = tmp_path / "screener" / "model.onnx"
    found = values(require(proof.prove_screener(screener, stored, file, 0.99)))
    assert found["screener.graph"] < 1e-5
    assert (found["screener.toxicity"] > 1e-5) == (weights == "int8")
    types = {t.data_type for t in onnx.load(file).graph.initializer if len(t.dims) == 2}
    assert (onnx.TensorProto.INT8 in types) == (weights == "int8")
    config = json.loads((file.parent / "config.json").read_text())
    assert config["outputs"] == ["toxicity", "fluency", "embedding"]
    assert config["max_tokens"] == 100
    assert Tokenizer.from_file(str(file.parent / "tokenizer.json")).truncation is None


def test_onnx_runtime_folds_int8_rows_into_fp32(written_screener: Path, tmp_path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    file = str(written_screener / "model.onnx")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(tmp_path / "optimised.onnx").graph.initializer
    assert onnx.TensorProto.INT8 not in {tensor.data_type for tensor in loaded}
    one = np.array([[2, 5, 3]])
    padded = np.array([[2, 5, 3, 0, 0], [2, 9, 8, 7, 3]])
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    alone = session.run(None, {"input_ids": one, "attention_mask": np.ones_like(one)})
    batch = session.run(None, {"input_ids": padded, "attention_mask": mask})
    for a, b in zip(alone, batch, strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=1e-6)
    assert np.linalg.norm(batch[2], axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_graph_holds_no_paths_of_this_machine(written_screener: Path) -> None:
    assert b".py" not in (written_screener / "model.onnx").read_bytes()


def test_plain_classifier_is_a_softmax_over_its_labels(tmp_path: Path) -> None:
    make_classifier(id2label={0: "neutral", 1: "Hateful"}).save_pretrained(tmp_path)
    make_word_tokenizer().save_pretrained(tmp_path)
    screener = load_screener(open_run(tmp_path, "screener"))
    assert screener.graph.outputs == ["toxicity"]
    assert screener.thresholds.toxicity == 0.5
    ids = torch.tensor([[2, 7, 8, 3]])
    with torch.inference_mode():
        (toxicity,) = screener.graph(ids, torch.ones_like(ids))
        logits = screener.graph.model(ids).logits
    assert toxicity.item() == pytest.approx(logits.softmax(-1)[0, 1].item())


def test_positions_that_count_from_the_padding_token_shorten_the_input(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    config = transformers.RobertaConfig(
        vocab_size=100,
        num_hidden_layers=1,
        max_position_embeddings=34,
        pad_token_id=1,
        id2label={0: "ok", 1: "toxic"},
        **shape,
    )
    transformers.RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    make_word_tokenizer().save_pretrained(tmp_path)
    screener = load_screener(open_run(tmp_path, "screener"))
    assert screener.max_tokens == 32
    ids = torch.full((1, 32), 7)
    assert screener.graph(ids, torch.ones_like(ids))[0].shape == (1,)


@pytest.mark.parametrize(
    ("labels", "wanted", "index"),
    [(["neutral", "Toxic"], None, 1), (["LABEL_0", "LABEL_1"], "label_1", 1), (["hate"], None, 0)],
)
def test_toxic_label_is_found_by_name(labels: list[str], wanted: str | None, index: int) -> None:
    assert find_toxic(labels, wanted) == index


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [(["LABEL_0", "LABEL_1"], None), (["hate", "offensive"], None), (["a"], "b")],
)
def test_toxic_label_is_never_guessed(labels: list[str], wanted: str | None) -> None:
    with pytest.raises(ExportError, match=f"has {', '.join(labels)}; name one with --toxic-label"):
        find_toxic(labels, wanted)


def test_classifier_without_a_trained_head_is_refused(screener_run: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(screener_run / "model")
    model.bert.save_pretrained(tmp_path)
    make_word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no trained classifier: it lacks classifier"):
        load_screener(open_run(tmp_path, "screener"))


def test_rounding_keeps_within_half_a_step_and_is_idempotent() -> None:
    matrix = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)
    matrix[2] = 0
    steps, scale = to_int8(matrix, axis=1)
    assert scale.shape == (5, 1)
    assert np.abs(steps * scale - matrix).max() <= scale.max() / 2 * 1.001
    again, _ = to_int8(steps * scale, axis=1)
    np.testing.assert_array_equal(steps, again)
    layer = torch.nn.Linear(100, 100)
    before = layer.weight.detach().clone()
    round_rows(layer)
    assert 0 < (layer.weight - before).abs().max() < before.abs().max() / 127


def test_kl_divergence_of_known_distributions() -> None:
    expected = np.log(np.array([[0.5, 0.5], [0.9, 0.1]], dtype=np.float32))
    found = np.log(np.array([[0.5, 0.5], [0.5, 0.5]], dtype=np.float32)) + 7
    known = [0, 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)]
    np.testing.assert_allclose(proof.kl_divergence(expected, found), known, atol=1e-6)


def test_figures_outside_their_bounds_are_named() -> None:
    assert require([Figure("a", "a", 1.0, at_most=1), Figure("b", "b", 1.0, at_least=1)])
    with pytest.raises(ExportError, match=r"the gap is 2, above 1 \(x.gap\); mend it"):
        require([Figure("x.gap", "the gap", 2.0, at_most=1, advice="mend it")])
    with pytest.raises(ExportError, match=r"the share is nan, below 0.9 \(x.share\)"):
        require([Figure("x.share", "the share", float("nan"), at_least=0.9)])


def test_bundle_is_whole_and_proven(adapter_run: Path, screener_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny-bundle"
    (tmp_path / ".tiny-bundle.partial" / "bundle").mkdir(parents=True)  # a killed export's
    figures = export_bundle(adapter_run, screener_run, out, ExportConfig(version="2.0.0"))
    assert [f.name for f in tmp_path.iterdir()] == ["tiny-bundle"]
    bundle = Bundle.load(out)
    assert (bundle.name, bundle.version, bundle.license) == ("tiny-bundle", "2.0.0", "Apache-2.0")
    assert bundle.prompt == SMALL_TEMPLATE
    assert bundle.thresholds.similarity == 0.7
    assert bundle.lexicon() == {"idiot": 3.5}
    assert bundle.training["proof"] == figures == json.loads((out / "proof.json").read_text())
    assert bundle.training["screener"]["kind"] == "screener"
    assert bundle.scores == {
        "policy": {"judge/quality": 0.5},
        "screener": {"dev": {"f1": 0.9}},
    }
    assert {"merge.logits", "gguf.q8_0.kl", "screener.flips"} <= set(figures)
    card = (out / "README.md").read_text()
    assert all(row["meaning"] in card for row in figures.values())


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

    export_bundle(policy_run, screener_run, tmp_path / "b")
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


def test_every_gguf_type_can_be_written(policy_run: Path, tmp_path: Path) -> None:
    run = open_run(policy_run, "policy")
    policy = load_policy(run)
    exact = tmp_path / "exact.gguf"
    gguf_writer.write_gguf(policy.model, policy.tokenizer, exact, name="tiny", license="MIT")
    sizes = {}
    for kind in gguf_writer.GGUF_TYPES:
        file = tmp_path / f"{kind}.gguf"
        gguf_writer.convert_gguf(exact, file, kind)
        figures = proof.prove_logits(policy, file, kind, kl_at_most=10)
        assert np.isfinite(values(figures)[f"gguf.{kind}.kl"])
        sizes[kind] = file.stat().st_size
    assert sizes["f32"] > sizes["f16"] == sizes["bf16"] > sizes["q8_0"] > sizes["q4_0"]


def test_places_of_the_training_machine_are_not_published(
    policy_run: Path, screener_run: Path, tmp_path: Path
) -> None:
    export_bundle(policy_run, screener_run, tmp_path / "b", ExportConfig(gguf_type="f32"))
    manifest = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert manifest["training"]["policy"]["config"] == {"base": "base"}
    assert "/home" not in (tmp_path / "b" / "README.md").read_text()


def test_failed_proof_leaves_nothing(
    policy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundler, "_STORED_KL", 1e-12)
    with pytest.raises(ExportError, match=r"above 1e-12 \(gguf.q4_0.kl\); choose a --gguf type"):
        export_bundle(policy_run, None, tmp_path / "out", ExportConfig(gguf_type="q4_0"))
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_replaced_only_when_asked_and_ours(
    policy_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_bundle(policy_run, None, out)
    before = (out / "detoxifier.gguf").stat().st_size
    with pytest.raises(OutputError, match="exists: choose another folder or give --overwrite"):
        export_bundle(policy_run, None, out)
    export_bundle(policy_run, None, out, ExportConfig(gguf_type="f32"), overwrite=True)
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
        ExportConfig(gguf_type="q3")
    with pytest.raises(ExportError, match="'int4' are not one of int8, fp32"):
        ExportConfig(screener_weights="int4")
    assert dataclasses.asdict(ExportConfig())["gguf_type"] == "q8_0"


def test_multi_label_is_read_from_the_config() -> None:
    assert is_multi_label(transformers.BertConfig(problem_type="multi_label_classification"))
    assert not is_multi_label(transformers.BertConfig(num_labels=2))


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
    assert "mean KL divergence, q8_0 GGUF and trained weights" in result.stderr
    assert sorted(f.name for f in Path("only").glob("*.gguf")) == ["detoxifier.gguf"]
    assert not Path("only/screener").exists()
    result = CliRunner().invoke(main, ["export", "--quiet", "-o", "whole", "--name", "mine"])
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

    assert set(command._GGUF_TYPES) == set(gguf_writer.GGUF_TYPES)
