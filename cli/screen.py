"""``sro-edge screen``: score the comments of a Parquet file."""

from __future__ import annotations

from pathlib import Path

import click

from sro_edge.cli._shared import default_output, dump_options, resumable, show_summary


@click.command(short_help="Score the comments of a Parquet file.")
@dump_options
def screen(
    source: Path,
    output: Path | None,
    column: str,
    bundle: Path | None,
    threshold: float | None,
    limit: int | None,
    threads: int | None,
    device: str,
    overwrite: bool,
    restart: bool,
    quiet: bool,
) -> None:
    """Score the comments of a Parquet file and rewrite nothing.

    OUTPUT (default: INPUT.screened.parquet) has every row and column of the
    input as it was, and new columns: text_toxicity (0 to 1) and, where the
    screener has it, text_fluency. Null and blank comments have no score.
    The threshold decides only which comments are counted as toxic.

    A run that was interrupted or killed goes on when the same command is run
    again.

    \b
    Examples:
      sro-edge screen comments.parquet
      sro-edge screen posts.parquet scored.parquet --column body

    \b
    Exit status:
      0         done; the path of OUTPUT is on stdout
      1         something you can mend, said in one sentence
      2         wrong usage
      130, 143  interrupted, terminated; run again to go on
    """
    from sro_edge.bundle import Bundle
    from sro_edge.dump import check, screen_dump
    from sro_edge.screener import Screener

    output = output or default_output(source, "screened")
    check(source, output, column=column, overwrite=overwrite)
    opened = Bundle.load(bundle)
    screener = Screener(opened.screener, threads=threads, device=device)
    with resumable(quiet) as report:
        summary = screen_dump(
            source,
            output,
            screener,
            threshold=opened.thresholds.toxicity if threshold is None else threshold,
            settings={
                "bundle": opened.name,
                "bundle_version": opened.version,
                "bundle_digest": opened.digest,
            },
            column=column,
            limit=limit,
            overwrite=overwrite,
            restart=restart,
            progress=report,
        )
    if not quiet:
        show_summary(summary)
    click.echo(output)
