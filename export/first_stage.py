"""The first stage of the screener as ONNX, beside the screener that it was fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from sro_edge.errors import ExportError
from sro_edge.export.config import write_json
from sro_edge.export.figures import Figure
from sro_edge.export.onnx_weights import store
from sro_edge.export.onnx_writer import to_onnx
from sro_edge.export.runs import trained_record
from sro_edge.first_stage import GRAPH, INPUTS, NOTES
from sro_edge.manifest import sha256
from sro_edge.onnx_session import feeds, load_session
from sro_edge.screener import Screener
from sro_edge.training import first_stage

_BOUND = 1e-5  # the table is rounded as it is stored, so that only the order of sums differs
_KIND = "first-stage"


def export_first_stage(
    run: Path, screener: Path, probes: Sequence[str]
) -> tuple[dict[str, Any], list[Figure]]:
    """Write and prove ``first_stage.onnx`` and ``first_stage.json`` in the folder ``screener``.

    Returns:
        the run's record, and the figures of the proof.

    Raises:
        ExportError: ``run`` is no such run, was fitted to another screener, or its graph differs.
    """
    record = trained_record(run, _KIND, "train-first-stage")
    if record["screener"] != sha256(screener / "model.onnx"):
        raise ExportError(
            f"{run} imitates another screener than the one being exported; export the bundle "
            "without --first-stage, fit with `sro-edge train-first-stage --bundle` of that, and "
            "export again"
        )
    net = first_stage.load(run / first_stage.WEIGHTS)
    graph = store(to_onnx(net), "small")
    onnx.checker.check_model(graph)
    onnx.save(graph, str(screener / GRAPH))
    write_json(screener / NOTES, {name: record[name] for name in ("screener", "points")})
    engine = Screener(screener, threads=1, device="cpu")
    session = load_session(screener / GRAPH, 1, "cpu")
    worst, count = 0.0, 0
    for piece in engine.pieces(probes):
        _, given = feeds([piece], engine.pad)
        (found,) = session.run(["alarm"], {name: given[name] for name in INPUTS})
        with torch.inference_mode():
            (wanted,) = net(*(torch.from_numpy(given[name]) for name in INPUTS))
        worst, count = max(worst, float(np.abs(found - wanted.numpy()).max())), count + 1
    figures = [
        Figure("first_stage.probes", "pieces read by both first stages", count),
        Figure(
            "first_stage.graph",
            "largest alarm difference, stored ONNX and torch",
            worst,
            at_most=_BOUND,
        ),
    ]
    return record, figures
