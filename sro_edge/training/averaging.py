"""The mean of the weights of several runs ("model soup", Wortsman et al. 2022, arXiv 2203.05482).

Runs that go on from one another, or from one start, often lie in one valley of the loss: the mean
of their weights is then better than each, and costs nothing more at inference.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sro_edge.durable import write_json
from sro_edge.errors import ModelError
from sro_edge.folders import new_folder
from sro_edge.training.runs import model_folder, run_record

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
_MEASURED = ("before", "kept")  # figures of one run's own weights


def average_runs(runs: Sequence[Path], out: Path) -> None:
    """Write the mean of the models of ``runs`` as a run of its own.

    All but the weights comes from the first run. ``run.json`` is the first one's without its
    figures; ``averaged`` in it holds those of the others.

    Args:
        runs: two or more finished runs of `train` or `warm-start`, no adapters.
        out: the run folder to make.

    Raises:
        ModelError: a run has no whole model, or they differ in shape or tokenizer.
        OutputError: ``out`` is there already, or cannot be written.
    """
    folders = [Path(model_folder(run)) for run in runs]
    records = [_record(run) for run in runs]
    words = [_read(folder / TOKENIZER) for folder in folders]
    for run, found in zip(runs[1:], words[1:], strict=True):
        if found != words[0]:
            raise ModelError(f"{run} has another tokenizer than {runs[0]}: {_ADVICE}")
    mean = _mean(runs, [folder / WEIGHTS for folder in folders])
    with new_folder(out, overwrite=False, is_ours=lambda _: False) as (folder, _):
        shutil.copytree(folders[0], folder / "model", ignore=shutil.ignore_patterns(WEIGHTS))
        save_file(mean, folder / "model" / WEIGHTS, metadata={"format": "pt"})
        write_json(folder / "run.json", records[0] | {"averaged": records[1:]})


_ADVICE = "only runs that go on from one another, or from one start, can be averaged"


def _mean(runs: Sequence[Path], files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """The mean of the tensors of several files, summed up in fp32, one file at a time."""
    first = _load(files[0])
    total = {name: tensor.float() for name, tensor in first.items()}
    for run, file in zip(runs[1:], files[1:], strict=True):
        found = _load(file)
        if {n: t.shape for n, t in found.items()} != {n: t.shape for n, t in first.items()}:
            raise ModelError(
                f"{run} has tensors of other names or shapes than {runs[0]}: {_ADVICE}"
            )
        total = {name: tensor + found[name].float() for name, tensor in total.items()}
    return {name: (t / len(files)).to(first[name].dtype) for name, t in total.items()}


def _load(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{file.parent} has no {WEIGHTS} that can be read, so it cannot be averaged: give runs "
            f"of full fine-tuning (--full), whose model is in one file ({error})"
        ) from error


def _read(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _record(run: Path) -> dict[str, Any]:
    record = run_record(run)
    if record is None:
        raise ModelError(f"{run} has no run.json: give finished runs of `sro-edge train`")
    return {name: value for name, value in record.items() if name not in _MEASURED}
