from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sro_edge.bundle import Bundle
from sro_edge.errors import BundleError, MissingExtraError, ModelError
from sro_edge.onnx_session import token_batches
from sro_edge.screener import SCREEN_TOLERANCE, Scores, Screener, passes

pytest.importorskip("onnxruntime")
TEXTS = [
    "you are an idiot",
    "thanks my friend",
    "",
    "this is a really good idea , i think your point is not wrong .",
    " \n\t ",
    "stupid",
    "thanks my friend",
]
TOXIC, CLEAN = 1 / (1 + math.exp(-3)), 1 / (1 + math.exp(3))


def screener(folder: Path, **settings: Any) -> Screener:
    return Screener(folder, threads=1, device="cpu", **settings)


@pytest.fixture
def folder(tiny_screener_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny screener that a test may change."""
    return Path(shutil.copytree(tiny_screener_folder, tmp_path / "screener"))


def classifier(folder: Path, labels: list[str], **config: Any) -> Path:
    """Make the screener one that gives logits: +-3 for class 0, 1 for class 1, 0 for others."""
    import onnx

    model = onnx.load(folder / "model.onnx")
    keep = [n for n in model.graph.node if n.output[0] not in {"toxicity", "embedding", "fluency"}]
    values = np.array([[0, 1, 0, 0][: len(labels)]], dtype=np.float32)
    first = np.eye(1, len(labels), dtype=np.float32)
    tensors = {"rest": values, "first": first}
    keep += [
        onnx.helper.make_node("Unsqueeze", ["loudest", "last1"], ["score"]),
        onnx.helper.make_node("MatMul", ["score", "first"], ["scored"]),
        onnx.helper.make_node("Add", ["scored", "rest"], ["logits"]),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        keep,
        "logits",
        list(model.graph.input),
        [onnx.helper.make_tensor_value_info("logits", kind, ["batch", len(labels)])],
        [
            *model.graph.initializer,
            *(onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()),
        ],
    )
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), folder / "model.onnx"
    )
    config |= {"max_tokens": 32, "pad_token_id": 0, "id2label": dict(enumerate(labels))}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


def rows(scores: Scores, order: list[int]) -> list[Any]:
    assert scores.fluency is not None
    assert scores.embedding is not None
    return [scores.toxicity[order], scores.fluency[order], scores.embedding[order]]


def test_scores_come_in_the_order_of_the_texts(tiny_screener_folder: Path) -> None:
    scores = screener(tiny_screener_folder).score(TEXTS)
    expected = [TOXIC, CLEAN, 0, CLEAN, 0, TOXIC, CLEAN]
    assert scores.toxicity == pytest.approx(expected, abs=1e-6)
    assert scores.toxicity.dtype == np.float32
    assert scores.embedding is not None
    assert scores.embedding.shape == (7, 8)
    assert np.linalg.norm(scores.embedding, axis=1) == pytest.approx([1, 1, 0, 1, 0, 1, 1])


@pytest.mark.parametrize("batch_tokens", [1, 12, 4096])
def test_batches_change_no_score(tiny_screener_folder: Path, batch_tokens: int) -> None:
    engine = screener(tiny_screener_folder, batch_tokens=batch_tokens)
    together = engine.score(TEXTS)
    for number, text in enumerate(TEXTS):
        for one, many in zip(
            rows(engine.score([text]), [0]), rows(together, [number]), strict=True
        ):
            assert np.abs(one - many).max() < SCREEN_TOLERANCE


def test_batches_respect_the_token_budget() -> None:
    pieces = [(n, [5] * length) for n, length in enumerate([3, 3, 4, 9, 9, 9, 9, 9, 32, 50])]
    batches = list(token_batches(pieces, 40))
    assert [piece for batch in batches for piece in batch] == pieces
    assert [len(batch) for batch in batches] == [4, 4, 1, 1]


def test_blank_texts_are_clean_and_fluent(tiny_screener_folder: Path) -> None:
    engine = screener(tiny_screener_folder)
    for texts in ([], [""], ["", "  \n"]):
        scores = engine.score(texts)
        assert scores.toxicity.tolist() == [0] * len(texts)
        assert scores.fluency is not None
        assert scores.fluency.tolist() == [1] * len(texts)
        assert scores.embedding is not None
        assert scores.embedding.shape == (len(texts), 8)
        assert not scores.embedding.any()


def test_marks_and_signs_say_nothing(tiny_screener_folder: Path) -> None:
    engine = screener(tiny_screener_folder)
    scores = engine.score(["!!!!!!", "😀😀", "?! 😀 … $", "idiot 😀", "xyzzy", "81.2.69.142"])
    assert scores.toxicity == pytest.approx([0, 0, 0, TOXIC, 0, 0], abs=1e-6)


def test_emoji_are_read_by_their_names_and_unknown_words_not_at_all(
    tiny_screener_folder: Path,
) -> None:
    engine = screener(tiny_screener_folder)
    texts = ["my friend", "my friend😀", "xyzzy my 私 friend", "my friend 81.2.69.142"]
    ((_, plain), *others) = engine.pieces(texts)
    assert all(ids == plain for _, ids in others)  # no word of "grinning" is one of this toy's
    (_, two), (_, named) = engine.pieces(["idea good", "💡good"])
    assert len(two) == len(named) + 1  # "electric light bulb" is unknown to it, "good" is not


@pytest.mark.parametrize(
    "beside",
    [
        "😂", "👍🏿", "❤️", "🎉🎂", "📷", "😴", "👌", "🇺🇸", "✓", "★", "→", "谢谢",
        "212.23.28.149", "2001:db8:85a3::8a2e:370:7334", "v4.2.1.0", "14:32, 5 May 2009 (UTC)",
        "@maria_k", "#MondayMotivation", "RT @user:", "&amp;", "&#128514;", "<b>bold</b>",
        "https://example.com/a?b=c", "anna.k@example.org", "== Heading ==", "lol", "!!!!!",
    ],
)  # fmt: skip
def test_what_stands_beside_harmless_words_makes_them_no_insult(beside: str) -> None:
    """The embedded screener, whose labelled comments of one kind often had one label."""
    bundle = Bundle.load()
    words = [
        "Thank you for the edit.",
        "The bus leaves at nine from the main station.",
        "I reverted your change, please read the policy.",
        "This phone has a great camera",
        "Happy birthday!",
    ]
    texts = [text for word in words for text in (f"{word} {beside}", f"{beside} {word}")]
    toxicity = screener(bundle.screener).score(texts).toxicity
    assert max(toxicity) < bundle.thresholds.toxicity, texts[int(toxicity.argmax())]


def test_one_toxic_word_taints_a_long_text(tiny_screener_folder: Path) -> None:
    engine = screener(tiny_screener_folder)
    clean = "thanks my friend . " * 20_000  # 380,000 characters
    middle = len(clean) // 2
    tainted = clean[:middle] + " idiot " + clean[middle:]
    scores = engine.score([clean, tainted, "thanks my friend ."])
    assert scores.toxicity == pytest.approx([CLEAN, TOXIC, CLEAN], abs=1e-6)
    # The mean of many near-equal windows is that of one of them.
    assert scores.fluency is not None
    assert scores.fluency[1] == pytest.approx(scores.fluency[0], abs=1e-3)
    assert scores.embedding is not None
    assert np.linalg.norm(scores.embedding, axis=1) == pytest.approx([1, 1, 1])
    assert scores.embedding[0] @ scores.embedding[1] > 0.999


def test_windows_over_the_models_limit_are_halved(tiny_screener_folder: Path) -> None:
    engine = screener(tiny_screener_folder)
    crowded = "a " * 150 + "moron"  # one window of 301 characters, far over 32 tokens
    pieces = list(engine.pieces([crowded]))
    assert len(pieces) > 5
    assert all(len(ids) <= 32 for _, ids in pieces)
    assert sum(len(ids) - 2 for _, ids in pieces) == 151
    assert engine.score([crowded]).toxicity == pytest.approx([TOXIC], abs=1e-6)
    unbroken = engine.score(["!?" * 100 + "idea" + "!?" * 50])
    assert unbroken.toxicity == pytest.approx([CLEAN], abs=1e-6)


def test_means_are_weighted_by_tokens(tiny_screener_folder: Path) -> None:
    engine = screener(tiny_screener_folder)
    parts = ["good idea " * 12, "people"]
    whole = parts[0] + " " * 380 + parts[1]  # two windows, of 26 and 3 tokens
    alone, both = engine.score(parts), engine.score([whole])
    assert alone.fluency is not None
    assert both.fluency is not None
    expected = (26 * alone.fluency[0] + 3 * alone.fluency[1]) / 29
    assert both.fluency == pytest.approx([expected], abs=1e-5)
    assert alone.embedding is not None
    assert both.embedding is not None
    mixed = 26 * alone.embedding[0] + 3 * alone.embedding[1]
    assert both.embedding[0] == pytest.approx(mixed / np.linalg.norm(mixed), abs=1e-5)


def test_lookalikes_of_control_tokens_stay_text(tiny_screener_folder: Path) -> None:
    engine = screener(tiny_screener_folder)
    ((_, ids),) = engine.pieces(["[CLS] you [SEP] idiot [PAD]"])
    assert (ids[0], ids[-1]) == (2, 3)
    assert not {0, 2, 3} & set(ids[1:-1])
    assert engine.score(["[SEP] idiot"]).toxicity == pytest.approx([TOXIC], abs=1e-6)


def test_lone_surrogates_and_nul_are_survived(tiny_screener_folder: Path) -> None:
    scores = screener(tiny_screener_folder).score(["\ud800 idiot", "nul \0 idea"])
    assert scores.toxicity == pytest.approx([TOXIC, CLEAN], abs=1e-6)


def test_disguised_insults_are_read_a_second_time(
    tiny_screener_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = screener(tiny_screener_folder)
    batches: list[int] = []
    run = engine._run
    monkeypatch.setattr(engine, "_run", lambda b: batches.append(len(b)) or run(b))
    texts = ["thanks my friend", "you are an 1d10t", "you are an idiot", "s t u p i d", "m0ney"]
    scores = engine.score(texts)
    assert scores.toxicity == pytest.approx([CLEAN, TOXIC, TOXIC, TOXIC, 0], abs=1e-6)
    assert sum(batches) == len(texts) + 2 - 1  # "m0ney" is an unknown word, which is not read
    raw = screener(tiny_screener_folder, deobfuscate=False).score(texts)
    assert raw.toxicity == pytest.approx([CLEAN, CLEAN, TOXIC, CLEAN, 0], abs=1e-6)
    assert raw.embedding is not None
    assert scores.embedding is not None
    assert np.array_equal(raw.embedding, scores.embedding)  # only toxicity looks twice


@pytest.mark.parametrize(
    ("labels", "config", "expected"),
    [
        (["Toxic", "neutral"], {}, 1 / (1 + math.exp(1 - 3))),
        (["LABEL_0", "hate", "x", "OFFENSIVE"], {}, (math.e + 1) / (math.exp(3) + math.e + 2)),
        (["toxicity"], {}, TOXIC),
        (["toxic", "insult"], {"problem_type": "multi_label_classification"}, TOXIC),
    ],
)
def test_classifiers_give_toxicity_by_label(
    folder: Path, labels: list[str], config: dict[str, Any], expected: float
) -> None:
    scores = screener(classifier(folder, labels, **config)).score(["you idiot", " "])
    assert scores.toxicity == pytest.approx([expected, 0], abs=1e-6)
    assert scores.fluency is None
    assert scores.embedding is None


def test_a_classifier_without_a_toxic_label_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="LABEL_0, LABEL_1"):
        screener(classifier(folder, ["LABEL_0", "LABEL_1"]))


def test_a_graph_of_other_inputs_or_outputs_is_refused(folder: Path) -> None:
    import onnx

    model = onnx.load(folder / "model.onnx")
    model.graph.input[0].name = model.graph.node[2].input[1] = "pixels"
    for node in model.graph.node:
        node.input[:] = ["pixels" if name == "input_ids" else name for name in node.input]
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(ModelError, match="pixels"):
        screener(folder)
    model.graph.output[0].name = "mood"
    for node in model.graph.node:
        node.output[:] = ["mood" if name == "toxicity" else name for name in node.output]
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(ModelError, match="mood"):
        screener(folder)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "config.json"])
def test_missing_or_damaged_files_are_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\x00 not what it should be")
    with pytest.raises(BundleError, match=name):
        screener(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=name):
        screener(folder)


def test_config_sizes_are_checked(folder: Path) -> None:
    for config in ({"max_tokens": 32}, {"max_tokens": 3, "pad_token_id": 0}, []):
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
        with pytest.raises(BundleError, match="max_tokens"):
            screener(folder)


def test_devices_that_are_not_there_are_refused(tiny_screener_folder: Path) -> None:
    import onnxruntime

    with pytest.raises(ModelError, match="device must be"):
        Screener(tiny_screener_folder, device="tpu")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ModelError, match=r"sro-edge\[gpu\]"):
            Screener(tiny_screener_folder, device="cuda")


def test_a_missing_onnxruntime_is_named(
    tiny_screener_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"sro-edge\[cpu\]"):
        screener(tiny_screener_folder)


def test_passing_keeps_clear_of_the_threshold() -> None:
    assert passes(0.4, 0.5)
    assert not passes(0.5, 0.5)
    assert not passes(0.5 - SCREEN_TOLERANCE / 2, 0.5)
    assert not passes(float("nan"), 0.5)
