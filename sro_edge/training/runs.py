"""Run folders: where a training leaves its model, and what stands beside it."""

from __future__ import annotations

import json
from pathlib import Path

from sro_edge.bundle import Thresholds


def model_folder(name: str | Path) -> str:
    """The HF folder or adapter of a run; a plain HF folder or hub name is given back as it is."""
    found = (f for part in ("model", "adapter") if (f := Path(name) / part).is_dir())
    return str(next(found, name))


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
