"""What ``rewrite`` and ``screen`` promise of the file that they write, and what they refuse."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import NEW, FakeRewriter, assert_carried, read

from sro_edge import checkpoints
from sro_edge.dump import rewrite_dump, screen_dump
from sro_edge.errors import InputError, OutputError
from sro_edge.job import Rewrite


@dataclass
class FakeScores:
    toxicity: Any
    fluency: Any = None
    embedding: Any = None
    cleared: Any = None


class FakeScreener:
    """Toxicity and fluency from the letters; ``fluent=False`` has no fluency."""

    def __init__(self, fluent: bool = True) -> None:
        self.fluent = fluent

    def score(self, texts: list[str]) -> FakeScores:
        toxicity = np.array([0.9 if "stupid" in t else 0.25 for t in texts], np.float32)
        fluency = np.array([len(t) / 100 for t in texts], np.float32)
        return FakeScores(toxicity, fluency if self.fluent else None)


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
    assert (summary.reasons, summary.engines) == ({"toxic": 1}, {"greedy": 2})
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


def test_a_rewriter_that_loses_rows_is_our_fault(source: Path, output: Path) -> None:
    class Losing(FakeRewriter):
        def rewrite(self, texts: Iterable[str | None]) -> Iterator[Rewrite]:
            yield from list(super().rewrite(texts))[:-1]

    with pytest.raises(RuntimeError, match="7 comments gave 6 results"):
        rewrite_dump(source, output, Losing())


# --- what is refused at once ---


def test_unusable_inputs(source: Path, output: Path, tmp_path: Path) -> None:
    def refused(path: Path, message: str, column: str = "text") -> None:
        with pytest.raises(InputError, match=message):
            rewrite_dump(path, output, FakeRewriter(), column=column)
        assert not output.exists()
        assert not checkpoints.folder_of(output).exists()

    refused(tmp_path / "absent.parquet", "does not exist")
    (tmp_path / "below").mkdir()
    refused(tmp_path / "below", "has no files that end in .parquet")
    refused(source, "no column 'body'; its columns of strings are: 'text'", "body")
    refused(source, "holds int64, not strings; its columns of strings are: 'text'", "id")
    whole = source.read_bytes()
    for name, data in {
        "empty": b"",
        "csv": b"text\nfine\n",
        "short": whole[:-20],
        "footless": whole[:100],
    }.items():
        (tmp_path / name).write_bytes(data)
        damaged = data.startswith(b"PAR1")
        refused(tmp_path / name, "or it is damaged" if damaged else "names no other kind; give a")
    pq.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "double")
    refused(tmp_path / "double", "2 columns named 'text'")
    (tmp_path / "encrypted").write_bytes(whole[:-4] + b"PARE")
    refused(tmp_path / "encrypted", "is encrypted")


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
    os.mkfifo(tmp_path / "pipe.parquet")
    refused(tmp_path / "pipe.parquet", "exists; choose another output")
    other = tmp_path / "other.parquet"
    note = tmp_path / "other.parquet.json"
    note.write_text('{"mine": true}')
    refused(other, "other.parquet.json exists, where the manifest of .*other.parquet goes")
    assert note.read_text() == '{"mine": true}'
    note.write_bytes((tmp_path / (output.name + ".json")).read_bytes())  # of a run before
    rewrite_dump(source, other, FakeRewriter())
