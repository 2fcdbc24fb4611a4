"""What the tests share: a small dump, runs to export, a tiny llama GGUF and a screener folder.

They speak the real file formats; only their size and their weights are toys. The plain functions
and classes behind them lie in ``tables`` (dumps), ``tiny_models`` and ``toy_models`` (runs).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # toys gain nothing from more, busy machines lose

pytest.register_assert_rewrite("tables")  # its asserts then show values, as a test's do


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A dump of the comments of ``tables``."""
    from tables import write_comments

    path = tmp_path / "in.parquet"
    write_comments(path)
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where a dump is written to."""
    return tmp_path / "out.parquet"


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy models gain nothing from threads, nor from many probes, and lose much time."""
    from sro_edge.export import probes, proof_gguf, proof_onnx, proof_rewrites

    for proof in (proof_gguf, proof_onnx):
        monkeypatch.setattr(proof, "physical_cores", lambda: 1)
    monkeypatch.setattr(probes, "PROBES", 300)
    monkeypatch.setattr(proof_rewrites, "COMMENTS_REWRITTEN", 12)


@pytest.fixture(scope="session")
def policy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished warm start, as the trainer leaves it."""
    from toy_models import write_policy_run

    run = tmp_path_factory.mktemp("warm-start")
    write_policy_run(run)
    return run


@pytest.fixture(scope="session")
def adapter_run(policy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished SRO run with a LoRA adapter on top of the warm start."""
    from toy_models import write_adapter_run

    run = tmp_path_factory.mktemp("sro")
    write_adapter_run(run, policy_run)
    return run


@pytest.fixture(scope="session")
def screener_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished screener run: a tiny BERT with both labels and an embedding."""
    from toy_models import write_screener_run

    run = tmp_path_factory.mktemp("screener")
    write_screener_run(run)
    return run


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of two layers with random weights and a byte-level BPE of about 300 tokens."""
    pytest.importorskip("gguf")
    from tiny_models import write_gguf

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


@pytest.fixture(scope="session")
def tiny_screener_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A screener that calls a text toxic when it holds one of its words (.95, else .05)."""
    pytest.importorskip("onnx")
    from tiny_models import write_screener

    folder = tmp_path_factory.mktemp("bundle") / "screener"
    write_screener(folder)
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of tiny models."""
    from tiny_models import write_bundle

    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where packed bundles are opened, in place of the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sro-edge"
