"""Run folders: where a training leaves its model, and what stands beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from sro_edge.bundle import Thresholds
from sro_edge.checkpoints import differences
from sro_edge.durable import write_json
from sro_edge.errors import OutputError

TOXICITY, FLUENCY = "toxicity", "fluency"  # folders in a run of judges


def model_folder(name: str | Path) -> str:
    """The HF folder or adapter of a run; a plain HF folder or hub name is given back as it is.

    Of a run of judges, that is the toxicity judge.
    """
    parts = ("model", "adapter", f"{TOXICITY}/model")
    return str(next((f for part in parts if (f := Path(name) / part).is_dir()), name))


def fluency_folder(name: str | Path) -> Path | None:
    """The HF folder of the fluency judge in a run of judges; None where there is none."""
    folder = Path(name) / FLUENCY / "model"
    return folder if folder.is_dir() else None


def stored_thresholds(name: str | Path, toxicity: float | None = None) -> Thresholds:
    """``thresholds.json`` beside a screener, else the defaults (toxicity 0.5).

    Args:
        name: run folder, HF folder or hub name.
        toxicity: in place of the stored one.
    """
    file = Path(model_folder(name)) / "thresholds.json"
    values = json.loads(file.read_text("utf-8")) if file.is_file() else {"toxicity": 0.5}
    if toxicity is not None:
        values["toxicity"] = toxicity
    return Thresholds(**values)


def run_record(name: str | Path) -> dict[str, Any] | None:
    """``run.json`` of a run, or of the run that an HF folder lies in; None for other models.

    Args:
        name: run folder, HF folder or hub name.
    """
    found = (f for f in (Path(name), Path(name).parent) if (f / "run.json").is_file())
    folder = next(found, None)
    record: dict[str, Any] | None = None
    if folder is not None:
        record = json.loads((folder / "run.json").read_text("utf-8"))
    return record


def measured_error(name: str | Path) -> float:
    """Share of labelled comments that a screener's run found it wrong about; else 0.

    Comments count that it did not learn from, at the threshold that the run chose: those of
    ``--test`` where there were any, else of ``--dev``. It is never half or more of them.

    Args:
        name: run folder, or the HF folder in one.
    """
    record = run_record(name) or {}
    metrics = record.get("metrics", {}) if record.get("kind") == "screener" else {}
    report = metrics.get("test") or metrics.get("dev") or {}
    accuracy = report.get("all", {}).get("accuracy", 1.0)
    return round(min(1 - float(accuracy), 0.49), 4)


def digest(texts: Iterable[str]) -> str:
    """SHA-256 of texts in their order."""
    return hashlib.sha256("\0".join(texts).encode(errors="replace")).hexdigest()


def begin_run(run: Path, asked: dict[str, Any], free: Collection[str] = ()) -> dict[str, Any]:
    """Note in ``settings.json`` what a run is asked to do, or check that it is asked the same.

    Args:
        run: the run folder; made where it is missing.
        asked: everything that decides the result, as JSON types.
        free: names (``config.steps``) that may differ on resumption.

    Returns:
        what the run was asked when it began.

    Raises:
        OutputError: names what differs.
    """
    file = run / "settings.json"
    if not file.is_file():
        run.mkdir(parents=True, exist_ok=True)
        write_json(file, asked)
        return asked
    stored: dict[str, Any] = json.loads(file.read_text("utf-8"))
    found = differences(stored, asked, free)
    if found:
        raise OutputError(
            f"{run} holds a run with other settings: {'; '.join(found)}. Give the earlier ones to "
            "go on with it, or another --out to begin anew"
        )
    return stored
