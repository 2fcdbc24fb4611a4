"""``sro-edge bench``: how fast a bundle is on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from sro_edge.cli._progress import stderr
from sro_edge.cli._shared import NEW_FILE, PATH


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers above 0 with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Part and check."""
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            numbers = (0,)
        if min(numbers) < 1:
            self.fail(f"{value!r} are not whole numbers such as 1,2,4.", param, ctx)
        return numbers


@click.command(short_help="Measure how fast a bundle is on this machine.")
@click.argument("source", metavar="INPUT", type=PATH)
@click.option("--column", default="text", show_default=True, help="Column of comments.")
@click.option("--bundle", type=PATH, metavar="PATH", help="Model bundle [default: built in].")
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    metavar="N",
    help="Only the first N rows.",
)
@click.option(
    "--threads",
    type=Numbers(),
    metavar="N,N...",
    help="CPU threads to try [default: 1 and all physical cores].",
)
@click.option(
    "--in-flight",
    type=Numbers(),
    default="1,4,16,32",
    show_default=True,
    metavar="N,N...",
    help="Answers in flight to try.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the models run.",
)
@click.option("--png", type=NEW_FILE, metavar="FILE", help="Also draw a picture (extra: bench).")
def bench(
    source: Path,
    column: str,
    bundle: Path | None,
    rows: int,
    threads: tuple[int, ...] | None,
    in_flight: tuple[int, ...],
    device: str,
    png: Path | None,
) -> None:
    """Measure how fast a bundle is on this machine, with your own comments.

    INPUT is a dump as for `sro-edge rewrite`; its first rows are screened and
    reworded, and nothing is written but the figures: time to the first row of
    a fresh process, latency of one comment by its length, throughput of the
    screener and of the rewriter alone and of both together, peak memory.

    The tables go to stderr; stdout gets one line of JSON. Close other programs
    before you rely on the figures.

    \b
    Examples:
      sro-edge bench comments.parquet
      sro-edge bench comments.parquet --threads 1,2,4,8 --png bench.png
      sro-edge bench comments.csv --bundle my-bundle > bench.json
    """
    from sro_edge.bench import load_comments, measure
    from sro_edge.bench_plot import draw, tables
    from sro_edge.bundle import Bundle
    from sro_edge.machine import physical_cores

    console = stderr()
    comments = load_comments(source, column, rows)
    result = measure(
        comments,
        Bundle.load(bundle),
        threads=threads or sorted({1, physical_cores()}),
        slots=in_flight,
        device=device,
        say=lambda what: console.print(f"measuring {what}", style="dim"),
    )
    for table in tables(result):
        console.print()
        console.print(table)
    click.echo(json.dumps(result))
    if png is not None:
        draw(result, png)
