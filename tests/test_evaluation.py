"""Scores against hand-computed ones, the systems that are compared, and the command."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tiny_models import write_bundle

torch = pytest.importorskip("torch")

from sro_edge.cli import main  # noqa: E402
from sro_edge.errors import InputError, ModelError  # noqa: E402
from sro_edge.evaluation.evaluate import evaluate  # noqa: E402
from sro_edge.evaluation.judges import JudgeNames, check_independent, load_judges  # noqa: E402
from sro_edge.evaluation.scores import Judges, score_rewrites  # noqa: E402
from sro_edge.evaluation.systems import (  # noqa: E402
    Inputs,
    System,
    baselines,
    read_inputs,
    read_outputs,
    read_words,
)
from sro_edge.job import Rewrite  # noqa: E402


class FakeJudge:
    """Toxic is what says "stupid"; what is shorter than its input means less."""

    def judge(self, texts: Sequence[str]) -> Any:
        toxicity = torch.tensor([0.9 if "stupid" in t else 0.1 for t in texts])
        return dataclasses.make_dataclass("Seen", ["toxicity"])(toxicity)

    def embed(self, texts: Sequence[str]) -> Any:
        angle = torch.tensor([0.0 if len(t.split()) == 4 else 1.0 for t in texts])
        return torch.stack([angle.cos(), angle.sin()], 1)


def fluency(texts: Sequence[str]) -> Any:
    return torch.tensor([0.2 if "a is" in t else 0.8 for t in texts])


JUDGES = Judges(FakeJudge(), fluency, FakeJudge())  # type: ignore[arg-type]
TEXTS = ["this is stupid stuff", "a stupid idea indeed"]


def test_scores_are_those_computed_by_hand() -> None:
    outputs = ["this is odd stuff", "a is", "this is stupid stuff", None, " "]
    scores = score_rewrites([TEXTS[0]] * 5, outputs, JUDGES)
    cosine = math.cos(1.0)
    assert scores.sta.tolist() == [1, 1, 0, 0, 0]
    assert scores.sim.tolist() == pytest.approx([1, cosine, 1, 0, 0])
    assert scores.fl.tolist() == [1, 0, 1, 0, 0]
    assert scores.means() == {
        "STA": 0.4,
        "SIM": pytest.approx((2 + cosine) / 5, abs=1e-4),
        "FL": 0.4,
        "STA*SIM": pytest.approx((1 + cosine) / 5, abs=1e-4),
        "J": 0.2,
    }
    assert scores.means([0, 1])["J"] == 0.5


def test_intervals_hold_the_mean_and_vanish_without_spread() -> None:
    scores = score_rewrites(TEXTS * 50, ["this is odd stuff", "a is"] * 50, JUDGES)
    found = scores.intervals()
    assert found["STA"] == (1, 1, 1)
    mean, low, high = found["FL"]
    assert low < mean == 0.5 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.05, rel=0.15)  # the normal approximation
    assert found == scores.intervals()


def test_an_evaluation_says_what_each_system_did() -> None:
    inputs = Inputs(TEXTS, [["this is odd stuff"], ["a is", "an idea of note"]], ["x", "y"])
    records = [
        Rewrite("this is stupid stuff", "rewritten", engine="greedy", attempts=2),
        Rewrite(None, "unresolved", reason="meaning", attempts=3),
    ]
    bundle = System("bundle b", [r.text for r in records], records)
    systems = [*baselines(inputs, {"stupid": 1.0}), bundle]
    result, page = evaluate(inputs, systems, JUDGES, JudgeNames("j"))
    assert list(result["systems"]) == [
        "copy", "delete (word list)", "human reference", "reference, 2 words dropped", "bundle b",
    ]  # fmt: skip
    found = result["systems"]["bundle b"]
    assert found["no_output"] == 0.5
    assert found["copied"] == 0.5
    assert found["passed_by_round"] == {"1": 0.0, "2": 0.5}
    assert found["judges_disagree"] == 1
    assert found["reasons"] == {"meaning": 1}
    group = found["by_source"]["x"]
    assert group["rows"] == 1
    assert group["J, 95 %"] == [group["J"], group["J"]]  # one row has no spread
    conduct = {row[0]: row[1:] for row in page.tables[1].rows}
    assert conduct["bundle b"] == [
        "50.0%", "50.0%", "0.0%", "1: 0.0%, 2: 50.0%", "greedy 1", "meaning 1", "1",
    ]  # fmt: skip
    assert result["systems"]["delete (word list)"]["figures"]["STA"][0] == 1
    answers = page.rows[0].answers
    assert page.systems[0] == "bundle b"
    assert "screener passes, judge does not" in answers[0].tags
    assert "reference, 2 words dropped" not in page.systems
    assert page.rows[1].answers[0].after is None


def test_lost_numbers_are_counted() -> None:
    inputs = Inputs(["this stupid 42 thing"])
    result, _ = evaluate(inputs, [System("s", ["this odd thing"])], JUDGES, JudgeNames("j"))
    assert result["systems"]["s"]["lost_protected"] == 1
    assert "by_source" not in result["systems"]["s"]


def test_inputs_without_a_reference_are_refused(tmp_path: Path) -> None:
    table = pa.table({"toxic": ["a", "b", None], "refs": [["c"], [], ["d"]]})
    pq.write_table(table, tmp_path / "in.parquet")
    assert read_inputs(tmp_path / "in.parquet", "toxic").texts == ["a", "b"]
    with pytest.raises(InputError, match="1 comments have nothing in column 'refs'"):
        read_inputs(tmp_path / "in.parquet", "toxic", "refs")


def test_outputs_must_match_the_inputs(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("one\n\n")
    inputs = Inputs(TEXTS)
    assert read_outputs("s", tmp_path / "out.txt", None, inputs).outputs == ["one", None]
    (tmp_path / "out.txt").write_text("one\n")
    with pytest.raises(InputError, match="has 1 outputs for 2 inputs"):
        read_outputs("s", tmp_path / "out.txt", None, inputs)


def test_word_lists_are_lines_or_a_column(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("Stupid\n\nidiot \n")
    pq.write_table(pa.table({"term": ["Stupid", None]}), tmp_path / "words.parquet")
    pq.write_table(pa.table({"odd": ["x"]}), tmp_path / "odd.parquet")
    assert read_words(tmp_path / "words.txt") == {"stupid": 1.0, "idiot": 1.0}
    assert read_words(tmp_path / "words.parquet") == {"stupid": 1.0}
    with pytest.raises(InputError, match="none of the columns term, word, text; it has odd"):
        read_words(tmp_path / "odd.parquet")


def test_a_bundles_own_screener_is_no_judge(screener_run: Path) -> None:
    record = json.loads((screener_run / "run.json").read_text())
    bundle: Any = dataclasses.make_dataclass("B", ["name", "training"])
    names = JudgeNames(str(screener_run))
    with pytest.raises(ModelError, match="is the screener of the bundle 'mine'"):
        check_independent(names, bundle("mine", {"screener": {**record, "data": {}}}))
    check_independent(names, bundle("mine", {"screener": {**record, "kind": "other"}}))


def test_a_fluency_judge_names_its_label(screener_run: Path) -> None:
    run = str(screener_run)
    with pytest.raises(ModelError, match="Name it with --disfluent-label"):
        load_judges(JudgeNames(run, fluency=run, meaning=f"{run}/model"))
    own = load_judges(JudgeNames(run, meaning=f"{run}/model"))
    other = load_judges(
        JudgeNames(run, fluency=run, disfluent_label="fluent", meaning=f"{run}/model")
    )
    assert torch.allclose(own.fluency(TEXTS), 1 - other.fluency(TEXTS))


def test_the_command_writes_figures_and_a_page(screener_run: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"toxic": TEXTS, "refs": ["odd", "an idea"]}), tmp_path / "in.parquet")
    (tmp_path / "theirs.txt").write_text("this is odd stuff\n\n")
    words = ["evaluate", tmp_path / "in.parquet", "--column", "toxic", "--references", "refs"]
    words += ["--judge", screener_run, "--meaning-judge", screener_run / "model", "--no-bundle"]
    words += ["--outputs", f"theirs={tmp_path / 'theirs.txt'}", "-o", tmp_path / "eval"]
    result = CliRunner().invoke(main, [str(w) for w in words])
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [f"{tmp_path / 'eval'}.json", f"{tmp_path / 'eval'}.html"]
    found = json.loads((tmp_path / "eval.json").read_text("utf-8"))
    assert found["systems"]["theirs"]["no_output"] == 0.5
    assert found["judges"]["toxicity"] == screener_run.name
    assert (tmp_path / "eval.html").read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("more", [[], ["--no-cascade"]])
def test_the_bundle_is_judged_with_its_first_stage_or_without(
    screener_run: Path, tmp_path: Path, more: list[str]
) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "in.parquet")
    write_bundle(tmp_path / "staged", first_stage=True)
    words = ["evaluate", tmp_path / "in.parquet", "--bundle", tmp_path / "staged", "--threads", "1"]
    words += ["--judge", screener_run, "--meaning-judge", screener_run / "model"]
    words += ["-o", tmp_path / "eval", *more]
    result = CliRunner().invoke(main, [str(w) for w in words])
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "eval.json").read_text("utf-8"))["bundle"]
    assert (settings["cascade"] is None) == bool(more)
