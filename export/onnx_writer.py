"""The screener as one ONNX graph: token ids -> toxicity, fluency, embedding, logits.

The folder has optimum's layout (``model.onnx``, ``config.json``, tokenizer files), so that
``ORTModelForSequenceClassification`` reads it; the graph is plain ONNX, its constants folded. ONNX
Runtime fuses layer norms and GELU itself when it loads the file: fused ahead of time, attention
too, in operators of its own, the same model was 1 % faster, which is not worth a file that nothing
else can read.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import onnx
import torch

from sro_edge.export.onnx_weights import store
from sro_edge.export.optimum import export_with_optimum
from sro_edge.export.quiet import quiet
from sro_edge.export.screener_graph import Screener, ScreenerGraph

EXPORTERS = ("transformers", "optimum")
_OPSET = 18
# What the tokenizer's class was called before transformers 5, which optimum's readers still have.
_TOKENIZER_CLASS = "PreTrainedTokenizerFast"


def trace(screener: Screener, exporter: str = "transformers", cli: str = "") -> onnx.ModelProto:
    """The graph in fp32.

    Args:
        screener: what to convert.
        exporter: one of :data:`EXPORTERS`.
        cli: the ``optimum-cli`` to run, for ``optimum``; empty for the one on the PATH.

    Raises:
        ExportError: optimum is missing, fails, or writes a graph without the screener's outputs.
    """
    if exporter == "optimum":
        return export_with_optimum(screener, cli)
    return to_onnx(screener.graph)


def write_screener(screener: Screener, model: onnx.ModelProto, folder: Path, weights: str) -> None:
    """Write ``model.onnx``, ``config.json`` and the tokenizer's files.

    Args:
        screener: what is written.
        model: its graph in fp32, from :func:`trace`.
        folder: where to; made here.
        weights: one of :data:`sro_edge.export.onnx_weights.WEIGHTS`.
    """
    folder.mkdir(parents=True)
    stored = onnx.ModelProto()
    stored.CopyFrom(model)
    stored = store(stored, weights)
    onnx.checker.check_model(stored)
    onnx.save(stored, str(folder / "model.onnx"))
    screener.tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": _TOKENIZER_CLASS,
            "model_max_length": screener.max_tokens,
            "pad_token": screener.tokenizer.id_to_token(screener.pad_token_id),
        },
    )
    config = screener.graph.model.config.to_dict()
    config.pop("_name_or_path", None)  # a folder of this machine
    ours = {
        "max_tokens": screener.max_tokens,
        "outputs": screener.graph.outputs,
        "pad_token_id": screener.pad_token_id,
        "weights": weights,
    }
    _write_json(folder / "config.json", config | ours)


def to_onnx(graph: ScreenerGraph) -> onnx.ModelProto:
    """Trace the graph with transformers' exporter, with free batch size and length."""
    import onnx_ir
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    ids = torch.ones((2, 8), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    axes = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    config = OnnxConfig(
        dynamic=True,
        dynamic_shapes={"input_ids": axes, "attention_mask": axes},
        opset_version=_OPSET,
    )
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        inputs = {"input_ids": ids, "attention_mask": mask}
        program, _ = OnnxExporter().export_program(graph, inputs, config)
    # Inner values lose their names so that none stands in the way of an output's name.
    for node in program.graph:
        node.metadata_props.clear()  # stack traces with paths of this machine
        for value in node.outputs:
            value.name = f"_{value.name}"
            value.metadata_props.clear()
    for name, value in zip(graph.outputs, program.graph.outputs, strict=True):
        value.name = name
    proto: onnx.ModelProto = onnx_ir.to_proto(program)
    _name_axes(proto.graph)
    return proto


def _name_axes(graph: onnx.GraphProto) -> None:
    """Call the free axes of every value ``batch`` and ``length``, as those of the input."""
    batch, length = graph.input[0].type.tensor_type.shape.dim
    names = {batch.dim_param: "batch", length.dim_param: "length"}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in names:
                axis.dim_param = names[axis.dim_param]


def _write_json(file: Path, data: dict[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")
