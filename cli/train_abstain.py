"""``sro-edge train-abstain``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sro_edge.cli._shared import PATH
from sro_edge.cli._training import (
    READABLE,
    build_config,
    config_options,
    needs,
    record_data,
    run_folder,
    run_options,
    training_progress,
)
from sro_edge.training.config import AbstainConfig


@click.command("train-abstain")
@click.option("--screener", type=PATH, metavar="RUN", required=True, help="Run of train-screener.")
@click.option("--comments", type=READABLE, multiple=True, required=True, help="Toxic comments.")
@click.option("--column", default="text", show_default=True, help="Text column of all files.")
@click.option(
    "--label",
    default="label",
    show_default=True,
    help="Column that tells which comments nobody could reword.",
)
@click.option("--value", default="1", show_default=True, help="What it says of these.")
@click.option(
    "--contrasts",
    type=READABLE,
    multiple=True,
    help="Templates of toxic sentences, some beyond rewording (TOML), to learn from as well.",
)
@config_options(AbstainConfig)
@run_options
def train_abstain(
    screener: Path,
    comments: tuple[Path, ...],
    column: str,
    label: str,
    value: str,
    contrasts: tuple[Path, ...],
    out: Path | None,
    resume: bool,
    **settings: Any,
) -> None:
    """Learn which toxic comments no rewording can mend, so that a bundle gives them up.

    --comments are toxic comments that people tried to reword, with a column that tells for which
    they found no way. A linear probe of the screener's encoder is fitted to them. The threshold is
    picked by cross-validation so that at most --given-up of the comments that can be reworded are
    given up; `rewrite --abstain` overrides it. `sro-edge export --abstain RUN` puts the probe into
    a bundle of the same screener.

    Few comments are threats. --contrasts makes some of templates (recipes/contrasts.toml),
    for a second probe; threshold and figures are of --comments alone.

    \b
    Examples:
      sro-edge train-abstain --screener runs/screener --comments tried.csv \\
          -o runs/abstain
      sro-edge train-abstain --recipe recipes/default_bundle.toml
    """
    config = build_config(AbstainConfig, settings)
    needs("train-abstain", "train", "torch", "transformers", "sklearn")
    run = run_folder(out, "abstain", resume)
    from sro_edge.training.abstention import read_rows
    from sro_edge.training.abstention import train_abstain as fit
    from sro_edge.training.contrasts import read_contrasts

    rows = read_rows(comments, column, label, value)
    made = [c for file in contrasts for c in read_contrasts(file)]
    with training_progress(len(rows) + len(made), "comment", {}) as progress:
        fit(rows, screener, run, config, made=made, progress=progress)
    record_data(run, {"comments": comments, "contrasts": contrasts})
    click.echo(run)
