"""Proof that an ONNX graph decides as the trained screener does, before it is shipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from sro_edge.export.figures import Figure
from sro_edge.export.onnx_weights import INT16_LIMIT, largest_pair
from sro_edge.export.screener_graph import Screener
from sro_edge.machine import physical_cores
from sro_edge.screener import SCREEN_TOLERANCE

Floats = npt.NDArray[np.float32]
Batch = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]

_BATCH_TOKENS = 512  # padding included; more would overflow a CPU's caches
_GRAPH_BOUND = 1e-4  # the fp32 graph against torch
# Weights -> largest probability difference and share of decisions that storing may turn.
_BOUNDS = {"fp32": (_GRAPH_BOUND, 0.0), "fp16": (0.05, 0.005)}
_BOUNDS |= {"small": (0.15, 0.005), "int8": (0.4, 0.005)}
_LEAST_NEAR, _SHARE_NEAR = 50, 0.02  # scores that count as near the threshold
_ADVICE = "store them with more bits: --screener-weights small, fp16 or fp32"


@dataclass(frozen=True)
class Decisions:
    """How the stored screener decides.

    Args:
        threshold: highest toxicity that passes, picked so that decisions match the trained ones.
        figures: of the proof.
    """

    threshold: float
    figures: list[Figure]


def prove_screener(
    screener: Screener, exact: onnx.ModelProto, file: Path, weights: str, texts: Sequence[str]
) -> Decisions:
    """ONNX Runtime, with the graph in fp32 and with ``file``, against torch.

    Stored weights shift scores, so the threshold is picked anew: on every second text, while the
    decisions that turned are counted on the others. fp32 keeps the trained threshold, and all texts
    count.

    Args:
        screener: with the trained weights.
        exact: the graph in fp32.
        file: the graph that is shipped.
        weights: how it is stored.
        texts: comments to score.
    """
    batches = list(_batches(screener, texts))
    trained = _collect(screener, batches, _torch(screener))
    traced = _collect(screener, batches, _onnx(screener, exact.SerializeToString()))
    found = traced if weights == "fp32" else _collect(screener, batches, _onnx(screener, str(file)))
    figures = [
        Figure("screener.probes", "comments scored by both screeners", len(trained["toxicity"])),
        Figure(
            "screener.graph",
            "largest score difference, fp32 ONNX and torch",
            max(_largest(traced[name], trained[name]) for name in screener.graph.scores),
            at_most=_GRAPH_BOUND,
        ),
    ]
    difference, _ = _BOUNDS[weights]
    for name in screener.graph.scores:
        figures.append(
            Figure(
                f"screener.{name}",
                f"largest {name} difference, {weights} ONNX and torch",
                _largest(found[name], trained[name]),
                at_most=difference,
                advice=_ADVICE,
            )
        )
    threshold, flips = _decide(
        found["toxicity"], trained["toxicity"], screener.thresholds.toxicity, weights
    )
    figures += flips
    if weights == "int8":
        figures.append(
            Figure(
                "screener.pair",
                "largest sum of two products in an int8 kernel without VNNI",
                largest_pair(onnx.load(file)),
                at_most=INT16_LIMIT,
            )
        )
    return Decisions(threshold, figures)


def _decide(
    found: Floats, trained: Floats, threshold: float, weights: str
) -> tuple[float, list[Figure]]:
    """The threshold for scores ``found`` (N,), and how decisions differ from ``trained`` ones."""
    before = _passes(trained, threshold)
    if weights == "fp32":
        picked, counted = threshold, slice(None)
    else:
        picked, counted = pick_threshold(found[::2], trained[::2], threshold), slice(1, None, 2)
    turned = _passes(found, picked) != before
    advice = _ADVICE if weights != "fp32" else Figure.advice
    return picked, [
        Figure(
            "screener.flips",
            f"share of decisions at {threshold:g} turned by storing as {weights}",
            float(turned[counted].mean()) if turned[counted].size else 0.0,
            at_most=_BOUNDS[weights][1],
            advice=advice,
        ),
        Figure(
            "screener.flips_unpicked",
            "the same if the threshold had been kept",
            float((_passes(found, threshold) != before)[counted].mean()),
        ),
        Figure("screener.threshold_trained", "threshold of the trained screener", threshold),
        Figure("screener.threshold", "threshold of the stored screener", picked),
    ]


def pick_threshold(found: Floats, trained: Floats, threshold: float) -> float:
    """Where ``found`` (N,) decides as ``trained`` (N,) does at ``threshold``, as far as it can.

    Stored weights move scores to and fro, and a little to one side. That side is the median
    difference of the scores nearest to the threshold, and the threshold follows it: it is a
    steadier choice than the threshold at which fewest of these very texts part.
    """
    count = max(_LEAST_NEAR, round(_SHARE_NEAR * len(trained)))
    near = np.argsort(np.abs(trained - threshold), kind="stable")[:count]
    picked = round(threshold + float(np.median(found[near] - trained[near])), 3)
    return picked if 0 < picked < 1 else threshold


def _passes(scores: Floats, threshold: float) -> npt.NDArray[np.bool_]:
    """:func:`sro_edge.screener.passes` of each score (N,)."""
    decided: npt.NDArray[np.bool_] = scores <= threshold - SCREEN_TOLERANCE
    return decided


def _collect(
    screener: Screener, batches: Sequence[Batch], run: Callable[[Batch], Sequence[Floats]]
) -> dict[str, Floats]:
    """Scores of all batches, by name: (N,) or (N, d)."""
    columns = zip(*map(run, batches), strict=True)
    names = screener.graph.scores
    return dict(zip(names, map(np.concatenate, columns), strict=True))


def _torch(screener: Screener) -> Callable[[Batch], Sequence[Floats]]:
    def run(batch: Batch) -> Sequence[Floats]:
        with torch.inference_mode():
            out = screener.graph(*map(torch.from_numpy, batch))
        return [tensor.numpy() for tensor in out[: len(screener.graph.scores)]]

    return run


def _onnx(screener: Screener, model: str | bytes) -> Callable[[Batch], Sequence[Floats]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = physical_cores()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(batch: Batch) -> Sequence[Floats]:
        ids, mask = batch
        feeds: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        feeds["token_type_ids"] = np.zeros_like(ids)
        scores: Sequence[Floats] = session.run(
            screener.graph.scores, {name: feeds[name] for name in names}
        )
        return scores

    return run


def _batches(screener: Screener, texts: Sequence[str]) -> Iterator[Batch]:
    """Token ids and attention mask, both (B, T), padded right, shortest first."""
    limit = screener.max_tokens
    rows = sorted((e.ids[:limit] for e in screener.tokenizer.encode_batch(list(texts))), key=len)
    rows = [row for row in rows if row]
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and (stop + 1 - start) * len(rows[stop]) <= _BATCH_TOKENS:
            stop += 1
        part = rows[start:stop]
        ids = np.full((len(part), len(part[-1])), screener.pad_token_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(part):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        yield ids, mask
        start = stop


def _largest(a: Floats, b: Floats) -> float:
    return float(np.abs(a - b).max())
