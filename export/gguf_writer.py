"""A transformers causal language model as GGUF in fp32, for llama.cpp.

Tensor layout and settings follow llama.cpp's ``convert_hf_to_gguf.py`` and its graphs
(``src/models/``). A setting that these graphs do not compute is refused by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from sro_edge.errors import ExportError
from sro_edge.export.gguf_vocabulary import add_vocabulary
from sro_edge.export.merge import ARCHITECTURES
from sro_edge.prompt import PromptTemplate

Floats = npt.NDArray[np.float32]

_INTERLEAVED = {"llama", "smollm3"}  # rotary pairs lie side by side, not half a head apart
_ACTIVATIONS = {"gemma3": "gelu_pytorch_tanh"}  # the others: silu
_NOPE_STEP = 4  # llama.cpp gives every fourth layer of SmolLM 3 no positions


@dataclass(frozen=True)
class About:
    """What the file says of itself.

    Args:
        name: the model's name.
        license: SPDX identifier of its weights.
        base: hub name, or name, of the model it was tuned from; None where that is unknown.
        template: how a comment becomes a prompt, for a tokenizer without a chat template.
    """

    name: str
    license: str
    base: str | None
    template: PromptTemplate


def write_gguf(model: Any, tokenizer: Any, file: Path, about: About) -> None:
    """Write ``model`` in fp32.

    Args:
        model: a model of one of :data:`sro_edge.export.merge.ARCHITECTURES`, fp32.
        tokenizer: its transformers tokenizer.
        file: where to.
        about: name, licence, origin and prompt.

    Raises:
        ExportError: the tokenizer, or a feature of the model, has no counterpart in llama.cpp; or
            a weight is not finite.
    """
    architecture = ARCHITECTURES[type(model).__name__]
    writer = gguf.GGUFWriter(file, architecture)
    _add_description(writer, tokenizer, about)
    _add_shape(writer, model.config, architecture)
    _add_rope(writer, model, architecture)
    add_vocabulary(writer, tokenizer, model)
    _add_weights(writer, model, architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def context_length(config: Any) -> int:
    """Longest sequence on which llama.cpp and transformers agree, in tokens.

    llama.cpp knows the sliding window of Gemma 3. In its other graphs here every token sees all
    before it; within the window so it does in transformers.
    """
    longest: int = config.max_position_embeddings
    if config.model_type == "gemma3_text":
        return longest
    return min(longest, getattr(config, "sliding_window", None) or longest)


def _add_description(writer: gguf.GGUFWriter, tokenizer: Any, about: About) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(about.name)
    writer.add_license(about.license)
    if about.base is not None:
        organization, _, name = about.base.rpartition("/")
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, name)
        if organization:
            writer.add_base_model_organization(0, organization)
            writer.add_base_model_repo_url(0, f"https://huggingface.co/{about.base}")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_chat_template(tokenizer.chat_template or jinja_of(about.template))


def jinja_of(template: PromptTemplate) -> str:
    """A chat template that puts the last message, as the comment, into ``template``."""
    comment = "messages[-1]['content'] | trim" + (" | lower" if template.lowercase else "")
    before, after = json.dumps(template.prefix + template.lead), json.dumps(template.suffix)
    return f"{{{{ {before} ~ ({comment}) ~ {after} }}}}"


def _add_shape(writer: gguf.GGUFWriter, config: Any, architecture: str) -> None:
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
    writer.add_vocab_size(config.vocab_size)
    activation = getattr(config, "hidden_act", None) or config.hidden_activation
    _require(activation, _ACTIVATIONS.get(architecture, "silu"), "activation", config)
    if architecture == "smollm3":
        layers = range(1, config.num_hidden_layers + 1)
        rotated = [int(layer % _NOPE_STEP != 0) for layer in layers]
        _require(list(config.no_rope_layers), rotated, "no_rope_layers", config)
    if architecture == "gemma3":
        _add_gemma3(writer, config)


def _add_gemma3(writer: gguf.GGUFWriter, config: Any) -> None:
    layers = config.num_hidden_layers
    full = [n for n, kind in enumerate(config.layer_types, 1) if kind == "full_attention"]
    step = full[0] if full else layers + 1
    _require(full, list(range(step, layers + 1, step)), "layers of full attention", config)
    _require(step > 1, True, "sliding layer", config)
    _require(config.final_logit_softcapping, None, "final_logit_softcapping", config)
    _require(bool(config.use_bidirectional_attention), False, "bidirectional attention", config)
    writer.add_sliding_window(config.sliding_window)
    writer.add_sliding_window_pattern(step)


def _require(found: Any, known: Any, setting: str, config: Any) -> None:
    if found != known:
        raise ExportError(
            f"llama.cpp computes {config.model_type} with {setting} {known}, but this model has "
            f"{found}: it cannot be written as GGUF"
        )


def _add_rope(writer: gguf.GGUFWriter, model: Any, architecture: str) -> None:
    """Base and scaling of the rotary positions; Gemma 3 has a second base for sliding layers."""
    config = model.config
    rope = config.rope_parameters
    if architecture == "gemma3":
        local = rope["sliding_attention"]
        _require(local["rope_type"], "default", "rope type of sliding layers", config)
        writer.add_rope_freq_base_swa(local["rope_theta"])
        rope = rope["full_attention"]
    _require(rope.get("partial_rotary_factor") or 1.0, 1.0, "partial_rotary_factor", config)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn":
        _add_yarn(writer, config, rope)
    elif kind == "llama3" and architecture == "llama":
        scaled = model.model.rotary_emb.inv_freq.double().numpy()  # (head_dim / 2,)
        plain = rope["rope_theta"] ** -(np.arange(len(scaled)) / len(scaled))
        writer.add_tensor("rope_freqs.weight", (plain / scaled).astype(np.float32))
    elif kind != "default":
        raise ExportError(
            f"rope type {kind!r} of {type(model).__name__} cannot be written as GGUF here; "
            "supported are 'default', 'linear' and 'yarn', and for Llama and Mistral 'llama3'"
        )


def _add_yarn(writer: gguf.GGUFWriter, config: Any, rope: dict[str, Any]) -> None:
    """YaRN (Peng et al. 2023) with the attention factor that both sides derive from the factor."""
    for name in ("attention_factor", "mscale", "mscale_all_dim"):
        _require(rope.get(name), None, f"yarn {name}", config)
    _require(rope.get("truncate", True), True, "yarn truncate", config)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_rope_scaling_yarn_beta_fast(rope.get("beta_fast") or 32.0)
    writer.add_rope_scaling_yarn_beta_slow(rope.get("beta_slow") or 1.0)


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
        if not np.isfinite(array).all():
            raise ExportError(
                f"the weight {name} holds NaN or infinite numbers: the training run diverged; "
                "export an earlier checkpoint, or train again with a lower learning rate"
            )
        if architecture in _INTERLEAVED and ".q_proj." in name:
            array = _interleave(array, config.num_attention_heads)
        if architecture in _INTERLEAVED and ".k_proj." in name:
            array = _interleave(array, config.num_key_value_heads)
        if architecture == "gemma3" and name.endswith("norm.weight"):
            array = array + np.float32(1)  # its norms multiply by 1 + weight
        if architecture == "gemma3" and ".q_norm." in name:
            array = array * _query_scale(config)
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ExportError(f"the weight {name} of {type(model).__name__} has no place in GGUF")
        writer.add_tensor(target, array)


def _query_scale(config: Any) -> np.float32:
    """What brings llama.cpp's scale of Gemma 3's attention to the model's own.

    llama.cpp divides queries by the root of the head's width; in the 27 B model, which it knows by
    its 62 layers, of a head's share of the hidden width.
    """
    share = config.hidden_size // config.num_attention_heads
    divisor = share if config.num_hidden_layers == 62 else config.head_dim
    return np.float32((divisor / config.query_pre_attn_scalar) ** 0.5)


def _interleave(array: Floats, heads: int) -> Floats:
    """Rows of a query or key projection with the halves of each rotary pair side by side."""
    split = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(array.shape))
