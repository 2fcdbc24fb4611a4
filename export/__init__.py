"""From trained models to a bundle for the edge: GGUF, ONNX, and the proof that both are right."""

from sro_edge.export.bundler import export_bundle
from sro_edge.export.config import ExportConfig

__all__ = ["ExportConfig", "export_bundle"]
