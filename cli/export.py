"""``sro-edge export``: turn trained models into a bundle for the edge."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sro_edge.cli._progress import stderr
from sro_edge.cli._shared import PATH
from sro_edge.errors import MissingExtraError

if TYPE_CHECKING:
    from rich.table import Table

_PACKAGES = ("gguf", "onnx", "onnxruntime", "onnxscript", "peft", "torch", "transformers")
_GGUF_TYPES = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_nl")
_WEIGHTS = ("small", "fp32", "fp16", "int8")


@click.command(short_help="Turn trained models into a bundle for the edge.")
@click.argument("run", required=False, type=PATH)
@click.option("--screener", type=PATH, metavar="RUN", help="Screener run [default: newest].")
@click.option(
    "--gguf",
    "gguf_type",
    is_flag=False,
    flag_value="q8_0",
    type=click.Choice(_GGUF_TYPES),
    help="Write the rewriter, stored as this type [default: q8_0].",
)
@click.option("--onnx", is_flag=True, help="Write the screener.")
@click.option("--output", "-o", "out", type=PATH, required=True, help="Folder to make.")
@click.option(
    "--screener-weights",
    type=click.Choice(_WEIGHTS),
    default="small",
    show_default=True,
    help="How the screener is stored: small (int8 rows, computes in fp32), fp32, fp16 (for GPUs), "
    "or int8 (int8 kernels, about twice as fast on a CPU).",
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
    gguf_type: str | None,
    onnx: bool,
    out: Path,
    screener_weights: str,
    exporter: str,
    optimum_cli: str,
    toxic_label: str | None,
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
    ONNX Runtime give the answers of the trained models; the figures are shown
    and kept in its proof.json.

    A bundle needs both models. With --gguf alone the folder gets only the
    rewriter, with --onnx alone only the screener.

    \b
    Examples:
      sro-edge export -o my-bundle
      sro-edge export runs/sro --screener runs/screener -o my-bundle
      sro-edge export runs/sro --gguf q4_k_m --onnx -o my-bundle --overwrite
      sro-edge export runs/sro --gguf -o only-the-rewriter
      sro-edge export --screener toxic-bert --onnx --toxic-label toxic -o screener
    """
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("sro-edge export", "export", package)
    from sro_edge.export import ExportConfig, export_bundle
    from sro_edge.export.runs import newest_run

    both = gguf_type is None and not onnx
    config = ExportConfig(
        gguf_type=gguf_type or "q8_0",
        screener_weights=screener_weights,
        exporter=exporter,
        optimum_cli=optimum_cli,
        toxic_label=toxic_label,
        name=name,
        version=bundle_version,
        license=license_id,
        notes=notes.read_text("utf-8") if notes else "",
    )
    console = stderr()
    proof = export_bundle(
        (run or newest_run("policy")) if gguf_type or both else None,
        (screener or newest_run("screener")) if onnx or both else None,
        out,
        config,
        overwrite=overwrite,
        progress=(lambda step: None) if quiet else (lambda step: console.print(f"{step} …")),
    )
    if not quiet:
        console.print(_table(proof))
    click.echo(out)


def _table(proof: dict[str, Any]) -> Table:
    from rich.table import Table

    from sro_edge.export.card import bound_text

    table = Table(title="Proof", title_justify="left", box=None, pad_edge=False)
    table.add_column("figure", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("bound", justify="right", no_wrap=True)
    for row in proof.values():
        table.add_row(row["meaning"], f"{row['value']:.4g}", bound_text(row))
    return table
