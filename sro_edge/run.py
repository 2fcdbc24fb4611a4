"""One file from beginning to end: units of rows are answered, kept, and put beside the input."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from sro_edge import __version__
from sro_edge.answers import LOST_IN_A_ROW, Answers, Tally, with_own_bytes
from sro_edge.checkpoints import Units, WorkFolder
from sro_edge.columns import Annotator, Row
from sro_edge.durable import durable
from sro_edge.errors import EngineError, InputError
from sro_edge.formats import Comment, Source
from sro_edge.formats.base import array, free_fields, read
from sro_edge.stores import Place

# Rows that are worked on together, kept together, and in the worst case lost together.
UNIT_ROWS = 512


@dataclass(frozen=True)
class Options:
    """What a run is asked to do beside the work itself.

    Attributes:
        column: column that holds the comments.
        limit: read only the first rows.
        unit_rows: rows of a unit of work.
        examples: pairs of comment and rewrite wanted in the summary.
    """

    column: str = "text"
    limit: int | None = None
    unit_rows: int = UNIT_ROWS
    examples: int = 0

    def asked(self, annotator: Annotator) -> dict[str, Any]:
        """Everything but the source that decides what the output will be, as JSON types."""
        return {
            "sro_edge": __version__,
            "command": annotator.command,
            "column": self.column,
            "limit": self.limit,
            "unit_rows": self.unit_rows,
            "settings": json.loads(json.dumps(annotator.settings)),  # as it comes from the disk
        }


@dataclass(frozen=True)
class Progress:
    """How far a run is: rows done of ``total``, the ``resumed`` ones included.

    ``total`` is None where it cannot be known; of a stream, ``lines`` are those that were read,
    blank ones too.
    """

    rows: int
    total: int | None
    resumed: int
    toxic: int
    unresolved: int
    lines: int = 0


@dataclass(frozen=True)
class Hooks:
    """What a run tells its caller.

    Attributes:
        progress: called at the start, after every unit, and while the output is put together. What
            it raises ends the run, with all finished units kept.
        trouble: called with a sentence when the models failed over a unit.
    """

    progress: Callable[[Progress], None] = lambda _: None
    trouble: Callable[[str], None] = lambda _: None


class Run:
    """One source, one output, one annotator.

    Attributes:
        asked: everything that decides what the output will be, as JSON types.
        resumed: rows that earlier runs had finished.
    """

    def __init__(
        self, annotator: Annotator, source: Source, options: Options, hooks: Hooks
    ) -> None:
        """Check that ``source`` can be written again with the new columns.

        Raises:
            InputError: it cannot.
        """
        self.source, self.options, self.hooks = source, options, hooks
        self.fields = free_fields(annotator.fields(source.column, source.text_type), source.names)
        source.check_new(self.fields)
        self.asked = {**options.asked(annotator), "source": source.fingerprint()}
        self.answers = Answers(annotator, hooks.trouble)
        self.tally = Tally(options.examples)
        self.resumed = 0
        self._sound = 0  # units up to the last that the models did not fail over

    @property
    def examples(self) -> tuple[tuple[str, str], ...]:
        """Pairs of comment and rewrite."""
        return self.tally.pairs

    def __call__(self, work: WorkFolder, note: Place | None) -> dict[str, Any]:
        """Make the output in ``work`` and move it to its place, its manifest to ``note``.

        Returns:
            The manifest.
        """
        if work.complete or work.published:
            self.resumed = self.source.rows
        else:
            units = Units(work, pa.schema(self.fields), self.options.unit_rows, self.source.rows)
            self.annotate(units)
            self.assemble(work, units)
        work.publish(note)
        return work.manifest or {}

    def annotate(self, units: Units) -> None:
        """Fill the new columns of every row that no finished unit holds."""
        kept, self.resumed, self._sound = units.files, units.rows, units.count
        self.tell()
        comments = self.source.comments()
        size = self.options.unit_rows
        cut: Iterator[Sequence[Comment]] = iter(lambda: list(islice(comments, size)), [])
        for done, unit in zip(kept, cut, strict=False):
            self.note(unit, self.answers.recall(unit, read(done)))
        for unit, rows in self.answers.give(cut):
            units.add(self.table(rows, unit))
            self.give_up(units)
            self.note(unit, rows)
        self.check_unchanged()
        if self.tally.rows != self.source.rows:
            raise RuntimeError(f"{self.source.rows} comments gave {self.tally.rows} results")

    def note(self, unit: Sequence[Comment], rows: Sequence[Row]) -> None:
        """Count the rows of a unit, and say so."""
        for row, comment in zip(rows, unit, strict=True):
            self.tally.add(row, comment)
        self.tell()

    def give_up(self, units: Units) -> None:
        """End the run where unit after unit fails: that is no longer a matter of some comments."""
        if not self.answers.lost:
            self._sound = units.count
        elif self.answers.lost == LOST_IN_A_ROW:
            while units.count > self._sound:
                units.drop_last()
            raise EngineError(
                f"{self.answers.failure}, in {LOST_IN_A_ROW} units in a row; the rows before them "
                "are kept. Mend the cause (memory, driver, bundle) and run the same command again "
                "to go on"
            )

    def assemble(self, work: WorkFolder, units: Units) -> None:
        """Put the new columns beside the old ones."""
        manifest = self.manifest()
        note = json.dumps(manifest, ensure_ascii=False).encode()
        with work.writing(), durable(work.result) as temporary:
            self.source.write(units.files, self.fields, note, temporary, self.tell)
        self.check_unchanged()
        work.finish(manifest)

    def check_unchanged(self) -> None:
        """Raise InputError where the source is no longer the file that was opened."""
        if self.asked["source"] != self.source.fingerprint():
            raise InputError(
                f"{self.source.path} has changed while it was being read; run the same command "
                "with --restart"
            )

    def manifest(self) -> dict[str, Any]:
        """What was done, with what and to what, as JSON types."""
        stated = {key: value for key, value in self.asked.items() if key != "source"}
        source = {key: self.asked["source"][key] for key in ("rows", "size")}
        manifest = {
            **stated,
            "columns": [field.name for field in self.fields],
            "source": {"name": self.source.path.name, **source},
            "counts": self.tally.counts(),
            **self.tally.causes(),
        }
        return manifest | ({"earlier": self.source.earlier} if self.source.earlier else {})

    def table(self, rows: Sequence[Row], unit: Sequence[Comment]) -> pa.Table:
        """The new columns of a unit."""
        found = [with_own_bytes(row, comment) for row, comment in zip(rows, unit, strict=True)]
        columns = [
            array(column, field.type)
            for column, field in zip(zip(*found, strict=True), self.fields, strict=True)
        ]
        return pa.table(columns, schema=pa.schema(self.fields))

    def tell(self) -> None:
        """Say how far the run is."""
        state = Progress(
            self.tally.rows,
            self.source.rows,
            self.resumed,
            self.tally.toxic,
            self.tally.statuses["unresolved"],
        )
        self.hooks.progress(state)

    def close(self) -> None:
        """Give the source back."""
        self.source.close()
