"""``sro-edge rewrite``: reword the toxic comments of a Parquet file."""

from __future__ import annotations

from pathlib import Path

import click

from sro_edge.cli._cluster import engines, ray_options
from sro_edge.cli._progress import resumable
from sro_edge.cli._shared import ShareOrOff, default_output, dump_options, show_output, show_summary
from sro_edge.stores import Place


@click.command(short_help="Reword the toxic comments of a dump.")
@dump_options
@click.option(
    "--max-attempts",
    type=click.IntRange(min=1),
    metavar="N",
    help="Rounds: one greedy, then sampled, before words are deleted [default: 3].",
)
@click.option(
    "--samples",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Candidates of a sampled round: more reword better and slower [default: the bundle's].",
)
@click.option(
    "--no-delete",
    is_flag=True,
    help="Switch the last resort off: leave unresolved what only the deletion of words would mend.",
)
@click.option(
    "--on-unresolved",
    type=click.Choice(["null", "mask", "keep"]),
    default="null",
    show_default=True,
    help="What a comment becomes for which no rewrite passes.",
)
@click.option(
    "--abstain",
    type=ShareOrOff(),
    metavar="FLOAT|off",
    help="Lowest score at which a comment is given up as beyond rewording [default: the bundle's].",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N")
@click.option(
    "--deterministic",
    is_flag=True,
    help="Batches of fixed shapes: the same answers in any company, slower.",
)
@click.option(
    "--show",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    metavar="N",
    help="Pairs of comment and rewrite to show at the end.",
)
@ray_options
def rewrite(
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
    max_attempts: int | None,
    samples: int | None,
    no_delete: bool,
    on_unresolved: str,
    abstain: float | str | None,
    seed: int,
    deterministic: bool,
    show: int,
    ray: str | None,
    ray_actors: int | None,
    ray_gpus: float,
) -> None:
    """Reword the toxic comments of a dump.

    INPUT is a Parquet, CSV, TSV or JSONL file, by its suffix, a folder of such
    files (a hive-partitioned dataset), or - for JSONL on standard input. INPUT and
    OUTPUT may lie on a store: s3://, gs://, hf:// (extra: remote) and others.

    OUTPUT (default: comments.parquet gives comments.detox.parquet) is of the
    same kind and has every row and column as it was, and new columns:
    text_detox, and its proof in detox_status, detox_reason, detox_engine,
    detox_toxicity_before, detox_toxicity_after, detox_similarity, detox_fluency
    and detox_attempts. OUTPUT.json says how it was made. A comment that the
    bundle's first stage clears is copied as clean, without a score; with
    --no-cascade every comment meets the screener.

    \b
    detox_status is
      clean       the comment passes as it is and is copied
      rewritten   it did not, its rewrite does
      unresolved  no rewrite passes; text_detox is null, masked or kept
                  (--on-unresolved), detox_reason says why: abstained, where
                  the bundle holds that no rewording can mend it
      empty       nothing to rewrite

    \b
    detox_engine is
      greedy      the model's likeliest answer
      substitute  milder words, or none, by the bundle's table
      sample      the best of several answers
      delete      toxic words left out, which may leave holes, or of a
                  quotation, marked [...] (--no-delete)

    A run that was interrupted or killed goes on when the same command is run
    again. The models work in a process of their own: if it dies over some
    comments twice, those become unresolved (error), and the run goes on.

    \b
    Examples:
      sro-edge rewrite comments.parquet
      sro-edge rewrite posts.parquet clean.parquet --column body
      sro-edge rewrite comments.csv --limit 100 --overwrite
      sro-edge rewrite dataset/ dataset-clean/
      sro-edge rewrite dataset/ dataset-clean/ --ray
      sro-edge rewrite s3://raw/comments.parquet s3://clean/comments.parquet
      zcat posts.jsonl.gz | sro-edge rewrite - | gzip > clean.jsonl.gz
      sro-edge rewrite comments.parquet --threshold 0.2 --on-unresolved mask
      sro-edge rewrite comments.parquet --abstain off

    \b
    Exit status:
      0         done; the path of OUTPUT is on stdout (or, with -, the data)
      1         something you can mend, said in one sentence
      2         wrong usage
      130, 143  interrupted, terminated; run again to go on
    """
    from sro_edge.dump import check, rewrite_dump

    output = output or default_output(source, "detox")
    check(source, output, column=column, overwrite=overwrite)
    engine = engines(
        source,
        bundle,
        ray=ray,
        ray_actors=ray_actors,
        ray_gpus=ray_gpus,
        threshold=threshold,
        max_attempts=max_attempts,
        samples=samples,
        delete=not no_delete,
        on_unresolved=on_unresolved,
        abstain=abstain,
        seed=seed,
        threads=threads,
        device=device,
        deterministic=deterministic,
        cascade=not no_cascade,
    )
    with engine as (rewriter, spread), resumable(quiet) as watch:
        summary = rewrite_dump(
            source,
            output,
            rewriter,
            column=column,
            limit=limit,
            overwrite=overwrite,
            restart=restart,
            examples=0 if quiet else show,
            progress=watch.progress,
            trouble=watch.trouble,
            spread=spread,
        )
    if not quiet:
        show_summary(summary)
    show_output(output)
