"""Checkpoints that survive ``kill -9``: written beside, then renamed; safetensors, no pickle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def save(
    run: Path,
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    state: dict[str, Any],
) -> None:
    """Write the trainable weights, the optimisers and ``state`` to ``run/checkpoint``."""
    new, current = run / "checkpoint.new", run / "checkpoint"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    save_weights(new / "model.safetensors", model)
    slots, plain = {}, {}
    for which, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                if torch.is_tensor(value):
                    slots[f"{which}.{index}.{name}"] = value.contiguous()
                else:
                    plain[f"{which}.{index}.{name}"] = value
    slots["rng"] = torch.get_rng_state()
    save_file(slots, new / "optimizer.safetensors")
    (new / "state.json").write_text(json.dumps({"state": state, "optimizer": plain}))
    for file in new.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    if current.exists():
        os.replace(current, _trash(run))
    os.replace(new, current)
    shutil.rmtree(run / "checkpoint.old", ignore_errors=True)


def _trash(run: Path) -> Path:
    old = run / "checkpoint.old"
    shutil.rmtree(old, ignore_errors=True)
    return old


def load(
    run: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, Any] | None:
    """Restore the newest complete checkpoint of ``run``; None where there is none."""
    folder = next((f for n in ("checkpoint", "checkpoint.old") if (f := run / n).exists()), None)
    if folder is None:
        return None
    stored = json.loads((folder / "state.json").read_text())
    load_weights(folder / "model.safetensors", model)
    slots = load_file(folder / "optimizer.safetensors")
    torch.set_rng_state(slots.pop("rng"))
    states: list[dict[int, dict[str, Any]]] = [{} for _ in optimizers]
    for key, value in {**slots, **stored["optimizer"]}.items():
        which, index, name = key.split(".", 2)
        states[int(which)].setdefault(int(index), {})[name] = value
    for optimizer, slot in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(
            {"state": slot, "param_groups": optimizer.state_dict()["param_groups"]}
        )
    state: dict[str, Any] = stored["state"]
    return state


def save_weights(file: Path, model: torch.nn.Module) -> None:
    """Write the trainable weights to ``file``, through a temporary name."""
    tensors = {n: p.detach().contiguous() for n, p in model.named_parameters() if p.requires_grad}
    new = file.with_suffix(".new")
    save_file(tensors, new)
    os.replace(new, file)


@torch.no_grad()
def load_weights(file: Path, model: torch.nn.Module) -> None:
    """Read trainable weights written by :func:`save_weights` into ``model``."""
    weights = load_file(file)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(weights[name])
