"""What the export tests share: toy decoders, classifiers, tokenizers, and runs that hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers.convert_slow_tokenizer import generate_merges

from sro_edge.export.figures import Figure
from sro_edge.export.gguf_vocabulary import LLAMA3_REGEX, QWEN2_REGEX
from sro_edge.export.gguf_writer import About
from sro_edge.export.merge import Policy
from sro_edge.prompt import SMALL_TEMPLATE

SENTENCES = [
    "the weather was fine and we walked along the river until it was dark .",
    "what a stupid idea , only an idiot would say this about my friend !",
    "people like you never listen , you just shout and shout again .",
    "i think your point is wrong , but thanks for writing it down .",
    "the new bridge opens in 2025 and costs 1,250,000 euros .",
]
SPECIALS = ["<s>", "</s>", "<pad>", "<|rewrite|>"]
ABOUT = About("tiny", "MIT", None, SMALL_TEMPLATE)
PRE_TOKENIZERS: dict[str, Any] = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "qwen2": [
        pre_tokenizers.Split(Regex(QWEN2_REGEX), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "llama-bpe": [
        pre_tokenizers.Split(Regex(LLAMA3_REGEX), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "smaug-bpe": [
        pre_tokenizers.Split(Regex(LLAMA3_REGEX), "isolated"),
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


SENTENCEPIECE = ("llama-2", "mistral", "gemma")


def make_sentencepiece_tokenizer(kind: str = "gemma", *, listed: bool = True) -> Any:
    """A BPE of about 600 tokens with byte fallback, as SentencePiece's are converted.

    Args:
        kind: ``llama-2`` puts a space before every piece of text, ``mistral`` before the first,
            ``gemma`` before none.
        listed: every pair of tokens that spells a third has a merge; as trained, one a token has.
    """
    control = ["<pad>", "</s>", "<s>", "<unk>", "<|rewrite|>"]
    start = [*control, *(f"<0x{byte:02X}>" for byte in range(256))]
    learned = Tokenizer(models.BPE())
    learned.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=340, show_progress=False)
    learned.train_from_iterator((" " + s for s in SENTENCES), trainer)
    core = json.loads(learned.to_str())["model"]
    # Characters first, then what the merges make, in their order.
    pieces = sorted(core["vocab"], key=lambda piece: (len(piece) > 1, core["vocab"][piece]))
    vocabulary = {piece: number for number, piece in enumerate([*start, *pieces])}
    merges = [tuple(merge) for merge in core["merges"]]
    if listed:
        merges = generate_merges({p: n for p, n in vocabulary.items() if p in core["vocab"]}, None)
    whole = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    replace = normalizers.Replace(" ", "▁")
    if kind == "llama-2":
        whole.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    elif kind == "mistral":
        whole.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    else:
        whole.normalizer = replace
        whole.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    whole.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=whole,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
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
    name = "Gemma3Text" if kind == "Gemma3" else kind
    config = getattr(transformers, f"{name}Config")(**{**shape, **settings})
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "norm.weight")):  # else 0 and 1, which hide mistakes
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def make_policy(model: Any, tokenizer: Any) -> Policy:
    return Policy(model, tokenizer, SMALL_TEMPLATE, {}, None, [])


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


def values(figures: list[Figure]) -> dict[str, float]:
    return {figure.key: figure.value for figure in figures}


def write_policy_run(run: Path) -> None:
    """Fill ``run`` with a finished warm start, as the trainer leaves it."""
    make_model(tie_word_embeddings=True).save_pretrained(run / "model")
    make_tokenizer().save_pretrained(run / "model")
    (run / "model" / "prompt.json").write_text(json.dumps(SMALL_TEMPLATE.to_dict()))
    (run / "model" / "lexicon.json").write_text('{"idiot": 3.5}')
    record = {"kind": "warm-start", "config": {"base": "/home/someone/models/base"}, "step": 7}
    (run / "run.json").write_text(json.dumps(record))


def write_adapter_run(run: Path, policy_run: Path) -> None:
    """Fill ``run`` with a finished SRO run: a LoRA adapter on top of the warm start."""
    from peft import LoraConfig, get_peft_model

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


def write_screener_run(run: Path) -> None:
    """Fill ``run`` with a finished screener: a tiny BERT, both labels and an embedding."""
    classifier = make_classifier(
        id2label={0: "toxic", 1: "fluent"}, problem_type="multi_label_classification"
    )
    classifier.config.sro_embedding = "mean"
    classifier.save_pretrained(run / "model")
    make_word_tokenizer().save_pretrained(run / "model")
    (run / "model" / "thresholds.json").write_text('{"toxicity": 0.99, "similarity": 0.7}')
    (run / "run.json").write_text('{"kind": "screener", "metrics": {"dev": {"f1": 0.9}}}')
