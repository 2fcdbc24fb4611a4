"""What ``rewrite`` and ``screen`` promise of the file that they write."""

from __future__ import annotations

import datetime
import decimal
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sro_edge import checkpoints, parquet
from sro_edge.dump import Progress, rewrite_dump, screen_dump
from sro_edge.errors import InputError, OutputError
from sro_edge.rewriter import Rewrite

NEW = [
    "detox_status",
    "detox_reason",
    "detox_engine",
    "detox_toxicity_before",
    "detox_toxicity_after",
    "detox_similarity",
    "detox_fluency",
    "detox_attempts",
]
COMMENTS = ["you are stupid", "fine", None, "damn it", "", "so stupid", "thanks", "fine"]


@dataclass
class FakeRewriter:
    """Makes "stupid" "odd", gives up on "damn", reads ``ahead`` comments before it answers."""

    ahead: int = 3
    threshold: float = 0.5
    interrupt_at: int | None = None
    at_end: Callable[[], None] = lambda: None
    seen: list[str | None] = field(default_factory=list)

    def settings(self) -> dict[str, Any]:
        return {"bundle": "fake", "thresholds": {"toxicity": self.threshold}, "seed": 0}

    def rewrite(self, texts: Iterable[str | None]) -> Iterator[Rewrite]:
        chunk: list[str | None] = []
        for text in texts:
            if len(self.seen) == self.interrupt_at:
                raise KeyboardInterrupt
            self.seen.append(text)
            chunk.append(text)
            if len(chunk) == self.ahead:
                yield from map(self.one, chunk)
                chunk = []
        yield from map(self.one, chunk)
        self.at_end()

    @staticmethod
    def one(text: str | None) -> Rewrite:
        if text is None or not text.strip():
            return Rewrite(text, "empty")
        if "damn" in text:
            return Rewrite(None, "unresolved", reason="toxic", toxicity_before=0.75, attempts=3)
        if "stupid" in text:
            new = text.replace("stupid", "odd")
            return Rewrite(new, "rewritten", None, "greedy", 0.9, 0.1, 0.8, 0.7, 1)
        return Rewrite(text, "clean", toxicity_before=0.1, toxicity_after=0.1)


@dataclass
class FakeScores:
    toxicity: Any
    fluency: Any = None
    embedding: Any = None


class FakeScreener:
    """Toxicity and fluency from the letters; ``fluent=False`` has no fluency."""

    def __init__(self, fluent: bool = True) -> None:
        self.fluent = fluent

    def score(self, texts: list[str]) -> FakeScores:
        toxicity = np.array([0.9 if "stupid" in t else 0.25 for t in texts], np.float32)
        fluency = np.array([len(t) / 100 for t in texts], np.float32)
        return FakeScores(toxicity, fluency if self.fluent else None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    table = pa.table({"id": range(len(COMMENTS)), "text": COMMENTS})
    pq.write_table(table, path, row_group_size=3)
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.parquet"


def read(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read()


def assert_carried(source: Path, output: Path, rows: int | None = None) -> None:
    """Without the new columns, ``output`` is ``source``: schema, metadata, order and values."""
    before, after = read(source).slice(0, rows), read(output)
    assert after.column_names[: before.num_columns] == before.column_names
    after = after.select(range(before.num_columns))
    metadata = dict(after.schema.metadata)
    metadata.pop(b"sro_edge")
    after = after.replace_schema_metadata(metadata or None)
    assert after.schema.equals(before.schema, check_metadata=True)
    for old, new in zip(before.columns, after.columns, strict=True):
        assert repr(new.to_pylist()) == repr(old.to_pylist())  # repr: NaN equals NaN


def test_new_columns(source: Path, output: Path) -> None:
    summary = rewrite_dump(source, output, FakeRewriter())
    assert_carried(source, output)
    table = read(output)
    assert table.column_names == ["id", "text", "text_detox", *NEW]
    rows = table.to_pylist()
    assert [r["text_detox"] for r in rows] == [
        "you are odd", "fine", None, None, "", "so odd", "thanks", "fine",
    ]  # fmt: skip
    assert [r["detox_status"] for r in rows] == [
        "rewritten", "clean", "empty", "unresolved", "empty", "rewritten", "clean", "clean",
    ]  # fmt: skip
    assert rows[3]["detox_reason"] == "toxic"
    assert rows[3]["detox_attempts"] == 3
    assert rows[5]["detox_engine"] == "greedy"
    assert table.schema.field("detox_similarity").type == pa.float32()
    assert table.schema.field("detox_attempts").type == pa.int32()
    assert (summary.rows, summary.clean, summary.empty) == (8, 3, 2)
    assert (summary.toxic, summary.rewritten, summary.unresolved) == (3, 2, 1)
    assert summary.reasons == {"toxic": 1}
    assert summary.examples == (("you are stupid", "you are odd"), ("so stupid", "so odd"))
    assert sorted(p.name for p in output.parent.iterdir()) == [
        "in.parquet", "out.parquet", "out.parquet.json",
    ]  # fmt: skip


def test_manifest_is_in_the_file_and_beside_it(source: Path, output: Path) -> None:
    rewrite_dump(source, output, FakeRewriter(), limit=4)
    manifest = json.loads(output.with_name("out.parquet.json").read_text())
    assert json.loads(pq.read_schema(output).metadata[b"sro_edge"]) == manifest
    assert manifest["settings"] == FakeRewriter().settings()
    assert manifest["counts"]["rows"] == 4
    assert manifest["counts"]["unresolved"] == 1
    assert (manifest["column"], manifest["limit"]) == ("text", 4)


def test_screen(source: Path, output: Path) -> None:
    run = {"threshold": 0.5, "settings": {"bundle": "fake"}, "unit_rows": 3}
    summary = screen_dump(source, output, FakeScreener(), **run)
    assert_carried(source, output)
    table = read(output)
    assert table.column_names == ["id", "text", "text_toxicity", "text_fluency"]
    assert table["text_toxicity"].type == pa.float32()
    toxic = [None if v is None else v > 0.5 for v in table["text_toxicity"].to_pylist()]
    assert toxic == [True, False, None, False, None, True, False, False]
    assert table["text_fluency"].to_pylist()[1] == pytest.approx(0.04)
    assert (summary.toxic, summary.clean, summary.empty, summary.rewritten) == (2, 4, 2, 0)
    rewrite_dump(output, source.with_name("both.parquet"), FakeRewriter())
    earlier = json.loads(pq.read_schema(source.with_name("both.parquet")).metadata[b"sro_edge"])
    assert json.loads(earlier["earlier"])["command"] == "screen"


def test_screener_without_fluency(source: Path, output: Path) -> None:
    screen_dump(source, output, FakeScreener(fluent=False), threshold=0.5, settings={})
    assert read(output).column_names == ["id", "text", "text_toxicity"]


# --- every other column stays as it is ---


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
    for number, kind in enumerate(kinds):
        values = TEXTS if kind is None else VALUES[kind]
        nullable = draw(st.booleans())
        column = draw(
            st.lists(st.none() | values if nullable else values, min_size=rows, max_size=rows)
        )
        name = "text" if kind is None else f"c{number}"
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
    assert found["text_detox"].to_pylist() == [r.text for r in expected]
    assert found["detox_status"].to_pylist() == [r.status for r in expected]
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
        words = parquet.array([r for r in raw if r], kind.value_type)
        column = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2, 3], pa.int32()), words)
    else:
        column = parquet.array(raw, kind)
    pq.write_table(pa.table({"text": column}), source)
    rewrite_dump(source, output, FakeRewriter())
    detox = parquet.comments(read(output)["text_detox"].combine_chunks())
    assert [c.raw or c.text for c in detox] == [b"fine \xff", "ok", None, "odd \ufffd", b"\xc3\x28"]


def test_empty_files(source: Path, output: Path) -> None:
    schema = pa.schema([("text", pa.string())], {"k": "v"})
    pq.write_table(schema.empty_table(), source)
    assert rewrite_dump(source, output, FakeRewriter()).rows == 0
    assert_carried(source, output)
    pq.ParquetWriter(source, schema).close()
    rewrite_dump(source, output, FakeRewriter(), overwrite=True)
    assert_carried(source, output)


@pytest.mark.parametrize("codec", ["snappy", "gzip", "zstd", "lz4", "none"])
def test_row_groups_and_codec_stay(source: Path, output: Path, codec: str) -> None:
    pq.write_table(read(source), source, row_group_size=3, compression=codec)
    rewrite_dump(source, output, FakeRewriter(), unit_rows=5)
    before, after = pq.read_metadata(source), pq.read_metadata(output)
    sizes = [after.row_group(i).num_rows for i in range(after.num_row_groups)]
    assert sizes == [3, 3, 2]
    assert {after.row_group(0).column(i).compression for i in range(after.num_columns)} == {
        before.row_group(0).column(0).compression
    }


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


def test_spark_is_told_of_the_new_columns(source: Path, output: Path) -> None:
    key = b"org.apache.spark.sql.parquet.row.metadata"
    column = {"name": "text", "type": "string", "nullable": True, "metadata": {}}
    described = {"type": "struct", "fields": [column]}
    table = pa.table({"text": ["a"]}).replace_schema_metadata({key: json.dumps(described)})
    pq.write_table(table, source)
    rewrite_dump(source, output, FakeRewriter())
    told = json.loads(pq.read_schema(output).metadata[key])["fields"]
    assert told[0] == column
    assert {f["name"]: f["type"] for f in told[1:]} == {
        "text_detox": "string",
        **dict.fromkeys(NEW[:3], "string"),
        **dict.fromkeys(NEW[3:7], "float"),
        "detox_attempts": "integer",
    }


# --- interrupted runs ---


def test_resume_reads_only_what_is_left(source: Path, output: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        rewrite_dump(source, output, FakeRewriter(ahead=1, interrupt_at=5), unit_rows=2)
    assert not output.exists()
    second, states = FakeRewriter(), list[Progress]()
    summary = rewrite_dump(source, output, second, unit_rows=2, progress=states.append)
    assert second.seen == COMMENTS[4:]
    assert summary.resumed_rows == 4
    assert (summary.toxic, summary.rewritten, summary.unresolved) == (3, 2, 1)
    assert (states[0].rows, states[0].resumed, states[0].toxic) == (5, 4, 2)
    assert states[-1].rows == states[-1].total == 8
    assert_carried(source, output)
    assert read(output)["text_detox"].to_pylist()[0] == "you are odd"


def test_killed_at_any_file_operation(
    source: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever rename, flush or deletion is the last one, the next run ends with the same file."""
    reference = tmp_path / "reference.parquet"
    rewrite_dump(source, reference, FakeRewriter(), unit_rows=3)
    for allowed in range(200):
        calls = iter(range(allowed))

        def dying(real: Callable[..., Any], calls: Iterator[int] = calls) -> Callable[..., Any]:
            def call(*args: Any, **more: Any) -> Any:
                if next(calls, None) is None:
                    raise KeyboardInterrupt
                return real(*args, **more)

            return call

        with monkeypatch.context() as patch:
            for module, name in [(os, "replace"), (os, "fsync"), (Path, "unlink")]:
                patch.setattr(module, name, dying(getattr(module, name)))
            try:
                rewrite_dump(source, output, FakeRewriter(), unit_rows=3)
                killed = False
            except KeyboardInterrupt:
                killed = True
        if killed and checkpoints.folder_of(output).exists() and not _only_lock(output):
            rewrite_dump(source, output, FakeRewriter(), unit_rows=3)
        assert read(output).equals(read(reference))
        assert output.with_name("out.parquet.json").exists()
        assert not checkpoints.folder_of(output).exists() or _only_lock(output)
        if not killed:
            assert allowed > 20
            return
        output.unlink()
    pytest.fail("the run never came through")


def _only_lock(output: Path) -> bool:
    return {p.name for p in checkpoints.folder_of(output).iterdir()} <= {"lock"}


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_dump import FakeRewriter
from sro_edge.dump import rewrite_dump

def report(state):
    if state.rows == 5:
        os.kill(os.getpid(), signal.SIGKILL)

rewrite_dump(Path(sys.argv[2]), Path(sys.argv[3]), FakeRewriter(), unit_rows=2, progress=report)
"""


def test_sigkill(source: Path, output: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(source), str(output)]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    assert not output.exists()
    summary = rewrite_dump(source, output, FakeRewriter(), unit_rows=2)
    assert summary.resumed_rows == 4
    assert_carried(source, output)
    assert read(output)["detox_status"].to_pylist()[3] == "unresolved"


def test_damaged_unit_is_done_again(source: Path, output: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        rewrite_dump(source, output, FakeRewriter(1, interrupt_at=7), unit_rows=2)
    (checkpoints.folder_of(output) / "unit-000001.parquet").write_bytes(b"PAR1")
    with pytest.raises(KeyboardInterrupt):  # fills one row of the gap, not two
        rewrite_dump(source, output, FakeRewriter(1, interrupt_at=1), unit_rows=1)
    last = FakeRewriter()
    assert rewrite_dump(source, output, last).resumed_rows == 3
    assert last.seen == COMMENTS[3:]
    assert_carried(source, output)


def test_other_settings_are_refused(source: Path, output: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        rewrite_dump(source, output, FakeRewriter(1, interrupt_at=4), unit_rows=2)
    with pytest.raises(OutputError, match=r"toxicity was 0\.5 and is now 0\.4.*--restart"):
        rewrite_dump(source, output, FakeRewriter(threshold=0.4), unit_rows=2)
    with pytest.raises(OutputError, match=r"limit was null and is now 3"):
        rewrite_dump(source, output, FakeRewriter(), limit=3)
    summary = rewrite_dump(source, output, FakeRewriter(threshold=0.4), restart=True)
    assert summary.resumed_rows == 0
    assert summary.rows == 8


def test_changed_source_is_refused(source: Path, output: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        rewrite_dump(source, output, FakeRewriter(1, interrupt_at=4), unit_rows=2)
    os.utime(source, ns=(1, 1))
    with pytest.raises(OutputError, match=r"modified_ns was \d+ and is now 1"):
        rewrite_dump(source, output, FakeRewriter())
    touch = FakeRewriter(at_end=lambda: os.utime(source, ns=(2, 2)))
    with pytest.raises(InputError, match="changed while it was being read"):
        rewrite_dump(source, output, touch, restart=True)
    assert not output.exists()


def test_second_process_is_refused(source: Path, output: Path) -> None:
    folder = checkpoints.folder_of(output)
    folder.mkdir()
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for restart in (False, True):
            with pytest.raises(OutputError, match="another process"):
                rewrite_dump(source, output, FakeRewriter(), restart=restart)
    rewrite_dump(source, output, FakeRewriter())
    assert_carried(source, output)


def test_files_of_others_in_the_work_folder_stay(source: Path, output: Path) -> None:
    note = checkpoints.folder_of(output) / "note.txt"
    note.parent.mkdir()
    note.write_text("mine")
    rewrite_dump(source, output, FakeRewriter())
    assert note.read_text() == "mine"


def test_full_disk(source: Path, output: Path) -> None:
    """A write that fails leaves what is finished, and the next run goes on from there."""
    texts = [f"stupid {os.urandom(40).hex()}" for _ in range(3000)]
    pq.write_table(pa.table({"text": texts}), source)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(OutputError, match="run the same command again"):
            rewrite_dump(source, output, FakeRewriter(), unit_rows=500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not output.exists()
    second = FakeRewriter()
    assert rewrite_dump(source, output, second, unit_rows=500).resumed_rows == 3000
    assert second.seen == []
    assert_carried(source, output)


def test_a_rewriter_that_loses_rows_is_our_fault(source: Path, output: Path) -> None:
    class Losing(FakeRewriter):
        def rewrite(self, texts: Iterable[str | None]) -> Iterator[Rewrite]:
            yield from list(super().rewrite(texts))[:-1]

    with pytest.raises(RuntimeError, match="8 comments gave 7 results"):
        rewrite_dump(source, output, Losing())


# --- what is refused at once ---


def test_unusable_inputs(source: Path, output: Path, tmp_path: Path) -> None:
    def refused(path: Path, message: str, column: str = "text") -> None:
        with pytest.raises(InputError, match=message):
            rewrite_dump(path, output, FakeRewriter(), column=column)
        assert not output.exists()
        assert not checkpoints.folder_of(output).exists()

    refused(tmp_path / "absent.parquet", "does not exist")
    refused(tmp_path, "is a folder")
    refused(source, "no column 'body'; its columns of strings are: 'text'", "body")
    refused(source, "holds int64, not strings; its columns of strings are: 'text'", "id")
    whole = source.read_bytes()
    for name, data in {
        "empty": b"",
        "csv": b"text\nfine\n",
        "short": whole[:-20],
        "footless": whole[:100],
        "encrypted": whole[:-4] + b"PARE",
    }.items():
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, "no Parquet file, or it is damaged")
    pq.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "double")
    refused(tmp_path / "double", "2 columns named 'text'")
    pq.write_table(pa.table({"text": ["a"], "detox_reason": ["b"]}), tmp_path / "taken")
    refused(tmp_path / "taken", "already: detox_reason")


def test_damage_inside_is_an_input_error(source: Path, output: Path) -> None:
    pq.write_table(pa.table({"text": ["stupid thing"] * 50}), source, compression="gzip")
    data = bytearray(source.read_bytes())
    data[10:60] = bytes(50)
    source.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        rewrite_dump(source, output, FakeRewriter())


def test_unusable_outputs(source: Path, output: Path, tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(OutputError, match=message):
            rewrite_dump(source, path, FakeRewriter())

    refused(source, "is the input itself")
    (tmp_path / "link.parquet").symlink_to(source)
    refused(tmp_path / "link.parquet", "is the input itself")
    refused(tmp_path, "is a folder")
    refused(tmp_path / "absent" / "out.parquet", "does not exist")
    output.write_bytes(b"precious")
    refused(output, "exists; choose another output or add --overwrite")
    assert output.read_bytes() == b"precious"
    assert not checkpoints.folder_of(output).exists()
    rewrite_dump(source, output, FakeRewriter(), overwrite=True)
    assert_carried(source, output)
