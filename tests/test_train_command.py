"""`sro-edge train` as people run it: a whole run, a killed one, two processes, and bad input."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import transformers
from click.testing import CliRunner, Result
from rich.console import Console
from safetensors.torch import load_file
from toy_families import write_family
from toy_models import SENTENCES, write_screener_run

from sro_edge.cli import _training, main
from sro_edge.cli.train import _SHOWN
from sro_edge.training.held_out import read_examples
from sro_edge.training.journal import read_metrics
from sro_edge.training.piles import read_texts

WORDS = sorted({word for sentence in SENTENCES for word in sentence.split() if word.isalpha()})
COMMENTS = [f"{a} idiot {b} stupid {a}" for a, b in zip(WORDS, reversed(WORDS), strict=True)]
# What depends on time and machine, not on the run.
TIMES = {"seconds", "tokens_per_second"}


@dataclasses.dataclass(frozen=True)
class Toys:
    """Models and comments for a run."""

    policy: Path
    screener: Path
    judge: Path
    comments: Path

    def arguments(self, out: Path, **options: Any) -> list[str]:
        """A command line; ``None`` leaves an option out."""
        given = {
            "policy": self.policy,
            "screener": self.screener,
            "judge": self.judge,
            "meaning-judge": self.judge / "model",
            "toxic": self.comments,
            "threshold": 0.45,
            "held-out": 0.2,
            "steps": 6,
            "comments": 4,
            "samples": 2,
            "max-new-tokens": 6,
            "eval-every": 2,
            "learning-rate": 0.01,
            "lora-rank": 2,
            "out": out,
        } | {name.replace("_", "-"): value for name, value in options.items()}
        words = [(f"--{name}", str(v)) for name, v in given.items() if v is not None]
        return ["train", "--lora", "--no-bf16", *(word for pair in words for word in pair)]


@pytest.fixture(scope="module")
def toys(screener_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Toys:
    folder = tmp_path_factory.mktemp("toys")
    write_family(folder / "policy", "qwen3")
    write_screener_run(folder / "judge")
    (folder / "comments.txt").write_text("\n".join([*COMMENTS, COMMENTS[0].upper()]))
    return Toys(folder / "policy", screener_run, folder / "judge", folder / "comments.txt")


@pytest.fixture(scope="module")
def whole(toys: Toys, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """An unbroken run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    result = CliRunner().invoke(main, toys.arguments(run), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return run, result


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["ACCELERATE_USE_CPU"] = "1"
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=output, stderr=subprocess.STDOUT
        )


def figures(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(run)]


def assert_same_run(run: Path, other: Path) -> None:
    found, expected = figures(run), figures(other)
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for one, two in zip(found, expected, strict=True):
        assert one == pytest.approx(two, abs=1e-4)
    one, two = (load_file(f / "adapter" / "adapter_model.safetensors") for f in (run, other))
    assert one.keys() == two.keys()
    assert all(one[name].numpy() == pytest.approx(two[name].numpy(), abs=1e-4) for name in one)


def test_a_run_leaves_what_a_user_looks_for(toys: Toys, whole: tuple[Path, Result]) -> None:
    run, result = whole
    assert "1 duplicates dropped" in result.stderr
    assert "the screener passes" in result.stderr
    assert "judge/J" in result.stderr
    assert result.stdout.strip() == str(run / "adapter")
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(read_examples(run)) == min(10, len(COMMENTS) // 5)
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["toxic"] == ["/".join(toys.comments.parts[-2:])]
    assert {"judge/STA", "judge/SIM", "judge/FL", "judge/J"} <= record["kept"].keys()
    assert "think" in json.loads((run / "adapter" / "prompt.json").read_text())["suffix"]


def test_tensorboard_shows_each_step_once(whole: tuple[Path, Result]) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = accumulator.EventAccumulator(str(whole[0] / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in board.Scalars("eval/pass_rate")] == [0, 2, 4, 6]


def test_a_killed_run_goes_on_as_if_unbroken(
    toys: Toys, whole: tuple[Path, Result], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = toys.arguments(run, checkpoint_seconds=0)
    process = start(["-m", "sro_edge.cli", *arguments], tmp_path / "log")
    try:
        while process.poll() is None:
            if (run / "metrics.jsonl").is_file() and len(read_lines(run)) >= 4:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        assert process.wait(60) == -signal.SIGKILL, (tmp_path / "log").read_text()
    finally:
        process.kill()
    assert not (run / "run.json").exists()
    # Between two renames the newest whole checkpoint is the older one.
    kept = (run / name / "state.json" for name in ("checkpoint", "checkpoint.old"))
    assert any(file.is_file() for file in kept)
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')  # as torn by a kill in the middle of a line
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert "is not empty: give --resume" in refused.output
    refused = CliRunner().invoke(main, [*arguments, "--resume", "--beta", "0.3"])
    assert refused.exit_code == 1
    assert "config.beta was 0.1 and is now 0.3" in refused.output.replace("\n", " ")
    resumed = CliRunner().invoke(main, [*arguments, "--resume"], catch_exceptions=False)
    assert resumed.exit_code == 0, resumed.output
    assert_same_run(run, whole[0])


def read_lines(run: Path) -> list[bytes]:
    return (run / "metrics.jsonl").read_bytes().splitlines()


def test_pairs_are_learned_first(toys: Toys, tmp_path: Path) -> None:
    pairs = [f"{text}\t{text.replace('idiot ', '')}" for text in COMMENTS]
    (tmp_path / "pairs.tsv").write_text("\n".join(["toxic\tclean", *pairs]))
    run = tmp_path / "run"
    arguments = toys.arguments(run, pairs=tmp_path / "pairs.tsv", steps=1, judge=None)
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "without --judge the last step is kept" in result.stderr
    # Pairs of held-out comments are left out, so that these stay unseen.
    learned = len(COMMENTS) - len(read_texts([run / "held_out.jsonl"]))
    assert len(read_metrics(run / "pairs")) == round(learned / 4)
    assert json.loads((run / "run.json").read_text())["data"]["pairs"][0].endswith("pairs.tsv")


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(
    toys: Toys, whole: tuple[Path, Result], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    # Its --cpu starts a single process; where there is no GPU, --multi_gpu uses CPUs and gloo.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", "0"]
    process = start([*launch, "-m", "sro_edge.cli", *toys.arguments(run)], tmp_path / "log")
    assert process.wait(240) == 0, (tmp_path / "log").read_text()
    assert_same_run(run, whole[0])


def test_progress_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), width=80, force_terminal=True)
    monkeypatch.setattr(_training, "stderr", lambda: screen)
    metrics = {"pass_rate": 0.5, "similarity": 0.812, "rewards/margins": -0.1234}
    metrics |= {"tokens_per_second": 98_765.4}
    with _training.training_progress(20_000, "step", _SHOWN) as progress:
        progress({"step": 12_345, **metrics})
    assert isinstance(screen.file, io.StringIO)
    assert (
        "12,345/20,000  pass 0.50  sim 0.81  margin -0.123  98,765 tok/s" in screen.file.getvalue()
    )
    assert "…" not in screen.file.getvalue()


def test_progress_is_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with _training.training_progress(2, "step", {"loss": "loss {:.1f}"}) as progress:
        for step in range(3):
            progress({"step": step, "loss": 0.5})
    assert capsys.readouterr().err == "2/2  loss 0.5\n"


BAD = {
    "a missing policy": ({"policy": "nowhere/at-all"}, "no tokenizer that can be loaded"),
    "the judge is the screener": ({"judge": "screener"}, "is the screener itself"),
    "a label that is not there": ({"toxic_label": "rude"}, "name it with --toxic-label"),
    "a threshold that all pass": ({"threshold": 1}, "passes 100 % of the toxic pile"),
    "a threshold that none pass": ({"threshold": 0}, "passes 0 % of the toxic pile"),
    "an empty pile": ({"toxic": "blank"}, "every row of column 'text' is empty"),
    "numbers for texts": ({"toxic": "numbers", "column": "score"}, "holds int64, not strings"),
    "too few comments": ({"comments": 500}, "give more text or a smaller --comments"),
    "an encoder and decoder": ({"policy": "t5"}, "decoder-only"),
    "a folder without texts": ({"toxic": "hollow"}, "has no files that end in"),
    "nothing to go on with": ({"out": None}, "--resume needs --out"),
    "4 bits of all weights": ({"four_bit": True}, "so it cannot be trained in full"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_a_sentence(toys: Toys, tmp_path: Path, name: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "blank.txt").write_text("\n\n")
    (tmp_path / "hollow").mkdir()
    pq.write_table(pa.table({"score": [1]}), tmp_path / "numbers.parquet")
    transformers.T5Config(num_layers=1).save_pretrained(tmp_path / "t5")
    transformers.AutoTokenizer.from_pretrained(toys.policy).save_pretrained(tmp_path / "t5")
    places = {
        "blank": tmp_path / "blank.txt",
        "numbers": tmp_path / "numbers.parquet",
        "hollow": tmp_path / "hollow",
        "t5": tmp_path / "t5",
        "screener": toys.screener,
    }
    options, sentence = BAD[name]
    flags = ["--resume"] if "out" in options else []
    if "four_bit" in options:
        options, flags = {}, ["--four-bit", "--full"]
    changed = {k: places.get(v, v) if isinstance(v, str) else v for k, v in options.items()}
    arguments = [*toys.arguments(tmp_path / "run"), *flags]
    if changed:
        arguments = [*toys.arguments(**{"out": tmp_path / "run", **changed}), *flags]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code in (1, 2), result.output
    assert isinstance(result.exception, SystemExit)
    text = " ".join(result.output.replace("│", " ").split())
    assert sentence in text
    assert "Traceback" not in text
    assert not (tmp_path / "run" / "run.json").exists()
