"""The offline judges: what they learn from, how fluency is read off tokens, and the command."""

from __future__ import annotations

import json
import math
import random
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")

from toy_models import SENTENCES, make_classifier, make_word_tokenizer  # noqa: E402

from sro_edge.cli import main  # noqa: E402
from sro_edge.errors import InputError, ModelError  # noqa: E402
from sro_edge.evaluation.fluency import FluencyJudge, broken_logit, is_fluency_judge  # noqa: E402
from sro_edge.evaluation.judges import JudgeNames, load_judges  # noqa: E402
from sro_edge.evaluation.scores import Judges, settle_cut  # noqa: E402
from sro_edge.training.config import JudgesConfig  # noqa: E402
from sro_edge.training.corruption import drop_words, faults, informal  # noqa: E402
from sro_edge.training.fluency import (  # noqa: E402
    Material,
    Yardsticks,
    calibrate,
    pair_batches,
    train_fluency,
)
from sro_edge.training.piles import read_rated  # noqa: E402

RECIPES = Path(__file__).parent.parent / "recipes"
MATERIAL = Material(
    [s.replace(" ,", ",").replace(" !", "!").replace(" .", ".") for s in SENTENCES] * 4,
    [("the weather was fine .", "the weather were fine .")],
    [("the new bridge opens in 2025 .", 1.0), ("bridge new opens the 2025", 0.0)],
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT with a head that no judge can use."""
    folder = tmp_path_factory.mktemp("encoder")
    make_classifier(num_labels=3).save_pretrained(folder)
    make_word_tokenizer().save_pretrained(folder)
    return folder


def config(encoder: Path, **settings: Any) -> JudgesConfig:
    few = {"fluency_steps": 60, "pairs": 8, "fluency_learning_rate": 3e-3, "accepted": 0.8}
    return JudgesConfig(base=str(encoder), **{**few, **settings})


def test_faults_are_found_where_the_words_are() -> None:
    whole = "you are a good friend of mine"
    assert faults(whole, "you are a friend of mine") == [(10, 16)]
    assert faults(whole, "you are a good friend") == [(15, 21)]
    broken = "you are are a odd friend of mine"
    assert [broken[a:b] for a, b in faults(whole, broken)] == ["are", "odd"]
    assert faults(whole, whole) == []


def test_dropping_words_keeps_one() -> None:
    assert len(drop_words("one two three four", 2, random.Random(0)).split()) == 2
    assert drop_words("alone", 2, random.Random(0)) == "alone"
    assert drop_words("two words", 2, random.Random(0)) in {"two", "words"}


def test_a_way_of_writing_is_no_fault() -> None:
    ways = {informal(random.Random(i))("It's a Test, isn't it.") for i in range(60)}
    assert {"it's a test, isn't it", "It's a Test, isn't it."} <= ways
    assert any(way.endswith(" .") for way in ways)
    assert all(len(way.replace(" ", "")) >= len("itsatest,isntit") for way in ways)


def test_a_sentence_is_broken_where_a_token_is() -> None:
    p = torch.tensor([[0.1, 0.2, 0.9], [0.5, 0.5, 0.5]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    broken = broken_logit(p.logit(), mask).sigmoid()
    assert broken.tolist() == pytest.approx([1 - 0.9 * 0.8, 1 - 0.5**3])
    far = broken_logit(torch.tensor([[-40.0], [40.0]]), torch.ones(2, 1))
    assert torch.isfinite(far).all()


def test_batches_are_the_same_after_a_break(encoder: Path) -> None:
    batches = pair_batches(MATERIAL, config(encoder))
    whole = [next(batches) for _ in range(25)]
    assert next(pair_batches(MATERIAL, config(encoder), skip=23)) == whole[23]
    kinds = {(better.fluent, better.wrong) for batch in whole for better, _ in batch}
    assert kinds == {(None, None), (1.0, None), (1.0, ())}
    assert all(worse.wrong for batch in whole for _, worse in batch if worse.wrong is not None)


def test_the_judge_sees_holes_and_knows_its_cut(encoder: Path, tmp_path: Path) -> None:
    only = Material(MATERIAL.sentences)
    found = train_fluency(only, Yardsticks(only.sentences), tmp_path, config(encoder))
    judge = FluencyJudge.load(tmp_path / "model")
    assert judge.cut == found["cut"]
    assert is_fluency_judge(tmp_path / "model")
    assert not is_fluency_judge(encoder)
    whole = judge(MATERIAL.sentences[:5])
    rng = random.Random(1)
    holes = judge([drop_words(s, 2, rng) for s in MATERIAL.sentences[:5]])
    assert whole.mean() > holes.mean() + 0.2
    assert found["human"] >= 0.8 > found["two_words_dropped"]


def test_the_cut_passes_the_share_asked_for() -> None:
    def judge(texts: Sequence[str]) -> Any:
        return torch.tensor([len(t.split()) / 10 for t in texts])

    human = [" ".join("abcdefghij"[:n]) for n in range(1, 11)]
    found = calibrate(judge, Yardsticks(human, ["a b c", "a b c d e"]), 0.7)
    assert found["human"] == 0.7
    assert found["cut"] == pytest.approx(0.37)
    assert found["two_words_dropped"] == 0.5
    assert found["deleted"] == 0.5
    assert found["texts"] == {"human": 10, "two_words_dropped": 10, "deleted": 2}


def test_the_cut_in_use_is_the_first_there_is() -> None:
    def judge(texts: Sequence[str]) -> Any:
        return torch.linspace(0, 1, len(texts))

    plain: Any = Judges(None, judge, None)  # type: ignore[arg-type]
    trained: Any = Judges(None, judge, None, 0.3, calibrated=True)  # type: ignore[arg-type]
    assert settle_cut(trained, ["a"] * 101, 0.7) == (
        Judges(None, judge, None, 0.7, calibrated=True),  # type: ignore[arg-type]
        "given",
    )
    assert settle_cut(trained, ["a"] * 101)[0].fluency_cut == 0.3
    assert settle_cut(plain, ["a"] * 101)[0].fluency_cut == pytest.approx(0.12)
    assert settle_cut(plain)[0].fluency_cut == 0.5


def test_ratings_that_are_none_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rated.csv"
    file.write_text("text,rating\na,0.5\n,1\nb,7\n")
    with pytest.raises(InputError, match=r"rating 7.*must be 0 to 1"):
        read_rated(file)
    file.write_text("text,rating\na,0.5\n,1\n")
    assert read_rated(file) == [("a", 0.5)]


def write_data(folder: Path) -> list[str]:
    """Files of everything that the command takes, and the options that name them."""
    toxic = [SENTENCES[1], SENTENCES[2]] * 10
    clean = [SENTENCES[0], SENTENCES[3]] * 10
    labelled = {"text": toxic + clean, "label": [1] * 20 + [0] * 20}
    pq.write_table(pa.table(labelled), folder / "labelled.parquet")
    pairs = {"good": [p[0] for p in MATERIAL.minimal], "bad": [p[1] for p in MATERIAL.minimal]}
    pq.write_table(pa.table(pairs), folder / "pairs.parquet")
    rated = {"text": [r[0] for r in MATERIAL.rated], "rating": [r[1] for r in MATERIAL.rated]}
    pq.write_table(pa.table(rated), folder / "rated.parquet")
    (folder / "posts.txt").write_text("\n".join(MATERIAL.sentences))
    (folder / "toxic.txt").write_text("\n".join(toxic))
    (folder / "words.txt").write_text("idiot\nstupid\n")
    files = {
        "train": "labelled.parquet", "dev": "labelled.parquet", "sentences": "posts.txt",
        "minimal-pairs": "pairs.parquet", "rated": "rated.parquet", "human": "posts.txt",
        "toxic": "toxic.txt", "words": "words.txt",
    }  # fmt: skip
    return [part for name, file in files.items() for part in (f"--{name}", str(folder / file))]


def test_the_command_makes_judges_that_evaluate(encoder: Path, tmp_path: Path) -> None:
    run = tmp_path / "judges"
    words = ["train-judges", *write_data(tmp_path), "--base", str(encoder), "-o", str(run)]
    words += ["--fluency-steps", "25", "--pairs", "4", "--epochs", "2", "--batch-rows", "8"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(run)]
    assert "with two words dropped" in result.stderr
    record = json.loads((run / "run.json").read_text("utf-8"))
    assert record["data"]["fluency: sentences"] == [f"{tmp_path.name}/posts.txt"]
    cut = record["metrics"]["fluency"]["cut"]
    names = JudgeNames(str(run), meaning=str(encoder))
    judges = load_judges(names)
    assert (judges.fluency_cut, judges.calibrated) == (cut, True)
    assert judges.toxicity.fluent is None  # it has learned toxicity and nothing else

    table = {"text": [SENTENCES[1], SENTENCES[2]], "refs": [SENTENCES[0], SENTENCES[3]]}
    pq.write_table(pa.table(table), tmp_path / "in.parquet")
    words = ["evaluate", tmp_path / "in.parquet", "--references", "refs", "--judge", run]
    words += ["--meaning-judge", encoder, "--no-bundle", "--words", tmp_path / "words.txt"]
    result = CliRunner().invoke(main, [str(w) for w in [*words, "-o", tmp_path / "eval"]])
    assert result.exit_code == 0, result.output
    assert "of references with two words dropped" in " ".join(result.stderr.split())
    found = json.loads((tmp_path / "eval.json").read_text("utf-8"))["judges"]
    assert found["fluency_cut"] == pytest.approx(cut, abs=1e-4)
    assert found["fluency_cut_from"] == "set when the judge was trained"
    assert len(found["fluent_share"]) == 3
    assert found["training of judges"]["fluency_when_trained"]["cut"] == cut

    again = ["train-judges", *write_data(tmp_path), "--base", str(encoder), "-o", str(run)]
    result = CliRunner().invoke(main, [*again, "--resume"])
    assert result.exit_code == 1
    assert "config.fluency_steps" in result.output


def test_deleting_needs_comments_and_words(tmp_path: Path) -> None:
    words = [w for w in write_data(tmp_path) if w != "--words" and not w.endswith("words.txt")]
    result = CliRunner().invoke(main, ["train-judges", *words])
    assert result.exit_code == 2
    assert "--toxic and --words go together" in result.output


@pytest.mark.parametrize("which", ["toxicity", "fluency", "meaning"])
def test_a_judge_that_is_not_there_is_named(which: str, screener_run: Path) -> None:
    names = {"toxicity": str(screener_run), "meaning": str(screener_run / "model")}
    names |= {which: "nobody/has-this", "disfluent_label": "LABEL_1"}
    with pytest.raises(ModelError, match="the judge nobody/has-this cannot be opened"):
        load_judges(JudgeNames(**names))


def test_classifiers_of_a_hub_judge_by_their_labels(tmp_path: Path) -> None:
    """The layout of the field's judges: neutral/toxic, and a CoLA model with plain label names."""
    for name, labels in (("toxicity", ["neutral", "toxic"]), ("cola", ["LABEL_0", "LABEL_1"])):
        make_classifier(id2label=dict(enumerate(labels))).save_pretrained(tmp_path / name)
        make_word_tokenizer().save_pretrained(tmp_path / name)
    names = JudgeNames(
        str(tmp_path / "toxicity"),
        fluency=str(tmp_path / "cola"),
        disfluent_label="LABEL_1",
        meaning=str(tmp_path / "cola"),
    )
    judges = load_judges(names)
    logits = judges.toxicity.model(
        **judges.toxicity.tokenizer([SENTENCES[0]], return_tensors="pt")
    ).logits[0]
    softmax = [math.exp(v) / sum(math.exp(w) for w in logits.tolist()) for v in logits.tolist()]
    assert judges.toxicity.judge([SENTENCES[0]]).toxicity.item() == pytest.approx(softmax[1])
    assert judges.fluency([SENTENCES[0]]).item() == pytest.approx(softmax[0])  # the same weights


def test_settings_that_leave_no_room_are_refused() -> None:
    for wrong in ({"minimal_share": 0.95}, {"accepted": 1.0}, {"pairs": 0}):
        with pytest.raises(ValueError, match="must"):
            JudgesConfig(**wrong)  # type: ignore[arg-type]


def test_no_other_recipe_reads_what_the_judges_learn_from() -> None:
    read = {
        file.name: tomllib.loads(file.read_text("utf-8")) for file in sorted(RECIPES.glob("*.toml"))
    }
    judges = read.pop("judges.toml")["train-judges"]
    named = json.dumps(read)
    for file in (*judges["sentences"], judges["minimal_pairs"], judges["rated"]):
        assert file not in named
    screener = read["default_bundle.toml"]["train-screener"]
    if set(screener["train"]) & set(judges["train"]):
        assert judges["folds"][1] <= screener["folds"][0]


def test_an_interrupted_run_keeps_the_judge_that_is_done(encoder: Path, tmp_path: Path) -> None:
    run = tmp_path / "judges"
    words = ["train-judges", *write_data(tmp_path), "--base", str(encoder), "-o", str(run)]
    words += ["--fluency-steps", "2", "--pairs", "4"]
    assert CliRunner().invoke(main, words).exit_code == 0
    toxicity = (run / "toxicity" / "model" / "model.safetensors").stat().st_mtime_ns
    fluency = (run / "fluency" / "model" / "model.safetensors").read_bytes()
    (run / "fluency" / "run.json").unlink()
    assert CliRunner().invoke(main, [*words, "--resume"]).exit_code == 0
    assert (run / "toxicity" / "model" / "model.safetensors").stat().st_mtime_ns == toxicity
    assert (run / "fluency" / "model" / "model.safetensors").read_bytes() == fluency
