"""What every format offers: comments out, and a copy of the file with new columns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sro_edge.errors import InputError
from sro_edge.stores import Address

# Not a set: extension types, which are compared with these, need not be hashable.
TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view())


class Comment(NamedTuple):
    """One comment: its text, and its bytes where they are not valid UTF-8."""

    text: str | None
    raw: bytes | None = None


class Source(Protocol):
    """An opened file whose column ``column`` holds comments.

    Attributes:
        path: the file.
        column: name of the column.
        rows: rows that are to be read.
        text_type: type of a text derived from the comments: string, large_string or string_view.
        names: names of the file's columns.
        earlier: manifest that an earlier run left in the file, if any.
    """

    path: Path
    column: str
    rows: int
    text_type: pa.DataType
    names: list[str]
    earlier: str | None

    def fingerprint(self) -> dict[str, Any]:
        """What tells this file from another one or a later state of it, as JSON types."""

    def comments(self) -> Iterator[Comment]:
        """The comments, in order."""

    def check_new(self, fields: Sequence[pa.Field]) -> None:
        """Check that a copy with ``fields`` behind the own columns can be written.

        Raises:
            InputError: a column has a type that cannot be written.
        """

    def write(
        self,
        units: Iterable[Path],
        fields: Sequence[pa.Field],
        note: bytes,
        target: Path,
        tick: Callable[[], None],
    ) -> None:
        """Write the rows to ``target`` with the new columns in ``units`` beside them.

        Args:
            units: Parquet files of the new columns, in row order.
            fields: the new columns.
            note: manifest of the run, for formats that have room for it.
            target: file to write.
            tick: called now and then; what it raises ends the writing.
        """

    def close(self) -> None:
        """Give the file back; safe to call twice."""


@contextmanager
def reading(path: Path | Address, kind: str = "Parquet") -> Iterator[None]:
    """Turn what is said about a file that cannot be read into a sentence.

    Raises:
        InputError: in the place of an ``OSError`` or an Arrow exception.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        code = getattr(error, "errno", None)
        raise InputError(
            f"{path} cannot be read: {os.strerror(code)}"
            if code
            else f"{path} is no {kind} file, or it is damaged or cut short: "
            f"{(str(error).splitlines() or ['empty'])[0]}"
        ) from error


def free_fields(fields: Sequence[pa.Field], taken: Iterable[str]) -> list[pa.Field]:
    """``fields`` under their own names, or all with one number behind them where one is taken."""
    names = set(taken)
    for number in count(1):
        behind = "" if number == 1 else f"_{number}"
        renamed = [field.with_name(field.name + behind) for field in fields]
        if names.isdisjoint(field.name for field in renamed):
            return renamed
    raise AssertionError  # count() does not end


def file_fingerprint(path: Path, rows: int) -> dict[str, Any]:
    """Rows, size and time of a file."""
    with reading(path):
        stat = path.stat()
    return {"rows": rows, "size": stat.st_size, "modified_ns": stat.st_mtime_ns}


def read(file: Path) -> pa.Table:
    """A whole small Parquet file."""
    with pq.ParquetFile(file) as unit:
        return unit.read(use_threads=False)


def array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """An Arrow array of type ``kind``; bytes among strings go in as they are, valid or not."""
    if not any(isinstance(value, bytes) for value in values):
        return pa.array(values, kind)
    raw = [value.encode() if isinstance(value, str) else value for value in values]
    options = pc.CastOptions(kind, allow_invalid_utf8=True)
    return pa.array(raw, bytes_type(kind)).cast(options=options)


def comments(column: pa.Array) -> list[Comment]:
    """The values of a column of strings, or of a dictionary of them, invalid UTF-8 included."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return [Comment(text) for text in column.to_pylist()]
    except UnicodeDecodeError:
        return [decode(raw) for raw in column.cast(bytes_type(column.type)).to_pylist()]


def values(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column of a unit; strings that are not valid UTF-8 as bytes."""
    if column.type in TEXT_TYPES:
        found = (comment for chunk in column.chunks for comment in comments(chunk))
        return [c.text if c.raw is None else c.raw for c in found]
    return list(column.to_pylist())


def bytes_type(kind: pa.DataType) -> pa.DataType:
    """The type of bytes that is laid out as the type of strings ``kind``."""
    same_layout = {
        pa.string(): pa.binary(),
        pa.large_string(): pa.large_binary(),
        pa.string_view(): pa.binary_view(),
    }
    return same_layout[kind]


def decode(raw: bytes | None) -> Comment:
    """Bytes as a comment."""
    if raw is None:
        return Comment(None)
    try:
        return Comment(raw.decode())
    except UnicodeDecodeError:
        return Comment(raw.decode(errors="replace"), raw)


def missing_column(path: Path | Address, column: str, usable: Iterable[str]) -> InputError:
    """What to say of a file without ``column``."""
    named = ", ".join(map(repr, usable)) or "none"
    return InputError(
        f"{path} has no column {column!r}; its columns of strings are: {named}. "
        "Name one with --column"
    )
