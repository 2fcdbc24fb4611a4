"""``sro-edge train-first-stage``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sro_edge.cli._shared import PATH
from sro_edge.cli._training import (
    PILE,
    READABLE,
    build_config,
    config_options,
    folds_option,
    needs,
    record_data,
    run_folder,
    run_options,
    training_progress,
)
from sro_edge.training.config import FirstStageConfig


@click.command("train-first-stage")
@click.option("--bundle", type=PATH, metavar="BUNDLE", help="Whose screener [default: built in].")
@click.option("--comments", type=PILE, multiple=True, required=True, help="Comments to learn from.")
@click.option("--plain", type=PILE, multiple=True, help="General text, to take pieces of.")
@click.option("--max-plain", default=150_000, show_default=True, help="Pieces taken of --plain.")
@click.option("--max-pieces", type=click.IntRange(min=1), help="Learn from no more, in all.")
@click.option(
    "--contrasts",
    type=READABLE,
    multiple=True,
    help="Templates of sentences to learn from as well (TOML).",
)
@click.option("--dev", type=PILE, multiple=True, required=True, help="Comments held out.")
@click.option("--dev-plain", type=PILE, multiple=True, help="General text held out.")
@click.option("--max-dev", default=20_000, show_default=True, help="Pieces taken of --dev-plain.")
@click.option(
    "--most-missed",
    type=click.FloatRange(0, 1),
    default=0.001,
    show_default=True,
    help="Largest share of the held-out texts that the screener flags and the stage may clear.",
)
@folds_option("Learn only from texts whose hash lies between these shares.")
@click.option("--column", default="text", show_default=True, help="Text column of all files.")
@click.option("--init", type=PILE, metavar="RUN", help="Go on from the first stage of this run.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads.")
@config_options(FirstStageConfig)
@run_options
def train_first_stage(
    bundle: Path | None,
    comments: tuple[Path, ...],
    plain: tuple[Path, ...],
    max_plain: int,
    max_pieces: int | None,
    contrasts: tuple[Path, ...],
    dev: tuple[Path, ...],
    dev_plain: tuple[Path, ...],
    max_dev: int,
    most_missed: float,
    folds: tuple[float, float],
    column: str,
    init: Path | None,
    threads: int | None,
    out: Path | None,
    resume: bool,
    **settings: Any,
) -> None:
    """Fit a first stage to a bundle's screener: a small net that clears what is surely clean.

    The screener is asked about every text, so no labels are needed. The alarm up to which a text is
    cleared is picked on --dev and on pieces of --dev-plain, each for itself, so that at most
    --most-missed of what the screener calls toxic is cleared. `sro-edge export --first-stage RUN`
    puts it into a bundle of the same screener. Where a screener went on learning, its first stage
    may too, with --init and fewer texts.

    \b
    Examples:
      sro-edge train-first-stage --bundle my-bundle --comments comments.parquet \\
          --dev held-out.parquet -o runs/first-stage
      sro-edge train-first-stage --recipe recipes/default_bundle.toml
    """
    config = build_config(FirstStageConfig, settings)
    needs("train-first-stage", "train", "torch", "transformers", "scipy")
    run = run_folder(out, "first-stage", resume)
    from sro_edge.training.contrasts import read_contrasts
    from sro_edge.training.first_stage import Texts
    from sro_edge.training.first_stage import train_first_stage as fit
    from sro_edge.training.imitation import pieces
    from sro_edge.training.piles import read_texts

    said = read_texts(comments, column)
    said += [c.text for file in contrasts for c in read_contrasts(file)]
    learned = pieces(said, read_texts(plain, column), max_plain, folds, config.seed)[:max_pieces]
    held_out = {"comments": read_texts(dev, column)}
    if dev_plain:
        general = read_texts(dev_plain, column)
        held_out["general"] = pieces((), general, max_dev, (0.0, 1.0), config.seed)
    total = int(len(learned) * (1 + config.epochs))
    with training_progress(total, "piece", {"loss": "loss {:.3g}"}) as progress:
        fit(
            Texts(learned, held_out),
            bundle,
            run,
            config,
            init=init,
            most_missed=most_missed,
            threads=threads,
            progress=progress,
        )
    roles = {"comments": comments, "plain": plain, "dev": dev, "dev_plain": dev_plain}
    record_data(run, roles | {"contrasts": contrasts})
    click.echo(run)
