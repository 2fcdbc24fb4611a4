"""What commands share: options that go together, progress, the summary, interruption."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sro_edge.dump import Progress, Summary

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
_LINE_SECONDS = 10.0  # between two lines of progress where there is no terminal


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


def dump_options(command: F) -> F:
    """Options of every command that reads one Parquet file and writes another."""
    for option in reversed(
        [
            click.argument("source", metavar="INPUT.parquet", type=PATH),
            click.argument("output", metavar="[OUTPUT]", required=False, type=PATH),
            click.option("--column", default="text", show_default=True, help="Column of comments."),
            click.option(
                "--bundle", type=PATH, metavar="PATH", help="Model bundle [default: built in]."
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
                help="CPU threads [default: all cores].",
            ),
            click.option(
                "--device",
                type=click.Choice(["auto", "cpu", "cuda"]),
                default="auto",
                show_default=True,
                help="Where the models run.",
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


def default_output(source: Path, kind: str) -> Path:
    """``comments.parquet`` -> ``comments.<kind>.parquet``, in the same folder."""
    stem = source.stem if source.suffix in {".parquet", ".pq"} else source.name
    return source.with_name(f"{stem}.{kind}.parquet")


def stderr() -> Console:
    """A console for everything that is not data."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which would otherwise end the process without a word."""


@contextmanager
def resumable(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Show progress; when interrupted, say how to go on and exit with 130 or 143."""

    def terminate(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with _progress(quiet) as report:
            yield report
    except KeyboardInterrupt as error:
        click.echo("Interrupted. Run the same command again to go on.", err=True)
        code = 143 if isinstance(error, _Terminated) else 130
        raise click.exceptions.Exit(code) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, a line now and then elsewhere, nothing when quiet."""
    console, started = stderr(), time.monotonic()
    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        one_line = Column(no_wrap=True, overflow="ellipsis")
        columns = BarColumn(10), TextColumn("{task.description}", table_column=one_line)
        with Bar(*columns, console=console, transient=True) as bar:
            task = bar.add_task("starting", total=None)

            def show(state: Progress) -> None:
                line = progress_line(state, time.monotonic() - started)
                bar.update(task, completed=state.rows, total=state.total, description=line)

            yield show
    else:
        said = seen = started
        last: Progress | None = None

        def say(state: Progress) -> None:
            # Rows come in bursts: the line is of the end of one, where the speed is right.
            nonlocal said, seen, last
            now = time.monotonic()
            if last is not None and now - seen > 0.2 and seen - said >= _LINE_SECONDS:
                click.echo(progress_line(last, seen - started), err=True)
                said = seen
            last, seen = state, now

        yield say


def progress_line(state: Progress, seconds: float) -> str:
    """Rows, speed, time left and counts, for a terminal of 80 columns."""
    rate = (state.rows - state.resumed) / max(seconds, 1e-6)
    parts = [f"{state.rows:,}/{state.total:,} rows", f"{rate:,.0f}/s"]
    if rate > 0:
        parts.append(f"{_duration((state.total - state.rows) / rate)} left")
    parts.append(f"{state.toxic:,} toxic")
    if state.unresolved:
        parts.append(f"{state.unresolved:,} unresolved")
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def show_summary(summary: Summary) -> None:
    """A table of what was done, then some pairs of comment and rewrite, on stderr."""
    console = stderr()
    console.print(_counts(summary))
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
        row("  rewritten", summary.rewritten)
        reasons = ", ".join(f"{name} {count:,}" for name, count in summary.reasons.items())
        row("  unresolved", summary.unresolved, reasons)
    if summary.empty:
        row("empty", summary.empty)
    rate = (summary.rows - resumed) / max(summary.seconds, 1e-6)
    table.add_row("comments/s", f"{rate:,.1f}", f"in {_duration(summary.seconds)}")
    return table


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
