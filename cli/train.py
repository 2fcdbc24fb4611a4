"""``sro-edge train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sro_edge.cli._progress import stderr
from sro_edge.cli._shared import printable
from sro_edge.cli._training import (
    PILE,
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

if TYPE_CHECKING:
    from sro_edge.evaluation.scores import Judges
    from sro_edge.training.follower import Follower
    from sro_edge.training.piles import Pile
    from sro_edge.training.policy import Policy

_SHOWN = {
    "pass_rate": "pass {:.2f}",
    "similarity": "sim {:.2f}",
    "rewards/margins": "margin {:+.3f}",
    "tokens_per_second": "{:,.0f} tok/s",
}
_JUDGE = ("judge", "fluency_judge", "disfluent_label", "meaning_judge")


@click.command("train")
@click.option("--policy", required=True, help="Model to train: run folder, HF folder or hub name.")
@click.option("--screener", required=True, help="The follower: run folder, HF folder or hub name.")
@click.option("--judge", help="Another classifier, trained on other data: picks the checkpoint.")
@click.option("--fluency-judge", help="Acceptability classifier [default: the judge's fluency].")
@click.option("--disfluent-label", help="Its label that means unacceptable.")
@click.option("--meaning-judge", default="minilm", show_default=True, help="Sentence encoder.")
@click.option(
    "--toxic",
    type=PILE,
    multiple=True,
    required=True,
    help="Toxic comments: Parquet, CSV, TSV, JSONL or text file, or a folder (repeatable).",
)
@click.option("--column", default="text", show_default=True, help="Text column of all files.")
@click.option("--pairs", type=READABLE, help="Toxic texts with clean ones: a supervised phase.")
@click.option("--pairs-columns", nargs=2, help="Its two columns [default: it has just two].")
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
    toxic: tuple[Path, ...],
    column: str,
    pairs: Path | None,
    pairs_columns: tuple[str, str] | None,
    toxic_label: str | None,
    threshold: float | None,
    held_out: float,
    out: Path | None,
    resume: bool,
    **settings: Any,
) -> None:
    """Fine-tune a language model to reword toxic comments, by playing against a screener (SRO).

    Needs toxic comments only: no pairs. LoRA for pretrained models, full fine-tuning for small
    ones; CPU or GPU, whichever is there. A share of the comments is held out; on these, --judge
    picks the step that is kept and stops a run that no longer gets better. Several GPUs train
    together under accelerate launch, and so do several processes on CPUs (last example; its own
    --cpu starts only one).

    The run folder holds the model, metrics.jsonl, curves.png, held_out.jsonl,
    rewrites.csv (ten of these before and after) and run.json. A killed run goes on with --resume.

    \b
    Examples:
      sro-edge train --policy Qwen/Qwen3-0.6B --screener runs/screener \\
          --judge runs/judges --toxic comments.csv --column body -o runs/sro
      sro-edge train --recipe recipes/default_bundle.toml
      accelerate launch --multi_gpu --num_processes 2 --num_machines 1 \\
          --mixed_precision no --dynamo_backend no -m sro_edge.cli train \\
          --recipe recipes/default_bundle.toml
    """
    config = build_config(SROConfig, settings)
    needs("train", "train", "torch", "transformers", "accelerate", "peft", "matplotlib")
    from sro_edge.training import processes
    from sro_edge.training.curves import draw_curves
    from sro_edge.training.piles import read_pile
    from sro_edge.training.sro import train_sro

    speaks = processes.is_main()
    run = processes.from_main(run_folder(out, "sro", resume) if speaks else None)
    pile = read_pile(toxic, column, held_out)
    judges = _judges(screener, **{name: settings[name] for name in _JUDGE})
    follower = _follower(screener, toxic_label, threshold, config, pile, judges is not None)
    leader = _leader(policy, config)
    if pairs is not None:
        _train_on_pairs(leader, pairs, pairs_columns, pile, run, config)
    names = {"screener": screener, "judge": settings["judge"], "pairs": pairs and str(pairs)}
    with training_progress(config.steps, "step", _SHOWN, quiet=not speaks) as progress:
        model = train_sro(
            leader,
            follower,
            pile.comments,
            pile.held_out,
            run,
            config,
            judges=judges,
            settings={**names, "thresholds": vars(follower.thresholds)},
            progress=progress,
        )
    if speaks:
        record_data(run, {"toxic": toxic, "pairs": (pairs,) if pairs else ()})
        record = json.loads((run / "run.json").read_text("utf-8"))
        draw_curves(run, record["kept"]["step"])
        _show_end(run, record)
        click.echo(model)
    processes.part()


def _judges(
    screener: str,
    judge: str | None,
    fluency_judge: str | None,
    disfluent_label: str | None,
    meaning_judge: str,
) -> Judges | None:
    """The models that pick the checkpoint; the screener is none of them."""
    from sro_edge.evaluation.judges import JudgeNames, load_judges
    from sro_edge.training.runs import model_folder

    if judge is None:
        return None
    if Path(model_folder(judge)).absolute() == Path(model_folder(screener)).absolute():
        raise click.UsageError(
            f"--judge {judge} is the screener itself, which training bends: give a classifier "
            "that was trained on other data"
        )
    return load_judges(
        JudgeNames(
            judge, fluency=fluency_judge, disfluent_label=disfluent_label, meaning=meaning_judge
        )
    )


def _follower(
    screener: str,
    toxic_label: str | None,
    threshold: float | None,
    config: SROConfig,
    pile: Pile,
    judged: bool,
) -> Follower:
    """The screener to play against, tried on the pile; says what the run begins with."""
    from sro_edge.training import processes
    from sro_edge.training.follower import Classifier, Follower
    from sro_edge.training.precision import multiplies_bf16
    from sro_edge.training.runs import measured_error, model_folder, stored_thresholds
    from sro_edge.training.sanity import passing_share

    bf16 = multiplies_bf16(processes.device()) if config.bf16 is None else config.bf16
    follower = Follower(
        Classifier.load(model_folder(screener), toxic_label, bf16=bf16),
        stored_thresholds(screener, threshold),
        flip_rate=config.screener_flip_rate,
        seed=config.seed,
    )
    share = passing_share(follower, pile.comments or pile.held_out)
    if processes.is_main():
        lines = [
            f"{len(pile.comments):,} comments to train on, {len(pile.held_out):,} held out, "
            f"{pile.duplicates:,} duplicates dropped",
            f"the screener passes {share:.1%} of the comments as they are",
        ]
        if (error := measured_error(screener)) and not config.screener_error:
            lines.append(
                f"its run measured {error:.1%} of its verdicts wrong: --screener-error {error:g} "
                "weighs them so"
            )
        if not judged:
            lines.append("without --judge the last step is kept, and nothing stops early")
        click.echo("\n".join(lines), err=True)
    return follower


def _leader(policy: str, config: SROConfig) -> Policy:
    from sro_edge.training.memory import explain_shortage
    from sro_edge.training.policy import Policy
    from sro_edge.training.runs import model_folder

    with explain_shortage():
        return Policy(model_folder(policy), config)


def _train_on_pairs(
    leader: Policy,
    file: Path,
    columns: tuple[str, str] | None,
    pile: Pile,
    run: Path,
    config: SROConfig,
) -> None:
    from sro_edge.training import processes
    from sro_edge.training.piles import key, read_pairs
    from sro_edge.training.supervised import pair_steps, train_on_pairs

    kept_apart = {key(text) for text in pile.held_out}
    found = [pair for pair in read_pairs(file, columns or ()) if key(pair[0]) not in kept_apart]
    shown = {"loss": "pairs: loss {:.3f}"}
    quiet = not processes.is_main()
    with training_progress(pair_steps(found, config), "step", shown, quiet=quiet) as progress:
        train_on_pairs(leader, found, run, config, progress=progress)


def _show_end(run: Path, record: dict[str, Any]) -> None:
    """How the held-out comments fared, and ten of them, on stderr."""
    from rich.table import Table
    from rich.text import Text

    from sro_edge.training.held_out import read_examples

    console = stderr()
    kept = record["kept"]
    figures = Table(box=None, pad_edge=False)
    for head in ("held out", "before", f"kept: step {kept['step']}"):
        figures.add_column(head, justify="left" if head == "held out" else "right")
    for name in (n for n in kept if n.startswith(("eval/", "judge/"))):
        figures.add_row(name, f"{record['before'][name]:.3f}", f"{kept[name]:.3f}")
    console.print(figures)
    rewrites = Table(box=None, show_header=False, pad_edge=False)
    rewrites.add_column(style="dim", no_wrap=True)
    rewrites.add_column()
    for example in read_examples(run):
        rewrites.add_row()
        for name, text in example.items():
            rewrites.add_row(name, Text(printable(text)))
    console.print(rewrites)
