"""What an export writes, how, and what its two halves hand back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sro_edge.errors import ExportError
from sro_edge.export.figures import Figure
from sro_edge.export.gguf_types import DEFAULT_TYPE, GGUF_TYPES
from sro_edge.export.onnx_weights import WEIGHTS
from sro_edge.export.onnx_writer import EXPORTERS


@dataclass(frozen=True)
class ExportConfig:
    """What is written, and how.

    Args:
        gguf_types: some of :data:`sro_edge.export.gguf_types.GGUF_TYPES`; the first becomes
            ``detoxifier.gguf``, any other ``detoxifier-TYPE.gguf`` beside it.
        llama_cpp: a llama.cpp checkout, whose converter then writes the GGUF.
        probes: file of comments to prove the export on; default: made up.
        accept_drift: write the bundle although a figure of the proof misses its bound.
        screener_weights: one of :data:`sro_edge.export.onnx_weights.WEIGHTS`.
        exporter: one of :data:`sro_edge.export.onnx_writer.EXPORTERS`.
        optimum_cli: the ``optimum-cli`` to run; empty for the one on the PATH.
        toxic_label: name of the screener's toxic label, where it is an unusual one.
        name: the bundle's name; default that of its folder.
        version: the bundle's version.
        license: SPDX identifier of the weights.
        notes: Markdown for the end of the model card.
        first_stage: a run of train-first-stage that was fitted to this very screener, or None.
        abstain: a run of train-abstain that was trained on this very screener, or None.
        mild: table of toxic phrases with milder ones (:mod:`sro_edge.mild_words`), or None.
    """

    gguf_types: tuple[str, ...] = (DEFAULT_TYPE,)
    llama_cpp: Path | None = None
    probes: Path | None = None
    accept_drift: bool = False
    screener_weights: str = "small"
    exporter: str = "transformers"
    optimum_cli: str = ""
    toxic_label: str | None = None
    name: str | None = None
    version: str = "0.1.0"
    license: str = "Apache-2.0"
    notes: str = ""
    first_stage: Path | None = None
    abstain: Path | None = None
    mild: Path | None = None

    def __post_init__(self) -> None:
        """Refuse types that cannot be written."""
        for name in self.gguf_types:
            if name not in GGUF_TYPES:
                raise ExportError(f"GGUF type {name!r} is not one of {', '.join(GGUF_TYPES)}")
        if not self.gguf_types or len(set(self.gguf_types)) < len(self.gguf_types):
            raise ExportError("name at least one GGUF type, and none twice")
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
