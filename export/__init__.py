"""From trained models to a bundle for the edge: GGUF, ONNX, and the proof that both are right."""

from sro_edge.export.bundler import ExportConfig, export_bundle

__all__ = ["ExportConfig", "export_bundle"]
