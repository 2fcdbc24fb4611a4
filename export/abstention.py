"""What decides to abstain as ONNX, beside the screener whose encoder it shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto

from sro_edge.abstention import GRAPH, INPUTS, NOTES, Abstainer, highest
from sro_edge.errors import ExportError
from sro_edge.export.config import write_json
from sro_edge.export.figures import Figure
from sro_edge.export.onnx_weights import store
from sro_edge.export.onnx_writer import to_onnx
from sro_edge.export.runs import Run, trained_record
from sro_edge.manifest import sha256
from sro_edge.screener import Screener
from sro_edge.training import abstention

_BOUND = 0.15  # as for the screener's own scores, stored the same way
_FLIPS = 0.005  # share of decisions that storing may turn
_LEAST_SHARED = 4096  # bytes of a tensor; smaller ones are not worth it


def export_abstain(
    run: Path, screener: Run, folder: Path, probes: Sequence[str]
) -> tuple[dict[str, Any], list[Figure]]:
    """Write and prove ``abstain.onnx`` and ``abstain.json`` in the screener's ``folder``.

    Args:
        run: a run of train-abstain.
        screener: the run whose screener lies in ``folder``.
        folder: where its ``model.onnx`` is.
        probes: comments to prove it on.

    Returns:
        the run's record, and the figures of the proof.

    Raises:
        ExportError: ``run`` is no such run, or was fitted to another screener.
    """
    record = trained_record(run, abstention.KIND, "train-abstain")
    probe, identity = abstention.load(run, screener.model)
    if record["screener"] != identity:
        raise ExportError(
            f"{run} was fitted to another screener than the one being exported; fit it anew "
            f"with `sro-edge train-abstain --screener {screener.folder}`"
        )
    graph = store(to_onnx(probe), "small")
    share(graph, folder / "model.onnx")
    onnx.save(graph, str(folder / GRAPH))
    onnx.checker.check_model(str(folder / GRAPH))
    write_json(folder / NOTES, {"screener": sha256(folder / "model.onnx")})
    return record, _prove(probe, folder, float(record["threshold"]), probes)


def share(graph: onnx.ModelProto, other: Path) -> None:
    """Have tensors of ``graph`` (changed) that are in the file ``other`` too read from there.

    That is ONNX's external data, at the place where the tensor's bytes lie in the other file. Both
    files must then stay in one folder, and the other one as it is.
    """
    stored = other.read_bytes()
    for tensor in graph.graph.initializer:
        data = tensor.raw_data
        at = stored.find(data) if len(data) >= _LEAST_SHARED else -1
        width = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
        if at < 0 or at % width:  # a number must not lie across the borders of its kind
            continue
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": other.name, "offset": at, "length": len(data)}
        for name, value in place.items():
            tensor.external_data.add(key=name, value=str(value))


def _prove(
    probe: abstention.Probe, folder: Path, threshold: float, probes: Sequence[str]
) -> list[Figure]:
    """The stored graph against torch, window by window."""
    engine = Screener(folder, threads=1, device="cpu")
    found = Abstainer(folder, engine, threshold, threads=1, device="cpu").score(probes)

    @torch.inference_mode()
    def run(given: dict[str, Any]) -> npt.NDArray[np.float32]:
        (values,) = probe(*(torch.from_numpy(given[name]) for name in INPUTS))
        scores: npt.NDArray[np.float32] = values.numpy()
        return scores

    wanted = highest(engine, probes, run)
    turned = (found >= threshold) != (wanted >= threshold)
    return [
        Figure("abstain.probes", "comments scored by both models that abstain", len(probes)),
        Figure(
            "abstain.graph",
            "largest difference of their scores, stored ONNX and torch",
            float(np.abs(found - wanted).max()),
            at_most=_BOUND,
        ),
        Figure(
            "abstain.flips",
            f"share of decisions at {threshold:g} turned by storing",
            float(turned.mean()),
            at_most=_FLIPS,
        ),
    ]
