"""The trainings on tiny random models: the reference, the follower, resuming, what is written."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from sro_edge.bundle import Thresholds
from sro_edge.errors import InputError, ModelError
from sro_edge.segments import words
from sro_edge.training.config import ScreenerConfig, WarmStartConfig
from sro_edge.training.corruption import Corruptor
from sro_edge.training.follower import Classifier, Follower
from sro_edge.training.insults import Choice
from sro_edge.training.lexicon import clean_words, mine_lexicon
from sro_edge.training.noise import ToxicNoise, with_odd_words
from sro_edge.training.piles import Labelled, clean_sentences
from sro_edge.training.runs import measured_error
from sro_edge.training.screener import (
    LABELS,
    calibrate,
    load_classifier,
    screener_loss,
    train_screener,
)
from sro_edge.training.screener_rows import UNKNOWN, Row
from sro_edge.training.warm_start import Piles, load_small, warm_start

TOXIC = [
    f"{start} {insult} {end}"
    for start in ("you are a", "what a", "stop being a", "he is a")
    for insult in ("stupid fool", "moron", "stupid moron", "total moron")
    for end in ("my friend", "in this game", "and you know it", "again")
]
CLEAN = [
    f"{start} {word} {end}"
    for start in ("you are a", "what a", "she was a", "he is a")
    for word in ("good friend", "person", "kind person", "clever child")
    for end in ("my friend", "in this game", "and you know it", "again")
]


class LetterEncoder:
    """Stands in for a sentence encoder: unit vectors of letter counts."""

    def embed(self, texts: list[str]) -> torch.Tensor:
        rows = [[t.count(c) + 0.01 for c in "abcdefghijklmnopqrstuvwxyz"] for t in texts]
        return torch.nn.functional.normalize(torch.tensor(rows), dim=1)


SMALL = WarmStartConfig(
    vocabulary=400,
    hidden_size=32,
    layers=1,
    heads=2,
    feed_forward=64,
    tokens=9_000,
    batch_tokens=600,
)


@pytest.fixture(scope="module")
def policy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("warm-start")
    encoder: Any = LetterEncoder()
    warm_start(Piles(TOXIC * 30, CLEAN * 30, CLEAN), run, SMALL, encoder)
    return run


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary += sorted({w for t in TOXIC + CLEAN for w in words(t)})
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertForSequenceClassification(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def screener_run(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("screener")
    texts = TOXIC + CLEAN
    data = Labelled(texts, [1] * len(TOXIC) + [0] * len(CLEAN), ["made up"] * len(texts))
    config = ScreenerConfig(
        base=str(encoder_folder),
        epochs=25,
        batch_rows=16,
        learning_rate=3e-3,
        distill_weight=0.1,
        freeze_embeddings=False,
    )
    train_screener(data, data, texts, texts[:40], run, config, test=data)
    return run


@pytest.fixture(scope="module")
def follower(screener_run: Path) -> Follower:
    return Follower(Classifier.load(screener_run / "model"), Thresholds(0.5, 0.2, 0.9))


def test_follower_needs_toxicity_meaning_and_an_ended_answer(follower: Follower) -> None:
    comments = ["you are a stupid moron my friend"] * 4
    answers = [
        "you are a kind person my friend",
        comments[0],
        "",
        "you are a kind person my friend",
    ]
    seen = follower.verdicts(comments, answers, [True, True, True, False])
    assert seen.passed.tolist() == [True, False, False, False]
    strict = replace(follower, thresholds=Thresholds(0.5, 1.0, 0.9))
    assert not strict.verdicts(comments[:1], answers[:1], [True]).passed.any()


def test_flip_rate_turns_verdicts_round(follower: Follower) -> None:
    comments, answers = TOXIC[:60], CLEAN[:60]

    def flipped(rate: float) -> torch.Tensor:
        wrong = replace(follower, flip_rate=rate)
        passed = wrong.verdicts(comments, answers, [True] * 60).passed
        return straight ^ passed

    straight = follower.verdicts(comments, answers, [True] * 60).passed
    some, more = flipped(0.1), flipped(0.45)
    assert 1 <= some.sum() < more.sum() < 45
    assert torch.equal(some & more, some)  # a screener that is worse errs where a better one did
    assert torch.equal(flipped(0.1), some)  # and on the same texts each time


def test_a_comment_is_screened_once(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    judge = follower.classifier.judge
    monkeypatch.setattr(
        follower.classifier, "judge", lambda texts: asked.extend(texts) or judge(texts)
    )
    fresh = Follower(follower.classifier, follower.thresholds)
    comments, answers = [TOXIC[0], TOXIC[0], TOXIC[1]], [CLEAN[0], TOXIC[0], CLEAN[0]]
    first = fresh.verdicts(comments, answers, [True] * 3)
    assert sorted(asked) == sorted([TOXIC[0], TOXIC[1], CLEAN[0]])
    asked.clear()
    again = fresh.verdicts(comments, answers, [True] * 3)
    assert asked == [CLEAN[0]]
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_bf16_moves_scores_by_little(screener_run: Path) -> None:
    full = Classifier.load(screener_run / "model").judge(TOXIC + CLEAN)
    half = Classifier.load(screener_run / "model", bf16=True).judge(TOXIC + CLEAN)
    assert not torch.equal(full.toxicity, half.toxicity)
    for one, other in zip(full, half, strict=True):
        torch.testing.assert_close(one, other, atol=0.02, rtol=0)


def test_the_error_of_a_screener_is_what_its_run_measured(
    screener_run: Path, tmp_path: Path
) -> None:
    record = json.loads((screener_run / "run.json").read_text())
    report = {"all": {"accuracy": 0.875}}
    for name, metrics, error in (
        ("test", {"dev": {"all": {"accuracy": 0.5}}, "test": report}, 0.125),
        ("dev", {"dev": report}, 0.125),
        ("guess", {"dev": {"all": {"accuracy": 0.3}}}, 0.49),
        ("none", {}, 0),
    ):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "run.json").write_text(json.dumps({**record, "metrics": metrics}))
        assert measured_error(tmp_path / name) == error
        assert measured_error(tmp_path / name / "model") == error
    assert measured_error("someone/a-classifier") == 0


def test_label_order_is_read_never_guessed(encoder_folder: Path) -> None:
    with pytest.raises(ModelError, match="label_0, label_1"):
        Classifier.load(encoder_folder)
    assert Classifier.load(encoder_folder, "LABEL_1").toxic == 1


def test_one_logit_is_a_probability_of_its_own(screener_run: Path) -> None:
    classifier = Classifier.load(screener_run / "model")
    config = classifier.model.config
    expected = classifier.judge(TOXIC[:4] + CLEAN[:4]).toxicity
    head = classifier.model.classifier
    head.weight.data, head.bias.data = head.weight.data[:1], head.bias.data[:1]
    config.id2label, config.problem_type = {0: "toxic"}, None
    alone = Classifier(classifier.model, classifier.tokenizer).judge(TOXIC[:4] + CLEAN[:4])
    assert torch.allclose(alone.toxicity, expected, atol=1e-6)
    assert alone.fluency is None


def test_screener_learns_and_writes_thresholds(screener_run: Path) -> None:
    record = json.loads((screener_run / "run.json").read_text())
    assert record["metrics"]["test"]["made up"]["f1"] > 0.95
    config = json.loads((screener_run / "model" / "config.json").read_text())
    assert [config["id2label"][str(i)] for i in range(2)] == list(LABELS)
    Thresholds(**json.loads((screener_run / "model" / "thresholds.json").read_text()))


def test_a_screener_goes_on_learning(screener_run: Path, tmp_path: Path) -> None:
    texts = ["what a clever child", "in this game again"] * 8
    data = Labelled(texts, [1, 0] * 8, ["made up"] * 16)
    config = ScreenerConfig(base=str(screener_run), epochs=20, batch_rows=16, learning_rate=3e-3)
    out = train_screener(data, data, CLEAN, CLEAN[:40], tmp_path / "run", config)
    before = Classifier.load(screener_run / "model")
    after = Classifier.load(out)
    assert after.judge(texts[:1]).toxicity > 0.5 > before.judge(texts[:1]).toxicity
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["base_run"]["kind"] == "screener"
    with pytest.raises(InputError, match="--sentences"):
        train_screener(data, data, [], [], tmp_path / "other", config)
    fluent, was = after.judge(CLEAN).fluency, before.judge(CLEAN).fluency
    assert fluent is not None
    assert was is not None
    assert (fluent - was).abs().mean() < 0.1


def test_a_screener_retains_what_it_said_of_comments(
    screener_run: Path, encoder_folder: Path, tmp_path: Path
) -> None:
    earlier = Classifier.load(screener_run / "model")
    rows = [
        Row("you are a moron", 0.0, UNKNOWN),
        Row("a kind person in", UNKNOWN, 0.0),
        Row("what a moron again", 1.0, UNKNOWN, corrects=True),
        Row("that clever child", 1.0, UNKNOWN, corrects=True),  # of which it is not sure
    ]
    said = earlier.judge([row.text for row in rows]).toxicity.tolist()
    model, tokenizer = load_classifier(str(screener_run / "model"))

    def loss(rows: list[Row], retain: float) -> float:
        config = ScreenerConfig(retain=retain)
        with torch.no_grad():
            found = screener_loss(model, None, tokenizer, rows, config, earlier=earlier)
        return float(found["toxic"])

    known = [said[0] / 2, said[1], said[2] / 2 + 0.5, 1.0]
    meant = [row._replace(toxic=p) for row, p in zip(rows, known, strict=True)]
    assert loss(rows, 0.5) == pytest.approx(loss(meant, 0), rel=1e-5)
    assert loss(rows, 0.5) != pytest.approx(loss(rows, 0), rel=0.1)
    data = Labelled(CLEAN, [0] * len(CLEAN), ["made up"] * len(CLEAN))
    config = ScreenerConfig(base=str(encoder_folder), retain=0.9)
    with pytest.raises(InputError, match="leave out --retain"):
        train_screener(data, data, CLEAN, CLEAN[:40], tmp_path, config)


def test_calibration_keeps_the_order_and_mends_the_odds(screener_run: Path) -> None:
    classifier = Classifier.load(screener_run / "model")
    texts = (TOXIC + CLEAN) * 5
    rng = random.Random(0)
    given = classifier.judge(texts).toxicity
    # Labels of which the classifier is far too sure.
    labels = [int(rng.random() < (0.6 if p > 0.5 else 0.4)) for p in given.tolist()]
    scale, _ = calibrate(classifier, given, labels)
    found = classifier.judge(texts).toxicity
    assert 0 < scale < 1
    assert found.mean().item() == pytest.approx(sum(labels) / len(labels), abs=0.01)
    assert found[given.argsort()].diff().min() > -1e-5


def test_a_fluency_judge_has_the_word_on_how_broken_a_text_is(screener_run: Path) -> None:
    model, tokenizer = load_classifier(str(screener_run / "model"))
    rows = [Row("you are kind", 0.0, UNKNOWN), Row("kind are you", UNKNOWN, 0.0)]
    asked = []

    def judge(texts: list[str]) -> torch.Tensor:
        asked.append(texts)
        return torch.tensor([0.5])

    said: Any = judge
    config = ScreenerConfig()
    with torch.no_grad():
        own = screener_loss(model, None, tokenizer, rows, config)
        told = screener_loss(model, None, tokenizer, rows, config, said)
        half = screener_loss(
            model, None, tokenizer, [rows[0], rows[1]._replace(fluent=0.5)], config
        )
    assert asked == [["kind are you"]]
    assert told["toxic"] == own["toxic"]
    assert told["fluent"] == pytest.approx(half["fluent"].item())
    assert told["fluent"] != own["fluent"]


def test_warm_start_resumes_and_writes_its_template(policy_run: Path) -> None:
    model = policy_run / "model"
    assert json.loads((model / "prompt.json").read_text())["suffix"] == "<|rewrite|>"
    assert "moron" in json.loads((model / "lexicon.json").read_text())
    assert json.loads((policy_run / "run.json").read_text())["held_out_loss"] < math.log(400)


def test_a_warm_start_goes_on_from_another_model(policy_run: Path, tmp_path: Path) -> None:
    pairs = [("you are a moron again", "you are a person again")]
    config = replace(SMALL, tokens=3_000, pairs_share=1.0)
    encoder: Any = LetterEncoder()
    model = warm_start(
        Piles(TOXIC * 30, CLEAN * 30, CLEAN, pairs=pairs),
        tmp_path,
        config,
        encoder,
        init=policy_run,
    )
    before = (policy_run / "model" / "tokenizer.json").read_bytes()
    assert (model / "tokenizer.json").read_bytes() == before
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["init"], record["pairs"]) == (str(policy_run), 1)
    trained, fresh = (json.loads((run / "run.json").read_text()) for run in (tmp_path, policy_run))
    assert trained["tokens"] < fresh["tokens"]
    assert trained["base_run"] == fresh


def test_a_warm_start_goes_on_from_no_model_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no run of `sro-edge warm-start`"):
        load_small(tmp_path)


def test_odd_words_change_one_or_two_words() -> None:
    sentence = "what a kind person in this game"
    made = [with_odd_words(sentence, random.Random(i)) for i in range(40)]
    assert made == [with_odd_words(sentence, random.Random(i)) for i in range(40)]
    for text in made:
        pairs = zip(text.split(" "), sentence.split(" "), strict=True)
        assert sum(a != b for a, b in pairs) <= 2
    assert sum(text != sentence for text in made) > 35
    assert with_odd_words("a b c", random.Random(0)) == "a b c"


def test_lexicon_finds_toxic_words_and_their_counterparts() -> None:
    lexicon = mine_lexicon(TOXIC * 30, CLEAN * 30)
    assert {"moron", "stupid"} <= lexicon.keys()
    assert not {"you", "friend", "game"} & lexicon.keys()
    assert "person" in clean_words(TOXIC * 30, CLEAN * 30)


def test_noise_is_toxic_and_deterministic() -> None:
    lexicon = mine_lexicon(TOXIC * 30, CLEAN * 30)
    noise = ToxicNoise(TOXIC, lexicon, {("person",): Choice((("moron",),), (1.0,), 1.0)})
    made = [noise.corrupt("what a kind person in this game", random.Random(i)) for i in range(60)]
    assert made == [
        noise.corrupt("what a kind person in this game", random.Random(i)) for i in range(60)
    ]
    assert sum(bool(set(words(m)) & lexicon.keys()) for m in made) > 40
    assert all(m == m.strip() for m in made)


def test_corruption_breaks_sentences() -> None:
    corruptor = Corruptor(["table", "blue"])
    rng = random.Random(0)
    sentence = "we went to the market with a friend of mine"
    broken = [b for _ in range(80) if (b := corruptor.corrupt(sentence, rng))]
    assert len(broken) > 60
    assert sentence not in broken
    assert any(b.endswith(("with a", "to the", "with a .", "to the .")) for b in broken)
    assert corruptor.corrupt("two words", rng) is None


def test_clean_sentences_leave_out_forbidden_words() -> None:
    found = list(clean_sentences(["This is fine. You are a moron now. Short."], {"moron"}))
    assert found == ["This is fine."]
