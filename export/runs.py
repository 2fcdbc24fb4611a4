"""Run folders: where a training command left its model, and how to find the newest one.

A run has ``run.json`` (what was trained, how, its figures) and the model in ``model/`` (a Hugging
Face folder) or ``adapter/`` (a LoRA adapter). A plain Hugging Face folder is taken as well.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sro_edge.errors import ExportError

Part = Literal["policy", "screener"]
_KINDS: dict[Part, tuple[str, ...]] = {"policy": ("warm-start", "sro"), "screener": ("screener",)}

_UNFINISHED = ("metrics.jsonl", "checkpoint", "checkpoint.new", "best.safetensors")


@dataclass(frozen=True)
class Run:
    """A trained model on disk.

    Args:
        folder: what the user named.
        model: the Hugging Face folder or LoRA adapter in it.
        record: content of ``run.json``; empty for a plain Hugging Face folder.
    """

    folder: Path
    model: Path
    record: dict[str, Any]

    @property
    def is_adapter(self) -> bool:
        """Whether :attr:`model` is a LoRA adapter, whose base lies elsewhere."""
        return (self.model / "adapter_config.json").is_file()

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON object beside the model's weights; None where there is no such file.

        Raises:
            ExportError: the file is not a JSON object.
        """
        return read_object(self.model / name)


def open_run(folder: Path, part: Part) -> Run:
    """Find the model in ``folder``.

    Args:
        folder: a run, a Hugging Face folder or an adapter.
        part: what the run must have trained.

    Raises:
        ExportError: there is no finished model of that kind.
    """
    record = read_object(folder / "run.json")
    if record is not None and record.get("kind") not in _KINDS[part]:
        raise ExportError(
            f"{folder} is a {record.get('kind')!r} run, but a {part} was asked for, which comes "
            f"from a run of kind {' or '.join(_KINDS[part])}"
        )
    if record is None and any((folder / name).exists() for name in _UNFINISHED):
        raise ExportError(
            f"{folder} is a training run that is still being written, or that was interrupted: it "
            "has no run.json yet; wait for it, or go on with the command that began it"
        )
    for model in (folder / "adapter", folder / "model", folder):
        if any((model / name).is_file() for name in ("adapter_config.json", "config.json")):
            return Run(folder, model, record or {})
    raise ExportError(
        f"{folder} holds no model (neither model/config.json nor adapter/adapter_config.json nor "
        "config.json): give a finished run or a Hugging Face folder"
    )


def trained_record(run: Path, kind: str, command: str) -> dict[str, Any]:
    """``run.json`` of a finished run of ``command``, whose kind is ``kind``.

    Raises:
        ExportError: there is none, or it is of another kind.
    """
    record = read_object(run / "run.json")
    if record is None or record.get("kind") != kind:
        raise ExportError(f"{run} is no finished run of {command}: give the folder that it wrote")
    return record


def newest_run(part: Part, root: Path = Path("runs")) -> Path:
    """The folder under ``root`` whose ``run.json`` is of that kind and was written last.

    Raises:
        ExportError: there is none.
    """
    found = [
        file
        for file in root.glob("*/run.json")
        if (read_object(file) or {}).get("kind") in _KINDS[part]
    ]
    if not found:
        option = "RUN" if part == "policy" else "--screener RUN"
        raise ExportError(
            f"{root}/ has no finished {part} run: train one, or name it with {option}"
        )
    return max(found, key=lambda file: file.stat().st_mtime).parent


def read_object(file: Path) -> dict[str, Any] | None:
    """The JSON object in ``file``; None where there is no such file.

    Raises:
        ExportError: it is not a JSON object.
    """
    try:
        data = json.loads(file.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ExportError(f"{file} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ExportError(f"{file} must hold a JSON object, not {type(data).__name__}")
    return data
