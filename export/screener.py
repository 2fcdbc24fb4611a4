"""The screener's half of an export: written as ONNX, proven."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from sro_edge.export.config import ExportConfig, Part
from sro_edge.export.figures import require
from sro_edge.export.onnx_writer import load_screener, write_screener
from sro_edge.export.proof_onnx import prove_screener
from sro_edge.export.runs import Run


def export_screener(
    run: Run, folder: Path, config: ExportConfig, progress: Callable[[str], None]
) -> Part:
    """Write and prove ``screener/``.

    Raises:
        ExportError: the model cannot be converted, or a figure misses its bound.
    """
    progress("loading the screener")
    screener = load_screener(run, config.toxic_label)
    progress("writing ONNX")
    stored = write_screener(screener, folder / "screener", config.screener_weights)
    progress("proving scores")
    threshold = screener.thresholds.toxicity
    figures = prove_screener(screener, stored, folder / "screener" / "model.onnx", threshold)
    fields = {
        "thresholds": dataclasses.asdict(screener.thresholds),
        "outputs": screener.graph.outputs,
    }
    return Part(fields, require(figures))
