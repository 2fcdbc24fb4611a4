"""Llama models of usual shapes with random weights, for transformers and for llama.cpp.

They read and write with the tokenizer of a bundle and (almost) never end an answer by themselves,
so every engine writes the same number of tokens. Their speed is that of trained weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sro_edge.bundle import Bundle
from sro_edge.export.gguf_types import convert_gguf
from sro_edge.export.gguf_writer import About, write_gguf

SHAPES: dict[str, dict[str, int]] = {
    "17m": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "intermediate_size": 1024,
        "vocab_size": 16_384,
    },
    "135m": {  # SmolLM2-135M
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49_152,
    },
}


def make(shape: str, bundle: Bundle, folder: Path) -> tuple[Path, Path, Path]:
    """A model in ``folder``: (transformers folder, fp32 GGUF, q4_0 GGUF); made once."""
    trained = folder / shape
    full, quantized = folder / f"{shape}-f32.gguf", folder / f"{shape}-q4_0.gguf"
    if quantized.exists():
        return trained, full, quantized
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(bundle)
    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPES[shape],
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.06,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: Any = LlamaForCausalLM(config)
    model.save_pretrained(trained)
    about = About(name=shape, license="Apache-2.0", base=None, template=bundle.prompt)
    write_gguf(model, tokenizer, full, about)
    convert_gguf(full, quantized, "q4_0")
    return trained, full, quantized


def _tokenizer(bundle: Bundle) -> PreTrainedTokenizerFast:
    """The byte-level BPE of a bundle's GGUF, as a transformers tokenizer."""
    fields = gguf.GGUFReader(bundle.detoxifier).fields
    tokens, merges, kinds = (
        fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges", "token_type")
    )
    ids = {token: number for number, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocab=ids, merges=[tuple(m.split(" ")) for m in merges]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, kinds, strict=True) if kind == gguf.TokenType.CONTROL]
    made.add_special_tokens(control)
    named = {
        f"{name}_token": tokens[fields[f"tokenizer.ggml.{key}_token_id"].contents()]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    return PreTrainedTokenizerFast(tokenizer_object=made, **named)
