"""One process, or several under ``accelerate launch``: all that they tell each other.

Every process holds the whole policy and works on its share of each batch. After the backward passes
the gradients are averaged, so a step is the one that a single process takes on the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env
from accelerate.utils import reduce as all_reduce

T = TypeVar("T")


def device() -> torch.device:
    """Where this process computes."""
    found: torch.device = _state().device
    return found


def count() -> int:
    """How many processes train together."""
    return int(_state().num_processes)


def is_main() -> bool:
    """Whether this process writes and speaks for all."""
    return bool(_state().is_main_process)


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's part of ``items``: every n-th."""
    state = _state()
    return items[state.process_index :: state.num_processes]


def gather(items: Sequence[T]) -> list[T]:
    """The items of all processes, process after process."""
    return list(gather_object(list(items))) if count() > 1 else list(items)


def from_main(value: T | None) -> T:
    """What the main process holds."""
    values: list[Any] = [value]
    if count() > 1:
        broadcast_object_list(values)
    found: T = values[0]
    return found


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Give every process the mean of all processes' gradients."""
    if count() == 1:
        return
    for parameter in parameters:
        own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad = all_reduce(own, "mean")


def average_metrics(metrics: dict[str, float]) -> dict[str, float]:
    """The mean of each metric over the processes that have it."""
    parts = gather([metrics])
    names = dict.fromkeys(name for part in parts for name in part)
    values = {name: [part[name] for part in parts if name in part] for name in names}
    return {name: sum(found) / len(found) for name, found in values.items()}


def part() -> None:
    """Wait for the others and leave their group; the last that a process does with them.

    Without it, the group's threads may still run while the interpreter ends, which aborts it.
    """
    if count() > 1:
        _state().wait_for_everyone()
        _state().destroy_process_group()


def _state() -> PartialState:
    # Unless told that it runs on CPUs, accelerate takes each of several processes for a lone one.
    return PartialState(
        cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    )
