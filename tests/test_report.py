"""The page about a run: what it counts, that it shows both texts, that no comment can run in it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tables import FakeRewriter

from sro_edge.cli import main
from sro_edge.dump import rewrite_dump
from sro_edge.errors import InputError
from sro_edge.evaluation.page import Answer, Figures, Histogram, Page, Row, bins, render, word_diff
from sro_edge.evaluation.report import report_run
from sro_edge.job import Rewrite

HOSTILE = 'you </script><script>alert(1)</script><img src=x onerror=alert(2)> "stupid" & ${data}'


class _Reader(HTMLParser):
    """Elements of a page, its visible text, and the data that its script reads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.text: list[str] = []
        self.data = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self._inside = "data" if ("id", "data") in attrs else tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "data":
            self.data += data
        elif self._inside not in {"script", "style"}:
            self.text.append(data)


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_diff_holds_both_texts(before: str, after: str) -> None:
    parts = word_diff(before, after)
    assert "".join(t for kind, t in parts if kind != "in") == before
    assert "".join(t for kind, t in parts if kind != "out") == after


def test_a_diff_marks_the_words_that_changed() -> None:
    assert word_diff("a stupid idea", "an idea") == [
        ("out", "a stupid"),
        ("in", "an"),
        ("same", " idea"),
    ]


def test_bins_count_every_value_once() -> None:
    assert bins([0.0, 0.24, 0.25, 0.5, 1.0], 4) == [2, 1, 1, 1]


def test_a_comment_is_only_ever_text() -> None:
    page = Page(
        title=HOSTILE,
        tables=[Figures(HOSTILE, ["", HOSTILE], [[HOSTILE, "1"]])],
        histograms=[Histogram(HOSTILE, {HOSTILE: [1, 2]})],
        facts=[(HOSTILE, HOSTILE)],
        systems=[HOSTILE],
        scores=["toxicity"],
        rows=[Row(HOSTILE, [Answer("you \ud800 odd", [0.5, None], [HOSTILE])])],
    )
    found = _Reader(render(page))
    assert found.elements.count("script") == 2
    assert "img" not in found.elements
    data = json.loads(found.data)
    assert data["rows"][0]["before"] == HOSTILE
    assert data["rows"][0]["answers"][0]["after"] == "you \ud800 odd"
    assert data["rows"][0]["answers"][0]["scores"] == [0.5, None]


def test_a_page_asks_nothing_of_a_network() -> None:
    html = render(Page("t", [], [], [], ["a"], [], []))
    assert "default-src 'none'" in html
    assert not any(word in html for word in ("http://", "https://", "src=", "@import", "fetch("))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    texts = [f"stupid {n}" for n in range(30)] + [f"damn {n}" for n in range(20)]
    pq.write_table(pa.table({"text": [*texts, "fine", None]}), source)
    rewrite_dump(source, output, FakeRewriter())
    return output


def test_a_report_counts_every_row(run: Path, tmp_path: Path) -> None:
    assert report_run(run, tmp_path / "page.html") == 50
    found = _Reader((tmp_path / "page.html").read_text("utf-8"))
    text = " ".join(" ".join(found.text).split())
    for line in (
        "rows 52",
        "clean 1 1.9%",
        "empty 1 1.9%",
        "toxic 50 96.2%",
        "rewritten, of toxic 30 60.0%",
        "after 1 round 30 60.0%",
        "unresolved, of toxic 20 40.0%",
    ):
        assert line in text
    assert "before (30)" in text
    assert "before (20)" in text


def test_a_report_shows_half_unresolved_half_rewritten(run: Path, tmp_path: Path) -> None:
    pages = [tmp_path / "1.html", tmp_path / "2.html"]
    for page in pages:
        assert report_run(run, page, rows=12) == 12
    assert pages[0].read_bytes() == pages[1].read_bytes()
    rows = json.loads(_Reader(pages[0].read_text("utf-8")).data)["rows"]
    assert [r["answers"][0]["tags"][0] for r in rows] == ["unresolved"] * 6 + ["rewritten"] * 6
    shown = [r["answers"][0] for r in rows if r["answers"][0]["after"]]
    assert all(["in", "odd"] in s["diff"] for s in shown)
    assert rows[0]["answers"][0]["scores"] == [0.75, None, None, None, 3]


def test_a_report_fills_up_with_what_there_is(run: Path, tmp_path: Path) -> None:
    assert report_run(run, tmp_path / "page.html", rows=46) == 46
    rows = json.loads(_Reader((tmp_path / "page.html").read_text("utf-8")).data)["rows"]
    assert [r["answers"][0]["tags"][0] for r in rows].count("unresolved") == 20


def test_a_file_that_no_run_made_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match="no column 'text_detox', so it is no output of"):
        report_run(tmp_path / "in.parquet", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_command_names_the_page(run: Path) -> None:
    result = CliRunner().invoke(main, ["report", str(run)])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{run.with_suffix('.html')}\n"
    assert run.with_suffix(".html").is_file()
    (run.parent / "page").mkdir()
    taken = CliRunner().invoke(main, ["report", str(run), "-o", str(run.parent / "page")])
    assert taken.exit_code == 1
    assert "page cannot be written: Is a directory; name another page with -o" in taken.stderr
    late = CliRunner().invoke(main, ["report", str(run), "-o", str(run.parent / "no" / "page")])
    assert late.exit_code == 2
    assert "no does not exist; make it or choose another." in late.stderr


def write(folder: Path, kind: str, texts: list[str | None]) -> Path:
    """A dump of ``texts``, which may hold quotes, as a file of this kind."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"in.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"body": texts}), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"body": t}) + "\n" for t in texts), "utf-8")
    else:
        mark = "\t" if kind == "tsv" else ","
        cells = ['"' + (t or "").replace('"', '""') + '"' if t else "" for t in texts]
        rows = "".join(f"{n}{mark}{cell}\n" for n, cell in enumerate(cells))
        path.write_text(f"id{mark}body\n{rows}", "utf-8")
    return path


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl"])
def test_every_format_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    texts = ['a "stupid" idea,\tyes', "damn", "fine", None]
    source, output = write(tmp_path, kind, texts), tmp_path / f"out.{kind}"
    rewrite_dump(source, output, FakeRewriter(), column="body")
    assert report_run(output, tmp_path / "page.html") == 2
    found = _Reader((tmp_path / "page.html").read_text("utf-8"))
    counts = " ".join(" ".join(found.text).split())
    assert "rows 4" in counts
    assert "empty 1 25.0%" in counts
    rows = json.loads(found.data)["rows"]
    assert [row["before"] for row in rows] == ["damn", 'a "stupid" idea,\tyes']
    assert rows[1]["answers"][0]["after"] == 'a "odd" idea,\tyes'
    assert rows[1]["answers"][0]["scores"] == pytest.approx([0.9, 0.1, 0.8, 0.7, 1])
    assert rows[0]["answers"][0]["scores"] == [0.75, None, None, None, 3]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_columns_with_a_number_are_found_through_the_manifest(kind: str, tmp_path: Path) -> None:
    """The second run's answers, not those that were in its input."""
    source, first, second = (tmp_path / f"{name}.{kind}" for name in ("in", "first", "second"))
    write(tmp_path, kind, ["so stupid", "fine"])
    rewrite_dump(source, first, FakeRewriter(), column="body")

    class Sterner(FakeRewriter):
        def one(self, text: str | None) -> Rewrite:  # type: ignore[override]
            return Rewrite("milder", "rewritten", None, "sample", 0.9, 0.1, 0.8, 0.7, 2)

    rewrite_dump(first, second, Sterner(), column="body")
    assert report_run(second, tmp_path / "page.html") == 2
    rows = json.loads(_Reader((tmp_path / "page.html").read_text("utf-8")).data)["rows"]
    assert {row["answers"][0]["after"] for row in rows} == {"milder"}


def test_a_folder_is_one_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "in" / name, "csv", [f"stupid {name}", "fine"])
    first = FakeRewriter()
    rewrite_dump(tmp_path / "in", tmp_path / "out", first, column="body")
    assert report_run(tmp_path / "out", tmp_path / "page.html") == 2
    found = _Reader((tmp_path / "page.html").read_text("utf-8"))
    assert "rows 4" in " ".join(" ".join(found.text).split())


def test_the_output_of_another_command_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path, "csv", ["fine"])
    source.with_name("in.csv.json").write_text('{"command": "screen", "column": "body"}')
    with pytest.raises(InputError, match="made by `sro-edge screen`, not by rewrite"):
        report_run(source, tmp_path / "page.html")
