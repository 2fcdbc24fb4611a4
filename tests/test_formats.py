"""CSV, JSONL, folders, streams: what was there stays to the byte, and new columns join it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import COMMENTS, NEW, FakeRewriter, assert_carried, read, write_comments

from sro_edge import checkpoints
from sro_edge.dump import rewrite_dump
from sro_edge.errors import InputError, OutputError

CSV = (
    b'\xef\xbb\xbfid,"other ",note,text\r\n'
    b'1,x,"a ""quoted"", note",you are stupid\r\n'
    b'02,, spaces ,"fine, and\nof two lines"\n'
    b"\r\n"
    b"3,,\xff,\n"
    b'=4,"",1e5,"stupid ""idea"""'
)


def test_csv_keeps_its_bytes(tmp_path: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(CSV)
    summary = rewrite_dump(source, output, FakeRewriter(), unit_rows=3)
    assert output.read_bytes() == (
        b'\xef\xbb\xbfid,"other ",note,text,text_detox,' + ",".join(NEW).encode() + b"\r\n"
        b'1,x,"a ""quoted"", note",you are stupid,'
        b"you are odd,rewritten,,greedy,0.9,0.1,0.8,0.7,1\r\n"
        b'02,, spaces ,"fine, and\nof two lines","fine, and\nof two lines",clean,,,0.1,0.1,,,0\n'
        b"\r\n"
        b'3,,\xff,,"",empty,,,,,,,0\n'
        b'=4,"",1e5,"stupid ""idea""","odd ""idea""",rewritten,,greedy,0.9,0.1,0.8,0.7,1'
    )
    rows = list(csv.DictReader(io.StringIO(output.read_text("utf-8", "replace"), newline="")))
    assert [row["detox_status"] for row in rows] == ["rewritten", "clean", "empty", "rewritten"]
    assert (summary.rows, summary.rewritten, summary.empty) == (4, 2, 1)
    manifest = json.loads((tmp_path / "out.csv.json").read_text())
    assert manifest["counts"]["rows"] == 4
    assert manifest["columns"] == ["text_detox", *NEW]


def test_bytes_that_are_no_utf8_are_counted(tmp_path: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes("text\ncafé\nfine\nyou are stupid café\n".encode("latin1"))
    summary = rewrite_dump(source, output, FakeRewriter())
    assert (summary.rows, summary.not_utf8) == (3, 2)
    assert json.loads((tmp_path / "out.csv.json").read_text())["counts"]["not_utf8"] == 2


CELLS = st.text(st.sampled_from('a ",;\n\té€=\x00'), max_size=6)


@settings(
    max_examples=60, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=6),
    delimiter=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    end=st.sampled_from(["\n", "\r\n"]),
    unit=st.integers(1, 4),
    stop=st.integers(0, 6),
)
def test_any_csv_comes_back(
    tmp_path: Path, rows: Any, delimiter: str, quoting: Any, end: str, unit: int, stop: int
) -> None:
    source, output = tmp_path / "any.csv", tmp_path / "any.out.csv"
    with source.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, delimiter=delimiter, quoting=quoting, lineterminator=end)
        writer.writerows([("id", "text", "note"), *rows])
    run: dict[str, Any] = {"unit_rows": unit, "overwrite": True}
    try:
        rewrite_dump(source, output, FakeRewriter(interrupt_at=stop), **run)
    except KeyboardInterrupt:
        rewrite_dump(source, output, FakeRewriter(), **run)
    with output.open(encoding="utf-8", newline="") as handle:
        found = list(csv.reader(handle, delimiter=delimiter))
    assert [tuple(row[:3]) for row in found] == [("id", "text", "note"), *rows]
    expected = [FakeRewriter.one(text) for _, text, _ in rows]
    assert [(row[3], row[4]) for row in found[1:]] == [(r.text or "", r.status) for r in expected]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has no header"),
        (b"a,b\n1,2\n", r"no column 'text'; its columns of strings are: 'a', 'b'"),
        (b"text,id,text\na,1,b\n", "several columns named 'text'"),
        (b"id,text\n1,a\n2,b,c\n", "line 3: 3 cells, but the header has 2"),
        (b"id,text\n1,a\n2\n", "line 3: 1 cells, but the header has 2"),
        (b'id,text\n1,a\n2,"b\n3,c\n', "line 3: unexpected end of data"),
        (b'id,text\n1,"a \\" b"\n', "line 2: .* expected after"),
        (b"id,text\n1,a\rb\n", "line 2: new-line character"),
        ("id,text\n1,a\n".encode("utf-16"), "has no header of UTF-8 text"),
    ],
)
def test_csv_that_is_none_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "in.csv").write_bytes(data)
    with pytest.raises(InputError, match=message):
        rewrite_dump(tmp_path / "in.csv", tmp_path / "out.csv", FakeRewriter())
    assert [p.name for p in tmp_path.iterdir()] == ["in.csv"]


JSONL = (
    b'{"id": 12345678901234567890, "text": "you are stupid", "x": 1.0e0}\n'
    b"\r\n"
    b'{ "text" : null , "text_detox" : 1 }\r\n'
    b'{"a":{"b":[1, 2]}}\n'
    b'{"text": "lone \\ud800", "a": "caf\\u00e9 \xc3\xa9"}\n'
    b'{"text":"stupid \\ud83d\\ude00 \\u0000","text":"stupid"}'
)


def test_jsonl_keeps_its_bytes(tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(JSONL)
    summary = rewrite_dump(source, output, FakeRewriter(), unit_rows=2)
    before, after = JSONL.split(b"\n"), output.read_bytes().split(b"\n")
    for old, new in zip(before, after, strict=True):
        assert new.startswith(old.strip().removesuffix(b"}").rstrip())
    rows = [json.loads(line) for line in after if line.strip()]
    # The second object has a member text_detox of its own, so all new ones have other names.
    assert [row["text_detox_2"] for row in rows] == [
        "you are odd",
        None,
        None,
        "lone \ud800",
        "odd",
    ]
    assert rows[0]["detox_toxicity_before_2"] == 0.9
    assert rows[3]["detox_status_2"] == "clean"
    assert rows[1]["text_detox"] == 1
    assert summary.columns[0] == "text_detox_2"
    assert summary.rows == 5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"text": "a"}\n{"text": \n', "line 2: not JSON in UTF-8"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "line 2: not JSON in UTF-8"),
        (b'{"text": "a"}\n["a"]\n', "line 2: not a JSON object"),
        (b'{"text": "a"}\n{"text": 3}\n', "line 2: 'text' is 3, not a string"),
        (b'{"body": "a"}\n', r"no object in .* has a member 'text'; the members are: 'body'"),
    ],
)
def test_jsonl_that_is_none_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "in.jsonl").write_bytes(data)
    with pytest.raises(InputError, match=message):
        rewrite_dump(tmp_path / "in.jsonl", tmp_path / "out.jsonl", FakeRewriter())
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(
    ("suffix", "data", "kept"),
    [
        ("csv", b"text\nstupid\nfine\nso\n", 2),
        ("jsonl", b'{"text":"stupid"}\n{"text":"fine"}\n{"text":"so"}\n', 2),
    ],
)
def test_limit_of_lines(tmp_path: Path, suffix: str, data: bytes, kept: int) -> None:
    source, output = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    source.write_bytes(data)
    assert rewrite_dump(source, output, FakeRewriter(), limit=kept).rows == kept
    assert output.read_bytes().count(b"\n") == kept + (suffix == "csv")


def test_the_output_is_of_the_inputs_kind(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"text\nstupid\n")
    with pytest.raises(OutputError, match=r"would be parquet, but the input is csv"):
        rewrite_dump(tmp_path / "in.csv", tmp_path / "out.parquet", FakeRewriter())
    (tmp_path / "in.csv.gz").write_bytes(b"")
    with pytest.raises(InputError, match="is compressed; unpack it first"):
        rewrite_dump(tmp_path / "in.csv.gz", tmp_path / "out.csv.gz", FakeRewriter())


# --- folders ---


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A hive-partitioned dataset of three files, with what writers leave beside them."""
    folder = tmp_path / "tree"
    for name in ("year=2023/month=1/part-0", "year=2023/month=2/part-0", "year=2024/part-0"):
        file = folder / f"{name}.parquet"
        file.parent.mkdir(parents=True)
        write_comments(file)
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.parquet.crc").write_bytes(b"crc")
    (folder / "_temporary").mkdir()
    write_comments(folder / "_temporary" / "half.parquet")
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_folder_becomes_the_same_tree(tree: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    states: list[Any] = []
    summary = rewrite_dump(tree, output, FakeRewriter(), unit_rows=3, progress=states.append)
    assert files(output) == [f for f in files(tree) if not f.startswith(("_", "."))]
    for name in files(output):
        assert_carried(tree / name, output / name)
    found = pyarrow.dataset.dataset(output, partitioning="hive").to_table()
    assert found.num_rows == 24
    assert set(found["year"].to_pylist()) == {2023, 2024}
    assert (summary.rows, summary.rewritten, summary.reasons) == (24, 6, {"toxic": 3})
    assert summary.examples == (("you are stupid", "you are odd"), ("so stupid", "so odd"))
    assert [s.rows for s in states] == sorted(s.rows for s in states)
    assert {s.total for s in states} == {24}
    assert json.loads((tmp_path / "out.json").read_text())["source"] == {"name": "tree", "files": 3}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.json", "tree"]


def test_a_folder_of_lines(tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "1.csv").write_bytes(b"text\nstupid\n")
    (tmp_path / "in" / "2.tsv").write_bytes(b"id\ttext\n1\tfine\n")
    assert rewrite_dump(tmp_path / "in", tmp_path / "out", FakeRewriter()).rows == 2
    assert files(tmp_path / "out") == ["2.tsv", "a/1.csv"]
    assert b"1\tfine\tfine\tclean" in (tmp_path / "out" / "2.tsv").read_bytes()


@pytest.mark.parametrize("stop", [1, 8, 15, 22])
def test_a_folder_is_taken_up_file_by_file(tree: Path, tmp_path: Path, stop: int) -> None:
    output, reference = tmp_path / "out", tmp_path / "reference"
    rewrite_dump(tree, reference, FakeRewriter(), unit_rows=3)
    rewrites = FakeRewriter(ahead=1, interrupt_at=stop)
    if stop < 21:
        with pytest.raises(KeyboardInterrupt):
            rewrite_dump(tree, output, rewrites, unit_rows=3)
        assert not output.exists()
    second = FakeRewriter(ahead=1)
    summary = rewrite_dump(tree, output, second, unit_rows=3)
    assert len(second.seen) == 21 - (0 if stop == 22 else stop - stop % 7 + (stop % 7) // 3 * 3)
    assert summary.rows == 24
    for name in files(reference):
        assert (output / name).read_bytes() == (reference / name).read_bytes()
    assert not checkpoints.folder_of(output).exists()


def test_a_folder_that_changed_is_refused(tree: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        rewrite_dump(tree, output, FakeRewriter(ahead=1, interrupt_at=9))
    os.utime(tree / "year=2023/month=1/part-0.parquet", ns=(1, 1))
    with pytest.raises(OutputError, match=r"month=1/part-0\.parquet\.modified_ns was"):
        rewrite_dump(tree, output, FakeRewriter())
    rewrite_dump(tree, output, FakeRewriter(), restart=True)
    with pytest.raises(OutputError, match="exists; choose another output"):
        rewrite_dump(tree, output, FakeRewriter())
    (output / "old").touch()
    rewrite_dump(tree, output, FakeRewriter(), overwrite=True)
    assert not (output / "old").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.json", "tree"]


def test_the_folder_one_is_in_has_a_name(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises(OutputError, match="out exists"):
        rewrite_dump(tree, Path("."), FakeRewriter())
    with pytest.raises(OutputError, match="/ has no name"):
        rewrite_dump(tree, Path("/"), FakeRewriter())
    assert rewrite_dump(tree, Path("."), FakeRewriter(), overwrite=True).rows == 24
    assert len(files(tmp_path / "out")) == 3


def test_limit_of_a_folder(tree: Path, tmp_path: Path) -> None:
    assert rewrite_dump(tree, tmp_path / "out", FakeRewriter(), limit=10).rows == 10
    names = files(tmp_path / "out")
    assert [read(tmp_path / "out" / name).num_rows for name in names] == [8, 2]


def test_folders_that_cannot_be_used(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="lie in each other"):
        rewrite_dump(tree, tree / "out", FakeRewriter())
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file, the input a folder"):
        rewrite_dump(tree, tmp_path / "file", FakeRewriter())
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "diary.txt").write_text("mine")
    with pytest.raises(OutputError, match="is a folder that no run of sro-edge has made"):
        rewrite_dump(tree, tmp_path / "home", FakeRewriter(), overwrite=True)
    assert (tmp_path / "home" / "diary.txt").read_text() == "mine"
    (tree / "more.csv").write_bytes(b"text\na\n")
    with pytest.raises(InputError, match="has csv and parquet files"):
        rewrite_dump(tree, tmp_path / "out", FakeRewriter())
    (tree / "more.csv").unlink()
    pq.write_table(pa.table({"body": ["a"]}), tree / "other.parquet")
    with pytest.raises(InputError, match=r"other.parquet has no column 'text'"):
        rewrite_dump(tree, tmp_path / "out", FakeRewriter())
    assert not (tmp_path / "out").exists()
    assert not checkpoints.folder_of(tmp_path / "out").exists()


# --- streams ---

STREAMED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tables import FakeRewriter
from sro_edge.dump import rewrite_dump
rewrite_dump(Path("-"), Path("-"), FakeRewriter(), unit_rows=3, limit=int(sys.argv[2]) or None)
"""


def stream(limit: int = 0) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", STREAMED, str(Path(__file__).parent), str(limit)]
    return subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1)


def test_a_stream_is_answered_as_it_comes() -> None:
    with stream() as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for text in ("stupid", "fine"):
            child.stdin.write(json.dumps({"text": text}).encode() + b"\n")
            child.stdin.flush()
            assert json.loads(child.stdout.readline())["text_detox"] == text.replace(
                "stupid", "odd"
            )
        child.stdin.write(b'{"text": "no line end"}')
        child.stdin.close()
        assert json.loads(child.stdout.read())["detox_status"] == "clean"
        assert child.wait() == 0


def test_a_stream_of_many_lines_keeps_its_order() -> None:
    lines = [{"text": text, "n": n} for n, text in enumerate(COMMENTS * 500)]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    child = stream(limit=3999)
    out, err = child.communicate(data)
    assert (child.returncode, err) == (0, b"")
    found = [json.loads(line) for line in out.splitlines()]
    assert [{k: row[k] for k in ("text", "n")} for row in found] == lines[:3999]
    assert found[3]["detox_reason"] == "toxic"


def test_a_stream_without_the_comments_member_is_refused() -> None:
    out, err = stream().communicate(b'\n{"body": "stupid"}\n')
    assert out == b""
    assert b"no object in the first lines has a member 'text'; the members are: 'body'" in err


def test_blank_lines_of_a_stream_are_no_rows() -> None:
    data = b'\n\n{"text": "a"}\n\n{"text": "b"}\n{"text": "c"}\n'
    out, err = stream(limit=2).communicate(data)
    assert err == b""
    assert out.startswith(b"\n\n{")
    assert [json.loads(line)["text"] for line in out.splitlines() if line] == ["a", "b"]


def test_a_bad_line_ends_a_stream_behind_the_good_ones() -> None:
    child = stream()
    out, err = child.communicate(b'{"text": "a"}\n' * 3 + b"[]\n")
    assert out.count(b"\n") == 3
    assert b"InputError: line 4: not a JSON object" in err


def test_a_bad_line_behind_the_limit_of_a_stream_is_not_read() -> None:
    out, err = stream(limit=1).communicate(b'{"text": "a"}\n[]\n')
    assert err == b""
    assert out.count(b"\n") == 1


def test_only_both_ends_can_be_streams(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="give - for both"):
        rewrite_dump(Path("-"), tmp_path / "out.jsonl", FakeRewriter())
