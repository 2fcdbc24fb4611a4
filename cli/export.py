"""``sro-edge export``: turn trained models into a bundle for the edge."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import click

from sro_edge.cli._progress import stderr
from sro_edge.cli._proof import show_proof
from sro_edge.cli._shared import PATH, mild_option
from sro_edge.errors import MissingExtraError

_PACKAGES = ("gguf", "onnx", "onnxruntime", "onnxscript", "peft", "torch", "transformers")
_GGUF_TYPES = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_nl")
_WEIGHTS = ("small", "fp32", "fp16", "int8")
_DEFAULT_TYPE = "q8_0"


class GgufTypes(click.ParamType[tuple[str, ...]]):
    """Names of GGUF types, parted by commas."""

    name = "types"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Parse and check."""
        names = value if isinstance(value, tuple) else tuple(str(value).lower().split(","))
        for name in names:
            if name not in _GGUF_TYPES:
                self.fail(f"{name!r} is not one of {', '.join(_GGUF_TYPES)}.", param, ctx)
        if len(set(names)) < len(names):
            self.fail("a type is named twice.", param, ctx)
        return names


@click.command(short_help="Turn trained models into a bundle for the edge.")
@click.argument("run", required=False, type=PATH)
@click.option("--screener", type=PATH, metavar="RUN", help="Screener run [default: newest].")
@click.option(
    "--gguf",
    "gguf_types",
    is_flag=False,
    flag_value=_DEFAULT_TYPE,
    type=GgufTypes(),
    metavar="[TYPE,...]",
    help="Write the rewriter, stored as these types; the first is detoxifier.gguf "
    f"[default: {_DEFAULT_TYPE}]. Types: {', '.join(_GGUF_TYPES)}.",
)
@click.option(
    "--llama-cpp",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="llama.cpp checkout whose converter writes the GGUF, for other architectures.",
)
@click.option(
    "--probes",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Comments to prove the export on: Parquet, CSV, JSONL or text, of which 10,000 are taken "
    "[default: made up].",
)
@click.option(
    "--accept-drift",
    is_flag=True,
    help="Write the bundle although a figure misses its bound; the bundle says so.",
)
@click.option("--onnx", is_flag=True, help="Write the screener.")
@click.option("--output", "-o", "out", type=PATH, required=True, help="Folder to make.")
@click.option(
    "--screener-weights",
    type=click.Choice(_WEIGHTS),
    default="small",
    show_default=True,
    help="How the screener is stored: small (int8 rows, computes in fp32), fp32, fp16 (for GPUs), "
    "or int8 (int8 kernels, faster on a CPU).",
)
@click.option(
    "--exporter",
    type=click.Choice(["transformers", "optimum"]),
    default="transformers",
    show_default=True,
    help="Who converts the screener; optimum-cli runs in its own environment.",
)
@click.option(
    "--optimum-cli",
    default="",
    metavar="PROGRAM",
    help="The optimum-cli to run [default: the one on the PATH].",
)
@click.option("--toxic-label", help="The screener's toxic label, where it has an unusual name.")
@click.option(
    "--first-stage",
    type=PATH,
    metavar="RUN",
    help="Run of train-first-stage, fitted to this screener as exported, to put before it.",
)
@click.option(
    "--abstain",
    type=PATH,
    metavar="RUN",
    help="Run of train-abstain, fitted to this screener, to give comments up with.",
)
@mild_option
@click.option("--name", help="Name of the bundle [default: that of its folder].")
@click.option("--bundle-version", default="0.1.0", show_default=True, help="Version of the bundle.")
@click.option(
    "--license",
    "license_id",
    default="Apache-2.0",
    show_default=True,
    help="SPDX identifier of the weights' licence; a base model may set it.",
)
@click.option(
    "--notes",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Markdown file put at the end of the model card.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
@click.option("--quiet", is_flag=True, help="No progress, no table.")
def export(
    run: Path | None,
    screener: Path | None,
    gguf_types: tuple[str, ...] | None,
    llama_cpp: Path | None,
    probes: Path | None,
    accept_drift: bool,
    onnx: bool,
    out: Path,
    screener_weights: str,
    exporter: str,
    optimum_cli: str,
    toxic_label: str | None,
    first_stage: Path | None,
    abstain: Path | None,
    mild: Path | None,
    name: str | None,
    bundle_version: str,
    license_id: str,
    notes: Path | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Turn trained models into a bundle for the edge, and prove that it is right.

    RUN is a run of warm-start or train, or any folder with a Llama, Mistral,
    Qwen 2, Qwen 3, SmolLM or Gemma 3 text model; by default the newest run
    under runs/. LoRA adapters are merged. The bundle appears only when llama.cpp and
    ONNX Runtime give the answers of the trained models: the same tokens on
    10,000 comments, the same distributions, scores and rewrites. The figures
    are shown and kept in its proof.json.

    A bundle needs both models. With --gguf alone the folder gets only the
    rewriter, with --onnx alone only the screener.

    \b
    Examples:
      sro-edge export -o my-bundle
      sro-edge export runs/sro --screener runs/screener -o my-bundle
      sro-edge export runs/sro --gguf q8_0,q4_0 --onnx -o my-bundle --overwrite
      sro-edge export runs/sro --probes comments.parquet -o my-bundle
      sro-edge export runs/sro --gguf -o only-the-rewriter
      sro-edge export --screener toxic-bert --onnx --toxic-label toxic -o screener
    """
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("sro-edge export", "export", package)
    from sro_edge.export import ExportConfig, export_bundle
    from sro_edge.export.runs import newest_run

    both = gguf_types is None and not onnx
    config = ExportConfig(
        gguf_types=gguf_types or (_DEFAULT_TYPE,),
        llama_cpp=llama_cpp,
        probes=probes,
        accept_drift=accept_drift,
        screener_weights=screener_weights,
        exporter=exporter,
        optimum_cli=optimum_cli,
        toxic_label=toxic_label,
        first_stage=first_stage,
        abstain=abstain,
        mild=mild,
        name=name,
        version=bundle_version,
        license=license_id,
        notes=notes.read_text("utf-8") if notes else "",
    )
    console = stderr()
    proof = export_bundle(
        (run or newest_run("policy")) if gguf_types or both else None,
        (screener or newest_run("screener")) if onnx or both else None,
        out,
        config,
        overwrite=overwrite,
        progress=(lambda step: None) if quiet else (lambda step: console.print(f"{step} …")),
    )
    if not quiet:
        show_proof(console, proof)
    click.echo(out)
