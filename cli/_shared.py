"""What commands share: options that go together, and the summary."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sro_edge.cli._progress import duration, stderr
from sro_edge.stores import Address, place_of

if TYPE_CHECKING:
    from rich.table import Table

    from sro_edge.dump import Summary
    from sro_edge.stores import Place

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


mild_option = click.option(
    "--mild",
    type=PATH,
    metavar="FILE",
    help="Table of toxic phrases with milder ones, to put in their place: phrase, a tab, and "
    "milder ones with | between them, - for none.",
)


class NewFile(click.ParamType["Path"]):
    """A file to be made, in a folder that is there: told before the work, not after it."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Look for the folder."""
        path = Path(value)
        if not path.parent.is_dir():
            self.fail(f"the folder {path.parent} does not exist; make it or choose another.")
        return path


NEW_FILE = NewFile()


class PlaceType(click.ParamType["Place"]):
    """A path, or the URI of something on a remote store."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Tell them apart."""
        return place_of(str(value))


PLACE = PlaceType()


class Share(click.FloatRange):
    """A number from 0 to 1; ``nan``, which every comparison lets through, is refused."""

    name = "share"

    def __init__(self) -> None:
        """From 0 to 1."""
        super().__init__(0, 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse and check."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number from 0 to 1.", param, ctx)
        return number


class ShareOrOff(Share):
    """A number from 0 to 1, or ``off``."""

    name = "share or off"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse and check."""
        return value if value == "off" else super().convert(value, param, ctx)


def dump_options(command: F) -> F:
    """Options of every command that reads a dump and writes another."""
    for option in reversed(
        [
            click.argument("source", metavar="INPUT", type=PLACE),
            click.argument("output", metavar="[OUTPUT]", required=False, type=PLACE),
            click.option("--column", default="text", show_default=True, help="Column of comments."),
            click.option(
                "--bundle",
                type=PATH,
                metavar="BUNDLE",
                help="Model bundle: folder, .sroedge file or hf://org/name [default: built in].",
            ),
            click.option(
                "--threshold",
                type=Share(),
                metavar="FLOAT",
                help="Highest toxicity that passes [default: the bundle's].",
            ),
            click.option(
                "--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows."
            ),
            click.option(
                "--threads",
                type=click.IntRange(min=1),
                metavar="N",
                help="CPU threads [default: one per physical core].",
            ),
            click.option(
                "--device",
                type=click.Choice(["auto", "cpu", "cuda"]),
                default="auto",
                show_default=True,
                help="Where the models run.",
            ),
            click.option(
                "--no-cascade",
                is_flag=True,
                help="Screen every comment: let the first stage clear none.",
            ),
            click.option("--overwrite", is_flag=True, help="Replace an output that exists."),
            click.option(
                "--restart", is_flag=True, help="Drop the rows of an unfinished run; begin again."
            ),
            click.option("--quiet", is_flag=True, help="No progress, no summary."),
        ]
    ):
        command = option(command)
    return command


def default_output(source: Place, kind: str) -> Path:
    """``comments.csv`` -> ``comments.<kind>.csv``, in the same folder; ``-`` stays ``-``.

    Raises:
        click.UsageError: nothing is written to a store that the user did not name.
    """
    from sro_edge.formats import SUFFIXES

    if isinstance(source, Address):
        raise click.UsageError(f"{source} is on a store: say where OUTPUT is to go.")
    if source == Path("-"):
        return source
    if source.is_dir():
        folder = Path(os.path.abspath(source)) if source.name in ("", "..") else source
        return folder.with_name(f"{folder.name}.{kind}")
    if source.suffix.lower() in SUFFIXES:
        return source.with_name(f"{source.stem}.{kind}{source.suffix}")
    return source.with_name(f"{source.name}.{kind}.parquet")


def show_output(output: Place) -> None:
    """The path of what was made, for scripts; nothing where the data itself went to stdout."""
    if output != Path("-"):
        click.echo(output)


def show_summary(summary: Summary) -> None:
    """A table of what was done, then some pairs of comment and rewrite, on stderr."""
    console = stderr()
    console.print(_counts(summary))
    if summary.columns and summary.columns[0][-1].isdigit():
        last = summary.columns[0].rpartition("_")[2]
        console.print(f"The input has columns of our names: the new ones end in _{last}.")
    if summary.not_utf8:
        console.print(
            f"Not UTF-8, and read with replacement characters: {summary.not_utf8:,} comments. If "
            "the file is in another encoding, convert it: iconv -f latin1 -t utf-8 OLD > NEW"
        )
    if summary.examples:
        console.print(_pairs(summary.examples))


def _counts(summary: Summary) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_column(justify="left", style="dim")

    def row(name: str, count: int, note: str = "") -> None:
        table.add_row(name, f"{count:,}", note)

    resumed = summary.resumed_rows
    row("rows", summary.rows, f"{resumed:,} of them from an earlier run" if resumed else "")
    row("toxic", summary.toxic, f"{summary.toxic / summary.rows:.1%}" if summary.rows else "")
    if summary.rewritten or summary.unresolved:
        row("  rewritten", summary.rewritten, _listed(summary.engines))
        row("  unresolved", summary.unresolved, _listed(summary.reasons))
    if summary.empty:
        row("empty", summary.empty)
    rate = (summary.rows - resumed) / max(summary.seconds, 1e-6)
    table.add_row("comments/s", f"{rate:,.1f}", f"in {duration(summary.seconds)}")
    return table


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _pairs(examples: tuple[tuple[str, str], ...]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for before, after in examples:
        table.add_row()
        table.add_row("before", Text(printable(before)))
        table.add_row("after", Text(printable(after)))
    return table


def printable(comment: str, most: int = 240) -> str:
    """A comment on one line, without control characters that a terminal would obey."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(comment.split()))
    return line if len(line) <= most else line[: most - 1] + "…"
