"""Tiny random models of the families that are fine-tuned, with tokenizers of their true shape.

The tokenizers have each family's special tokens, pre-tokenizer and chat template (shortened to the
turns that are used here), on a vocabulary trained on a few sentences.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from toy_models import SENTENCES

from sro_edge.export.gguf_vocabulary import LLAMA3_REGEX, QWEN2_REGEX

_CHATML = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
_CHATML_SYSTEM = "{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}" + _CHATML
_THINKLESS = "{%- if enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
_QWEN3 = _CHATML.replace(
    "assistant\\n' }}{%- endif", "assistant\\n' }}" + _THINKLESS + "{%- endif"
).replace(
    "+ m.content",
    "+ ('<think>\\n\\n</think>\\n\\n' if loop.last and not loop.first else '') + m.content",
)
_SMOLLM3 = (
    "{{ '<|im_start|>system\\n## Metadata\\n\\nReasoning Mode: ' + "
    "('/think' if enable_thinking else '/no_think') + '\\n\\n<|im_end|>\\n' }}" + _QWEN3
)
_LLAMA = (
    "{{ bos_token }}{%- for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>"
    "\\n\\n' + m.content | trim + '<|eot_id|>' }}{%- endfor %}{%- if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
_GEMMA = (
    "{{ bos_token }}{%- for m in messages %}{%- set role = 'model' if m.role == 'assistant' else "
    "m.role %}{{ '<start_of_turn>' + role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{%- endif %}"
)


@dataclass(frozen=True)
class Family:
    """What sets a family apart: its model class, its tokens and its chat template."""

    model: str
    special: tuple[str, ...]
    eos: str
    end: str  # the token that ends an answer
    bos: str | None = None
    pad: str | None = None
    template: str | None = None
    words: Any = None  # pre-tokenizer; None: SentencePiece
    plain_added: tuple[str, ...] = ()
    shape: dict[str, Any] = field(default_factory=dict)


def _split(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


_SMOL = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
)
_IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_HEADER = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
_THINK = ("<think>", "</think>")

FAMILIES = {
    "llama": Family(
        "LlamaForCausalLM",
        (*_HEADER, "<|end_of_text|>", "<|eot_id|>"),
        eos="<|eot_id|>",
        end="<|eot_id|>",
        bos="<|begin_of_text|>",
        template=_LLAMA,
        words=_split(LLAMA3_REGEX),
    ),
    # A base model: its template is ChatML, its end token that of a document.
    "qwen2": Family(
        "Qwen2ForCausalLM",
        _IM,
        eos="<|endoftext|>",
        end="<|im_end|>",
        pad="<|endoftext|>",
        template=_CHATML_SYSTEM,
        words=_split(QWEN2_REGEX),
        shape={"tie_word_embeddings": True},
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        _IM,
        eos="<|im_end|>",
        end="<|im_end|>",
        pad="<|endoftext|>",
        template=_QWEN3,
        words=_split(QWEN2_REGEX),
        plain_added=_THINK,
        shape={"head_dim": 16},
    ),
    "smollm": Family(
        "LlamaForCausalLM",
        _IM,
        eos="<|im_end|>",
        end="<|im_end|>",
        bos="<|im_start|>",
        pad="<|im_end|>",
        template=_CHATML_SYSTEM,
        words=_SMOL,
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        _IM,
        eos="<|im_end|>",
        end="<|im_end|>",
        pad="<|im_end|>",
        template=_SMOLLM3,
        words=_split(LLAMA3_REGEX),
        plain_added=_THINK,
        shape={"pad_token_id": None},
    ),
    "gemma3": Family(
        "Gemma3ForCausalLM",
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        eos="<eos>",
        end="<end_of_turn>",
        bos="<bos>",
        pad="<pad>",
        template=_GEMMA,
        shape={"head_dim": 16, "sliding_window": 32, "tie_word_embeddings": True},
    ),
    "gpt2": Family(
        "GPT2LMHeadModel",
        ("<|endoftext|>",),
        eos="<|endoftext|>",
        end="<|endoftext|>",
        bos="<|endoftext|>",
        words=pre_tokenizers.ByteLevel(add_prefix_space=False),
    ),
}


def family_tokenizer(family: Family) -> Any:
    """A tokenizer of the family's shape, of about 400 tokens."""
    core = _sentencepiece(family) if family.words is None else _byte_level(family)
    core.add_tokens(list(family.plain_added))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.pad,
        chat_template=family.template,
        clean_up_tokenization_spaces=False,
    )


def _byte_level(family: Family) -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = family.words
    core.decoder = decoders.ByteLevel()
    _train(core, family, pre_tokenizers.ByteLevel.alphabet())
    return core


def _sentencepiece(family: Family) -> Tokenizer:
    """BPE over characters with the space as a letter, and bytes for what it does not know."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    _train(core, family, [])
    table = json.loads(core.to_str())
    for byte in range(256):
        table["model"]["vocab"].setdefault(f"<0x{byte:02X}>", len(table["model"]["vocab"]))
    return Tokenizer.from_str(json.dumps(table))


def _train(core: Tokenizer, family: Family, alphabet: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*family.special],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    core.train_from_iterator((" " + s for s in SENTENCES), trainer)


def write_family(folder: Path, name: str, **changes: Any) -> Path:
    """A tiny random model of family ``name`` with its tokenizer, as a Hugging Face folder."""
    family = replace(FAMILIES[name], **changes)
    tokenizer = family_tokenizer(family)
    torch.manual_seed(2)
    cls = getattr(transformers, family.model)
    config = cls.config_class(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 256,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **({} if name == "gpt2" else {"num_key_value_heads": 2}),
            **family.shape,
        }
    )
    cls(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
