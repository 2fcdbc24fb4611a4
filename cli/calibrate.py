"""``sro-edge calibrate``: a threshold for your own comments."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sro_edge.cli._progress import stderr
from sro_edge.cli._shared import PATH, Share

if TYPE_CHECKING:
    from rich.table import Table

    from sro_edge.evaluation.calibration import Calibration


@click.command(short_help="Find a toxicity threshold for your own comments.")
@click.argument("labelled", type=PATH)
@click.option("--column", default="text", show_default=True, help="Column of comments.")
@click.option("--label", default="label", show_default=True, help="Column of 0 and 1 (1 = toxic).")
@click.option("--recall", type=Share(), metavar="SHARE", help="Toxic comments to be caught.")
@click.option("--precision", type=Share(), metavar="SHARE", help="Caught comments to be toxic.")
@click.option("--bundle", type=PATH, metavar="PATH", help="Bundle [default: built in].")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads.")
@click.option("--out", "-o", type=PATH, metavar="PATH", help="Write a bundle with that threshold.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that exists.")
def calibrate(
    labelled: Path,
    column: str,
    label: str,
    recall: float | None,
    precision: float | None,
    bundle: Path | None,
    threads: int | None,
    out: Path | None,
    overwrite: bool,
) -> None:
    """Find the toxicity threshold that catches the share of toxic comments you want.

    LABELLED is a Parquet, CSV or JSONL sample of your own comments, labelled 1
    for toxic and 0 for not. --recall gives the highest threshold that catches
    that share of the toxic ones; --precision the lowest at which that share of
    the caught ones is toxic. The figures under "held out" come from comments that
    did not choose the threshold; "rewritten" is the share of such comments that
    a run would touch.

    The threshold is printed; --out writes a copy of the bundle that uses it.

    \b
    Examples:
      sro-edge calibrate sample.csv --recall 0.95
      sro-edge calibrate sample.parquet --precision 0.9 -o strict-bundle
      sro-edge rewrite comments.parquet --bundle strict-bundle
    """
    if (recall is None) == (precision is None):
        raise click.UsageError("give either --recall or --precision")
    from sro_edge.bundle import Bundle
    from sro_edge.evaluation import calibration
    from sro_edge.folders import check_replaceable
    from sro_edge.manifest import is_bundle
    from sro_edge.screener import Screener
    from sro_edge.training.piles import read_labelled

    if out is not None:
        check_replaceable(out, overwrite, is_bundle)
    sample = read_labelled([labelled], column, label)
    opened = Bundle.load(bundle)
    screener = Screener(opened.screener, threads=threads)
    scores = screener.score(sample.texts).toxicity.tolist()
    found = calibration.calibrate(
        sample.texts, sample.labels, scores, recall=recall, precision=precision
    )
    stderr().print(_table(found))
    if out is not None:
        wanted = {"recall": recall} if recall is not None else {"precision": precision}
        opened.copy(
            out,
            thresholds=dataclasses.replace(opened.thresholds, toxicity=found.threshold),
            scores={"calibration": {"wanted": wanted, **found.to_dict()}},
            overwrite=overwrite,
        )
        click.echo(f"{out}: a copy of {opened.name} with this threshold", err=True)
    click.echo(json.dumps(found.to_dict()))


def _table(found: Calibration) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title_justify="left")
    table.title = f"threshold {found.threshold:g}"
    table.caption = f"{found.rows:,} comments, {found.toxic:,} of them toxic"
    for head in ("", "held out", "95 %", "sample"):
        table.add_column(head, justify="right" if head else "left")

    def row(name: str, key: str, interval: tuple[float, float] | None) -> None:
        between = f"{interval[0]:.3f}-{interval[1]:.3f}" if interval else ""
        values = (getattr(part, key) for part in (found.held_out, found.sample))
        held_out, sample = (f"{value:.3f}" for value in values)
        table.add_row(name, held_out, between, sample)

    row("recall", "recall", found.recall_interval)
    row("precision", "precision", found.precision_interval)
    row("rewritten", "flagged", None)
    return table
