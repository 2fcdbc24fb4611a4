"""Which layouts of its weights llama.cpp may choose on a CPU: all but the one for AMX.

llama.cpp writes the configuration of the AMX tiles in a way of which some compilers (seen with GCC
12.2) leave most out, and such a build dies of the first matrix product on a processor with AMX
(ggml-org/llama.cpp, issue 20824 and pull request 26954, open in 2026). No build says what it was
compiled with, so the AMX kernels are never chosen; those for AVX-512 take their place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

_CPU_DEVICE = 0  # GGML_BACKEND_DEVICE_TYPE_CPU
_LEFT_OUT = b"AMX"


def leave_out_amx() -> list[bytes]:
    """Take the AMX layout out of the list that llama.cpp goes through as it loads a model.

    Returns:
        The names of the layouts that are left beside the plain one; none where the list is not to
        be had, as on Windows: there llama.cpp chooses as it likes.
    """
    try:
        from llama_cpp._ggml import libggml

        return _leave_out(libggml)
    except (ImportError, AttributeError):  # another version keeps it elsewhere
        return []


def _leave_out(libggml: Any) -> list[bytes]:
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    device = _function(libggml, "ggml_backend_dev_by_type", pointer, ctypes.c_int)(_CPU_DEVICE)
    registry = _function(libggml, "ggml_backend_dev_backend_reg", pointer, pointer)(device)
    find = _function(libggml, "ggml_backend_reg_get_proc_address", pointer, pointer, text)
    address = find(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return []
    layouts = ctypes.CFUNCTYPE(ctypes.POINTER(pointer), pointer)(address)(device)
    return remove(layouts, _function(libggml, "ggml_backend_buft_name", text, pointer))


def remove(layouts: Any, name_of: Callable[[int], bytes]) -> list[bytes]:
    """Move what follows the AMX layout in a list that ends with a null pointer one place up.

    Args:
        layouts: pointer to the first of ggml's buffer types.
        name_of: gives the name of one.

    Returns:
        The names of those that are left.
    """
    left: list[bytes] = []
    place = 0
    while layouts[place]:
        name = name_of(layouts[place])
        if name != _LEFT_OUT:
            layouts[len(left)] = layouts[place]
            left.append(name)
        place += 1
    layouts[len(left)] = None
    return left


def _function(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    return ctypes.CFUNCTYPE(result, *arguments)((name, library))
