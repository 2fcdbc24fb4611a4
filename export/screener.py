"""The screener's half of an export: written as ONNX, proven."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sro_edge.export.abstention import export_abstain
from sro_edge.export.config import ExportConfig, Part
from sro_edge.export.figures import require
from sro_edge.export.first_stage import export_first_stage
from sro_edge.export.onnx_writer import trace, write_screener
from sro_edge.export.probes import AWKWARD, COMMENTS, read_probes
from sro_edge.export.proof_onnx import prove_screener
from sro_edge.export.runs import Run
from sro_edge.export.screener_graph import load_screener

_LONGEST = " ".join(COMMENTS)  # cut at the longest input


def export_screener(
    run: Run, folder: Path, config: ExportConfig, progress: Callable[[str], None]
) -> Part:
    """Write and prove ``screener/``.

    Raises:
        ExportError: the model cannot be converted, or a figure misses its bound.
        InputError: the file of probes cannot be read.
    """
    texts = [*AWKWARD, *COMMENTS, _LONGEST, *read_probes(config.probes)]
    progress("loading the screener")
    screener = load_screener(run, config.toxic_label)
    progress("writing ONNX")
    exact = trace(screener, config.exporter, config.optimum_cli)
    write_screener(screener, exact, folder / "screener", config.screener_weights)
    progress(f"proving scores on {len(texts):,} comments")
    proven = prove_screener(
        screener,
        exact,
        folder / "screener" / "model.onnx",
        config.screener_weights,
        texts,
    )
    thresholds = dataclasses.replace(screener.thresholds, toxicity=proven.threshold)
    fields: dict[str, Any] = {"outputs": screener.graph.outputs}
    figures = require(proven.figures, config.accept_drift)
    if config.first_stage is not None:
        progress("writing the first stage")
        record, proof = export_first_stage(config.first_stage, folder / "screener", texts)
        fields["first_stage"] = record
        figures += require(proof, config.accept_drift)
    if config.abstain is not None:
        progress("writing what abstains")
        record, proof = export_abstain(config.abstain, run, folder / "screener", texts)
        fields["abstain"] = record
        thresholds = dataclasses.replace(thresholds, abstain=record["threshold"])
        figures += require(proof, config.accept_drift)
    fields["thresholds"] = thresholds.given()
    return Part(fields, figures)
