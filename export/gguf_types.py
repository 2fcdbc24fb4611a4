"""The types in which llama.cpp stores weights, and storing them so."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from sro_edge.errors import ExportError

# Name -> llama.cpp's LLAMA_FTYPE constant, from the most bits a weight to the fewest.
GGUF_TYPES = {
    "f32": "LLAMA_FTYPE_ALL_F32",
    "f16": "LLAMA_FTYPE_MOSTLY_F16",
    "bf16": "LLAMA_FTYPE_MOSTLY_BF16",
    "q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0",
    "q6_k": "LLAMA_FTYPE_MOSTLY_Q6_K",
    "q5_k_m": "LLAMA_FTYPE_MOSTLY_Q5_K_M",
    "q4_k_m": "LLAMA_FTYPE_MOSTLY_Q4_K_M",
    "q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0",
    "iq4_nl": "LLAMA_FTYPE_MOSTLY_IQ4_NL",
}
DEFAULT_TYPE = "q8_0"
_BITS = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q6_k": 6.6, "q5_k_m": 6, "q4_k_m": 5.2}


def estimated_bytes(parameters: int, gguf_type: str) -> int:
    """How large a file will be at most; embeddings are kept in more bits than the rest."""
    return int(parameters * _BITS.get(gguf_type, 5.2) / 8 * 1.2) + 16_000_000


def convert_gguf(source: Path, target: Path, gguf_type: str) -> None:
    """Write the fp32 file ``source`` as ``target`` in another type, with llama.cpp.

    Raises:
        ExportError: llama.cpp refuses.
    """
    from sro_edge.llama import library

    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, GGUF_TYPES[gguf_type])
    # llama.cpp would store the embeddings, which are the output layer, too, as q6_K. Of a small
    # model they are half the work of a step, and q4_0 has the faster kernels.
    params.pure = gguf_type == "q4_0"
    code = lib.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    if code != 0:
        raise ExportError(
            f"llama.cpp could not store the model as {gguf_type} (code {code}); try another type"
        )
