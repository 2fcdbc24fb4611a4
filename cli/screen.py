"""``sro-edge screen``: score the comments of a dump."""

from __future__ import annotations

from pathlib import Path

import click

from sro_edge.cli._progress import resumable
from sro_edge.cli._shared import default_output, dump_options, show_output, show_summary
from sro_edge.stores import Place


@click.command(short_help="Score the comments of a dump.")
@dump_options
def screen(
    source: Place,
    output: Place | None,
    column: str,
    bundle: Path | None,
    threshold: float | None,
    limit: int | None,
    threads: int | None,
    device: str,
    no_cascade: bool,
    overwrite: bool,
    restart: bool,
    quiet: bool,
) -> None:
    """Score the comments of a dump and rewrite nothing.

    INPUT is a Parquet, CSV, TSV or JSONL file, by its suffix, a folder of such
    files (a hive-partitioned dataset), or - for JSONL on standard input. INPUT and
    OUTPUT may lie on a store: s3://, gs://, hf:// (extra: remote) and others.

    OUTPUT (default: comments.parquet gives comments.screened.parquet) is of the
    same kind and has every row and column as it was, and new columns:
    text_toxicity (0 to 1) and, where the screener has it, text_fluency. Null
    and blank comments have no score. The threshold decides which comments are
    counted as toxic.

    Where the bundle has a first stage, it clears comments that are surely below
    the threshold: these have no score, and text_cleared is true. With
    --no-cascade every comment gets its score.

    A run that was interrupted or killed goes on when the same command is run
    again.

    \b
    Examples:
      sro-edge screen comments.parquet
      sro-edge screen posts.csv scored.csv --column body
      sro-edge screen s3://raw/comments.parquet scored.parquet
      zcat posts.jsonl.gz | sro-edge screen - > scored.jsonl

    \b
    Exit status:
      0         done; the path of OUTPUT is on stdout (or, with -, the data)
      1         something you can mend, said in one sentence
      2         wrong usage
      130, 143  interrupted, terminated; run again to go on
    """
    from sro_edge.dump import check, screen_dump
    from sro_edge.worker import remote_screener

    output = output or default_output(source, "screened")
    check(source, output, column=column, overwrite=overwrite)
    engine = remote_screener(
        bundle, threads=threads, device=device, threshold=threshold, cascade=not no_cascade
    )
    with engine as screener, resumable(quiet) as watch:
        identity = screener.identity()
        stated = identity.pop("threshold")
        summary = screen_dump(
            source,
            output,
            screener,
            threshold=stated if threshold is None else threshold,
            settings=identity,
            column=column,
            limit=limit,
            overwrite=overwrite,
            restart=restart,
            progress=watch.progress,
            trouble=watch.trouble,
        )
    if not quiet:
        show_summary(summary)
    show_output(output)
