"""Proof that an ONNX graph gives the scores of the trained screener, before it is shipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sro_edge.export.figures import Figure
from sro_edge.export.onnx_writer import Screener, ScreenerGraph
from sro_edge.export.probes import AWKWARD, COMMENTS
from sro_edge.screener import passes

Floats = npt.NDArray[np.float32]

_BATCH = 16  # texts the screeners score at once


def prove_screener(
    screener: Screener, stored: ScreenerGraph, file: Path, threshold: float
) -> list[Figure]:
    """ONNX Runtime with ``file`` against torch: its own weights, and those that were trained.

    Args:
        screener: with the trained weights.
        stored: the same with the weights that are in the file.
        file: the ONNX graph.
        threshold: highest toxicity that passes, for counting decisions.
    """
    names = screener.graph.outputs
    found, same, trained = _scores(screener, stored, file)
    decisions = [[passes(t, threshold) for t in s["toxicity"]] for s in (found, trained)]
    figures = [
        Figure(
            "screener.graph",
            "largest score difference, ONNX and torch, same weights",
            max(_largest(found[n], same[n]) for n in names),
            at_most=1e-4,
        ),
        Figure(
            "screener.flips",
            f"decisions at {threshold:g} turned by storing the weights",
            float(np.mean([a != b for a, b in zip(*decisions, strict=True)])),
            at_most=0.01,
            advice="store them as they are with --screener-weights fp32",
        ),
    ]
    return figures + [
        Figure(
            f"screener.{n}",
            f"largest {n} difference to the trained weights",
            _largest(found[n], trained[n]),
        )
        for n in names
    ]


def _scores(
    screener: Screener, stored: ScreenerGraph, file: Path
) -> tuple[dict[str, Floats], dict[str, Floats], dict[str, Floats]]:
    """Outputs for all probes of ONNX Runtime, of torch with its weights, of the trained model."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    parts: list[list[Sequence[Floats]]] = [[], [], []]
    longest = " ".join(COMMENTS)  # cut at the longest input
    for ids, mask in _batches(screener, (*AWKWARD, *COMMENTS, longest)):
        feeds = {"input_ids": ids, "attention_mask": mask}
        parts[0].append(session.run(screener.graph.outputs, feeds))
        for part, graph in zip(parts[1:], (stored, screener.graph), strict=True):
            with torch.inference_mode():
                out = graph(torch.from_numpy(ids), torch.from_numpy(mask))
            part.append([tensor.numpy() for tensor in out])
    names = screener.graph.outputs
    columns = [[np.concatenate(c) for c in zip(*part, strict=True)] for part in parts]
    found, same, trained = (dict(zip(names, c, strict=True)) for c in columns)
    return found, same, trained


def _batches(
    screener: Screener, texts: Iterable[str]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Token ids and attention mask, both (B, T), padded right."""
    limit = screener.max_tokens
    rows = sorted((e.ids[:limit] for e in screener.tokenizer.encode_batch(list(texts))), key=len)
    rows = [row for row in rows if row]
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        ids = np.full((len(part), len(part[-1])), screener.pad_token_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(part):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        yield ids, mask


def _largest(a: Floats, b: Floats) -> float:
    return float(np.abs(a - b).max())
