"""``sro-edge average``."""

from __future__ import annotations

from pathlib import Path

import click

from sro_edge.cli._shared import PATH
from sro_edge.cli._training import PILE, needs


@click.command(short_help="Average the weights of rewriters that share a start.")
@click.argument("runs", nargs=-1, required=True, type=PILE)
@click.option("--out", "-o", type=PATH, required=True, help="Run folder to make.")
def average(runs: tuple[Path, ...], out: Path) -> None:
    """Average the weights of several RUNS of `train` or `warm-start`, as a run of its own.

    Where one run went on from the other, or both from one start, the mean of their
    weights is often better than each of them and costs nothing more.

    \b
    Example:
      sro-edge average runs/first-round runs/second-round -o runs/final
    """
    needs("average", "train", "torch", "transformers")
    if len(runs) < 2:
        raise click.UsageError("one run has no mean: give two or more")
    from sro_edge.training.averaging import average_runs

    average_runs(runs, out)
    click.echo(out)
