"""What an export writes, how, and what its two halves hand back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sro_edge.errors import ExportError
from sro_edge.export.figures import Figure
from sro_edge.export.gguf_types import GGUF_TYPES
from sro_edge.export.onnx_weights import WEIGHTS
from sro_edge.export.onnx_writer import EXPORTERS


@dataclass(frozen=True)
class ExportConfig:
    """What is written, and how.

    Args:
        gguf_type: one of :data:`sro_edge.export.gguf_types.GGUF_TYPES`.
        screener_weights: one of :data:`sro_edge.export.onnx_weights.WEIGHTS`.
        exporter: one of :data:`sro_edge.export.onnx_writer.EXPORTERS`.
        optimum_cli: the ``optimum-cli`` to run; empty for the one on the PATH.
        toxic_label: name of the screener's toxic label, where it is an unusual one.
        name: the bundle's name; default that of its folder.
        version: the bundle's version.
        license: SPDX identifier of the weights.
        notes: Markdown for the end of the model card.
    """

    gguf_type: str = "q8_0"
    screener_weights: str = "small"
    exporter: str = "transformers"
    optimum_cli: str = ""
    toxic_label: str | None = None
    name: str | None = None
    version: str = "0.1.0"
    license: str = "Apache-2.0"
    notes: str = ""

    def __post_init__(self) -> None:
        """Refuse types that cannot be written."""
        if self.gguf_type not in GGUF_TYPES:
            raise ExportError(f"GGUF type {self.gguf_type!r} is not one of {', '.join(GGUF_TYPES)}")
        if self.screener_weights not in WEIGHTS:
            raise ExportError(
                f"screener weights {self.screener_weights!r} are not one of {', '.join(WEIGHTS)}"
            )
        if self.exporter not in EXPORTERS:
            raise ExportError(f"exporter {self.exporter!r} is not one of {', '.join(EXPORTERS)}")


@dataclass(frozen=True)
class Part:
    """What one half of the export gives to the manifest and to the proof."""

    fields: dict[str, Any]
    figures: list[Figure]


def write_json(file: Path, data: Any) -> None:
    """Write ``data`` for people and programs to read."""
    file.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")
