"""Arrow in, Arrow out: a Parquet dump of comments becomes the same dump with new columns.

:func:`rewrite_dump` adds the reworded comments with their proof, :func:`screen_dump` the screener's
scores. Every input row comes out once, in order, everything else in it untouched. Memory does not
grow with the rows, and a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sro_edge import __version__, parquet
from sro_edge.checkpoints import WorkFolder, durable, folder_of, move, write_json, writing
from sro_edge.columns import Annotator, Rewriting, Screening
from sro_edge.errors import InputError, OutputError

if TYPE_CHECKING:
    from sro_edge.rewriter import Rewriter
    from sro_edge.screener import Screener

UNIT_ROWS = 2048
_UNIT_SECONDS = 10.0  # after these, work is kept as soon as no comment is on its way
_SHORT = 120  # characters of a comment that reads well as an example


@dataclass(frozen=True)
class Progress:
    """How far a run is: rows done of ``total``, the ``resumed`` ones included."""

    rows: int
    total: int
    resumed: int
    toxic: int
    unresolved: int


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
        reasons: ``unresolved`` rows by reason.
        seconds: duration of this run, earlier ones that it took up not counted.
        resumed_rows: rows that earlier runs had finished.
        examples: some (comment, rewrite) pairs.
    """

    rows: int
    clean: int = 0
    toxic: int = 0
    rewritten: int = 0
    unresolved: int = 0
    empty: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    resumed_rows: int = 0
    examples: tuple[tuple[str, str], ...] = ()


Report = Callable[[Progress], None]


def rewrite_dump(
    source: Path,
    output: Path,
    rewriter: Rewriter,
    *,
    column: str = "text",
    limit: int | None = None,
    overwrite: bool = False,
    restart: bool = False,
    unit_rows: int = UNIT_ROWS,
    examples: int = 5,
    progress: Report = lambda _: None,
) -> Summary:
    """Write ``source`` to ``output`` with the comments reworded in new columns.

    The new columns are named after ``column``: ``text_detox`` (null where there is no rewrite),
    ``text_detox``'s proof in ``detox_status``, ``detox_reason``, ``detox_engine``,
    ``detox_toxicity_before``, ``detox_toxicity_after``, ``detox_similarity``, ``detox_fluency`` and
    ``detox_attempts``. The run's manifest goes into the file's metadata and into ``OUT.json``.

    Args:
        source: Parquet file.
        output: Parquet file to make; until it is complete, work lies in ``OUT.partial/``.
        rewriter: an object with ``rewrite(texts)`` and ``settings()``.
        column: column of ``source`` that holds the comments.
        limit: read only the first rows.
        overwrite: replace an ``output`` that exists.
        restart: throw away what an unfinished run left instead of going on with it.
        unit_rows: rows after which finished work is put on disk, at the latest.
        examples: pairs of comment and rewrite wanted in the summary.
        progress: called after every row.

    Raises:
        InputError: ``source`` cannot be read as asked.
        OutputError: ``output`` exists, is in use, or cannot be written.
    """
    run = _Run(Rewriting(rewriter), source, output, column, limit, unit_rows, progress)
    summary = run(overwrite=overwrite, restart=restart)
    return replace(summary, examples=_examples(output, column, examples))


def screen_dump(
    source: Path,
    output: Path,
    screener: Screener,
    *,
    threshold: float,
    settings: Mapping[str, Any],
    column: str = "text",
    limit: int | None = None,
    overwrite: bool = False,
    restart: bool = False,
    unit_rows: int = UNIT_ROWS,
    progress: Report = lambda _: None,
) -> Summary:
    """Write ``source`` to ``output`` with the screener's scores in new columns.

    These are ``text_toxicity`` and, where the screener has it, ``text_fluency``, named after
    ``column``; null where the comment is null or blank.

    Args:
        source: Parquet file.
        output: Parquet file to make.
        screener: an object with ``score(texts)``.
        threshold: toxicity above which a comment counts as toxic in the summary.
        settings: what identifies the screener, as JSON types; goes into the manifest.
        column: as in :func:`rewrite_dump`, like all that follow.
        limit: see there.
        overwrite: see there.
        restart: see there.
        unit_rows: see there.
        progress: see there.

    Raises:
        InputError: ``source`` cannot be read as asked.
        OutputError: ``output`` exists, is in use, or cannot be written.
    """
    annotator = Screening(screener, threshold, settings)
    run = _Run(annotator, source, output, column, limit, unit_rows, progress)
    return run(overwrite=overwrite, restart=restart)


def check(source: Path, output: Path, *, column: str = "text", overwrite: bool = False) -> None:
    """Raise what is wrong with the files before a model is loaded.

    Raises:
        InputError: ``source`` cannot be read as asked.
        OutputError: ``output`` exists or cannot be written.
    """
    parquet.Source(source, column)
    _check_places(source, output)
    if not (overwrite or folder_of(output).exists()):
        _refuse_existing(output)


class _Run:
    """One source, one output, one annotator."""

    def __init__(
        self,
        annotator: Annotator,
        source: Path,
        output: Path,
        column: str,
        limit: int | None,
        unit_rows: int,
        report: Report,
    ) -> None:
        self.annotator, self.output, self.unit_rows, self.report = (
            annotator,
            output,
            unit_rows,
            report,
        )
        self.source = parquet.Source(source, column, limit)
        self.fields = annotator.fields(column, self.source.text_type)
        self.source.check_new(self.fields)
        _check_places(source, output)
        self.asked: dict[str, Any] = {
            "sro_edge": __version__,
            "command": annotator.command,
            "column": column,
            "limit": limit,
            "settings": json.loads(
                json.dumps(annotator.settings)
            ),  # as it will come back from the disk
            "source": self.source.fingerprint(),
        }
        self.tally: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def __call__(self, *, overwrite: bool, restart: bool) -> Summary:
        started = time.monotonic()
        schema = pa.schema(self.fields)
        with WorkFolder.open(self.output, schema, self.asked, restart=restart) as work:
            assembled = work.manifest is not None and work.output.exists()
            published = work.manifest is not None and not assembled and self.output.exists()
            if not (overwrite or published):
                _refuse_existing(self.output)
            resumed = self.source.rows if assembled or published else work.rows
            if not (assembled or published):
                self.annotate(work)
                self.assemble(work)
            manifest: dict[str, Any] = work.manifest or {}
            with writing(self.output):
                if not published:
                    write_json(self.output.with_name(self.output.name + ".json"), manifest)
                    move(work.output, self.output)
                work.remove()
        return Summary(
            **manifest["counts"],
            reasons=manifest["reasons"],
            seconds=time.monotonic() - started,
            resumed_rows=resumed,
        )

    def annotate(self, work: WorkFolder) -> None:
        """Fill the new columns of every row that no finished unit holds."""
        for unit in work.units:
            for status, reason in self.annotator.recall(parquet.read(unit)):
                self.count(status, reason)
        resumed = work.rows
        ahead: deque[parquet.Comment] = deque()

        def texts() -> Iterator[str | None]:
            for comment in self.source.comments(skip=resumed):
                ahead.append(comment)  # many may be read before the first is answered
                yield comment.text

        done: list[tuple[Any, ...]] = []
        since = time.monotonic()
        for row in self.annotator.rows(texts()):
            done.append(_with_own_bytes(row.values, ahead.popleft()))
            self.count(row.status, row.reason)
            self.report(self.progress(resumed))
            late = not ahead and time.monotonic() - since > _UNIT_SECONDS
            if late or len(done) >= self.unit_rows:
                work.add(self.table(done))
                done, since = [], time.monotonic()
        if done:
            work.add(self.table(done))
        if work.rows != self.source.rows:
            raise RuntimeError(f"{self.source.rows} comments gave {work.rows} results")

    def assemble(self, work: WorkFolder) -> None:
        """Put the new columns beside the old ones in ``OUT.partial/output.parquet``."""
        if self.asked["source"] != self.source.fingerprint():
            raise InputError(
                f"{self.source.path} has changed while it was being read; run the same command "
                "with --restart"
            )
        manifest = self.manifest()
        note = json.dumps(manifest, ensure_ascii=False).encode()
        with writing(self.output), durable(work.output) as temporary:
            parquet.write_beside(self.source, work.units, self.fields, note, temporary)
        work.finish(manifest)

    def manifest(self) -> dict[str, Any]:
        """What was done, with what and to what, as JSON types."""
        stated = {key: value for key, value in self.asked.items() if key != "source"}
        source = {key: self.asked["source"][key] for key in ("rows", "size")}
        counts = {
            "rows": self.source.rows,
            "toxic": self.toxic,
            **{key: self.tally[key] for key in ("clean", "rewritten", "unresolved", "empty")},
        }
        manifest = {
            **stated,
            "source": {"name": self.source.path.name, **source},
            "counts": counts,
            "reasons": dict(self.reasons.most_common()),
        }
        earlier = (self.source.schema.metadata or {}).get(parquet.METADATA_KEY)
        return manifest | ({"earlier": earlier.decode(errors="replace")} if earlier else {})

    def table(self, rows: Sequence[tuple[Any, ...]]) -> pa.Table:
        """Rows of values as the new columns."""
        columns = [
            parquet.array(values, field.type)
            for values, field in zip(zip(*rows, strict=True), self.fields, strict=True)
        ]
        return pa.table(columns, schema=pa.schema(self.fields))

    def count(self, status: str, reason: str | None) -> None:
        """Note one row."""
        self.tally[status] += 1
        if reason is not None:
            self.reasons[reason] += 1

    @property
    def toxic(self) -> int:
        """Rows so far whose comment did not pass."""
        return self.tally["toxic"] + self.tally["rewritten"] + self.tally["unresolved"]

    def progress(self, resumed: int) -> Progress:
        """How far the run is."""
        done, unresolved = self.tally.total(), self.tally["unresolved"]
        return Progress(done, self.source.rows, resumed, self.toxic, unresolved)


def _examples(output: Path, column: str, wanted: int) -> tuple[tuple[str, str], ...]:
    """The first pairs of comment and rewrite, short ones first."""
    short: list[tuple[str, str]] = []
    long: list[tuple[str, str]] = []
    for before, after in parquet.pairs(output, column) if wanted else ():
        pile = short if max(len(before), len(after)) <= _SHORT else long
        if (before, after) not in pile and len(pile) < wanted:
            pile.append((before, after))
        if len(short) == wanted:
            break
    return tuple([*short, *long][:wanted])


def _with_own_bytes(values: tuple[Any, ...], comment: parquet.Comment) -> tuple[Any, ...]:
    """Where a comment that is not valid UTF-8 comes back as it was, take its own bytes."""
    if comment.raw is None or values[0] != comment.text:
        return values
    return (comment.raw, *values[1:])


def _refuse_existing(output: Path) -> None:
    if output.exists():
        raise OutputError(
            f"{output} exists; choose another output or add --overwrite to replace it"
        )


def _check_places(source: Path, output: Path) -> None:
    if not output.parent.is_dir():
        raise OutputError(f"the folder {output.parent} does not exist; make it or choose another")
    if output.is_dir():
        raise OutputError(f"{output} is a folder; give the path of the file to make")
    if output.exists() and os.path.samefile(source, output):
        raise OutputError(f"{output} is the input itself; choose another output")
