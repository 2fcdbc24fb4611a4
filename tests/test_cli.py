"""The command line: exit codes, what goes to which stream, help, and that it starts light."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from sro_edge import __version__
from sro_edge.cli import COMMANDS, main
from sro_edge.cli._progress import Pace, progress_line
from sro_edge.cli._shared import default_output, printable
from sro_edge.dump import Progress
from sro_edge.job import Rewrite

HEAVY = {"torch", "transformers", "onnxruntime", "llama_cpp", "pyarrow", "numpy"}
# A terminal that obeyed the second comment would change its title.
COMMENTS = ["you are stupid", "so \x1b]0;stupid\x07 of you", "fine", None, "damn it"]


class FakeRewriter:
    """Makes "stupid" "odd" and gives up on "damn"; ``signal_at`` that row, a signal arrives."""

    asked: dict[str, Any]
    signal_at: tuple[int, int] | None = None

    def settings(self) -> dict[str, Any]:
        return {"seed": self.asked.get("seed")}

    def rewrite(self, texts: Iterable[str | None]) -> Iterator[Rewrite]:
        for number, text in enumerate(texts):
            if self.signal_at and self.signal_at[0] == number:
                os.kill(os.getpid(), self.signal_at[1])
            if text is None:
                yield Rewrite(None, "empty")
            elif "damn" in text:
                yield Rewrite(None, "unresolved", "meaning")
            elif "stupid" in text:
                yield Rewrite(text.replace("stupid", "odd"), "rewritten", engine="greedy")
            else:
                yield Rewrite(text, "clean")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRewriter:
    rewriter = FakeRewriter()

    @contextmanager
    def load(bundle: Path | None, **asked: Any) -> Iterator[FakeRewriter]:
        rewriter.asked = {"bundle": bundle, **asked}
        yield rewriter

    monkeypatch.setattr("sro_edge.worker.remote_rewriter", load)
    return rewriter


@pytest.fixture
def comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"text": COMMENTS}), "comments.parquet")
    return Path("comments.parquet")


def run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def test_rewrite(comments: Path, fake: FakeRewriter) -> None:
    result = run("rewrite", comments, "--seed", 7, "--threshold", 0.25, "--on-unresolved", "mask")
    assert result.stdout == "comments.detox.parquet\n"
    table = pq.ParquetFile("comments.detox.parquet").read()
    assert table["detox_status"].to_pylist() == [
        "rewritten", "rewritten", "clean", "empty", "unresolved",
    ]  # fmt: skip
    assert fake.asked == {
        "bundle": None,
        "threshold": 0.25,
        "max_attempts": None,
        "samples": None,
        "delete": True,
        "on_unresolved": "mask",
        "seed": 7,
        "threads": None,
        "device": "auto",
        "deterministic": False,
        "abstain": None,
        "cascade": True,
    }
    shown = [" ".join(line.split()) for line in result.stderr.splitlines()]
    assert "toxic 3 60.0%" in shown
    assert "unresolved 1 meaning 1" in shown
    assert shown[shown.index("before you are stupid") + 1] == "after you are odd"
    assert "\x1b]" not in result.stderr
    assert "\x07" not in result.stderr


def test_rewrite_options(comments: Path, fake: FakeRewriter) -> None:
    result = run("rewrite", comments, "out.parquet", "--limit", 2, "--show", 0)
    assert result.stdout == "out.parquet\n"
    assert "before" not in result.stderr
    assert pq.read_metadata("out.parquet").num_rows == 2
    assert fake.asked["delete"] is True
    quiet = run("rewrite", comments, "out.parquet", "--no-delete", "--overwrite", "--quiet")
    assert (quiet.stderr, fake.asked["delete"]) == ("", False)
    assert pq.read_metadata("out.parquet").num_rows == 5


def test_rewrite_says_what_is_no_utf8(comments: Path, fake: FakeRewriter) -> None:
    Path("in.csv").write_bytes("text\ncafé\nyou are stupid\n".encode("latin1"))
    lines = " ".join(run("rewrite", "in.csv").stderr.split())
    assert "Not UTF-8, and read with replacement characters: 1 comments." in lines
    assert "rewritten 1 greedy 1" in lines


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["absent.parquet"], 1, "absent.parquet does not exist"),
        (["comments.parquet", "--column", "body"], 1, "no column 'body'"),
        (["comments.parquet", "comments.parquet"], 1, "is the input itself"),
        (["comments.parquet", "--threshold", "nan"], 2, "not a number from 0 to 1"),
        (["comments.parquet", "--threshold", "1.5"], 2, "1.5 is not in the range"),
        (["comments.parquet", "--limit", "0"], 2, "0 is not in the range"),
        (["comments.parquet", "--on-unresolved", "drop"], 2, "'drop' is not one of"),
        ([], 2, "Missing argument 'INPUT'"),
    ],
)
def test_rewrite_errors(
    comments: Path, fake: FakeRewriter, words: list[str], code: int, message: str
) -> None:
    result = run("rewrite", *words, code=code)
    assert message in result.stderr
    assert "Error: " in result.stderr
    assert result.stdout == ""
    assert [p.name for p in Path().iterdir()] == ["comments.parquet"]


def test_an_output_as_input(comments: Path, fake: FakeRewriter) -> None:
    run("rewrite", comments)
    result = run("rewrite", "comments.detox.parquet", "again.parquet")
    assert "the new ones end in _2." in result.stderr


def test_output_that_exists(comments: Path, fake: FakeRewriter) -> None:
    run("rewrite", comments)
    assert "--overwrite" in run("rewrite", comments, code=1).stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(comments: Path, fake: FakeRewriter, number: int, code: int) -> None:
    before = signal.getsignal(signal.SIGTERM)
    fake.signal_at = 3, number
    result = run("rewrite", comments, code=code)
    assert "Run the same command again to go on." in result.stderr
    assert result.stdout == ""
    assert not Path("comments.detox.parquet").exists()
    assert signal.getsignal(signal.SIGTERM) is before
    fake.signal_at = None
    run("rewrite", comments)
    assert pq.read_metadata("comments.detox.parquet").num_rows == 5


def test_restart(comments: Path, fake: FakeRewriter, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.signal_at = 3, signal.SIGINT
    run("rewrite", comments, code=130)
    fake.signal_at = None
    other = ("rewrite", comments, "--seed", 1)
    assert "seed was 0 and is now 1" in run(*other, code=1).stderr
    assert "5 of them from an earlier run" in run("rewrite", comments).stderr
    run(*other, "--overwrite", "--restart")


def test_stream(bundle: Path) -> None:
    """Data on stdout, all else on stderr; through the process that holds the models."""
    words = ["rewrite", "-", "--bundle", bundle, "--threads", "1"]
    command = [sys.executable, "-c", "from sro_edge.cli import main; main()", *map(str, words)]
    data = "".join(json.dumps({"text": text}) + "\n" for text in COMMENTS)
    done = subprocess.run(command, input=data, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == COMMENTS
    assert rows[0]["detox_status"] in {"rewritten", "unresolved"}
    assert "toxic 2 40.0%" in [" ".join(line.split()) for line in done.stderr.splitlines()]


def test_screen(comments: Path, bundle: Path) -> None:
    result = run("screen", comments, "--bundle", bundle, "--threads", 1)
    assert result.stdout == "comments.screened.parquet\n"
    table = pq.ParquetFile("comments.screened.parquet").read()
    assert table.column_names == ["text", "text_toxicity", "text_fluency"]
    assert table["text_toxicity"].to_pylist() == [
        pytest.approx(0.95, abs=0.01), pytest.approx(0.95, abs=0.01),
        0.0, None, pytest.approx(0.05, abs=0.01),
    ]  # fmt: skip
    assert "toxic 2 40.0%" in [" ".join(line.split()) for line in result.stderr.splitlines()]


def test_rewrite_with_models(comments: Path, bundle: Path) -> None:
    """Random weights reword nothing, but nothing toxic comes through either."""
    run("rewrite", comments, "--bundle", bundle, "--threads", 1, "--device", "cpu")
    rows = pq.ParquetFile("comments.detox.parquet").read().to_pylist()
    assert [row["text"] for row in rows] == COMMENTS
    assert [row["detox_status"] for row in rows[2:]] == ["clean", "empty", "clean"]
    assert {row["detox_status"] for row in rows[:2]} <= {"rewritten", "unresolved"}
    assert rows[0]["detox_toxicity_before"] > 0.9
    assert "stupid" not in f"{rows[0]['text_detox']} {rows[1]['text_detox']}"


def test_bundle_show(bundle: Path) -> None:
    shown = [" ".join(line.split()) for line in run("bundle", "show", bundle).stdout.splitlines()]
    assert "name tiny" in shown
    assert any(line.startswith("file detoxifier.gguf ") for line in shown)
    assert "threshold toxicity 0.25" in shown
    assert "training data toxic 12" in shown
    assert "score STA 0.875" in shown
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert json.loads(run("bundle", "show", bundle, "--json").stdout) == manifest


def test_bundle_verify(bundle: Path) -> None:
    result = run("bundle", "verify", bundle)
    assert len(result.stdout.strip()) == 64
    assert "4 files unchanged" in result.stderr
    (bundle / "detoxifier.gguf").write_text("other")
    result = run("bundle", "verify", bundle, code=1)
    assert "detoxifier.gguf has 5 bytes, 435,808 were written" in result.stderr
    assert result.stdout == ""


def test_version_and_unknown_command() -> None:
    assert run("--version").stdout == f"sro-edge, version {__version__}\n"
    assert "No such command 'rewite'" in run("rewite", code=2).stderr


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS)], ids=str)
def test_help_fits_a_terminal(words: tuple[str, ...]) -> None:
    lines = run(*words, "--help").stdout.splitlines()
    assert len(lines) > 5
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there(name: str) -> None:
    from click import Context

    command = main.get_command(Context(main), name)
    assert command is not None
    assert command.name == name
    assert COMMANDS[name][1] in run("--help").stdout


LOADED = """
import sys
from click.testing import CliRunner
words = sys.argv[1:]
import sro_edge
if words:
    from sro_edge.cli import main
    assert CliRunner().invoke(main, words).exit_code == 0
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize(
    "words", [(), ("--help",), ("--version",), *((name, "--help") for name in COMMANDS)], ids=str
)
def test_starts_light(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", LOADED, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert HEAVY.isdisjoint(done.stdout.split())


def test_closed_pipe_is_quiet(bundle: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", "from sro_edge.cli import main; main()", "bundle", "show"]
    done = subprocess.run([*command, str(bundle), "--json"], stdout=writing, stderr=-1, timeout=60)
    os.close(writing)
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("a/comments.parquet", "a/comments.detox.parquet"),
        ("part-0.snappy.parquet", "part-0.snappy.detox.parquet"),
        ("comments", "comments.detox.parquet"),
        ("dump.2024", "dump.2024.detox.parquet"),
        ("posts.CSV", "posts.detox.CSV"),
        ("posts.ndjson", "posts.detox.ndjson"),
        ("-", "-"),
    ],
)
def test_default_output(source: str, output: str) -> None:
    assert default_output(Path(source), "detox") == Path(output)


def test_default_output_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "posts.parquet").mkdir()
    assert default_output(tmp_path / "posts.parquet", "detox").name == "posts.parquet.detox"
    monkeypatch.chdir(tmp_path / "posts.parquet")
    assert default_output(Path("."), "detox") == tmp_path / "posts.parquet.detox"


def test_progress_line() -> None:
    state = Progress(rows=3000, total=9000, resumed=1000, toxic=1200, unresolved=7)
    line = progress_line(state, rate=20.0)
    assert line == "3,000/9,000 rows  20/s  5 min 00 s left  1,200 toxic  7 unresolved"
    assert progress_line(Progress(0, 9000, 0, 0, 0), rate=0.0) == "0/9,000 rows  0 toxic"
    assert progress_line(Progress(8, None, 0, 1, 0), rate=2.0) == "8 rows  2/s  1 toxic"


@pytest.mark.parametrize("seed", range(5))
def test_the_time_left_is_honest(seed: int) -> None:
    """Units of very different cost: off by less than 30 % from a tenth to nine tenths."""
    rng = random.Random(seed)
    units = [rng.lognormvariate(1, 0.4) for _ in range(300)]
    pace, now = Pace(), 100.0
    end = now + sum(units)
    for number, seconds in enumerate([0.0, *units]):
        now += seconds
        rate = pace.rate(Progress(number * 512, 300 * 512, 0, 0, 0), now)
        if 30 <= number <= 270:
            left = (300 - number) * 512 / rate
            assert abs(left - (end - now)) < 0.3 * (end - now)


def test_pace_counts_the_rows_of_this_run_only() -> None:
    pace = Pace()
    for rows in (0, 500, 1000):  # read again from the disk
        assert pace.rate(Progress(rows, 9000, 1000, 0, 0), now=50.0) == 0.0
    assert pace.rate(Progress(1500, 9000, 1000, 0, 0), now=60.0) == 50.0


def test_printable() -> None:
    assert printable("a\x1b[2J\nb\u202e\tc") == "a [2J b  c"
    assert printable("x" * 300).endswith("x…")
    assert len(printable("x" * 300)) == 240
