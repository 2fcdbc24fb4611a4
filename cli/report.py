"""``sro-edge report``: a page to check a rewrite run with."""

from __future__ import annotations

from pathlib import Path

import click

from sro_edge.cli._shared import NEW_FILE, PATH


@click.command(short_help="Make a page to check a rewrite run with.")
@click.argument("output", metavar="OUTPUT", type=PATH)
@click.option("--column", help="Column of comments [default: the run's].")
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="Comments shown: half unresolved, half rewritten.",
)
@click.option("--page", "-o", type=NEW_FILE, help="HTML file [default: OUTPUT, as .html].")
def report(output: Path, column: str | None, rows: int, page: Path | None) -> None:
    """Make a page to check a rewrite run with.

    OUTPUT is what `sro-edge rewrite` made: a Parquet, CSV, TSV or JSONL file, or a
    folder of them. OUTPUT.json beside it says which columns are new.

    The page shows comments beside their rewrites, word by word, sortable by each
    score; what was left unresolved and why; and how toxic the comments were before
    and after. It is one file that needs no network; it holds toxic text.

    \b
    Examples:
      sro-edge report comments.detox.parquet
      sro-edge report posts.detox.csv -o check.html
      sro-edge report dataset-clean/ --rows 200
    """
    from sro_edge.evaluation.report import report_run
    from sro_edge.places import named

    if page is None:
        made = named(output)
        page = made.with_name(f"{made.name if made.is_dir() else made.stem}.html")
    shown = report_run(output, page, column=column, rows=rows)
    click.echo(f"{shown:,} comments shown", err=True)
    click.echo(page)
