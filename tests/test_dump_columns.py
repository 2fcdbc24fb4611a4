"""Whatever a dump holds, its other columns, its order and its metadata stay as they are."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import COMMENTS, FakeRewriter, assert_carried, read

from sro_edge.dump import rewrite_dump
from sro_edge.formats import base, parquet


def test_every_type_stays(source: Path, output: Path) -> None:
    when = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
    record = pa.struct([pa.field("a", pa.string(), nullable=False), ("b", pa.list_(pa.float64()))])
    ordered = pa.DictionaryArray.from_arrays(
        pa.array([2, None], pa.int8()), ["low", "unused", "high"], ordered=True
    )
    columns: list[tuple[str, pa.Array]] = [
        ("text", pa.array(["stupid", None])),
        ("ordered", ordered),
        ("double", pa.array([float("nan"), None])),
        ("zoned", pa.array([when, None], pa.timestamp("ns", "Europe/Berlin"))),
        ("naive", pa.array([when.replace(tzinfo=None), None], pa.timestamp("us"))),
        ("day", pa.array([when.date(), None])),
        ("money", pa.array([decimal.Decimal("1.50"), None], pa.decimal256(50, 2))),
        ("bytes", pa.array([b"\xff", None], pa.large_binary())),
        ("digest", pa.array([b"abc", None], pa.binary(3))),
        ("records", pa.array([[{"a": "x", "b": [1.0, None]}, None], None], pa.list_(record))),
        ("pairs", pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64()))),
        ("vector", pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))),
        ("tags", pa.array([["a", "a"], None], pa.list_(pa.dictionary(pa.int32(), pa.string())))),
        ("view", pa.array(["v", None], pa.string_view())),
        ("nothing", pa.nulls(2)),
        ("half", pa.array([1.5, None], pa.float16())),
        ("span", pa.array([datetime.timedelta(seconds=1), None], pa.duration("ms"))),
        ("uuid", pa.array([b"0123456789abcdef", None], pa.uuid())),
        ("dotted.name", pa.array([1, 2])),
    ]
    fields = [pa.field(name, array.type, metadata={"about": name}) for name, array in columns]
    fields.append(pa.field("sure", pa.int64(), nullable=False))
    arrays = [array for _, array in columns] + [pa.array([1, 2])]
    metadata = {b"pandas": b'{"columns": []}', b"own": b"\xff\x00"}
    pq.write_table(pa.table(arrays, schema=pa.schema(fields, metadata)), source)
    rewrite_dump(source, output, FakeRewriter())
    assert_carried(source, output)
    chunk = read(output)["ordered"].chunk(0)
    assert chunk.type == pa.dictionary(pa.int8(), pa.string(), ordered=True)
    assert chunk.dictionary.to_pylist() == ["low", "unused", "high"]


VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int8(): st.integers(-128, 127),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float64(): st.floats(),
    pa.float32(): st.floats(width=32),
    pa.bool_(): st.booleans(),
    pa.date32(): st.dates(),
    pa.timestamp("us", "UTC"): st.datetimes(timezones=st.just(datetime.UTC)),
    pa.timestamp("ns"): st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)),
    pa.time64("us"): st.times(),
    pa.duration("ms"): st.timedeltas(datetime.timedelta(-9), datetime.timedelta(9)).map(
        lambda span: datetime.timedelta(milliseconds=span // datetime.timedelta(milliseconds=1))
    ),
    pa.decimal256(40, 2): st.decimals(-9999, 9999, places=2),
    pa.binary_view(): st.binary(max_size=20),
    pa.list_(pa.list_(pa.struct([("z", pa.map_(pa.int8(), pa.bool_()))]))): st.lists(
        st.none() | st.lists(st.none() | st.just({"z": [(1, None)]}), max_size=2), max_size=2
    ),
    pa.decimal128(8, 2): st.decimals(-9999, 9999, places=2),
    pa.large_string(): st.text(max_size=5),
    pa.binary(): st.binary(max_size=5),
    pa.binary(2): st.binary(min_size=2, max_size=2),
    pa.dictionary(pa.int32(), pa.string()): st.sampled_from(["", "a", "bc"]),
    pa.list_(pa.float32()): st.lists(st.none() | st.floats(width=32), max_size=3),
    pa.large_list(pa.string()): st.lists(st.none() | st.text(max_size=3), max_size=3),
    pa.struct([("x", pa.int32()), ("y", pa.list_(pa.string()))]): st.fixed_dictionaries(
        {"x": st.none() | st.integers(0, 9), "y": st.none() | st.lists(st.text(max_size=2))}
    ),
    pa.map_(pa.string(), pa.bool_()): st.dictionaries(
        st.text(max_size=2), st.booleans(), max_size=2
    ).map(lambda d: list(d.items())),
}
# Names that are dotted, empty, alike, or ours.
NAMES = ["a", "b", "a.b", "text.a", "", "text_detox", "detox_reason", "detox_status_2"]
TEXTS = st.sampled_from(["stupid", "damn", "ok", " ", "stupid \N{PILE OF POO}\n", "naïve"])
TEXT_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int8(), pa.string()),
]
METADATA = st.none() | st.dictionaries(st.text("abc", min_size=1), st.text(max_size=3), min_size=1)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(0, 9))
    kinds = draw(st.lists(st.sampled_from(list(VALUES)), max_size=5))
    kinds.insert(draw(st.integers(0, len(kinds))), None)
    fields, arrays = [], []
    for kind in kinds:
        values = TEXTS if kind is None else VALUES[kind]
        nullable = draw(st.booleans())
        column = draw(
            st.lists(st.none() | values if nullable else values, min_size=rows, max_size=rows)
        )
        name = "text" if kind is None else draw(st.sampled_from(NAMES))
        if kind is None:
            kind = draw(st.sampled_from(TEXT_TYPES))
        fields.append(pa.field(name, kind, nullable, draw(METADATA)))
        arrays.append(pa.array(column, kind))
    return pa.table(arrays, schema=pa.schema(fields, draw(METADATA)))


@settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    table=tables(),
    group=st.integers(1, 10),
    unit=st.integers(1, 10),
    ahead=st.integers(1, 5),
    limit=st.none() | st.integers(0, 9),
    stops=st.lists(st.integers(0, 9), max_size=2),
)
def test_any_table_comes_back(
    tmp_path: Path,
    table: pa.Table,
    group: int,
    unit: int,
    ahead: int,
    limit: int | None,
    stops: list[int],
) -> None:
    source, output = tmp_path / "any.parquet", tmp_path / "any.out.parquet"
    pq.write_table(table, source, row_group_size=group)
    run: dict[str, Any] = {"limit": limit, "unit_rows": unit, "overwrite": True}
    for stop in stops:
        try:
            rewrite_dump(source, output, FakeRewriter(ahead, interrupt_at=stop), **run)
        except KeyboardInterrupt:
            continue
    summary = rewrite_dump(source, output, FakeRewriter(ahead), **run)
    assert_carried(source, output, limit)
    expected = [FakeRewriter.one(t) for t in table["text"].to_pylist()[:limit]]
    found = read(output)
    new = found.select(range(table.num_columns, found.num_columns))
    assert tuple(new.column_names) == summary.columns
    assert not set(summary.columns) & set(table.column_names)
    assert new.column(0).to_pylist() == [r.text for r in expected]
    assert new.column(1).to_pylist() == [r.status for r in expected]
    assert summary.rows == len(expected)
    assert summary.clean + summary.toxic + summary.empty == summary.rows


@pytest.mark.parametrize("kind", TEXT_TYPES, ids=str)
def test_text_types(source: Path, output: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"text": pa.array(COMMENTS, kind)}), source)
    rewrite_dump(source, output, FakeRewriter())
    table = read(output)
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    assert table["text"].type == kind
    assert table["text_detox"].type == values
    assert table["text_detox"].to_pylist()[0] == "you are odd"


@pytest.mark.parametrize("kind", [*TEXT_TYPES[:3], pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_invalid_utf8(source: Path, output: Path, kind: pa.DataType) -> None:
    raw = [b"fine \xff", "ok", None, b"stupid \xff", b"\xc3\x28"]
    if pa.types.is_dictionary(kind):
        words = base.array([r for r in raw if r], kind.value_type)
        column = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2, 3], pa.int32()), words)
    else:
        column = base.array(raw, kind)
    pq.write_table(pa.table({"text": column}), source)
    rewrite_dump(source, output, FakeRewriter())
    detox = base.comments(read(output)["text_detox"].combine_chunks())
    assert [c.raw or c.text for c in detox] == [b"fine \xff", "ok", None, "odd \ufffd", b"\xc3\x28"]


def test_empty_files(source: Path, output: Path) -> None:
    schema = pa.schema([("text", pa.string())], {"k": "v"})
    pq.write_table(schema.empty_table(), source)
    assert rewrite_dump(source, output, FakeRewriter()).rows == 0
    assert_carried(source, output)
    pq.ParquetWriter(source, schema).close()
    rewrite_dump(source, output, FakeRewriter(), overwrite=True)
    assert_carried(source, output)


@pytest.mark.parametrize(("limit", "sizes"), [(4, [3, 1]), (3, [3]), (99, [3, 3, 2])])
def test_limit_cuts_row_groups(source: Path, output: Path, limit: int, sizes: list[int]) -> None:
    rewrite_dump(source, output, FakeRewriter(), limit=limit)
    assert_carried(source, output, limit)
    after = pq.read_metadata(output)
    assert [after.row_group(i).num_rows for i in range(after.num_row_groups)] == sizes


def test_huge_row_group_is_split(
    source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"text": ["stupid"] * 10_000})
    pq.write_table(table, source)
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 1000)
    rewrite_dump(source, output, FakeRewriter())
    assert_carried(source, output)
    assert pq.read_metadata(output).num_row_groups > 1


def test_other_names_of_list_items(source: Path, output: Path) -> None:
    table = pa.table({"text": ["a"], "tags": [["x"]]})
    pq.write_table(table, source, use_compliant_nested_type=False)
    assert "item" in str(pq.read_schema(source).field("tags").type)
    rewrite_dump(source, output, FakeRewriter())
    assert_carried(source, output)


def test_nested_namesake_of_the_column(source: Path, output: Path) -> None:
    table = pa.table({"meta": [{"text": "not this"}], "meta.text": ["stupid"]})
    pq.write_table(table, source)
    rewrite_dump(source, output, FakeRewriter(), column="meta.text")
    assert_carried(source, output)
    assert read(output)["meta.text_detox"].to_pylist() == ["odd"]
