"""Running out of memory is the user's to mend: it is told which settings save some."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sro_edge.errors import ModelError

# What torch's allocator for the CPU says; it has no exception of its own.
_CPU_MESSAGES = ("can't allocate memory", "not enough memory")


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
