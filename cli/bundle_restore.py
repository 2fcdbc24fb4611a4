"""``sro-edge bundle restore``: the models of a bundle as runs that training goes on from."""

from __future__ import annotations

from pathlib import Path

import click

from sro_edge.cli._progress import stderr
from sro_edge.cli._proof import show_proof
from sro_edge.cli._shared import PATH
from sro_edge.cli._training import needs


@click.command(short_help="Turn a bundle's models back into runs to train on from.")
@click.argument("path", metavar="[BUNDLE]", required=False, type=PATH)
@click.option("--output", "-o", "out", type=PATH, required=True, help="Folder to make.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier restoration.")
def restore(path: Path | None, out: Path, overwrite: bool) -> None:
    """Turn a bundle's models back into runs to train on from.

    The folder gets one for each: policy/, screener/ and, where the bundle has one,
    first-stage/. They are runs like those that the training commands write, so a
    bundle, the embedded one too, can be taught your own comments without a network.
    What was rounded when the bundle was written stays so. The runs appear when it
    is proven that they say what the bundle says.

    \b
    Example:
      sro-edge bundle restore -o runs/embedded
      sro-edge train-screener --base runs/embedded/screener \\
          --train labelled.parquet --dev held-out.parquet \\
          --sentences posts.parquet -o runs/ours
      sro-edge train --policy runs/embedded/policy --screener runs/ours \\
          --toxic toxic.parquet -o runs/rewriter
      sro-edge export runs/rewriter --screener runs/ours -o our-bundle
    """
    needs("bundle restore", "export", "gguf", "onnx", "torch", "transformers")
    from sro_edge.bundle import Bundle
    from sro_edge.export import restore_bundle

    opened = Bundle.load(path)
    console = stderr()
    proof = restore_bundle(
        opened, out, overwrite=overwrite, progress=lambda step: console.print(f"{step} …")
    )
    show_proof(console, proof)
    click.echo(out)
