"""A transformers causal language model as GGUF, for llama.cpp.

Weights are first written in fp32 with the ``gguf`` library; llama.cpp itself then stores them in
the type asked for. Tensor layout and vocabulary follow llama.cpp's ``convert_hf_to_gguf.py``.
"""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from sro_edge.errors import ExportError
from sro_edge.export.merge import ARCHITECTURES

# Name -> llama.cpp's LLAMA_FTYPE constant.
GGUF_TYPES = {
    "f32": "LLAMA_FTYPE_ALL_F32",
    "f16": "LLAMA_FTYPE_MOSTLY_F16",
    "bf16": "LLAMA_FTYPE_MOSTLY_BF16",
    "q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0",
    "q6_k": "LLAMA_FTYPE_MOSTLY_Q6_K",
    "q4_k_m": "LLAMA_FTYPE_MOSTLY_Q4_K_M",
    "q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0",
}

_QWEN2_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_REGEX = _QWEN2_REGEX.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
# Steps of a pre-tokenizer (see _step) -> llama.cpp's name for the same splitting.
_PRE_TYPES = {
    ("ByteLevel with regex",): "gpt-2",
    (f"Split {_QWEN2_REGEX}", "ByteLevel"): "qwen2",
    (f"Split {_LLAMA3_REGEX}", "ByteLevel"): "llama-bpe",
    ("Digits one by one", "ByteLevel with regex"): "smollm",
}


def write_gguf(model: Any, tokenizer: Any, file: Path, *, name: str, license: str) -> None:
    """Write ``model`` in fp32.

    Args:
        model: a model of one of :data:`sro_edge.export.merge.ARCHITECTURES`, fp32.
        tokenizer: its transformers tokenizer, a byte-level BPE.
        file: where to.
        name: the model's name in the file.
        license: SPDX identifier.

    Raises:
        ExportError: the tokenizer, or a feature of the model, has no counterpart in llama.cpp.
    """
    architecture = ARCHITECTURES[type(model).__name__]
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name(name)
    writer.add_license(license)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_shape(writer, model.config)
    _add_vocabulary(writer, tokenizer, model)
    _add_rope_factors(writer, model, architecture)
    _add_weights(writer, model, architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def convert_gguf(source: Path, target: Path, gguf_type: str) -> None:
    """Write the fp32 file ``source`` as ``target`` in another type, with llama.cpp.

    Raises:
        ExportError: llama.cpp refuses.
    """
    from sro_edge.llama import library

    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, GGUF_TYPES[gguf_type])
    code = lib.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    if code != 0:
        raise ExportError(
            f"llama.cpp could not store the model as {gguf_type} (code {code}); try another type"
        )


def context_length(config: Any) -> int:
    """Longest sequence on which llama.cpp and transformers agree, in tokens.

    llama.cpp attends to everything in these architectures; within a sliding window so do they.
    """
    longest: int = config.max_position_embeddings
    return min(longest, getattr(config, "sliding_window", None) or longest)


def _add_shape(writer: gguf.GGUFWriter, config: Any) -> None:
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def _add_rope_factors(writer: gguf.GGUFWriter, model: Any, architecture: str) -> None:
    """What each rotary frequency is divided by, where a scaling stretches them (Llama 3)."""
    kind = model.config.rope_parameters.get("rope_type", "default")
    if kind == "default":
        return
    if kind not in ("llama3", "linear") or architecture != "llama":
        raise ExportError(
            f"rope type {kind!r} of {type(model).__name__} cannot be written as GGUF here; "
            "supported are 'default', and for Llama 'llama3' and 'linear'"
        )
    scaled = model.model.rotary_emb.inv_freq.double().numpy()  # (head_dim / 2,)
    exponent = np.arange(len(scaled)) / len(scaled)
    plain = model.config.rope_parameters["rope_theta"] ** -exponent
    writer.add_tensor("rope_freqs.weight", (plain / scaled).astype(np.float32))


def _add_weights(writer: gguf.GGUFWriter, model: Any, architecture: str) -> None:
    config = model.config
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers
    )
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    tied = embeddings.data_ptr() == head.data_ptr()
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        array = tensor.detach().float().contiguous().numpy()
        if architecture == "llama" and ".q_proj." in name:
            array = _interleave(array, config.num_attention_heads)
        if architecture == "llama" and ".k_proj." in name:
            array = _interleave(array, config.num_key_value_heads)
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ExportError(f"the weight {name} of {type(model).__name__} has no place in GGUF")
        writer.add_tensor(target, array)


def _interleave(array: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Rows of a query or key projection with the halves of each rotary pair side by side."""
    split = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(array.shape))


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Any, model: Any) -> None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    table = json.loads(backend.to_str()) if backend is not None else {"model": {}}
    if table["model"].get("type") != "BPE" or table["model"].get("byte_fallback"):
        raise ExportError(
            f"the tokenizer ({type(tokenizer).__name__}) is not a byte-level BPE, the only kind "
            "that can be written as GGUF here; SentencePiece tokenizers are not supported"
        )
    pre_type = pre_tokenizer_type(table["pre_tokenizer"])
    if (table["normalizer"] or {"type": "NFC"}) != {"type": "NFC"}:
        raise ExportError(
            f"the tokenizer normalises text with {json.dumps(table['normalizer'])}, which "
            "llama.cpp does not do; only NFC or no normaliser is supported"
        )
    tokens, types = _tokens(table, model.config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_type)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = table["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_add_bos_token(False)
    _add_special_ids(writer, tokenizer, model)


def _tokens(table: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """The ``size`` tokens of a tokenizer.json by id, with their GGUF types; gaps are unused."""
    kinds = gguf.TokenType
    entries = {number: (text, kinds.NORMAL) for text, number in table["model"]["vocab"].items()}
    for added in table["added_tokens"]:
        kind = kinds.CONTROL if added["special"] else kinds.USER_DEFINED
        entries[added["id"]] = (added["content"], kind)
    if max(entries) >= size:
        raise ExportError(
            f"the tokenizer has token ids up to {max(entries)}, the model only {size} embeddings: "
            "they do not belong together"
        )
    rows = [entries.get(number, (f"[PAD{number}]", kinds.UNUSED)) for number in range(size)]
    return [text for text, _ in rows], [int(kind) for _, kind in rows]


def _add_special_ids(writer: gguf.GGUFWriter, tokenizer: Any, model: Any) -> None:
    ends = model.generation_config.eos_token_id
    ends = [end for end in (ends if isinstance(ends, list) else [ends]) if end is not None]
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else next(iter(ends), None)
    if eos is None:
        raise ExportError("the tokenizer has no end token (eos_token), so no answer would ever end")
    writer.add_eos_token_id(eos)
    other_end = next((end for end in ends if end != eos), None)
    if other_end is not None:
        writer.add_eot_token_id(other_end)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def pre_tokenizer_type(pre_tokenizer: dict[str, Any] | None) -> str:
    """llama.cpp's name for a pre-tokenizer of ``tokenizer.json``.

    Raises:
        ExportError: llama.cpp's splitting is not known to be the same.
    """
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer] if pre_tokenizer else [])
    key = tuple(_step(step) for step in steps)
    if key not in _PRE_TYPES:
        raise ExportError(
            f"the tokenizer splits text with {json.dumps(pre_tokenizer, ensure_ascii=False)}, "
            "which is not known to llama.cpp; supported are the pre-tokenizers of GPT-2, Qwen 2, "
            "Qwen 3, Llama 3 and SmolLM"
        )
    return _PRE_TYPES[key]


def _step(step: dict[str, Any]) -> str:
    """What one step of a pre-tokenizer does, in a few words."""
    if step["type"] == "ByteLevel" and not step["add_prefix_space"]:
        return "ByteLevel with regex" if step["use_regex"] else "ByteLevel"
    if step["type"] == "Digits" and step["individual_digits"]:
        return "Digits one by one"
    if step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return f"Split {step['pattern'].get('Regex')}"
    return json.dumps(step)
