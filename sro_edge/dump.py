"""A dump of comments in, the same dump out, with new columns.

:func:`rewrite_dump` adds the reworded comments with their proof, :func:`screen_dump` the screener's
scores. A dump is a Parquet, CSV or JSONL file, or a folder of such files. Every row comes out once,
in order, everything else in it untouched. Memory does not grow with the rows, and a run that was
killed goes on where it stopped. ``-`` stands for JSONL on standard input and output. Either end may
lie on a remote store (:mod:`sro_edge.stores`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sro_edge.checkpoints import folder_of
from sro_edge.columns import (
    Annotator,
    Rewriting,
    RewritingEngine,
    Screening,
    ScreeningEngine,
)
from sro_edge.errors import InputError, OutputError
from sro_edge.formats import kind_of, open_source
from sro_edge.places import (
    at_hand,
    is_folder,
    named,
    note_of,
    open_work,
    refuse_existing,
    state_folder,
)
from sro_edge.run import UNIT_ROWS, Hooks, Options, Progress, Run
from sro_edge.stores import Place, Store

if TYPE_CHECKING:
    from sro_edge.dataset import DatasetRun, Spread

STREAM = Path("-")


@dataclass(frozen=True)
class Summary:
    """What a finished run did.

    Attributes:
        rows: rows in the output.
        clean: passed as they were.
        toxic: did not; when rewriting, ``rewritten`` and ``unresolved`` together.
        rewritten: passed after rewriting.
        unresolved: no candidate passed; ``reasons`` counts why.
        empty: null or blank.
        not_utf8: rows whose comment has bytes that are no UTF-8; they were read with replacement
            characters in their place.
        reasons: ``unresolved`` rows by reason.
        engines: ``rewritten`` rows by what reworded them.
        seconds: duration of this run, earlier ones that it took up not counted.
        resumed_rows: rows that earlier runs had finished.
        examples: some (comment, rewrite) pairs.
        columns: names of the new columns.
    """

    rows: int
    clean: int = 0
    toxic: int = 0
    rewritten: int = 0
    unresolved: int = 0
    empty: int = 0
    not_utf8: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    engines: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    resumed_rows: int = 0
    examples: tuple[tuple[str, str], ...] = ()
    columns: tuple[str, ...] = ()


def rewrite_dump(
    source: Place,
    output: Place,
    rewriter: RewritingEngine,
    *,
    column: str = "text",
    limit: int | None = None,
    overwrite: bool = False,
    restart: bool = False,
    unit_rows: int = UNIT_ROWS,
    examples: int = 5,
    progress: Callable[[Progress], None] = lambda _: None,
    trouble: Callable[[str], None] = lambda _: None,
    spread: Spread | None = None,
) -> Summary:
    """Write ``source`` to ``output`` with the comments reworded in new columns.

    The new columns are named after ``column``: ``text_detox`` (null where there is no rewrite),
    ``text_detox``'s proof in ``detox_status``, ``detox_reason``, ``detox_engine``,
    ``detox_toxicity_before``, ``detox_toxicity_after``, ``detox_similarity``, ``detox_fluency`` and
    ``detox_attempts``; all with ``_2`` behind them where ``source`` has such columns already. The
    run's manifest goes into ``OUT.json`` and, of Parquet, into the file's metadata.

    Args:
        source: Parquet, CSV or JSONL file, by its suffix, a folder with files of one kind, or
            ``-`` for JSONL on standard input; the path or the address of it.
        output: file of the same kind or folder to make; until it is complete, work lies in
            ``OUT.partial/``, or in :func:`sro_edge.places.state_folder` where it is an address.
            ``-``, for standard output, if and only if ``source`` is ``-``.
        rewriter: a :class:`sro_edge.Rewriter`, or what stands for one.
        column: column of ``source`` that holds the comments.
        limit: read only the first rows.
        overwrite: replace an ``output`` that exists.
        restart: throw away what an unfinished run left instead of going on with it.
        unit_rows: rows that are worked on together, and then put on disk.
        examples: pairs of comment and rewrite wanted in the summary.
        progress: called after every unit; what it raises ends the run, to be taken up later.
        trouble: called with a sentence when the models failed over a unit.
        spread: does the files of a folder elsewhere (:mod:`sro_edge.cluster`).

    Raises:
        InputError: ``source`` cannot be read as asked.
        OutputError: ``output`` exists, is in use, or cannot be written.
        EngineError: the models failed over several units in a row.
    """
    options = Options(column, limit, unit_rows, examples)
    dump = _Dump(Rewriting(rewriter), options, Hooks(progress, trouble), spread)
    return dump(source, output, overwrite=overwrite, restart=restart)


def screen_dump(
    source: Place,
    output: Place,
    screener: ScreeningEngine,
    *,
    threshold: float,
    settings: Mapping[str, Any],
    column: str = "text",
    limit: int | None = None,
    overwrite: bool = False,
    restart: bool = False,
    unit_rows: int = UNIT_ROWS,
    progress: Callable[[Progress], None] = lambda _: None,
    trouble: Callable[[str], None] = lambda _: None,
) -> Summary:
    """Write ``source`` to ``output`` with the screener's scores in new columns.

    These are ``text_toxicity`` and, where the screener has it, ``text_fluency``, named after
    ``column``; null where the comment is null or blank.

    Args:
        source: as in :func:`rewrite_dump`.
        output: see there.
        screener: a :class:`sro_edge.screener.Screener`, or what stands for one.
        threshold: toxicity above which a comment counts as toxic in the summary.
        settings: what identifies the screener, as JSON types; goes into the manifest.
        column: as in :func:`rewrite_dump`, like all that follow.
        limit: see there.
        overwrite: see there.
        restart: see there.
        unit_rows: see there.
        progress: see there.
        trouble: see there.

    Raises:
        InputError: ``source`` cannot be read as asked.
        OutputError: ``output`` exists, is in use, or cannot be written.
        EngineError: the screener failed over several units in a row.
    """
    annotator = Screening(screener, threshold, settings)
    dump = _Dump(annotator, Options(column, limit, unit_rows), Hooks(progress, trouble))
    return dump(source, output, overwrite=overwrite, restart=restart)


def check(source: Place, output: Place, *, column: str = "text", overwrite: bool = False) -> None:
    """Raise what is wrong with the files before a model is loaded.

    Raises:
        InputError: ``source`` cannot be read as asked.
        OutputError: ``output`` exists or cannot be written.
    """
    from sro_edge.dataset import data_files

    if STREAM in (source, output):
        _check_stream(source, output)
        return
    if isinstance(source, Path):
        for file in data_files(source) if source.is_dir() else [source]:
            open_source(file, column, limit=1).close()
    elif Store(source).stamp() is None and not is_folder(source):
        raise InputError(f"{source} does not exist; give the address of a file or a folder")
    output = _place(source, output)
    kept = folder_of(output) if isinstance(output, Path) else state_folder(output)
    if not kept.exists():
        refuse_existing(output, overwrite=overwrite)


class _Dump:
    """A file or a folder, from beginning to end."""

    def __init__(
        self, annotator: Annotator, options: Options, hooks: Hooks, spread: Spread | None = None
    ) -> None:
        self.annotator, self.options, self.hooks = annotator, options, hooks
        self.spread = spread

    def __call__(self, source: Place, output: Place, *, overwrite: bool, restart: bool) -> Summary:
        started = time.monotonic()
        if STREAM in (source, output):
            _check_stream(source, output)
            return self.stream(started)
        output = _place(source, output)
        work = self.folder if is_folder(source) else self.file
        run, manifest = work(source, output, overwrite=overwrite, restart=restart)
        counts: dict[str, Any] = manifest["counts"]
        return Summary(
            **counts,
            reasons=manifest["reasons"],
            engines=manifest["engines"],
            seconds=time.monotonic() - started,
            resumed_rows=run.resumed,
            examples=run.examples,
            columns=tuple(manifest["columns"]),
        )

    def file(
        self, source: Place, output: Place, *, overwrite: bool, restart: bool
    ) -> tuple[Run, dict[str, Any]]:
        """One file."""
        if self.spread is not None:
            raise InputError(f"{source} is one file, and only folders are spread over a cluster")
        with at_hand(source, output) as path:
            opened = open_source(path, self.options.column, self.options.limit)
            try:
                run = Run(self.annotator, opened, self.options, self.hooks)
                with open_work(output, run.asked, restart=restart) as work:
                    if not work.owns_target:
                        refuse_existing(output, overwrite=overwrite)
                    return run, run(work, note_of(output))
            finally:
                opened.close()

    def folder(
        self, source: Place, output: Place, *, overwrite: bool, restart: bool
    ) -> tuple[DatasetRun, dict[str, Any]]:
        """All files of a folder."""
        from sro_edge.dataset import DatasetRun

        run = DatasetRun(self.annotator, source, self.options, self.hooks, self.spread)
        with open_work(output, run.asked, restart=restart) as work:
            if not work.owns_target:
                refuse_existing(output, overwrite=overwrite)
            return run, run(work, output, note_of(output), restart=restart)

    def stream(self, started: float) -> Summary:
        """Standard input to standard output."""
        from sro_edge.stream import annotate_stream

        tally = annotate_stream(
            sys.stdin.fileno(), sys.stdout.fileno(), self.annotator, self.options, self.hooks
        )
        counted: dict[str, Any] = {**tally.counts(), **tally.causes()}
        return Summary(
            **counted,
            seconds=time.monotonic() - started,
            examples=tally.pairs,
        )


def _check_stream(source: Place, output: Place) -> None:
    if source != output:
        raise OutputError(
            "standard input goes to standard output: give - for both, and redirect the output with "
            "> if it is to go into a file"
        )


def _place(source: Place, output: Place) -> Place:
    """Where ``output`` really lies, once it is known to be a place for a copy of ``source``."""
    if isinstance(output, Path):
        output = _place_on_disk(source, output)
    elif source == output:
        raise OutputError(f"{output} is the input itself; choose another output")
    if not is_folder(source) and kind_of(source) != kind_of(output):
        raise OutputError(
            f"{output} would be {kind_of(output)}, but the input is {kind_of(source)}; the output "
            "is of the input's kind, so give it the same suffix"
        )
    return output


def _place_on_disk(source: Place, output: Path) -> Path:
    if output.is_symlink():  # the file is replaced, not the link to it
        output = Path(os.path.realpath(output))
    output = named(output)
    if not output.parent.is_dir():
        raise OutputError(f"the folder {output.parent} does not exist; make it or choose another")
    if isinstance(source, Path) and output.exists() and os.path.samefile(source, output):
        raise OutputError(f"{output} is the input itself; choose another output")
    if not is_folder(source):
        if output.is_dir():
            raise OutputError(f"{output} is a folder; give the path of the file to make")
        return output
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file, the input a folder; give the path of a folder")
    if isinstance(source, Path):
        inside = source.resolve() in output.resolve().parents
        if inside or output.resolve() in source.resolve().parents:
            raise OutputError(f"{output} and {source} lie in each other; choose another output")
    return output
