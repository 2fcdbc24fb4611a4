"""How a copy of a Parquet file is written so that types, metadata and its own layout stay."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sro_edge.errors import InputError

_SPARK_KEY = b"org.apache.spark.sql.parquet.row.metadata"


def output_schema(
    schema: pa.Schema, fields: Sequence[pa.Field], key: bytes, note: bytes
) -> pa.Schema:
    """``schema`` with ``fields`` behind it and ``note`` in its metadata under ``key``."""
    metadata = dict(schema.metadata or {})
    if _SPARK_KEY in metadata:
        metadata[_SPARK_KEY] = _tell_spark(metadata[_SPARK_KEY], fields)
    return pa.schema([*schema, *fields], {**metadata, key: note})


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


def writer_options(path: Path, schema: pa.Schema) -> dict[str, Any]:
    """Options under which ``schema`` comes back from Parquet as it is.

    Raises:
        InputError: a column of ``path`` has a type that cannot be written.
    """
    for compliant in (True, False):  # how the items of lists are named
        options = {"use_compliant_nested_type": compliant}
        memory = io.BytesIO()
        try:
            pq.ParquetWriter(memory, schema, **options).close()
        except pa.ArrowNotImplementedError as error:
            raise InputError(f"{path} has a column that cannot be written: {error}") from error
        if pq.read_schema(memory).equals(schema, check_metadata=True):
            return options
    raise InputError(
        f"{path} has columns that would come back from Parquet with another type; its schema is: "
        f"{schema.to_string(show_schema_metadata=False)}"
    )


def layout(metadata: pq.FileMetaData, fields: Sequence[pa.Field]) -> dict[str, Any]:
    """Writer options that keep what a file has: codecs, Bloom filters, page index, sorting.

    Args:
        metadata: of the file.
        fields: the new columns, which have no codec of their own yet.
    """
    if not metadata.num_row_groups or not metadata.num_columns:
        return {"compression": "zstd"}
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    columns = [groups[0].column(i) for i in range(metadata.num_columns)]
    options: dict[str, Any] = {
        "compression": _compression(columns, fields),
        "write_page_index": any(column.has_column_index for column in columns),
    }
    filtered = [c.path_in_schema for c in columns if c.bloom_filter_offset is not None]
    if filtered:
        rows = max(1, *(group.num_rows for group in groups))
        options["bloom_filter_options"] = {path: {"ndv": rows} for path in filtered}
    if groups[0].sorting_columns and len({g.sorting_columns for g in groups}) == 1:
        options["sorting_columns"] = groups[0].sorting_columns
    kinds = [column.physical_type for column in columns]
    logical = [metadata.schema.column(i).logical_type.type for i in range(len(columns))]
    if "INT96" in kinds and "TIMESTAMP" not in logical:
        options["use_deprecated_int96_timestamps"] = True
    decimals = {kind for kind, of in zip(kinds, logical, strict=True) if of == "DECIMAL"}
    if decimals & {"INT32", "INT64"}:
        options["store_decimal_as_integer"] = True
    return options


def _compression(
    columns: Sequence[pq.ColumnChunkMetaData], fields: Sequence[pa.Field]
) -> str | dict[str, str]:
    """One codec for all columns where the file has one, else one for each."""
    codecs = {column.path_in_schema: _codec(str(column.compression)) for column in columns}
    if len(set(codecs.values())) == 1:
        return next(iter(codecs.values()))
    return codecs | {field.name: "zstd" for field in fields}


def _codec(name: str) -> str:
    name = name.lower()
    if name == "uncompressed":
        return "none"
    return name if name != "unknown" and pa.Codec.is_available(name) else "zstd"
