"""Command line of sro-edge: one file per command, loaded when its name is called."""

from __future__ import annotations

import importlib

import click

from sro_edge import __version__
from sro_edge.errors import SroEdgeError

# Name -> where the command lives, and its line in the list of commands.
COMMANDS = {
    "rewrite": ("rewrite:rewrite", "Reword the toxic comments of a dump."),
    "screen": ("screen:screen", "Score the comments of a dump."),
    "evaluate": ("evaluate:evaluate", "Measure how good rewrites are, beside the baselines."),
    "report": ("report:report", "Make a page to check a rewrite run with."),
    "bench": ("bench:bench", "Measure how fast a bundle is on this machine."),
    "calibrate": ("calibrate:calibrate", "Find a toxicity threshold for your own comments."),
    "bundle": ("bundle:bundle", "Look at, check, pack or assemble model bundles."),
    "train": ("train:train", "Train a rewriter against a screener (SRO)."),
    "distill": ("distill:distill", "Draw a bundle's best rewrites, as pairs to train on."),
    "train-screener": ("train_screener:train_screener", "Train a screener."),
    "train-judges": ("train_judges:train_judges", "Train the judges that evaluate rewrites."),
    "train-first-stage": (
        "train_first_stage:train_first_stage",
        "Fit what clears clean comments before the screener.",
    ),
    "train-abstain": (
        "train_abstain:train_abstain",
        "Learn which comments no rewording can mend.",
    ),
    "warm-start": ("warm_start:warm_start", "Train a small rewriter from nothing."),
    "average": ("average:average", "Average the weights of rewriters that share a start."),
    "export": ("export:export", "Turn trained models into a bundle for the edge."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when it is called, not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command = getattr(importlib.import_module(f"sro_edge.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Show what a user can mend as one sentence; a traceback is left for our own faults."""
        try:
            return super().invoke(ctx)
        except SroEdgeError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sro-edge")
def main() -> None:
    """Reword the toxic comments of a dump, offline, with proof per row.

    \b
      sro-edge rewrite comments.parquet        writes comments.detox.parquet
      sro-edge rewrite --help                  all options
    """
