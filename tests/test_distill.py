"""Pairs to train on: the best of what was drawn, and nothing that would teach a fault."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from sro_edge.bundle import Sampling, Thresholds
from sro_edge.cli import main
from sro_edge.detoxifier import Candidate, Request
from sro_edge.prompt import SMALL_TEMPLATE
from sro_edge.rewriter import Rewriter
from sro_edge.screener import Scores
from sro_edge.training.best_of import Drawn, Floors, best_of, toxic_sentences
from sro_edge.training.ngrams import Trigrams
from sro_edge.training.rewording import Rewording

ANSWERS = {
    "greedy": ["you are a moron 7"],
    "sample": ["you are odd 7", "you are rather odd 7", "you are odd", "you are", "you are fine 7"],
}


class Fake:
    """An engine whose answers are :data:`ANSWERS`; "rather" is less fluent, "fine" off meaning."""

    lexicon: Mapping[str, float] = MappingProxyType({})
    bundle = SimpleNamespace(sampling=Sampling(), prompt=SMALL_TEMPLATE)

    def __init__(self) -> None:
        self.detoxifier = self.screener = self
        self.thresholds = Thresholds(0.5, 0.6, 0.2)
        self.asked: list[Request] = []

    def settings(self) -> dict[str, Any]:
        return {"bundle": "fake"}

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[Request, list[Candidate]]]:
        for request in requests:
            self.asked.append(request)
            answers = ANSWERS[request.key[0]] if "idiot" in request.prompt else ["moron"]
            yield request, [Candidate(t, 4, t != "you are") for t in answers]

    def score(self, texts: Sequence[str]) -> Scores:
        toxicity = [0.9 if "idiot" in t or "moron" in t else 0.1 for t in texts]
        fluency = [0.6 if "rather" in t else 0.8 for t in texts]
        embedding = [[0.0, 1.0] if "fine" in t else [1.0, 0.0] for t in texts]
        return Scores(*(np.array(v, np.float32) for v in (toxicity, fluency, embedding)))


def test_the_best_candidate_that_passes_becomes_the_pair() -> None:
    engine: Any = Fake()
    comments = ["you are an idiot 7", "y"]
    (comment, drawn), second = best_of(engine, comments, samples=5, floors=Floors(), seed=3)
    assert comment == comments[0]
    assert drawn is not None
    assert drawn.text == "you are odd 7"  # the number is there, and it is the more fluent
    assert second == ("y", None)
    sampled = [r for r in engine.asked if r.samples > 1]
    assert {(r.samples, r.temperature, r.seed) for r in sampled} == {(5, Sampling().temperature, 3)}
    assert len(sampled) == len(engine.asked) / 2


@pytest.mark.parametrize(
    "change",
    [{"toxicity": 0.2}, {"similarity": 0.6}, {"fluency": 0.7}, {"comment_fluency": 0.97}],
)
def test_each_floor_refuses(change: dict[str, float]) -> None:
    good = Drawn("a", "b", 0.1, 0.9, 0.8, 0.9)
    assert Floors().pass_(good)
    assert not Floors().pass_(good._replace(**change))


def test_worth_grows_with_all_that_counts() -> None:
    drawn = Drawn("a", "b", 0.2, 0.8, 0.7, 0.8)
    assert drawn.worth == pytest.approx(0.8**3 * 0.8 * 0.7**1.5)
    for better in ({"toxicity": 0.1}, {"similarity": 0.9}, {"fluency": 0.9}):
        assert drawn._replace(**better).worth > drawn.worth


def test_a_search_finds_more_and_forbids_inventions() -> None:
    table = {("idiot",): [("odd", "person")]}
    search = Rewording(table, [], Trigrams(["you are an odd person 7", "you are odd"] * 5))
    engine: Any = Fake()
    comment = "you are an idiot 7"
    ((_, drawn),) = best_of(engine, [comment], samples=5, floors=Floors(), search=search)
    assert drawn is not None
    assert drawn.text == "you are an odd person 7"
    assert drawn.kept == pytest.approx(6 / 5)
    ((_, alone),) = best_of(engine, [comment], samples=5, floors=Floors(fit=-9), search=None)
    assert alone is not None
    assert alone.text == "you are odd 7"  # "odd" is the model's own word, so the search forbids it


def test_a_second_opinion_refuses_what_it_calls_broken() -> None:
    engine: Any = Fake()

    def judge(texts: Sequence[str]) -> Any:
        return np.array([0.1 if t == "you are odd 7" else 0.9 for t in texts], np.float32)

    comment = "you are an idiot 7"
    lenient = Floors(fluency=0.5, fluency_drop=0.3)
    ((_, drawn),) = best_of(engine, [comment], samples=5, floors=lenient, fluency_judge=judge)
    assert drawn is not None
    assert drawn.text == "you are rather odd 7"
    assert drawn.judged == pytest.approx(0.9)


def test_ill_fit_and_lost_words_cost_worth() -> None:
    drawn = Drawn("a", "b", 0.2, 0.8, 0.7, 0.8)
    for worse in ({"fit": -1.0}, {"kept": 0.5}, {"judged": 0.5}):
        assert drawn._replace(**worse).worth < drawn.worth
    assert drawn._replace(kept=1.4).worth == drawn.worth
    assert not Floors().pass_(drawn._replace(judged=0.2))


def test_the_table_needs_text_to_say_where(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "you are an idiot"}\n')
    (tmp_path / "mild.tsv").write_text("idiot\tperson\n")
    words = ["distill", str(tmp_path / "in.jsonl"), "--mild", str(tmp_path / "mild.tsv")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "--mild and --plain go together" in result.output


def test_the_command_searches_with_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rewriter, "load", lambda *_, **__: Fake())
    pq.write_table(pa.table({"text": ["you are an idiot 7"]}), tmp_path / "in.parquet")
    pq.write_table(pa.table({"text": ["you are an odd person 7"] * 5}), tmp_path / "plain.parquet")
    (tmp_path / "mild.tsv").write_text("idiot\todd person\n")
    words = ["distill", str(tmp_path / "in.parquet"), "-o", str(tmp_path / "pairs.parquet")]
    words += ["--mild", str(tmp_path / "mild.tsv"), "--plain", str(tmp_path / "plain.parquet")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert pq.read_table(tmp_path / "pairs.parquet")["text"].to_pylist() == [
        "you are an odd person 7"
    ]


def test_toxic_sentences_are_those_that_are_flagged_alone() -> None:
    screener: Any = Fake()
    comments = [
        "This is a fine day. You are an idiot, my friend!",
        "you are an idiot,  my friend! Idiot! @idiot sings so well here.",
        "nobody but a moron drinks this",
    ]
    assert list(toxic_sentences(comments, screener, 0.5)) == [
        "You are an idiot, my friend!",
        "nobody but a moron drinks this",
    ]


def test_the_command_takes_labelled_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rewriter, "load", lambda *_, **__: Fake())
    pq.write_table(pa.table({"text": ["you are an idiot 7"]}), tmp_path / "in.parquet")
    labelled = {"text": ["He is an idiot 7. He sings.", "no such idiot here"], "label": [1, 0]}
    pq.write_table(pa.table(labelled), tmp_path / "labelled.parquet")
    words = ["distill", str(tmp_path / "in.parquet"), "-o", str(tmp_path / "pairs.parquet")]
    words += ["--labelled", str(tmp_path / "labelled.parquet")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert pq.read_table(tmp_path / "pairs.parquet")["comment"].to_pylist() == [
        "you are an idiot 7",
        "He is an idiot 7.",
    ]


def test_the_command_writes_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rewriter, "load", lambda *_, **__: Fake())
    pq.write_table(pa.table({"text": ["you are an idiot 7", "y", None]}), tmp_path / "in.parquet")
    words = ["distill", str(tmp_path / "in.parquet"), "-o", str(tmp_path / "pairs.parquet")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "1 pairs of 2 comments" in result.stderr
    table = pq.read_table(tmp_path / "pairs.parquet")
    assert table.select(["comment", "text"]).to_pylist() == [
        {"comment": "you are an idiot 7", "text": "you are odd 7"}
    ]
    assert json.loads(table.schema.metadata[b"sro_edge"]) == Fake().settings()
    pq.write_table(pa.table({"text": ["y"]}), tmp_path / "in.parquet")
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "none of 1 comments got a rewrite good enough" in result.stderr
