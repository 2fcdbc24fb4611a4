"""``sro-edge train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

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
from sro_edge.training.config import SROConfig


@click.command("train")
@click.option("--policy", required=True, help="Model to train: run folder, HF folder or hub name.")
@click.option("--screener", required=True, help="The follower: run folder, HF folder or hub name.")
@click.option("--judge", help="Another screener, trained on other data: picks the best checkpoint.")
@click.option("--toxic", type=READABLE, multiple=True, required=True, help="Toxic comments.")
@click.option("--column", default="text", show_default=True, help="Text column of all files.")
@click.option("--toxic-label", help="Name of the screener's label that means toxic.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Toxicity that passes [default: its own].",
)
@click.option(
    "--held-out",
    type=click.FloatRange(0.001, 0.5),
    default=0.03,
    show_default=True,
    help="Share of the comments that is only evaluated on.",
)
@config_options(SROConfig)
@run_options
def train(
    policy: str,
    screener: str,
    judge: str | None,
    toxic: tuple[Path, ...],
    column: str,
    toxic_label: str | None,
    threshold: float | None,
    held_out: float,
    out: Path | None,
    resume: bool,
    **settings: Any,
) -> None:
    """Fine-tune a language model to reword toxic comments, by playing against a screener (SRO).

    Needs toxic comments only: no pairs. LoRA for pretrained models, full fine-tuning for small
    ones; CPU or GPU, whichever is there.

    \b
    Examples:
      sro-edge train --policy runs/warm-start --screener runs/screener \\
          --toxic toxic.parquet
      sro-edge train --recipe recipes/default_bundle.toml
    """
    config = build_config(SROConfig, settings)
    needs("train", "train", "torch", "transformers", "peft")
    run = run_folder(out, "sro", resume)
    from sro_edge.training.follower import Classifier, Follower
    from sro_edge.training.piles import fold, read_texts
    from sro_edge.training.policy import Policy
    from sro_edge.training.runs import model_folder, stored_thresholds
    from sro_edge.training.sro import train_sro

    follower = Follower(
        Classifier.load(model_folder(screener), toxic_label),
        stored_thresholds(screener, threshold),
        flip_rate=config.screener_flip_rate,
        seed=config.seed,
    )
    second = judge and Follower(Classifier.load(model_folder(judge)), stored_thresholds(judge))
    texts = list(dict.fromkeys(read_texts(toxic, column)))
    with training_progress(
        config.steps, "step", ("pass_rate", "similarity", "rewards/margins")
    ) as progress:
        model = train_sro(
            Policy(model_folder(policy), config),
            follower,
            [t for t in texts if fold(t) >= held_out],
            [t for t in texts if fold(t) < held_out],
            run,
            config,
            judge=second or None,
            progress=progress,
        )
    record_data(run, {"toxic": toxic})
    record = json.loads((run / "run.json").read_text("utf-8"))
    click.echo(
        f"held-out pass rate {record['before']['eval/pass_rate']:.3f} before, "
        f"{record['kept']['eval/pass_rate']:.3f} at the kept step {record['kept']['step']}",
        err=True,
    )
    click.echo(model)
