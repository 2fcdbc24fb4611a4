"""``sro-edge evaluate``: how good rewrites are, beside the baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sro_edge.cli._progress import stderr
from sro_edge.cli._shared import NEW_FILE, PATH
from sro_edge.cli._training import needs

if TYPE_CHECKING:
    from sro_edge.evaluation.systems import Inputs, System


class Named(click.ParamType[tuple[str, str]]):
    """``NAME=VALUE``."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Part the two."""
        name, equals, rest = str(value).partition("=")
        if not (name and equals and rest):
            self.fail(f"{value!r} is not of the form NAME=PATH.", param, ctx)
        return name, rest


@click.command(short_help="Measure how good rewrites are, beside the baselines.")
@click.argument("inputs", type=PATH)
@click.option("--column", default="text", show_default=True, help="Column of toxic comments.")
@click.option("--references", metavar="COLUMN", help="Column of human rewrites.")
@click.option("--source", metavar="COLUMN", help="Column to report by.")
@click.option(
    "--judge",
    "toxicity",
    metavar="MODEL",
    help="Run of train-judges, another classifier's folder, or hub name.  [required]",
)
@click.option("--toxic-label", metavar="LABEL", help="The judge's label that means toxic.")
@click.option(
    "--fluency-judge",
    "fluency",
    metavar="MODEL",
    help="Acceptability classifier [default: --judge's].",
)
@click.option("--disfluent-label", metavar="LABEL", help="Its label for unacceptable.")
@click.option(
    "--meaning-judge",
    "meaning",
    default="minilm",
    show_default=True,
    metavar="MODEL",
    help="Sentence encoder.",
)
@click.option(
    "--fluency-cut",
    "cut",
    type=click.FloatRange(0, 1),
    help="Fluency that counts as fluent [default: the judge's, or passes 88 % of references].",
)
@click.option("--bundle", type=PATH, metavar="PATH", help="Bundle to judge [default: built in].")
@click.option(
    "--no-cascade",
    is_flag=True,
    help="Screen every comment: let its first stage clear none.",
)
@click.option("--no-bundle", is_flag=True, help="Judge only --outputs and --policy.")
@click.option(
    "--outputs",
    type=Named(),
    multiple=True,
    metavar="NAME=FILE",
    help="Another system's rewrites: lines, or --output-column of a table.",
)
@click.option("--output-column", metavar="COLUMN", help="[default: text_detox]")
@click.option(
    "--policy",
    type=Named(),
    multiple=True,
    metavar="NAME=RUN",
    help="A policy's greedy answers, ungated: a warm start, say.",
)
@click.option("--words", type=PATH, help="Word list to delete [default: the bundle's lexicon].")
@click.option("--threads", type=click.IntRange(min=1), metavar="N")
@click.option(
    "--out",
    "-o",
    type=NEW_FILE,
    default="evaluation",
    show_default=True,
    help="Files .json, .html.",
)
def evaluate(
    inputs: Path,
    column: str,
    references: str | None,
    source: str | None,
    cut: float | None,
    bundle: Path | None,
    no_cascade: bool,
    no_bundle: bool,
    outputs: tuple[tuple[str, str], ...],
    output_column: str | None,
    policy: tuple[tuple[str, str], ...],
    words: Path | None,
    threads: int | None,
    out: Path,
    **judge: Any,
) -> None:
    """Measure how good rewrites are: STA, SIM, FL and J, beside the baselines.

    STA is the share that the judge calls non-toxic, SIM the similarity to the
    comment, FL the share that is fluent, J the mean of their product over the
    comments. A comment without a rewrite scores 0. The judges must not be the
    models that made or gated the rewrites; figures under different judges cannot
    be compared.

    \b
    Examples:
      sro-edge evaluate dev.parquet --column toxic --references references \\
          --judge runs/judges --words profanity.parquet
      sro-edge evaluate dev.parquet --judge s-nlp/roberta_toxicity_classifier \\
          --fluency-judge cointegrated/roberta-large-cola-krishna2020 \\
          --disfluent-label LABEL_1 --no-bundle --outputs theirs=theirs.txt
    """
    if judge["toxicity"] is None:
        raise click.UsageError(
            "Missing option '--judge': a classifier of yours or of the Hub, or, offline, a run of "
            "`sro-edge train-judges`; it must be none of the models that made the rewrites."
        )
    needs("evaluate", "train", "torch", "transformers")
    from sro_edge.evaluation.evaluate import evaluate as run
    from sro_edge.evaluation.evaluate import figures_table, fluency_note
    from sro_edge.evaluation.judges import JudgeNames, load_judges
    from sro_edge.evaluation.page import render
    from sro_edge.evaluation.systems import read_inputs, read_outputs, run_policy

    names = JudgeNames(**judge)
    given = read_inputs(inputs, column, references, source)
    others = [read_outputs(n, Path(file), output_column, given) for n, file in outputs]
    judges = load_judges(names)
    console = stderr()
    asked = {"bundle": bundle, "threads": threads, "cascade": not no_cascade}
    systems, settings = _systems(given, None if no_bundle else asked, words, names)
    policies = [run_policy(name, run_, given) for name, run_ in policy]
    # The bundle stands last, where the eye looks for it.
    at = len(systems) if no_bundle else len(systems) - 1
    systems[at:at] = [*policies, *others]
    result, page = run(
        given,
        systems,
        judges,
        names,
        cut=cut,
        progress=lambda name: console.print(f"judging {name} …"),
    )
    result |= {"inputs": inputs.name, "bundle": settings}
    _show(figures_table(result), fluency_note(result))
    files = out.with_name(f"{out.name}.json"), out.with_name(f"{out.name}.html")
    files[0].write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    files[1].write_text(render(page), "utf-8", errors="replace")
    for file in files:
        click.echo(file)


def _systems(
    given: Inputs,
    asked: dict[str, Any] | None,
    words: Path | None,
    names: Any,
) -> tuple[list[System], dict[str, Any] | None]:
    """The baselines and the bundle, with the bundle's settings."""
    from sro_edge.evaluation.judges import check_independent
    from sro_edge.evaluation.systems import baselines, read_words, run_bundle
    from sro_edge.rewriter import Rewriter

    listed = read_words(words) if words else {}
    if asked is None:
        return baselines(given, listed), None
    rewriter = Rewriter.load(**asked)
    check_independent(names, rewriter.bundle)
    systems = baselines(given, listed or rewriter.lexicon)
    return [*systems, run_bundle(rewriter, given)], rewriter.settings()


def _show(figures: Any, note: str) -> None:
    """The table, and below it how strict the fluency judge is."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for i, head in enumerate(figures.heads):
        table.add_column(head, justify="right" if i else "left", no_wrap=i > 0)
    for row in figures.rows:
        table.add_row(*row)
    stderr().print(table)
    if note:
        stderr().print(note, highlight=False)
