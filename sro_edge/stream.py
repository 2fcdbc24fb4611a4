"""JSONL from one stream to another: answers leave soon after their comments have come in."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from sro_edge.answers import LOST_IN_A_ROW, Answers, Tally, with_own_bytes
from sro_edge.columns import Annotator
from sro_edge.errors import EngineError, InputError, OutputError
from sro_edge.formats.base import free_fields
from sro_edge.formats.jsonl import comment_of, extend, no_member, parse
from sro_edge.run import Hooks, Options, Progress

Record = dict[str, Any]

_WAIT_SECONDS = 0.05  # for more lines, before those that are there are worked on
_READ = 1 << 16


def annotate_stream(
    source: int, target: int, annotator: Annotator, options: Options, hooks: Hooks
) -> Tally:
    """Write every object that comes in on descriptor ``source`` to ``target`` with new members.

    Nothing is kept on disk: a stream that was cut is taken up by giving the lines behind those that
    came out. The names of the new members are free in the first lines; they must stay free.

    Raises:
        InputError: a line is no JSON object, or has a comment that is no string, or none of the
            first objects has one.
        EngineError: the models failed over several units in a row.
        OutputError: ``target`` cannot be written.
        BrokenPipeError: nobody reads ``target`` any more.
    """
    answers, tally = Answers(annotator, hooks.trouble), Tally(options.examples)
    names: list[str] = []
    number = 0

    def tell() -> None:
        unresolved = tally.statuses["unresolved"]
        hooks.progress(Progress(tally.rows, None, 0, tally.toxic, unresolved, number))

    tell()
    for batch in _batches(source, options.unit_rows, tell):
        left = None if options.limit is None else options.limit - tally.rows
        records = _parsed(batch, number, left)
        batch = batch[: len(records)]
        wheres = [f"line {number + n}" for n in range(1, len(batch) + 1)]
        comments = [
            comment_of(record or {}, options.column, where)
            for record, where in zip(records, wheres, strict=True)
        ]
        if not names and any(record is not None for record in records):
            taken = dict.fromkeys(name for record in records for name in record or ())
            if options.column not in taken:
                raise no_member("the first lines", options.column, [*taken])
            fields = annotator.fields(options.column, pa.string())
            names = [field.name for field in free_fields(fields, taken)]
        ((_, rows),) = answers.give([comments])  # whoever wrote these lines may wait for them
        if answers.lost == LOST_IN_A_ROW:
            raise EngineError(f"{answers.failure}, in {LOST_IN_A_ROW} units in a row")
        out = []
        for raw, record, comment, row, where in zip(
            batch, records, comments, rows, wheres, strict=True
        ):
            if record is None:
                out.append(raw)
                continue
            if not record.keys().isdisjoint(names):
                raise InputError(f"{where} has one of the members {', '.join(names)} already")
            out.append(extend(raw, names, with_own_bytes(row, comment)))
            tally.add(row, comment)
        _write(target, b"".join(out))
        number += len(batch)
        tell()
        if tally.rows == options.limit:
            break
    return tally


def _parsed(batch: Sequence[bytes], number: int, rows: int | None) -> list[Record | None]:
    """The objects on the lines behind line ``number``, None on blank ones, up to so many rows."""
    records: list[Record | None] = []
    for where, raw in enumerate(batch, number + 1):
        if rows == 0:
            break
        record = parse(raw, f"line {where}")
        records.append(record)
        if rows is not None and record is not None:
            rows -= 1
    return records


def _batches(source: int, most: int, tick: Callable[[], None]) -> Iterator[list[bytes]]:
    """Lines as they come: at least one, and those that are there within a moment."""
    rest, lines, ended = b"", list[bytes](), False
    while True:
        while not ended and len(lines) < most:
            if not select.select([source], [], [], _WAIT_SECONDS)[0]:
                if lines:
                    break
                tick()
                continue
            data = os.read(source, _READ)
            ended = not data
            *whole, rest = (rest + data).split(b"\n")
            lines += [line + b"\n" for line in whole]
            if ended and rest:
                lines.append(rest)
        if not lines:
            return
        yield lines[:most]
        del lines[:most]


def _write(target: int, data: bytes) -> None:
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(target, left) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"standard output cannot be written: {error.strerror}; give the lines behind those "
            "that came out to go on"
        ) from error
