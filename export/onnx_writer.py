"""The screener as one ONNX graph: token ids -> toxicity, fluency, embedding.

Large matrices may be stored as int8 rows with one fp32 scale a row, followed by ``Cast`` and
``Mul``. ONNX Runtime folds these when it loads the file, so it computes in fp32 on every CPU.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch.nn import functional as F

from sro_edge.bundle import Thresholds
from sro_edge.errors import ExportError, ModelError
from sro_edge.export.quiet import quiet
from sro_edge.export.runs import Run
from sro_edge.training.labels import is_multi_label, label_names, toxic_candidates

FLUENT_NAME = "fluent"
_OPSET = 18
_MAX_TOKENS = 512
_SMALLEST_STORED_AS_INT8 = 4096  # elements; below, fp32 costs nothing
_DEFAULT_TOXICITY = 0.5  # threshold of a classifier that came without thresholds.json


class ScreenerGraph(torch.nn.Module):
    """What the ONNX graph computes.

    Args:
        model: a sequence classifier, in eval mode.
        toxic: index of the toxic label.
        fluent: index of the fluent label, or None.
        embeds: whether the mean of the last hidden states is a sentence embedding.
    """

    def __init__(self, model: Any, toxic: int, fluent: int | None, embeds: bool) -> None:
        super().__init__()
        self.model = model
        self.toxic, self.fluent, self.embeds = toxic, fluent, embeds
        self.sigmoid = is_multi_label(model.config)

    @property
    def outputs(self) -> list[str]:
        """Names of what :meth:`forward` returns."""
        present = {"toxicity": True, "fluency": self.fluent is not None, "embedding": self.embeds}
        return [name for name, there in present.items() if there]

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Scores of a batch.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 1 where there is a token.

        Returns:
            toxicity (B,); fluency (B,) and unit-norm embedding (B, d) where the model has them.
        """
        out = self.model(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        )
        probabilities = out.logits.sigmoid() if self.sigmoid else out.logits.softmax(-1)  # (B, L)
        found = [probabilities[:, self.toxic]]
        if self.fluent is not None:
            found.append(probabilities[:, self.fluent])
        if self.embeds:
            weights = attention_mask.unsqueeze(-1).to(out.logits.dtype)  # (B, T, 1)
            total = (out.hidden_states[-1] * weights).sum(1)  # (B, d)
            found.append(F.normalize(total / weights.sum(1).clamp_min(1e-6), dim=-1))
        return tuple(found)


@dataclass(frozen=True)
class Screener:
    """A screener ready for conversion.

    Args:
        graph: the model with its outputs.
        tokenizer: a ``tokenizers.Tokenizer`` that neither truncates nor pads.
        thresholds: what a rewrite must reach.
        pad_token_id: the token that fills a batch.
        max_tokens: longest input, special tokens included.
    """

    graph: ScreenerGraph
    tokenizer: Any
    thresholds: Thresholds
    pad_token_id: int
    max_tokens: int


def load_screener(run: Run, toxic_label: str | None = None) -> Screener:
    """Load the screener of ``run``, without ever reading a pickle.

    Args:
        run: a screener run, or the folder of any sequence classifier.
        toxic_label: name of the toxic label, where it is not one that is known.

    Raises:
        ExportError: no label, or more than one, can be the toxic one; or unusable thresholds.
        ModelError: the weights or a fast tokenizer is missing.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            run.model,
            dtype=torch.float32,
            use_safetensors=True,
            attn_implementation="eager",
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(run.model)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{run.model} cannot be loaded as a sequence classifier with safetensors weights and "
            f"a tokenizer: {error}"
        ) from error
    if loading["missing_keys"]:
        raise ModelError(
            f"{run.model} is no trained classifier: it lacks {', '.join(loading['missing_keys'])}"
        )
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"{run.model} has no tokenizer.json (a fast tokenizer), which is needed")
    core = copy.deepcopy(tokenizer.backend_tokenizer)
    core.no_truncation()
    core.no_padding()
    labels = label_names(model.config)
    fluent = labels.index(FLUENT_NAME) if FLUENT_NAME in labels else None
    graph = ScreenerGraph(
        model,
        find_toxic(labels, toxic_label),
        fluent if is_multi_label(model.config) else None,
        getattr(model.config, "sro_embedding", None) == "mean",
    )
    limits = (_MAX_TOKENS, tokenizer.model_max_length, _positions(model))
    pad = tokenizer.pad_token_id
    return Screener(graph.eval(), core, _thresholds(run), 0 if pad is None else pad, min(limits))


def find_toxic(labels: list[str], wanted: str | None) -> int:
    """Index of the toxic label: the one called ``wanted``, else the one with a known name.

    Raises:
        ExportError: not exactly one fits.
    """
    fitting = toxic_candidates(labels, wanted)
    if len(fitting) != 1:
        raise ExportError(
            f"which label of the screener means toxic? It has {', '.join(labels)}; "
            "name one with --toxic-label"
        )
    return fitting[0]


def _positions(model: Any) -> int:
    """Longest input that the position embeddings cover; RoBERTa counts from its padding on."""
    positions: int = model.config.max_position_embeddings
    embeddings = getattr(model.base_model, "embeddings", None)
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return positions if padding is None else positions - padding - 1


def _thresholds(run: Run) -> Thresholds:
    stored = run.read_json("thresholds.json")
    try:
        return Thresholds(**stored) if stored else Thresholds(_DEFAULT_TOXICITY)
    except (TypeError, ValueError) as error:
        raise ExportError(f"{run.model / 'thresholds.json'} is not usable: {error}") from error


def write_screener(screener: Screener, folder: Path, weights: str) -> ScreenerGraph:
    """Write ``model.onnx``, ``tokenizer.json`` and ``config.json``.

    Args:
        screener: what to write.
        folder: where to; made here.
        weights: ``int8`` (rows with a scale each) or ``fp32``.

    Returns:
        the model whose weights are in the file: rounded for ``int8``, else ``screener.graph``.
    """
    graph = screener.graph
    if weights == "int8":
        graph = copy.deepcopy(graph)
        round_rows(graph)
    folder.mkdir(parents=True)
    model = to_onnx(graph)
    if weights == "int8":
        store_as_int8(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / "model.onnx"))
    screener.tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "max_tokens": screener.max_tokens,
        "outputs": graph.outputs,
        "id2label": graph.model.config.id2label,
        "pad_token_id": screener.pad_token_id,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    return graph


def to_onnx(graph: ScreenerGraph) -> onnx.ModelProto:
    """Trace the graph with free batch size and length."""
    ids = torch.ones((2, 8), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    with quiet():
        program = torch.onnx.export(
            graph,
            (ids, mask),
            dynamo=True,
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
            opset_version=_OPSET,
            verbose=False,
        )
    assert program is not None
    # Inner values lose their names so that none stands in the way of an output's name.
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces with paths of this machine
        for value in node.outputs:
            value.name = f"_{value.name}"
            value.metadata_props.clear()
    for name, value in zip(graph.outputs, program.model.graph.outputs, strict=True):
        value.name = name
    proto: onnx.ModelProto = program.model_proto
    return proto


def round_rows(graph: torch.nn.Module) -> None:
    """Round every large linear and embedding matrix to int8 steps of its rows, in place."""
    for module in graph.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            weight = module.weight.data
            if weight.numel() >= _SMALLEST_STORED_AS_INT8:
                steps, scale = to_int8(weight.numpy(), axis=1)
                weight.copy_(torch.from_numpy(steps * scale))


def to_int8(
    matrix: npt.NDArray[np.float32], axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Steps (R, C) and their scale: (R, 1) for ``axis`` 1, (1, C) for ``axis`` 0.

    Steps times scale differ from ``matrix`` by at most half a scale.
    """
    scale = np.abs(matrix).max(axis=axis, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(matrix / scale).astype(np.int8), scale


def store_as_int8(model: onnx.ModelProto) -> None:
    """Store matrices rounded by :func:`round_rows` as int8, with ``Cast`` and ``Mul``."""
    nodes = []
    for tensor in list(model.graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) != 2:
            continue
        matrix = onnx.numpy_helper.to_array(tensor)
        stored = _exact_int8(matrix) if matrix.size >= _SMALLEST_STORED_AS_INT8 else None
        if stored is None:
            continue
        name, (steps, scale) = tensor.name, stored
        model.graph.initializer.remove(tensor)
        model.graph.initializer.extend(
            [
                onnx.numpy_helper.from_array(steps, f"{name}.int8"),
                onnx.numpy_helper.from_array(scale, f"{name}.scale"),
            ]
        )
        to_float = onnx.TensorProto.FLOAT
        nodes += [
            onnx.helper.make_node("Cast", [f"{name}.int8"], [f"{name}.steps"], to=to_float),
            onnx.helper.make_node("Mul", [f"{name}.steps", f"{name}.scale"], [name]),
        ]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)


def _exact_int8(
    matrix: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]] | None:
    """Steps and scale that give ``matrix`` back; it may have been transposed since rounding."""
    for axis in (1, 0):
        steps, scale = to_int8(matrix, axis)
        if np.allclose(steps * scale, matrix, rtol=1e-6, atol=0):
            return steps, scale
    return None
