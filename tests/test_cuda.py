"""What ``--device`` asks of llama.cpp and ONNX Runtime, on builds that are faked."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sro_edge import llama
from sro_edge.errors import ModelError
from sro_edge.screener import Screener

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def llama_build(gpu: bool, loaded: list[Any] | None = None) -> Any:
    """The functions of llama_cpp that loading a model calls; ``loaded`` gets the parameters."""

    def load(path: bytes, params: Any) -> int:
        (loaded if loaded is not None else []).append(params)
        return 1

    return SimpleNamespace(
        llama_supports_gpu_offload=lambda: gpu,
        llama_model_default_params=lambda: SimpleNamespace(n_gpu_layers=0, devices=None),
        llama_model_load_from_file=load,
    )


@pytest.mark.parametrize(
    ("gpu", "device", "used"),
    [(True, "cuda", True), (True, "auto", True), (True, "cpu", False), (False, "auto", False)],
)
def test_all_layers_go_to_the_gpu_or_none(
    tiny_gguf: Path, gpu: bool, device: str, used: bool
) -> None:
    loaded: list[Any] = []
    build = llama_build(gpu, loaded)
    llama._load_model(build, tiny_gguf, llama._use_gpu(build, device))
    layers = 2  # of the model
    assert (loaded[0].n_gpu_layers > layers) == used
    # Without a GPU the list of devices is empty, not left to llama.cpp.
    assert (loaded[0].devices is None) == used
    if not used:
        assert ctypes.cast(loaded[0].devices, ctypes.POINTER(ctypes.c_void_p))[0] is None


def test_llama_without_cuda_is_said_with_what_to_run() -> None:
    with pytest.raises(ModelError, match=r'GGML_CUDA=on" pip install .* or use device'):
        llama._use_gpu(llama_build(gpu=False), "cuda")


def onnx_build(monkeypatch: pytest.MonkeyPatch, *, starts: bool) -> list[list[str]]:
    """An ONNX Runtime that says it has CUDA; what it was asked for. It works on the CPU."""
    import onnxruntime as ort

    asked: list[list[str]] = []

    class Session(ort.InferenceSession):  # type: ignore[misc]
        def __init__(self, file: Path, options: Any, providers: list[str], **more: Any) -> None:
            asked.append(providers)
            super().__init__(file, options, providers=[CPU], **more)

        def get_providers(self) -> list[str]:
            return asked[-1] if starts else [CPU]

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "InferenceSession", Session)
    return asked


@pytest.mark.parametrize(
    ("device", "providers"), [("cuda", [CUDA, CPU]), ("auto", [CUDA, CPU]), ("cpu", [CPU])]
)
def test_onnx_runtime_is_asked_for_cuda(
    tiny_screener_folder: Path, monkeypatch: pytest.MonkeyPatch, device: str, providers: list[str]
) -> None:
    asked = onnx_build(monkeypatch, starts=True)
    scores = Screener(tiny_screener_folder, threads=1, device=device).score(["what an idiot"])
    assert asked == [providers]
    assert scores.toxicity[0] == pytest.approx(0.95, abs=0.01)


def test_a_cuda_that_does_not_start_is_not_passed_over_in_silence(
    tiny_screener_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_build(monkeypatch, starts=False)
    with pytest.raises(ModelError, match="cannot start CUDA here: no GPU is seen"):
        Screener(tiny_screener_folder, threads=1, device="cuda")
    Screener(tiny_screener_folder, threads=1, device="auto")
