"""Memory: what the libraries hold on to is given back, and a shortage is explained.

Training meets matrices of ever new shapes, and buffers that grow and go. What PyTorch and the C
library keep of either, to be quick the next time, would soon take more than the model itself.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from sro_edge.errors import ModelError

# What torch's allocator for the CPU says; it has no exception of its own.
_CPU_MESSAGES = ("can't allocate memory", "not enough memory")

# oneDNN, which multiplies bf16 on CPUs, and PyTorch above it keep code and buffers for the last
# 1024 shapes each. Almost no shape comes again in a later step, and those of one step are few.
_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "1"}
_LARGE = 50_000_000  # parameters of a model from which on it is worth giving memory back


def bound_kernel_caches() -> None:
    """Keep kernels of a few shapes only, unless the environment says how many.

    Both libraries read that when they first multiply, so this comes before.
    """
    for name, capacity in _CACHES.items():
        os.environ.setdefault(name, capacity)


def return_freed(model: Any) -> None:
    """Give memory that is free back to the system, where the C library is glibc.

    A heap is otherwise as large as it ever was, and full of holes: what a rollout freed would still
    count when the update takes its own. With a small ``model`` the same pages would only be taken
    again at once, which costs a tenth of a step, so then nothing is done.
    """
    trim = _malloc_trim()
    if trim and model.num_parameters() >= _LARGE:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # not glibc: musl, macOS, Windows
        return None
    return found


@contextmanager
def explain_shortage() -> Iterator[None]:
    """Turn an out-of-memory error into a sentence that names what to change.

    Raises:
        ModelError: memory ran out inside the block.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        told = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not told and not any(message in str(error) for message in _CPU_MESSAGES):
            raise
        raise ModelError(
            "the memory does not suffice: lower --micro-batch-tokens, add "
            "--gradient-checkpointing (both give the same results, so --resume goes on from the "
            "last checkpoint), or begin a new run with --four-bit"
        ) from error
