"""A Parquet file of comments: streamed in, and streamed out again with new columns beside the old.

Only the comments ever become Python strings. Everything else goes from file to file as Arrow, so
types, nulls, nested values, dictionaries and metadata stay as they are.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sro_edge.errors import InputError, OutputError

METADATA_KEY = b"sro_edge"
_SPARK_KEY = b"org.apache.spark.sql.parquet.row.metadata"
_BATCH_ROWS = 2048
# A row group is gathered in memory before it is written; a larger one becomes several.
_GROUP_BYTES = 256 << 20


class Comment(NamedTuple):
    """One comment: its text, and its bytes where they are not valid UTF-8."""

    text: str | None
    raw: bytes | None = None


class Source:
    """An opened Parquet file whose column ``column`` holds comments.

    Attributes:
        schema: Arrow schema of the file.
        text_type: type of a text derived from the comments: string, large_string or string_view.
        rows: rows that are to be read.
        group_rows: rows that are to be read of each row group.
    """

    def __init__(self, path: Path, column: str = "text", limit: int | None = None) -> None:
        """Open ``path``; of its rows, only the first ``limit`` count.

        Raises:
            InputError: no Parquet file that can be read, or no such column of strings.
        """
        self.path, self.column = path, column
        self._file = _open(path)
        metadata = self._file.metadata
        with reading(path):
            self.schema = self._file.schema_arrow
            self.text_type = _text_type(self.schema, column, path)
            sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self.rows = metadata.num_rows if limit is None else min(limit, metadata.num_rows)
        self.group_rows = _cut(sizes, self.rows)

    def fingerprint(self) -> dict[str, Any]:
        """What tells this file from another one or a later state of it, as JSON types."""
        with reading(self.path):
            stat = self.path.stat()
        return {
            "rows": self._file.metadata.num_rows,
            "size": stat.st_size,
            "modified_ns": stat.st_mtime_ns,
            "schema": self.schema.to_string(show_field_metadata=False, show_schema_metadata=False),
        }

    def comments(self, skip: int = 0) -> Iterator[Comment]:
        """The comments, in order, but for the first ``skip``."""
        for group, rows in enumerate(self.group_rows):
            if skip >= rows:
                skip -= rows
                continue
            for batch in self.batches(group, [self.column]):
                column = batch.column(self.column).slice(skip)
                skip = max(0, skip - batch.num_rows)
                yield from comments(column)

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
        """Check that a copy of this file with columns ``fields`` behind its own can be written.

        Raises:
            InputError: a name is taken, or a column has a type that cannot be written.
        """
        taken = [field.name for field in fields if field.name in self.schema.names]
        if taken:
            raise InputError(
                f"{self.path} has columns of this name already: {', '.join(taken)}; rename or drop "
                "them, or give the original file"
            )
        self.writer_options(output_schema(self.schema, fields, b"{}"))

    def writer_options(self, schema: pa.Schema) -> dict[str, Any]:
        """Options under which ``schema`` comes back from Parquet as it is.

        Raises:
            InputError: a column has a type that cannot be written.
        """
        options: dict[str, Any] = {"compression": self._compression()}
        for compliant in (True, False):  # how the items of lists are named
            options["use_compliant_nested_type"] = compliant
            memory = io.BytesIO()
            try:
                pq.write_table(schema.empty_table(), memory, **options)
            except pa.ArrowNotImplementedError as error:
                raise InputError(
                    f"{self.path} has a column that cannot be written: {error}"
                ) from error
            if pq.read_schema(memory).equals(schema, check_metadata=True):
                return options
        raise InputError(
            f"{self.path} has columns that would come back from Parquet with another type; "
            f"its schema is: {self.schema.to_string(show_schema_metadata=False)}"
        )

    def _compression(self) -> str:
        metadata = self._file.metadata
        if metadata.num_row_groups and metadata.num_columns:
            name = str(metadata.row_group(0).column(0).compression).lower()
            if name == "uncompressed":
                return "none"
            if name != "unknown" and pa.Codec.is_available(name):
                return name
        return "zstd"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what pyarrow says about a file that cannot be read into a sentence."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        code = getattr(error, "errno", None)
        raise InputError(
            f"{path} cannot be read: {os.strerror(code)}"
            if code
            else f"{path} is no Parquet file, or it is damaged, cut short or encrypted: "
            f"{str(error).splitlines()[0]}"
        ) from error


def comments(column: pa.Array) -> list[Comment]:
    """The values of a column of strings, or of a dictionary of them, invalid UTF-8 included."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return [Comment(text) for text in column.to_pylist()]
    except UnicodeDecodeError:
        return [_decode(raw) for raw in column.cast(_bytes_type(column.type)).to_pylist()]


def array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """An Arrow array of type ``kind``; bytes among strings go in as they are, valid or not."""
    if not any(isinstance(value, bytes) for value in values):
        return pa.array(values, kind)
    raw = [value.encode() if isinstance(value, str) else value for value in values]
    options = pc.CastOptions(kind, allow_invalid_utf8=True)
    return pa.array(raw, _bytes_type(kind)).cast(options=options)


def pairs(path: Path, column: str) -> Iterator[tuple[str, str]]:
    """(comment, rewrite) of the rewritten rows of a file that ``rewrite`` made."""
    detox = f"{column}_detox"
    source = Source(path, column)
    for group in range(len(source.group_rows)):
        for batch in source.batches(group, [column, detox, "detox_status"]):
            statuses = batch.column("detox_status").to_pylist()
            if "rewritten" in statuses:
                texts = comments(batch.column(column)), comments(batch.column(detox))
                for status, before, after in zip(statuses, *texts, strict=True):
                    if status == "rewritten" and before.text and after.text:
                        yield before.text, after.text


def write_beside(
    source: Source, units: Iterable[Path], fields: Sequence[pa.Field], note: bytes, target: Path
) -> None:
    """Write the rows of ``source`` with the new columns in ``units`` beside them.

    Args:
        source: the file read.
        units: Parquet files of the new columns, in row order.
        fields: the new columns.
        note: stored in the file's metadata under ``sro_edge``.
        target: file to write.
    """
    schema = output_schema(source.schema, fields, note)
    new = _Rows(units)
    with pq.ParquetWriter(target, schema, **source.writer_options(schema)) as writer:
        for group in range(len(source.group_rows)):
            pieces, size = [], 0
            for batch in source.batches(group):
                columns = [*batch.columns, *new.take(batch.num_rows).columns]
                pieces.append(pa.Table.from_arrays(columns, schema=schema))
                size += sum(_size(column) for column in batch.columns)
                if size > _GROUP_BYTES:
                    _write_group(writer, pieces)
                    pieces, size = [], 0
            if pieces:
                _write_group(writer, pieces)
    _check_written(target, schema, source.rows)


def output_schema(schema: pa.Schema, fields: Sequence[pa.Field], note: bytes) -> pa.Schema:
    """``schema`` with ``fields`` behind it and ``note`` in its metadata."""
    metadata = dict(schema.metadata or {})
    if _SPARK_KEY in metadata:
        metadata[_SPARK_KEY] = _tell_spark(metadata[_SPARK_KEY], fields)
    return pa.schema([*schema, *fields], {**metadata, METADATA_KEY: note})


def _tell_spark(schema: bytes, fields: Sequence[pa.Field]) -> bytes:
    """Add ``fields`` to Spark's own copy of the schema: it would not see columns missing there."""
    names = {pa.float32(): "float", pa.int32(): "integer"}
    try:
        described = json.loads(schema)
        described["fields"] += [
            {
                "name": field.name,
                "type": names.get(field.type, "string"),
                "nullable": True,
                "metadata": {},
            }
            for field in fields
        ]
    except (ValueError, TypeError, KeyError):
        return schema
    return json.dumps(described).encode()


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


def read(file: Path) -> pa.Table:
    """A whole small file."""
    with pq.ParquetFile(file) as unit:
        return unit.read(use_threads=False)


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
    if not path.exists():
        raise InputError(f"{path} does not exist; give the path of a Parquet file")
    if path.is_dir():
        raise InputError(
            f"{path} is a folder; give one Parquet file, and run once for each file of a dataset"
        )
    with reading(path):
        return pq.ParquetFile(path, buffer_size=1 << 20)


def _text_type(schema: pa.Schema, column: str, path: Path) -> pa.DataType:
    found = schema.get_all_field_indices(column)
    usable = ", ".join(repr(f.name) for f in schema if _string_type(f.type)) or "none"
    if len(found) > 1:
        raise InputError(f"{path} has {len(found)} columns named {column!r}; rename all but one")
    if not found:
        raise InputError(
            f"{path} has no column {column!r}; its columns of strings are: {usable}. "
            "Name one with --column"
        )
    kind = _string_type(schema.field(found[0]).type)
    if kind is None:
        raise InputError(
            f"column {column!r} of {path} holds {schema.field(found[0]).type}, not strings; its "
            f"columns of strings are: {usable}. Name one with --column"
        )
    return kind


def _string_type(kind: pa.DataType) -> pa.DataType | None:
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    return values if values in {pa.string(), pa.large_string(), pa.string_view()} else None


def _bytes_type(kind: pa.DataType) -> pa.DataType:
    same_layout = {
        pa.string(): pa.binary(),
        pa.large_string(): pa.large_binary(),
        pa.string_view(): pa.binary_view(),
    }
    return same_layout[kind]


def _decode(raw: bytes | None) -> Comment:
    if raw is None:
        return Comment(None)
    try:
        return Comment(raw.decode())
    except UnicodeDecodeError:
        return Comment(raw.decode(errors="replace"), raw)


def _cut(sizes: Sequence[int], rows: int) -> list[int]:
    """Row group sizes of the first ``rows`` rows; groups behind them are left out."""
    kept = []
    for size in sizes:
        if rows == 0 and size:
            break
        kept.append(min(size, rows))
        rows -= kept[-1]
    return kept
