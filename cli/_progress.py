"""While a dump is worked on: progress, trouble, and what an interruption does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from rich.console import Console

    from sro_edge.run import Progress

LINE_SECONDS = 10.0  # between two lines of progress where there is no terminal


class Watch(NamedTuple):
    """What a run is to call."""

    progress: Callable[[Progress], None]
    trouble: Callable[[str], None]


def stderr() -> Console:
    """A console for everything that is not data."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextmanager
def resumable(quiet: bool) -> Iterator[Watch]:
    """Show progress; when interrupted, say how to go on and exit with 130 or 143."""
    stop = _Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _progress(quiet) as (show, say):

            def progress(state: Progress) -> None:
                show(state)
                stop.check(state)

            yield Watch(progress, lambda sentence: say(_capital(sentence) + "."))
    except KeyboardInterrupt:
        click.echo(stop.how_to_go_on(), err=True)
        code = 143 if stop.number == signal.SIGTERM else 130
        raise click.exceptions.Exit(code) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Stop:
    """A signal handler: the first signal lets the unit in hand be finished, the second does not."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._state: Progress | None = None

    def __call__(self, number: int, _: object) -> None:
        again, self.number = self.number is not None, number
        if again or self._state is None:
            raise KeyboardInterrupt
        # Not click.echo: the signal may have come in the middle of another write.
        os.write(2, b"\nFinishing the rows in hand. Interrupt again to stop at once.\n")

    def check(self, state: Progress) -> None:
        """Stop here, between two units, if a signal has come."""
        self._state = state
        if self.number is not None:
            raise KeyboardInterrupt

    def how_to_go_on(self) -> str:
        """What the user has to know."""
        state = self._state
        if state is None:
            return "Interrupted before the first row."
        if state.total is None:
            return f"Interrupted after {state.lines:,} lines; give those behind them to go on."
        return (
            f"Interrupted after {state.rows:,} of {state.total:,} rows. "
            "Run the same command again to go on."
        )


@contextmanager
def _progress(quiet: bool) -> Iterator[tuple[Callable[[Progress], None], Callable[[str], None]]]:
    """A bar on a terminal, a line now and then elsewhere, no progress when quiet."""
    console, pace = stderr(), Pace()

    def say(sentence: str) -> None:
        click.echo(sentence, err=True)

    if quiet:
        yield lambda _: None, say
    elif console.is_terminal:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        one_line = Column(no_wrap=True, overflow="ellipsis")
        columns = BarColumn(10), TextColumn("{task.description}", table_column=one_line)
        with Bar(*columns, console=console, transient=True) as bar:
            task = bar.add_task("starting", total=None)

            def show(state: Progress) -> None:
                line = progress_line(state, pace.rate(state, time.monotonic()))
                bar.update(task, completed=state.rows, total=state.total, description=line)

            yield show, lambda sentence: console.print(sentence, markup=False)
    else:
        said = time.monotonic()

        def show(state: Progress) -> None:
            nonlocal said
            now = time.monotonic()
            rate = pace.rate(state, now)
            if now - said >= LINE_SECONDS:
                say(progress_line(state, rate))
                said = now

        yield show, say


class Pace:
    """Rows a second, over all rows that this run itself has done.

    Rows come in units of one size, and the slow ones are spread over a dump like the fast ones, so
    no part of the run tells more about the rest of it than the whole.
    """

    def __init__(self) -> None:
        """The clock starts with the last report before the first row of this run."""
        self._began: tuple[float, int] | None = None

    def rate(self, state: Progress, now: float) -> float:
        """Rows a second at the time ``now``; 0 before the first unit is done."""
        if self._began is None or state.rows <= state.resumed:
            self._began = (now, state.rows)
        since, rows = now - self._began[0], state.rows - self._began[1]
        return rows / since if since > 0 else 0.0


def progress_line(state: Progress, rate: float) -> str:
    """Rows, speed, time left and counts, for a terminal of 80 columns."""
    of = "" if state.total is None else f"/{state.total:,}"
    parts = [f"{state.rows:,}{of} rows"]
    if rate > 0:
        parts.append(f"{rate:,.0f}/s")
        if state.total is not None:
            parts.append(f"{duration((state.total - state.rows) / rate)} left")
    parts.append(f"{state.toxic:,} toxic")
    if state.unresolved:
        parts.append(f"{state.unresolved:,} unresolved")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Seconds, minutes and seconds, minutes, or hours and minutes."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
