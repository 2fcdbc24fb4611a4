"""JSONL: one object a line, whose bytes stay; new members are put before its closing brace."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sro_edge.errors import InputError
from sro_edge.formats.base import Comment, decode
from sro_edge.formats.lines import LineSource, Record, body_and_end, shortest


class JsonlSource(LineSource):
    """An opened JSONL file; an object without the column counts as one where it is null."""

    kind = "JSONL"

    def __init__(self, path: Path, column: str, limit: int | None = None) -> None:
        """Open ``path``; of its rows, only the first ``limit`` count.

        Raises:
            InputError: a line is no JSON object, or no object has the column.
        """
        self._seen: dict[str, None] = {}
        super().__init__(path, column, limit)
        self.names = list(self._seen)
        if self.rows and column not in self._seen:
            raise no_member(path, column, self.names)

    def records(self) -> Iterator[Record]:
        """The lines."""
        with self.path.open("rb") as handle:
            for number, raw in enumerate(handle, 1):
                where = f"{self.path}, line {number}"
                record = parse(raw, where)
                if record is None:
                    yield Record(raw, None)
                    continue
                self._seen.update(dict.fromkeys(record))
                yield Record(raw, comment_of(record, self.column, where))

    def head(self, names: Sequence[str]) -> bytes:
        """Nothing."""
        return b""

    def extend(self, raw: bytes, names: Sequence[str], cells: Sequence[Any]) -> bytes:
        """The object with the new members behind its own."""
        return extend(raw, names, cells)


def no_member(place: object, column: str, names: Sequence[str]) -> InputError:
    """No object in ``place`` has the comments' member, but others of these ``names``."""
    return InputError(
        f"no object in {place} has a member {column!r}; the members are: "
        f"{', '.join(map(repr, names[:20])) or 'none'}. Name one with --column"
    )


def parse(raw: bytes, where: str) -> dict[str, Any] | None:
    """The object on a line; None on a blank line.

    Raises:
        InputError: not a JSON object in UTF-8; ``where`` says which line.
    """
    text = raw.strip().removeprefix(b"\xef\xbb\xbf")
    if not text:
        return None
    try:
        record = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON in UTF-8 ({error}); mend that line") from error
    if not isinstance(record, dict):
        raise InputError(f"{where}: not a JSON object, but {str(record)[:40]!r}; mend that line")
    return record


def comment_of(record: dict[str, Any], column: str, where: str) -> Comment:
    """The comment in a parsed object; its own bytes beside it where it has a lone surrogate.

    Raises:
        InputError: neither a string nor null.
    """
    text = record.get(column)
    if text is None:
        return Comment(None)
    if not isinstance(text, str):
        raise InputError(
            f"{where}: {column!r} is {json.dumps(text)[:40]}, not a string; mend that line or "
            "name another member with --column"
        )
    return decode(text.encode("utf-8", "surrogatepass"))


def extend(raw: bytes, names: Sequence[str], cells: Sequence[Any]) -> bytes:
    """The line ``raw`` of one object with new members."""
    body, end = body_and_end(raw)
    inside = body.rstrip()[:-1].rstrip()  # without the brace
    new = ",".join(
        f"{json.dumps(name, ensure_ascii=False)}:{_value(cell)}"
        for name, cell in zip(names, cells, strict=True)
    )
    comma = b"" if inside.endswith(b"{") else b","
    return inside + comma + new.encode() + b"}" + end


def _value(cell: Any) -> str:
    if isinstance(cell, bytes):  # what UTF-8 cannot hold goes out as it came in, escaped
        return json.dumps(cell.decode("utf-8", "surrogatepass"))
    if isinstance(cell, float):
        return shortest(cell) if math.isfinite(cell) else "null"
    return json.dumps(cell, ensure_ascii=False)
