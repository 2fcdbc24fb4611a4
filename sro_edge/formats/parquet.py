"""A Parquet file of comments: streamed in, and streamed out again with new columns beside the old.

Only the comments ever become Python strings. Everything else goes from file to file as Arrow, so
types, nulls, nested values, dictionaries and metadata stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sro_edge.errors import InputError, OutputError
from sro_edge.formats.base import (
    TEXT_TYPES,
    Comment,
    comments,
    file_fingerprint,
    missing_column,
    read,
    reading,
)
from sro_edge.formats.parquet_layout import layout, output_schema, writer_options

METADATA_KEY = b"sro_edge"
_BATCH_ROWS = 2048
# A row group is gathered in memory before it is written; a larger one becomes several.
_GROUP_BYTES = 256 << 20
_SIGNATURE = 28  # bytes behind the footer of a file with encrypted columns


class ParquetSource:
    """An opened Parquet file; see :class:`sro_edge.formats.Source`.

    Attributes:
        schema: Arrow schema of the file.
        group_rows: rows that are to be read of each row group.
    """

    def __init__(self, path: Path, column: str, limit: int | None = None) -> None:
        """Open ``path``; of its rows, only the first ``limit`` count.

        Raises:
            InputError: no Parquet file that can be read, or no such column of strings.
        """
        self.path, self.column = path, column
        self._file = _open(path)
        metadata = self._file.metadata
        with reading(path):
            self.schema: pa.Schema = self._file.schema_arrow
            self.text_type = _text_type(self.schema, column, path)
            sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self.names: list[str] = self.schema.names
        self.rows = metadata.num_rows if limit is None else min(limit, metadata.num_rows)
        self.group_rows = _cut(sizes, self.rows)
        earlier = (self.schema.metadata or {}).get(METADATA_KEY)
        self.earlier = None if earlier is None else earlier.decode(errors="replace")

    def fingerprint(self) -> dict[str, Any]:
        """What tells this file from another one or a later state of it, as JSON types."""
        stated = file_fingerprint(self.path, self._file.metadata.num_rows)
        schema = self.schema.to_string(show_field_metadata=False, show_schema_metadata=False)
        return {**stated, "schema": schema}

    def comments(self) -> Iterator[Comment]:
        """The comments, in order."""
        for group in range(len(self.group_rows)):
            for batch in self.batches(group, [self.column]):
                yield from comments(batch.column(self.column))

    def batches(self, group: int, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of one row group in small batches."""
        left = self.group_rows[group]
        with reading(self.path):
            for batch in self._file.iter_batches(
                _BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False
            ):
                yield batch.slice(0, left)
                left -= batch.num_rows
                if left <= 0:
                    return
        if left > 0:
            raise InputError(f"{self.path} is damaged: row group {group} ends {left} rows early")

    def check_new(self, fields: Sequence[pa.Field]) -> None:
        """Check that a copy of this file with columns ``fields`` behind its own can be written."""
        writer_options(self.path, output_schema(self.schema, fields, METADATA_KEY, b"{}"))

    def write(
        self,
        units: Iterable[Path],
        fields: Sequence[pa.Field],
        note: bytes,
        target: Path,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Write the rows with the new columns beside them, and ``note`` in the metadata."""
        schema = output_schema(self.schema, fields, METADATA_KEY, note)
        options = {**writer_options(self.path, schema), **layout(self._file.metadata, fields)}
        new = _Rows(units)
        with pq.ParquetWriter(target, schema, **options) as writer:
            for group in range(len(self.group_rows)):
                pieces, size = [], 0
                for batch in self.batches(group):
                    tick()
                    columns = [*batch.columns, *new.take(batch.num_rows).columns]
                    pieces.append(pa.Table.from_arrays(columns, schema=schema))
                    size += sum(_size(column) for column in batch.columns)
                    if size > _GROUP_BYTES:
                        _write_group(writer, pieces)
                        pieces, size = [], 0
                if pieces:
                    _write_group(writer, pieces)
        _check_written(target, schema, self.rows)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


class _Rows:
    """Rows of several Parquet files as one stream."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._tables = (read(file) for file in files)
        self._rest: pa.Table | None = None

    def take(self, rows: int) -> pa.Table:
        """The next ``rows`` rows; at least one."""
        pieces = []
        while rows:
            if not self._rest:
                self._rest = next(self._tables)
            pieces.append(self._rest.slice(0, rows))
            self._rest = self._rest.slice(rows)
            rows -= pieces[-1].num_rows
        return pa.concat_tables(pieces)


def _check_written(target: Path, schema: pa.Schema, rows: int) -> None:
    with reading(target), pq.ParquetFile(target) as written:
        same = written.schema_arrow.equals(schema, check_metadata=True)
        if not same or written.metadata.num_rows != rows:
            raise OutputError(
                f"{target} did not come back from the disk as it was written; check the disk and "
                "run the same command again"
            )


def _write_group(writer: pq.ParquetWriter, pieces: list[pa.Table]) -> None:
    table = pa.concat_tables(pieces)
    writer.write_table(table, row_group_size=max(1, table.num_rows))


def _size(column: pa.Array) -> int:
    # The batches of a row group share one dictionary, so it must not be counted with each.
    return int(column.indices.nbytes if pa.types.is_dictionary(column.type) else column.nbytes)


def _open(path: Path) -> pq.ParquetFile:
    with reading(path):
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - 8))
            tail = handle.read()
        if tail[4:] == b"PARE":
            raise _encrypted(path)
        # Column chunks are read page by page: ahead of time, they would all lie in memory.
        file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    # Must be known before a column's metadata is touched: Arrow ends the process over it.
    if int.from_bytes(tail[:4], "little") == file.metadata.serialized_size + _SIGNATURE:
        file.close()
        raise _encrypted(path)
    return file


def _encrypted(path: Path) -> InputError:
    return InputError(f"{path} is encrypted, or some of its columns are; give a decrypted copy")


def _text_type(schema: pa.Schema, column: str, path: Path) -> pa.DataType:
    found = schema.get_all_field_indices(column)
    usable = [field.name for field in schema if _string_type(field.type)]
    if len(found) > 1:
        raise InputError(f"{path} has {len(found)} columns named {column!r}; rename all but one")
    if not found:
        raise missing_column(path, column, usable)
    kind = _string_type(schema.field(found[0]).type)
    if kind is None:
        raise InputError(
            f"column {column!r} of {path} holds {schema.field(found[0]).type}, not strings; its "
            f"columns of strings are: {', '.join(map(repr, usable)) or 'none'}. Name one with "
            "--column"
        )
    return kind


def _string_type(kind: pa.DataType) -> pa.DataType | None:
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    return values if values in TEXT_TYPES else None


def _cut(sizes: Sequence[int], rows: int) -> list[int]:
    """Row group sizes of the first ``rows`` rows; groups behind them are left out."""
    kept = []
    for size in sizes:
        if rows == 0 and size:
            break
        kept.append(min(size, rows))
        rows -= kept[-1]
    return kept
