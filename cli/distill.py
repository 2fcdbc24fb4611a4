"""``sro-edge distill``: the best rewrites of a bundle, as pairs to train on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sro_edge.cli._progress import stderr
from sro_edge.cli._shared import NEW_FILE, PATH
from sro_edge.cli._training import PILE, READABLE, folds_option, load_fluency_judge, needs

if TYPE_CHECKING:
    from sro_edge.rewriter import Rewriter
    from sro_edge.training.rewording import Rewording


@click.command(short_help="Draw a bundle's best rewrites, as pairs to train on.")
@click.argument("toxic", nargs=-1, required=True, type=PATH)
@click.option("--column", default="text", show_default=True, help="Text column of all files.")
@click.option(
    "--labelled",
    type=PILE,
    multiple=True,
    metavar="PATH",
    help="Labelled comments: toxic sentences of the toxic ones are rewritten as well.",
)
@click.option(
    "--max-labelled",
    type=click.IntRange(min=1),
    default=9_000,
    show_default=True,
    metavar="N",
    help="Sentences taken of --labelled.",
)
@folds_option("Of --labelled, use only texts whose hash lies between these shares.")
@click.option("--bundle", type=PATH, metavar="PATH", help="Bundle [default: built in].")
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="Candidates beside the greedy one.",
)
@click.option(
    "--max-chars",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    metavar="N",
    help="Longer comments are left out.",
)
@click.option(
    "--mild",
    type=READABLE,
    metavar="TSV",
    help="Table of milder words: candidates are searched with it as well.",
)
@click.option(
    "--plain",
    type=READABLE,
    multiple=True,
    metavar="PATH",
    help="General clean text, which tells what stands beside what; with --mild.",
)
@click.option(
    "--fluency-judge", type=PILE, metavar="RUN", help="Run of judges: a second opinion on fluency."
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N")
@click.option("--out", "-o", type=NEW_FILE, default="pairs.parquet", show_default=True)
def distill(
    toxic: tuple[Path, ...],
    column: str,
    labelled: tuple[Path, ...],
    max_labelled: int,
    folds: tuple[float, float],
    bundle: Path | None,
    samples: int,
    max_chars: int,
    mild: Path | None,
    plain: tuple[Path, ...],
    fluency_judge: Path | None,
    threads: int | None,
    seed: int,
    out: Path,
) -> None:
    """Draw a bundle's best rewrites of toxic comments, as pairs to train on.

    Each comment is rewritten greedily and by sampling. The best candidate by
    (1 - toxicity)^3 x similarity x fluency becomes a pair if it passes stricter
    floors than a rewrite must. A policy trained on the pairs passes at its first
    attempt what took several, and a bundle of it is better and faster.

    With --mild (a line is a toxic phrase, a tab, and milder ones with | between
    them), rewrites are also searched: toxic phrases replaced as the words beside
    them in --plain allow. Then no candidate may have words of its own making.

    \b
    Example:
      sro-edge export runs/sro --screener runs/screener -o first
      sro-edge distill toxic.parquet --bundle first -o pairs.parquet
      sro-edge train --policy runs/sro --screener runs/screener \\
          --toxic toxic.parquet --pairs pairs.parquet \\
          --pairs-columns comment text --pairs-epochs 2 -o runs/distilled
    """
    import json
    from itertools import islice

    import pyarrow as pa
    import pyarrow.parquet as pq
    from rich.progress import track

    from sro_edge.durable import durable
    from sro_edge.errors import InputError
    from sro_edge.rewriter import Rewriter
    from sro_edge.training.best_of import Drawn, Floors, best_of
    from sro_edge.training.piles import read_texts

    if bool(mild) != bool(plain):
        raise click.UsageError("--mild and --plain go together: one says what, the other where")
    if fluency_judge:
        needs("distill --fluency-judge", "train", "torch", "transformers")
    texts = read_texts(toxic, column)
    rewriter = Rewriter.load(bundle, threads=threads)
    if labelled:
        texts += islice(_sentences(labelled, column, folds, rewriter), max_labelled)
    texts = [t for t in dict.fromkeys(texts) if len(t) <= max_chars]
    search = _rewording(mild, plain, column, rewriter) if mild else None
    judge = load_fluency_judge(fluency_judge)
    found = best_of(
        rewriter,
        texts,
        samples=samples,
        floors=Floors(),
        search=search,
        fluency_judge=(lambda texts: judge(texts).numpy()) if judge else None,
        seed=seed,
    )
    shown = track(found, "drawing", total=len(texts), console=stderr())
    pairs = [drawn for _, drawn in shown if drawn is not None]
    if not pairs:
        raise InputError(
            f"none of {len(texts):,} comments got a rewrite good enough to learn from; give more "
            "comments or --samples, or a bundle that rewrites better"
        )
    columns = {name: [getattr(d, name) for d in pairs] for name in Drawn._fields}
    note = {b"sro_edge": json.dumps(rewriter.settings()).encode()}
    with durable(out) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(note), temporary)
    click.echo(f"{len(pairs):,} pairs of {len(texts):,} comments", err=True)
    click.echo(out)


def _sentences(
    labelled: tuple[Path, ...], column: str, folds: tuple[float, float], rewriter: Rewriter
) -> Iterator[str]:
    """Toxic sentences of the labelled comments, the comments shuffled."""
    from sro_edge.training.best_of import toxic_sentences
    from sro_edge.training.piles import read_labelled

    comments = read_labelled(labelled, column).within(folds).of(1)
    random.Random(0).shuffle(comments)
    return toxic_sentences(comments, rewriter.screener, rewriter.thresholds.toxicity)


def _rewording(mild: Path, plain: tuple[Path, ...], column: str, rewriter: Rewriter) -> Rewording:
    """The search; of the bundle's toxic words, those count that are toxic alone."""
    from sro_edge.mild_words import read_mild
    from sro_edge.training.ngrams import Trigrams
    from sro_edge.training.piles import read_plain
    from sro_edge.training.rewording import Rewording, toxic_alone

    toxic = toxic_alone(rewriter.lexicon, rewriter.screener)
    return Rewording(read_mild(mild), toxic, Trigrams(read_plain(plain, column)))
