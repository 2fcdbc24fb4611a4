"""optimum's exporter, run as a program of its own: it needs an older transformers than ours.

``optimum-cli`` writes a classifier's logits. What else a screener gives is added to its graph here:
probabilities from the logits, and the embedding from the last hidden state, which is found among
the graph's inner values by comparing them with torch's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from sro_edge.errors import ExportError
from sro_edge.export.screener_graph import Screener, ScreenerGraph

_HOW = "install it into an environment of its own (`make optimum`) and name it with --optimum-cli"
_MINUTES = 30
_SAME = 1e-3  # between the last hidden state in torch and in ONNX Runtime


def export_with_optimum(screener: Screener, cli: str = "") -> onnx.ModelProto:
    """The screener's graph, made by ``optimum-cli export onnx``.

    Args:
        screener: what to convert.
        cli: the program, by path; empty for the one on the PATH.

    Raises:
        ExportError: there is no such program, it fails, or its graph lacks the hidden state.
    """
    program = shutil.which(cli or "optimum-cli")
    if program is None:
        raise ExportError(f"{cli or 'optimum-cli'} cannot be found: {_HOW}")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "model", Path(folder) / "onnx"
        screener.graph.model.save_pretrained(source)
        _run([program, "export", "onnx", "--task", "text-classification"], source, target)
        model = onnx.load(target / "model.onnx")
    add_outputs(model, screener.graph)
    return model


def _run(command: list[str], source: Path, target: Path) -> None:
    command = [*command, "--model", str(source), str(target)]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run(
            command,
            env={**environment, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60 * _MINUTES,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"{command[0]} cannot be run: {error}; {_HOW}") from error
    if done.returncode != 0 or not (target / "model.onnx").is_file():
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ExportError(
            f"{' '.join(command)} failed (exit status {done.returncode}): "
            f"{said[-1] if said else 'it said nothing'}; {_HOW}"
        )


def add_outputs(model: onnx.ModelProto, graph: ScreenerGraph) -> None:
    """Add what ``graph`` gives beyond ``logits`` to the outputs of ``model``, in its order.

    Raises:
        ExportError: ``model`` has no ``logits``, or not the hidden state of the embedding.
    """
    found = [output.name for output in model.graph.output]
    if "logits" not in found:
        raise ExportError(f"optimum's graph gives {', '.join(found)}, but no logits: {_HOW}")
    body, outputs = model.graph, {value.name: value for value in model.graph.output}
    kind = ("Sigmoid", {}) if graph.sigmoid else ("Softmax", {"axis": -1})
    body.node.append(helper.make_node(kind[0], ["logits"], ["sro.probabilities"], **kind[1]))
    outputs["toxicity"] = _column(body, "toxicity", graph.toxic)
    if graph.fluent is not None:
        outputs["fluency"] = _column(body, "fluency", graph.fluent)
    if graph.embeds:
        outputs["embedding"] = _embedding(body, _hidden_state(model, graph), graph)
    del body.output[:]
    body.output.extend(outputs[name] for name in graph.outputs)


def _column(body: onnx.GraphProto, name: str, column: int) -> onnx.ValueInfoProto:
    """Output ``name`` (B,): a column of the probabilities."""
    body.initializer.append(numpy_helper.from_array(np.array(column), f"sro.{name}"))
    inputs = ["sro.probabilities", f"sro.{name}"]
    body.node.append(helper.make_node("Gather", inputs, [name], axis=1))
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch"])


def _embedding(body: onnx.GraphProto, hidden: str, graph: ScreenerGraph) -> onnx.ValueInfoProto:
    """Output ``embedding`` (B, d): the mean of ``hidden`` (B, T, d) over the mask, of length 1."""
    constants = {"last": np.array([-1]), "tokens": np.array([1]), "least": np.float32(1e-12)}
    body.initializer.extend(
        numpy_helper.from_array(np.asarray(value), f"sro.{name}")
        for name, value in constants.items()
    )
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Cast", ["attention_mask"], "sro.mask", {"to": onnx.TensorProto.FLOAT}),
        ("Unsqueeze", ["sro.mask", "sro.last"], "sro.weights", {}),
        ("Mul", [hidden, "sro.weights"], "sro.kept", {}),
        # The mean and the sum have one direction, and only that is kept.
        ("ReduceSum", ["sro.kept", "sro.tokens"], "sro.sum", {"keepdims": 0}),
        ("ReduceL2", ["sro.sum", "sro.last"], "sro.length", {"keepdims": 1}),
        ("Max", ["sro.length", "sro.least"], "sro.divisor", {}),
        ("Div", ["sro.sum", "sro.divisor"], "embedding", {}),
    ]
    body.node.extend(helper.make_node(op, i, [o], **attributes) for op, i, o, attributes in steps)
    shape = ["batch", graph.model.config.hidden_size]
    return helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, shape)


def _hidden_state(model: onnx.ModelProto, graph: ScreenerGraph) -> str:
    """Name of the value in ``model`` that is torch's last hidden state."""
    import onnxruntime

    ids = torch.arange(3, 11).reshape(2, 4)
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        out = graph.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    expected = out.hidden_states[-1].numpy()  # (2, 4, d)
    names: list[str] = [name for node in model.graph.node for name in node.output if name]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    wanted = [i.name for i in session.get_inputs()]
    values = session.run(names, {name: feeds[name].numpy() for name in wanted})
    for name, value in zip(names, values, strict=True):
        if np.shape(value) == expected.shape and np.abs(value - expected).max() < _SAME:
            return name
    raise ExportError(
        "optimum's graph has no value equal to the screener's last hidden state, of which its "
        "embedding is made; use --exporter transformers"
    )
