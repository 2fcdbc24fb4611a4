"""``sro-edge train-screener``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sro_edge.cli._training import (
    PILE,
    READABLE,
    build_config,
    config_options,
    folds_option,
    load_fluency_judge,
    needs,
    record_data,
    run_folder,
    run_options,
    training_progress,
)
from sro_edge.training.config import ScreenerConfig

if TYPE_CHECKING:
    from sro_edge.training.follower import Classifier
    from sro_edge.training.piles import Labelled


@click.command("train-screener")
@click.option("--train", type=READABLE, multiple=True, help="Labelled comments (repeatable).")
@click.option("--toxic", type=PILE, multiple=True, help="Comments that are all toxic.")
@click.option("--clean", type=PILE, multiple=True, help="Comments that are all clean.")
@click.option("--dev", type=READABLE, multiple=True, required=True, help="Picks the thresholds.")
@click.option("--test", type=READABLE, multiple=True, help="Only reported on.")
@click.option("--sentences", type=READABLE, multiple=True, help="Text to learn fluency from.")
@click.option(
    "--ordinary",
    type=READABLE,
    multiple=True,
    help="General clean text: what is flagged in it wrongly is learned from as clean.",
)
@click.option("--max-ordinary", default=4_000, show_default=True, help="Taken from --ordinary.")
@click.option(
    "--contrasts",
    type=READABLE,
    multiple=True,
    help="Templates of toxic sentences and of clean ones that only look so (TOML).",
)
@click.option("--fluency-judge", type=PILE, help="Run of judges that says how broken a copy is.")
@click.option("--max-sentences", default=60_000, show_default=True, help="Taken from --sentences.")
@folds_option(
    "Train only on texts whose hash lies between these shares; the rest is left for a judge."
)
@click.option("--column", default="text", show_default=True, help="Text column of all files.")
@click.option("--label", default="label", show_default=True, help="Label column; 1 is toxic.")
@config_options(ScreenerConfig)
@run_options
def train_screener(
    train: tuple[Path, ...],
    toxic: tuple[Path, ...],
    clean: tuple[Path, ...],
    dev: tuple[Path, ...],
    test: tuple[Path, ...],
    sentences: tuple[Path, ...],
    ordinary: tuple[Path, ...],
    max_ordinary: int,
    contrasts: tuple[Path, ...],
    fluency_judge: Path | None,
    max_sentences: int,
    folds: tuple[float, float],
    column: str,
    label: str,
    out: Path | None,
    resume: bool,
    **settings: Any,
) -> None:
    """Fine-tune a screener: toxicity, fluency and meaning from one pass of one encoder.

    Labelled files are Parquet, CSV or JSONL with a text and a 0/1 label column; a column `source`,
    where there is one, splits the reported figures. Fluency is learned from whole sentences
    against broken copies of them, so --sentences needs no labels. With --fluency-judge
    (made by `train-judges` from texts that the judge of your figures does not
    see), that model says how broken each copy is: many bear a missing word.

    Clean comments gathered with a word list teach that "kill" is an insult.
    --ordinary finds sentences of general text that only its words make look toxic or, where
    --base is a screener, that the base flags although their words are harmless.
    --contrasts makes sentences of templates, such as threats beside harmless sentences
    of the same words (recipes/contrasts.toml says how such a file looks).

    A screener goes on learning where --base is one: it keeps its embedding, and what it
    says of fluency, unless --fluency-judge is given. With --retain 1 it keeps what it says
    of toxicity as well, but for contrasts that it is not sure of, and its false alarms in
    --ordinary, which it learns.

    \b
    Examples:
      sro-edge train-screener --train labelled.parquet --dev dev.parquet \\
          --sentences posts.parquet -o runs/screener
      sro-edge train-screener --recipe recipes/default_bundle.toml
    """
    config = build_config(ScreenerConfig, settings)
    if not (train or (toxic and clean)):
        raise click.UsageError("give --train, or both --toxic and --clean to learn from")
    needs("train-screener", "train", "torch", "transformers", "sklearn")
    run = run_folder(out, "screener", resume)
    from sro_edge.training.contrasts import SOURCE as CONTRASTS
    from sro_edge.training.contrasts import read_contrasts
    from sro_edge.training.false_alarms import SOURCE as FALSE_ALARMS
    from sro_edge.training.piles import (
        clean_sentences,
        in_folds,
        read_labelled,
        read_plain,
        read_texts,
    )
    from sro_edge.training.screener import earlier_screener, screener_steps
    from sro_edge.training.screener import train_screener as fit
    from sro_edge.training.screener_rows import fluency_sentences

    labelled = read_labelled(train, column, label=label)
    piles = [(read_texts(f, column), y) for f, y in ((toxic, 1), (clean, 0))]
    for texts, y in piles:
        labelled = labelled.joined(texts, y, "toxic pile" if y else "clean pile")
    comments = [t for texts, _ in piles for t in texts]
    plain = read_plain(sentences, column)
    whole, held_out = fluency_sentences(plain, comments, max_sentences, folds)
    used = labelled.within(folds)
    if ordinary:
        earlier = earlier_screener(config, sentences=bool(whole))  # says at once what cannot work
        spoken = [t for t in clean_sentences(read_plain(ordinary, column)) if in_folds(t, folds)]
        alarms = _false_alarms(used, spoken, max_ordinary, config.base, earlier)
        used = used.joined(alarms, 0, FALSE_ALARMS)
    made = [c for file in contrasts for c in read_contrasts(file)]
    for y in (0, 1):
        used = used.joined([c.text for c in made if c.toxic == y], y, CONTRASTS)
    steps = screener_steps(len(used.texts), config, sentences=bool(whole))
    shown = {n: n + " {:.3g}" for n in ("toxic", "fluent", "distill")}
    with training_progress(steps, "step", shown) as progress:
        model = fit(
            used,
            read_labelled(dev, column, label=label),
            whole,
            held_out,
            run,
            config,
            test=read_labelled(test, column, label=label) if test else None,
            fluency_judge=load_fluency_judge(fluency_judge),
            progress=progress,
        )
    roles = {"train": train, "toxic": toxic, "clean": clean, "dev": dev, "sentences": sentences}
    roles |= {"ordinary": ordinary, "contrasts": contrasts}
    record_data(run, roles, folds)
    click.echo(model)


def _false_alarms(
    labelled: Labelled, spoken: Sequence[str], most: int, base: str, earlier: Classifier | None
) -> list[str]:
    """Clean sentences that words alone, or a base that is a screener, take for toxic."""
    from sro_edge.training.false_alarms import false_alarms, own_alarms
    from sro_edge.training.runs import stored_thresholds

    if earlier is None:
        return false_alarms(labelled, spoken, most)
    limit = stored_thresholds(base).toxicity
    return own_alarms(labelled, spoken, most, lambda t: earlier.judge(t).toxicity.numpy(), limit)
