"""The AMX layout of weights is left out, wherever it stands."""

from __future__ import annotations

import ctypes
import sys

import pytest

from sro_edge.ggml_buffers import leave_out_amx, remove
from sro_edge.llama import library


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["AMX", "CPU_REPACK"], ["CPU_REPACK"]),
        (["CPU_KLEIDIAI", "AMX", "CPU_REPACK"], ["CPU_KLEIDIAI", "CPU_REPACK"]),
        (["CPU_REPACK"], ["CPU_REPACK"]),
        (["AMX"], []),
        ([], []),
    ],
)
def test_the_amx_layout_is_left_out(names: list[str], left: list[str]) -> None:
    buffers = {place: name.encode() for place, name in enumerate(names, 1)}
    layouts = (ctypes.c_void_p * (len(names) + 1))(*buffers, None)
    assert remove(layouts, buffers.__getitem__) == [name.encode() for name in left]
    kept = [value for value in layouts[: len(left)] if value]
    assert [buffers[value].decode() for value in kept] == left
    assert layouts[len(left)] is None


def test_llama_cpp_has_none_for_amx() -> None:
    library()
    left = leave_out_amx()
    assert b"AMX" not in left
    if sys.platform == "linux":
        assert b"CPU_REPACK" in left  # so the list was found
