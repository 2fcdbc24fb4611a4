"""``sro-edge train-judges``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sro_edge.cli._progress import stderr
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
from sro_edge.training.config import JudgesConfig

if TYPE_CHECKING:
    from sro_edge.training.fluency import Material, Yardsticks


@click.command("train-judges", short_help="Train the judges that evaluate rewrites.")
@click.option("--train", type=READABLE, multiple=True, required=True, help="Labelled comments.")
@click.option("--dev", type=READABLE, multiple=True, required=True, help="Labelled, to measure on.")
@click.option("--test", type=READABLE, multiple=True, help="Labelled, only reported on.")
@folds_option("Train only on comments whose hash lies between these shares: the screener's rest.")
@click.option(
    "--sentences", type=PILE, multiple=True, required=True, help="Text to learn fluency from."
)
@click.option("--max-sentences", default=150_000, show_default=True, help="Taken from --sentences.")
@click.option("--minimal-pairs", type=READABLE, help="Table of acceptable and unacceptable texts.")
@click.option(
    "--minimal-columns",
    nargs=2,
    default=("good", "bad"),
    show_default=True,
    help="Its columns.",
)
@click.option("--rated", type=READABLE, help="Table of texts with a rating of their form, 0 to 1.")
@click.option("--rating", default="rating", show_default=True, help="Its column of ratings.")
@click.option(
    "--human", type=PILE, multiple=True, required=True, help="Rewrites by people: set the cut."
)
@click.option("--toxic", type=PILE, multiple=True, help="Toxic comments, to delete words of.")
@click.option("--words", type=READABLE, help="List of the words to delete.")
@click.option("--column", default="text", show_default=True, help="Text column of all files.")
@click.option("--label", default="label", show_default=True, help="Label column; 1 is toxic.")
@config_options(JudgesConfig)
@run_options
def train_judges(
    train: tuple[Path, ...],
    dev: tuple[Path, ...],
    test: tuple[Path, ...],
    folds: tuple[float, float],
    human: tuple[Path, ...],
    toxic: tuple[Path, ...],
    words: Path | None,
    column: str,
    label: str,
    out: Path | None,
    resume: bool,
    **settings: Any,
) -> None:
    """Train the judges that evaluate rewrites: one of toxicity, one of fluency.

    Give them texts that no screener and no rewriter has learned from. Toxicity is
    learned from labelled comments; fluency from whole sentences and broken copies
    of them, from minimal pairs and from rated texts, token by token, so that a
    missing word is seen. A text counts as fluent from the cut on that lets 88 % of
    --human pass; what passes with two words dropped, and with the toxic words
    deleted, is reported.

    \b
    Examples:
      sro-edge train-judges --train labelled.parquet --folds 0 0.3 \\
          --dev dev.parquet --sentences posts.parquet --human rewrites.parquet \\
          -o runs/judges
      sro-edge train-judges --recipe recipes/judges.toml
      sro-edge evaluate dev.parquet --judge runs/judges
    """
    config = build_config(JudgesConfig, settings)
    if bool(toxic) != bool(words):
        raise click.UsageError("--toxic and --words go together: the words are deleted from it")
    needs("train-judges", "train", "torch", "transformers", "sklearn")
    run = run_folder(out, "judges", resume)
    from sro_edge.training.judges import Comments
    from sro_edge.training.judges import train_judges as fit
    from sro_edge.training.piles import read_labelled

    comments = Comments(
        read_labelled(train, column, label=label).within(folds),
        read_labelled(dev, column, label=label),
        read_labelled(test, column, label=label) if test else None,
    )
    material = _material(column, **settings)
    yardsticks = _yardsticks(human, toxic, words, column)
    metrics = fit(comments, material, yardsticks, run, config, progress=_progress)
    record_data(
        run,
        {
            "toxicity: train": train,
            "toxicity: dev": dev,
            "fluency: sentences": settings["sentences"],
            "fluency: minimal pairs": _some(settings["minimal_pairs"]),
            "fluency: rated": _some(settings["rated"]),
            "fluency cut: human": human,
            "fluency cut: words deleted from": toxic,
        },
        folds=folds,
    )
    _show(metrics["fluency"])
    click.echo(run)


def _progress(judge: str, steps: int) -> AbstractContextManager[Callable[[dict[str, Any]], None]]:
    """A bar for the training of one judge, which shows its loss."""
    loss = {"toxicity": "toxic", "fluency": "token"}[judge]
    return training_progress(steps, "step", {loss: f"{judge}: loss {{:.3g}}"})


def _some(file: Path | None) -> tuple[Path, ...]:
    return (file,) if file else ()


def _material(
    column: str,
    *,
    sentences: tuple[Path, ...],
    max_sentences: int,
    minimal_pairs: Path | None,
    minimal_columns: tuple[str, str],
    rated: Path | None,
    rating: str,
    **_: Any,
) -> Material:
    """What the fluency judge learns from; profane texts take part, or fluent would mean clean."""
    import random

    from sro_edge.training.fluency import Material
    from sro_edge.training.piles import clean_sentences, read_pairs, read_rated, read_texts

    found = list(dict.fromkeys(clean_sentences(read_texts(sentences, column))))
    random.Random(0).shuffle(found)
    return Material(
        found[:max_sentences],
        read_pairs(minimal_pairs, minimal_columns) if minimal_pairs else (),
        read_rated(rated, column, rating) if rated else (),
    )


def _yardsticks(
    human: tuple[Path, ...], toxic: tuple[Path, ...], words: Path | None, column: str
) -> Yardsticks:
    import random

    from sro_edge.deletion import delete_words
    from sro_edge.evaluation.systems import read_words
    from sro_edge.training.fluency import Yardsticks
    from sro_edge.training.piles import read_texts

    written, comments = read_texts(human, column), read_texts(toxic, column)
    for texts in (written, comments):
        random.Random(0).shuffle(texts)
    listed = read_words(words) if words else {}
    return Yardsticks(written, [delete_words(text, listed) for text in comments])


def _show(found: dict[str, Any]) -> None:
    """The cut, and what passes under it."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row(f"fluent from {found['cut']:.4f} on", "")
    names = {"human": "by people", "two_words_dropped": "  with two words dropped"}
    for key, name in {**names, "deleted": "toxic words deleted"}.items():
        if key in found:
            table.add_row(name, f"{found[key]:.1%}")
    stderr().print(table)
