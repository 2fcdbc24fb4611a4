"""``sro-edge bundle build``: assemble a bundle of models that come from elsewhere."""

from __future__ import annotations

from pathlib import Path

import click

from sro_edge.cli._shared import PATH, Share, mild_option


@click.command(short_help="Assemble a bundle of a GGUF and a screener folder.")
@click.option("--gguf", type=PATH, required=True, metavar="FILE", help="The rewriter.")
@click.option(
    "--screener",
    type=PATH,
    required=True,
    metavar="FOLDER",
    help="Folder with model.onnx, config.json and tokenizer.json.",
)
@click.option("--output", "-o", "out", type=PATH, required=True, help="Folder to make.")
@click.option(
    "--prompt",
    type=PATH,
    metavar="FILE",
    help="JSON with prefix and suffix of a comment [default: the GGUF's chat template].",
)
@click.option(
    "--toxicity",
    type=Share(),
    default=0.5,
    show_default=True,
    help="Highest screener score that passes.",
)
@click.option(
    "--similarity",
    type=Share(),
    default=0.6,
    show_default=True,
    help="Lowest similarity to the comment that passes.",
)
@click.option(
    "--fluency-drop",
    type=Share(),
    default=0.2,
    show_default=True,
    help="How far fluency may fall below the comment's.",
)
@click.option("--toxic-label", help="The screener's toxic label, where it has an unusual name.")
@click.option(
    "--lexicon", type=PATH, metavar="FILE", help="JSON of toxic words with their log-odds."
)
@mild_option
@click.option("--name", help="Name of the bundle [default: that of its folder].")
@click.option("--bundle-version", default="0.1.0", show_default=True, help="Version of the bundle.")
@click.option("--license", "license_id", help="SPDX identifier [default: the GGUF's].")
@click.option(
    "--notes",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Markdown file put at the end of the model card.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier bundle.")
def build(
    gguf: Path,
    screener: Path,
    out: Path,
    prompt: Path | None,
    toxicity: float,
    similarity: float,
    fluency_drop: float,
    toxic_label: str | None,
    lexicon: Path | None,
    mild: Path | None,
    name: str | None,
    bundle_version: str,
    license_id: str | None,
    notes: Path | None,
    overwrite: bool,
) -> None:
    """Assemble a bundle of a GGUF and a screener folder.

    Both may come from elsewhere: the GGUF from any converter, the screener from
    `sro-edge export --onnx` or from `optimum-cli export onnx`. Both are opened and
    asked once before the bundle appears. A screener without an embedding cannot
    guard the meaning, one without fluency cannot guard that.

    \b
    Examples:
      sro-edge bundle build --gguf qwen3-0.6b-q4_0.gguf --screener toxic-onnx \\
          -o my-bundle
      sro-edge bundle build --gguf model.gguf --screener onnx -o my-bundle \\
          --toxicity 0.3 --toxic-label LABEL_1 --prompt prompt.json
    """
    from sro_edge.bundle import Thresholds
    from sro_edge.export.assemble import BuildConfig, build_bundle, read_prompt

    config = BuildConfig(
        thresholds=Thresholds(toxicity, similarity, fluency_drop),
        prompt=read_prompt(prompt) if prompt is not None else None,
        toxic_label=toxic_label,
        lexicon=lexicon,
        mild=mild,
        name=name,
        version=bundle_version,
        license=license_id,
        notes=notes.read_text("utf-8") if notes else "",
    )
    build_bundle(gguf, screener, out, config, overwrite=overwrite)
    click.echo(out)
