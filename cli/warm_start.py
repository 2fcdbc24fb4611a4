"""``sro-edge warm-start``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

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
from sro_edge.training.config import WarmStartConfig


@click.command("warm-start")
@click.option("--toxic", type=PILE, multiple=True, required=True, help="Toxic pile.")
@click.option("--clean", type=PILE, multiple=True, required=True, help="Clean pile.")
@click.option("--plain", type=READABLE, multiple=True, help="General clean text.")
@click.option(
    "--mining",
    type=READABLE,
    multiple=True,
    help="Labelled comments, to find toxic words.",
)
@click.option("--mining-source", multiple=True, help="Use only these `source` values of --mining.")
@folds_option("Mine only comments whose hash lies between these shares.")
@click.option("--init", type=PILE, help="Go on from this run's model and its tokenizer.")
@click.option("--pairs", type=READABLE, help="Comments with a model's own rewrites (`distill`).")
@click.option("--pairs-columns", nargs=2, help="Its two columns [default: it has just two].")
@click.option("--mild", type=READABLE, help="Table of milder words, for the noise.")
@click.option("--column", default="text", show_default=True, help="Text column of all files.")
@click.option("--encoder", default="minilm", show_default=True, help="Tells words that mean alike.")
@config_options(WarmStartConfig)
@run_options
def warm_start(
    toxic: tuple[Path, ...],
    clean: tuple[Path, ...],
    plain: tuple[Path, ...],
    mining: tuple[Path, ...],
    mining_source: tuple[str, ...],
    folds: tuple[float, float],
    init: Path | None,
    pairs: Path | None,
    pairs_columns: tuple[str, str] | None,
    mild: Path | None,
    column: str,
    encoder: str,
    out: Path | None,
    resume: bool,
    **settings: Any,
) -> None:
    """Make a small rewriter from nothing, for machines without a pretrained model.

    Trains a byte-level BPE tokenizer and a Llama-shaped model to undo toxic noise put into clean
    sentences. The noise is mined from the toxic pile; the piles need not be paired. Files are
    Parquet, CSV or JSONL; of --plain, rows marked in a column `profane` are left out.

    \b
    Examples:
      sro-edge warm-start --toxic toxic.parquet --clean neutral.parquet \\
          --plain posts.parquet -o runs/warm-start
      sro-edge warm-start --recipe recipes/default_bundle.toml
    """
    config = build_config(WarmStartConfig, settings)
    needs("warm-start", "train", "torch", "transformers", "sklearn")
    run = run_folder(out, "warm-start", resume)
    from sro_edge.mild_words import read_mild
    from sro_edge.training.encoder import Encoder
    from sro_edge.training.piles import read_labelled, read_pairs, read_plain, read_texts
    from sro_edge.training.warm_start import Piles
    from sro_edge.training.warm_start import warm_start as train

    labelled = read_labelled(mining, column, sources=mining_source).within(folds)
    piles = Piles(
        toxic=read_texts(toxic, column),
        clean=read_texts(clean, column),
        plain=read_plain(plain, column),
        mining=(labelled.of(1), labelled.of(0)),
        pairs=read_pairs(pairs, pairs_columns or ()) if pairs else (),
        mild=read_mild(mild) if mild else None,
    )
    with training_progress(config.tokens, "tokens", {"loss": "loss {:.3g}"}) as progress:
        model = train(piles, run, config, Encoder(encoder), init=init, progress=progress)
    named = {"toxic": toxic, "clean": clean, "plain": plain, "mining": mining}
    single = {"pairs": pairs, "mild": mild}
    record_data(run, named | {role: (file,) for role, file in single.items() if file}, folds)
    click.echo(model)
