"""What CSV and JSONL share: records of bytes that stay as they are, with new cells put in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from sro_edge.formats.base import Comment, file_fingerprint, read, reading, values


class Record(NamedTuple):
    """One record's bytes, its line end included; ``comment`` is None for a blank line."""

    raw: bytes
    comment: Comment | None


class LineSource(ABC):
    """An opened file of records; see :class:`sro_edge.formats.Source`.

    The whole file is read once to count its rows, so what is wrong with it is said at the start.
    """

    kind: str
    text_type: pa.DataType = pa.string()
    earlier: str | None = None  # these formats have no room for a manifest

    def __init__(self, path: Path, column: str, limit: int | None = None) -> None:
        """Open ``path``; of its rows, only the first ``limit`` count.

        Raises:
            InputError: not of this format, or no such column of strings.
        """
        self.path, self.column = path, column
        self.names: list[str] = []
        self.rows = 0
        with reading(path, self.kind):
            for record in self.records():
                if self.rows == limit:
                    break
                self.rows += record.comment is not None

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """The records behind the head of the file; sets ``names``."""

    @abstractmethod
    def head(self, names: Sequence[str]) -> bytes:
        """What stands before the records, with the new columns ``names``."""

    @abstractmethod
    def extend(self, raw: bytes, names: Sequence[str], cells: Sequence[Any]) -> bytes:
        """The record ``raw`` with new cells."""

    def fingerprint(self) -> dict[str, Any]:
        """What tells this file from another one or a later state of it, as JSON types."""
        return file_fingerprint(self.path, self.rows)

    def comments(self) -> Iterator[Comment]:
        """The comments, in order."""
        left = self.rows
        with reading(self.path, self.kind):
            for record in self.records() if left else ():
                if record.comment is not None:
                    yield record.comment
                    left -= 1
                    if not left:
                        return

    def check_new(self, fields: Sequence[pa.Field]) -> None:  # noqa: B027
        """Whatever has a name can be written."""

    def write(
        self,
        units: Iterable[Path],
        fields: Sequence[pa.Field],
        note: bytes,
        target: Path,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Write the records with the new cells behind their own; ``note`` finds no room."""
        names = [field.name for field in fields]
        new, left = _rows(units), self.rows
        with target.open("wb") as out, reading(self.path, self.kind):
            out.write(self.head(names))
            for record in self.records() if left else ():
                if record.comment is None:
                    out.write(record.raw)
                    continue
                tick()
                out.write(self.extend(record.raw, names, next(new)))
                left -= 1
                if not left:
                    break

    def close(self) -> None:  # noqa: B027
        """Nothing is held open."""


def _rows(units: Iterable[Path]) -> Iterator[tuple[Any, ...]]:
    for unit in units:
        yield from zip(*(values(column) for column in read(unit).columns), strict=True)


def shortest(value: float) -> str:
    """The shortest decimal that is read back as the same 32-bit float."""
    return str(np.float32(value)) if isinstance(value, float) else str(value)


def body_and_end(raw: bytes) -> tuple[bytes, bytes]:
    """A record without its line end, and that line end."""
    for end in (b"\r\n", b"\n"):
        if raw.endswith(end):
            return raw[: -len(end)], end
    return raw, b""
