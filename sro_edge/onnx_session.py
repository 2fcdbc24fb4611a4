"""ONNX Runtime: how a graph is loaded, and how rows of token ids become batches for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sro_edge.errors import BundleError, MissingExtraError, ModelError
from sro_edge.headers import check_onnx
from sro_edge.machine import physical_cores

CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
Piece = tuple[int, list[int]]  # number of a text, and token ids of a part of it


def token_batches(pieces: Iterable[Piece], tokens: int) -> Iterator[list[Piece]]:
    """Cut pieces, which come shortest first, so that rows x longest stays in the budget."""
    batch: list[Piece] = []
    for piece in pieces:
        if batch and (len(batch) + 1) * len(piece[1]) > tokens:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def feeds(batch: list[Piece], pad: int) -> tuple[npt.NDArray[np.int64], dict[str, Any]]:
    """Token counts (B,) of a batch, and what an encoder's graph takes, (B, T) each."""
    lengths = np.array([len(ids) for _, ids in batch])
    shape = (len(batch), int(lengths.max()))
    mask = (np.arange(shape[1]) < lengths[:, None]).astype(np.int64)
    ids = np.full(shape, pad, dtype=np.int64)
    ids[mask.astype(bool)] = np.concatenate([ids for _, ids in batch])
    found = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return lengths, found


def load_session(file: Path, threads: int | None, device: str) -> Any:
    """An inference session of a graph whose header was checked.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        BundleError: the file is damaged.
        ModelError: the device cannot be used.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingExtraError("screening", "cpu", "onnxruntime") from error
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or physical_cores()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_mem_pattern = False  # it would keep one plan for every shape it meets
    # llama.cpp works on the same cores: an idle thread must not burn one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    check_onnx(file)
    providers = _providers(ort, device)
    # On a CPU the fused kernel takes ten times as long as the addition and the normalisation apart.
    unfused = ["SkipLayerNormFusion"] if providers == [_CPU] else []
    try:
        session = ort.InferenceSession(
            file, options, providers=providers, disabled_optimizers=unfused
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise BundleError(
            f"{file} cannot be loaded by ONNX Runtime: {error}; export the bundle again"
        ) from error
    if device == "cuda" and CUDA not in session.get_providers():  # it falls back silently
        raise ModelError(
            "device 'cuda' was asked for, but ONNX Runtime cannot start CUDA here: no GPU is seen "
            "(`nvidia-smi`), or CUDA or cuDNN is not of the version that onnxruntime-gpu was built "
            "for; mend that or use device 'cpu'"
        )
    return session


def _providers(ort: Any, device: str) -> list[str]:
    if device not in ("auto", "cpu", "cuda"):
        raise ModelError(f"device must be auto, cpu or cuda, not {device!r}")
    cuda = CUDA in ort.get_available_providers()
    if device == "cuda" and not cuda:
        raise ModelError(
            "device 'cuda' was asked for, but the installed ONNX Runtime has no CUDA: run  pip "
            "uninstall onnxruntime && pip install \"sro-edge[gpu]\"  or use device 'cpu'"
        )
    wanted = [CUDA] if cuda and device != "cpu" else []
    return [*wanted, _CPU]
