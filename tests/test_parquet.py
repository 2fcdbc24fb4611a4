"""Parquet of every writer and layout: what a file has beside its comments is there afterwards."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import struct
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest
from tables import COMMENTS, NEW, FakeRewriter, assert_carried, read

from sro_edge.dump import rewrite_dump
from sro_edge.errors import InputError

OURS = ["text_detox", *NEW]
WHEN = [datetime.datetime(2024, 5, 1, 12, 30, tzinfo=datetime.UTC), None] * 4


def groups(path: Path) -> list[int]:
    metadata = pq.read_metadata(path)
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


# --- other writers ---


def test_pandas(source: Path, output: Path) -> None:
    frame = pd.DataFrame(
        {
            "text": pd.array(COMMENTS, dtype="string"),
            "when": pd.DatetimeIndex(WHEN),
            "kind": pd.Categorical(list("abacabaa"), categories=["c", "b", "a"], ordered=True),
            "score": pd.array([1, None] * 4, dtype="Int16"),
        },
        index=pd.MultiIndex.from_product([["x", "y"], range(4)], names=["group", None]),
    )
    frame.attrs["about"] = "kept"
    frame.to_parquet(source)
    rewrite_dump(source, output, FakeRewriter())
    assert_carried(source, output)
    found = pd.read_parquet(output)
    assert list(found.columns) == [*frame.columns, *OURS]
    pd.testing.assert_frame_equal(found[frame.columns], frame)
    assert found["text_detox"].iloc[0] == "you are odd"


def test_polars(source: Path, output: Path) -> None:
    frame = pl.DataFrame(
        {
            "text": COMMENTS,
            "when": pl.Series(WHEN, dtype=pl.Datetime("ns", "Europe/Berlin")),
            "kind": pl.Series(list("abacabaa"), dtype=pl.Enum(["c", "b", "a"])),
            "other": pl.Series(list("xyxyxyxy"), dtype=pl.Categorical),
            "pairs": [[{"a": 1, "b": ["x"]}], None] * 4,
            "money": pl.Series([decimal.Decimal("1.25")] * 8, dtype=pl.Decimal(38, 2)),
            "nothing": [None] * 8,
            "raw": [b"\xff\x00"] * 8,
        }
    )
    frame.write_parquet(source, row_group_size=3)
    rewrite_dump(source, output, FakeRewriter())
    assert_carried(source, output)
    assert groups(output) == groups(source)
    found = pl.read_parquet(output)
    assert found.columns == [*frame.columns, *OURS]
    assert found.select(frame.columns).equals(frame)
    assert found.select(frame.columns).schema == frame.schema


def test_duckdb(source: Path, output: Path) -> None:
    texts = ", ".join("NULL" if t is None else f"'{t}'" for t in COMMENTS)
    query = f"""
        SELECT unnest([{texts}]) AS text, TIMESTAMPTZ '2024-05-01 12:00:00+02' AS zoned,
            1.5::DECIMAL(9, 3) AS money, uuid() AS id, {{'a': [1, NULL], 'b': 'x'}} AS record,
            MAP {{'k': 1::UTINYINT}} AS pairs, 'x'::ENUM('x', 'y') AS kind, '\\xAA'::BLOB AS raw,
            TIME '12:00' AS clock, INTERVAL 3 DAY AS span, NULL AS nothing
    """
    with duckdb.connect() as connection:
        connection.sql(query).write_parquet(str(source))
        rewrite_dump(source, output, FakeRewriter())
        assert_carried(source, output)
        # Arrow knows an interval only as its twelve bytes, which is what comes back.
        before = connection.sql(f"SELECT * EXCLUDE (span) FROM '{source}'")
        after = connection.sql(f"SELECT * EXCLUDE (span, {', '.join(OURS)}) FROM '{output}'")
        assert after.fetchall() == before.fetchall()
        assert after.types == before.types


def test_spark(source: Path, output: Path) -> None:
    """As Spark writes: INT96 times, decimals in integers, no Arrow schema, its own one instead."""
    key = b"org.apache.spark.sql.parquet.row.metadata"
    kinds = {"text": "string", "when": "timestamp", "money": "decimal(9,2)"}
    described = {
        "type": "struct",
        "fields": [{"name": n, "type": t, "nullable": True} for n, t in kinds.items()],
    }
    table = pa.table(
        {
            "text": COMMENTS,
            "when": pa.array(WHEN, pa.timestamp("ns")),
            "money": pa.array([decimal.Decimal("1.25"), None] * 4, pa.decimal128(9, 2)),
        }
    )
    with pq.ParquetWriter(
        source, table.schema, flavor="spark", use_deprecated_int96_timestamps=True,
        store_schema=False, store_decimal_as_integer=True, version="1.0",
    ) as writer:  # fmt: skip
        writer.write_table(table)
        writer.add_key_value_metadata({key: json.dumps(described).encode()})
    before = read(source)
    assert key in before.schema.metadata
    rewrite_dump(source, output, FakeRewriter())
    assert read(output).select(range(3)).equals(before)
    assert read(output).schema.field("when").type == pa.timestamp("ns")
    columns = [pq.read_metadata(output).row_group(0).column(i) for i in range(3)]
    assert [c.physical_type for c in columns] == ["BYTE_ARRAY", "INT96", "INT32"]
    told = json.loads(pq.read_schema(output).metadata[key])["fields"]
    assert [f["name"] for f in told] == [*kinds, *OURS]
    assert {f["name"]: f["type"] for f in told[3:]} == {
        "text_detox": "string",
        **dict.fromkeys(NEW[:3], "string"),
        **dict.fromkeys(NEW[3:7], "float"),
        "detox_attempts": "integer",
    }


# --- types ---


class Money(pa.ExtensionType):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(pa.int64(), "test.money")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"EUR"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> Money:
        return cls()


@pytest.mark.parametrize("registered", [True, False])
def test_extension_types(source: Path, output: Path, registered: bool) -> None:
    columns = {
        "text": pa.array(COMMENTS),
        "money": pa.ExtensionArray.from_storage(Money(), pa.array(range(8))),
        "json": pa.array(['{"a": 1}', None] * 4, pa.json_()),
        "flag": pa.array([1, None] * 4, pa.int8()).cast(pa.bool8()),
        "id": pa.array([bytes(16), None] * 4, pa.uuid()),
        "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((8, 2, 2), np.float32)),
    }
    if registered:
        pa.register_extension_type(Money())
    try:
        pq.write_table(pa.table(columns), source)
        rewrite_dump(source, output, FakeRewriter())
        assert_carried(source, output)
        field = read(output).schema.field("money")
        if registered:
            assert field.type == Money()
        else:
            assert field.metadata[b"ARROW:extension:metadata"] == b"EUR"
    finally:
        if registered:
            pa.unregister_extension_type("test.money")


def test_nan_payloads_and_signs(source: Path, output: Path) -> None:
    payloads = [0x7FF8000000000001, 0xFFF8DEADBEEF0000, 0x7FF0000000000001, 1 << 63]
    doubles = np.array(payloads * 2, np.uint64).view(np.float64)
    floats = np.array([0x7FC00001, 0xFFC0BEEF, 0x7F800001, 1 << 31] * 2, np.uint32)
    halves = np.array([0x7E01, 0xFE02, 0x7C01, 1 << 15] * 2, np.uint16).view(np.float16)
    table = pa.table({"text": COMMENTS, "d": doubles, "f": floats.view(np.float32), "h": halves})
    for options in ({}, {"use_dictionary": False, "use_byte_stream_split": ["d", "f"]}):
        pq.write_table(table, source, **options)
        rewrite_dump(source, output, FakeRewriter(), overwrite=True)
        for name in ("d", "f", "h"):
            before, after = table[name].to_numpy(), read(output)[name].to_numpy()
            assert after.tobytes() == before.tobytes()
    assert struct.pack("<d", doubles[0]) == payloads[0].to_bytes(8, "little")


# --- names ---


def test_names_that_are_taken_twice_dotted_or_empty(source: Path, output: Path) -> None:
    names = ["a", "text", "a", "a.b", "", "text.x", "detox", "ünï \n"]
    pq.write_table(pa.table([COMMENTS] * len(names), names=names), source)
    rewrite_dump(source, output, FakeRewriter())
    assert_carried(source, output)
    assert read(output).column_names == [*names, *OURS]


def test_an_output_can_be_an_input(source: Path, output: Path, tmp_path: Path) -> None:
    """Columns of our names stay as they are; the new ones are told apart by a number."""
    rewrite_dump(source, output, FakeRewriter())
    for number in (2, 3):
        again = tmp_path / f"again-{number}.parquet"
        summary = rewrite_dump(output, again, FakeRewriter())
        before, after = read(output), read(again)
        assert after.column_names[: before.num_columns] == before.column_names
        assert after.select(range(before.num_columns)).equals(before)
        assert summary.columns == tuple(f"{name}_{number}" for name in OURS)
        assert json.loads(after.schema.metadata[b"sro_edge"])["columns"] == list(summary.columns)
        output = again


# --- layout ---


@pytest.mark.parametrize("codec", ["snappy", "gzip", "brotli", "zstd", "lz4", "none"])
def test_row_groups_and_codec_stay(source: Path, output: Path, codec: str) -> None:
    pq.write_table(read(source), source, row_group_size=3, compression=codec)
    rewrite_dump(source, output, FakeRewriter(), unit_rows=5)
    assert groups(output) == [3, 3, 2]
    before, after = pq.read_metadata(source).row_group(0), pq.read_metadata(output).row_group(0)
    assert {after.column(i).compression for i in range(after.num_columns)} == {
        before.column(0).compression
    }


def test_each_column_keeps_its_codec(source: Path, output: Path) -> None:
    table = pa.table({"text": COMMENTS, "tags": [["x"]] * 8, "id": range(8)})
    codecs = {"text": "zstd", "tags.list.element": "gzip", "id": "snappy"}
    pq.write_table(table, source, compression=codecs)
    rewrite_dump(source, output, FakeRewriter())
    group = pq.read_metadata(output).row_group(0)
    found = [group.column(i).compression for i in range(group.num_columns)]
    assert found == ["ZSTD", "GZIP", "SNAPPY", *["ZSTD"] * 9]


def test_filters_index_and_sorting_stay(source: Path, output: Path) -> None:
    table = pa.table({"text": COMMENTS, "id": range(8), "tags": [["x"]] * 8})
    pq.write_table(
        table, source, row_group_size=4, write_page_index=True,
        bloom_filter_options={"id": {"ndv": 8}, "tags.list.element": True},
        sorting_columns=[pq.SortingColumn(1)],
    )  # fmt: skip
    rewrite_dump(source, output, FakeRewriter())
    metadata = pq.read_metadata(output)
    for number in range(2):
        group = metadata.row_group(number)
        columns = [group.column(i) for i in range(group.num_columns)]
        filtered = [c.path_in_schema for c in columns if c.bloom_filter_offset is not None]
        assert filtered == ["id", "tags.list.element"]
        assert all(column.has_column_index for column in columns)
        assert group.sorting_columns == (pq.SortingColumn(1),)
        assert columns[1].statistics.min == 4 * number
    with duckdb.connect() as connection:
        query = f"SELECT id FROM '{output}' WHERE id = 5"
        assert connection.sql(query).fetchall() == [(5,)]
    pq.write_table(table, source)
    rewrite_dump(source, output, FakeRewriter(), overwrite=True)
    column = pq.read_metadata(output).row_group(0).column(1)
    assert column.bloom_filter_offset is None
    assert not column.has_column_index


def test_row_groups_of_one_row(source: Path, output: Path) -> None:
    pq.write_table(pa.table({"text": COMMENTS * 40}), source, row_group_size=1)
    rewrite_dump(source, output, FakeRewriter(), unit_rows=7)
    assert_carried(source, output)
    assert groups(output) == [1] * 320


def test_ten_thousand_columns(source: Path, output: Path) -> None:
    columns: dict[str, Any] = {f"c{n}": [n, None] for n in range(10_000)}
    pq.write_table(pa.table({**columns, "text": ["stupid", None]}), source)
    rewrite_dump(source, output, FakeRewriter())
    assert_carried(source, output)
    assert read(output)["text_detox"].to_pylist() == ["odd", None]


# --- encrypted files ---


class Keys(pe.KmsClient):  # type: ignore[misc]
    """Hides nothing: the test is about what is said of a file that is encrypted."""

    def wrap_key(self, key: bytes, master: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, wrapped: bytes, master: str) -> bytes:
        return base64.b64decode(wrapped)


@pytest.mark.parametrize(
    "how",
    [
        {"uniform_encryption": True},
        {"plaintext_footer": True, "column_keys": {"k": ["text"]}},
        {"plaintext_footer": True, "column_keys": {"k": ["id"]}},
    ],
    ids=["whole", "text", "other"],
)
def test_encrypted_files_are_refused(source: Path, output: Path, how: dict[str, Any]) -> None:
    factory = pe.CryptoFactory(lambda _: Keys())
    encryption = pe.EncryptionConfiguration(footer_key="f", **how)
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), encryption)
    table = pa.table({"text": COMMENTS, "id": range(8)})
    with pq.ParquetWriter(source, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    with pytest.raises(InputError, match="is encrypted, or some of its columns are; give a decr"):
        rewrite_dump(source, output, FakeRewriter())
    assert not output.exists()
