"""CSV and TSV: every record keeps its own bytes, quotes and line end; new cells come behind them.

The cells are read as Python's ``csv`` module reads RFC 4180. What is not that (a quote left open, a
row of another length) is refused with its line, never guessed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from sro_edge.errors import InputError
from sro_edge.formats.base import Comment, missing_column
from sro_edge.formats.lines import LineSource, Record, body_and_end, shortest

_DELIMITERS = ",;\t|"
_LONGEST_CELL = 1 << 26  # characters; one that is longer is most likely a quote left open


class DelimitedSource(LineSource):
    """An opened CSV file with a header; its delimiter is the one under which the header works."""

    kind = "CSV"

    def records(self) -> Iterator[Record]:
        """The records behind the header."""
        csv.field_size_limit(_LONGEST_CELL)
        with self.path.open("rb") as handle:
            lines = _Lines(handle)
            header = self._read_header(lines)
            place = header.index(self.column)
            rows = csv.reader(lines, delimiter=self.delimiter, strict=True)
            while True:
                first = lines.number + 1
                row = self._next(rows, first)
                if row is None:
                    return
                raw = lines.taken()
                if row and len(row) != len(header):
                    raise InputError(
                        f"{self.path}, line {first}: {len(row)} cells, but the header has "
                        f"{len(header)}; mend that line"
                    )
                yield Record(raw, _comment(row[place]) if row else None)

    def head(self, names: Sequence[str]) -> bytes:
        """The header with the new names."""
        body, end = body_and_end(self._header)
        new = [_cell(name, self.delimiter) for name in names]
        return self.delimiter.encode().join([body, *new]) + (end or b"\n")

    def extend(self, raw: bytes, names: Sequence[str], cells: Sequence[Any]) -> bytes:
        """The record with the new cells behind its own."""
        body, end = body_and_end(raw)
        new = [_cell(cell, self.delimiter) for cell in cells]
        return self.delimiter.encode().join([body, *new]) + end

    def _read_header(self, lines: _Lines) -> list[str]:
        """Names of the columns; finds the delimiter."""
        first = next(lines, "")
        if "\0" in first or not first.strip():
            raise InputError(
                f"{self.path} has no header of UTF-8 text in its first line; give a CSV file with "
                "one, in UTF-8"
            )
        self._header = lines.taken()
        text = first.removeprefix("\ufeff")
        headers = {mark: _split(text, mark) for mark in _DELIMITERS}
        fitting = [mark for mark in _DELIMITERS if self.column in headers[mark]]
        if not fitting:
            likely = max(_DELIMITERS, key=lambda mark: len(headers[mark]))
            raise missing_column(self.path, self.column, headers[likely])
        self.delimiter = fitting[0]
        self.names = headers[self.delimiter]
        if self.names.count(self.column) > 1:
            raise InputError(
                f"{self.path} has several columns named {self.column!r}; rename all but one"
            )
        return list(self.names)

    def _next(self, rows: Iterator[list[str]], line: int) -> list[str] | None:
        try:
            return next(rows, None)
        except csv.Error as error:
            raise InputError(
                f"{self.path}, line {line}: {error}; mend that line (quotes inside a quoted cell "
                "are doubled, line breaks inside a cell need quotes)"
            ) from error


class _Lines:
    """Lines of a file as text in which every byte survives, and the bytes taken so far."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle, self._taken = handle, list[bytes]()
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._handle)
        self.number += 1
        self._taken.append(line)
        return line.decode("utf-8", "surrogateescape")

    def taken(self) -> bytes:
        """The bytes of the lines since the last call."""
        raw = b"".join(self._taken)
        self._taken.clear()
        return raw


def _split(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


def _comment(cell: str) -> Comment:
    if cell.isascii():
        return Comment(cell)
    raw = cell.encode("utf-8", "surrogateescape")
    text = raw.decode("utf-8", "replace")
    return Comment(text) if text == cell else Comment(text, raw)


def _cell(value: Any, delimiter: str) -> bytes:
    """A cell; nothing for null, and quotes around an empty string and where they are needed."""
    if value is None:
        return b""
    raw = value if isinstance(value, bytes) else str(value).encode()
    if not isinstance(value, str | bytes):
        return shortest(value).encode()
    special = (delimiter.encode(), b'"', b"\n", b"\r")
    if raw and not any(mark in raw for mark in special) and raw == raw.strip():
        return raw
    return b'"' + raw.replace(b'"', b'""') + b'"'
