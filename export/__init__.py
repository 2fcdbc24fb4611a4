"""From trained models to a bundle for the edge and back: GGUF, ONNX, and the proof of both."""

from typing import TYPE_CHECKING, Any

__all__ = ["ExportConfig", "export_bundle", "restore_bundle"]

if TYPE_CHECKING:
    from sro_edge.export.bundler import export_bundle
    from sro_edge.export.config import ExportConfig
    from sro_edge.export.restore import restore_bundle

_HOMES = {"ExportConfig": "config", "export_bundle": "bundler", "restore_bundle": "restore"}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: assembling a bundle needs no torch."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"sro_edge.export.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sro_edge.export' has no attribute {name!r}")
