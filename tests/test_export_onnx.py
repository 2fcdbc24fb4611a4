"""Screeners: the ONNX graph gives the scores of torch, and labels are found, never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from toy_models import make_classifier, make_word_tokenizer, values

from sro_edge.errors import ExportError, ModelError
from sro_edge.export.figures import require
from sro_edge.export.onnx_writer import (
    find_toxic,
    load_screener,
    round_rows,
    to_int8,
    write_screener,
)
from sro_edge.export.proof_onnx import prove_screener
from sro_edge.export.runs import open_run
from sro_edge.training.labels import is_multi_label

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def written_screener(screener_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The screener's ONNX folder, matrices stored as int8 rows."""
    folder = tmp_path_factory.mktemp("onnx") / "screener"
    write_screener(load_screener(open_run(screener_run, "screener")), folder, "int8")
    return folder


@pytest.mark.parametrize("weights", ["int8", "fp32"])
def test_onnx_gives_the_scores_of_torch(weights: str, screener_run: Path, tmp_path: Path) -> None:
    screener = load_screener(open_run(screener_run, "screener"))
    stored = write_screener(screener, tmp_path / "screener", weights)
    file = tmp_path / "screener" / "model.onnx"
    found = values(require(prove_screener(screener, stored, file, 0.99)))
    assert found["screener.graph"] < 1e-5
    assert (found["screener.toxicity"] > 1e-5) == (weights == "int8")
    types = {t.data_type for t in onnx.load(file).graph.initializer if len(t.dims) == 2}
    assert (onnx.TensorProto.INT8 in types) == (weights == "int8")
    config = json.loads((file.parent / "config.json").read_text())
    assert config["outputs"] == ["toxicity", "fluency", "embedding"]
    assert config["max_tokens"] == 100
    assert Tokenizer.from_file(str(file.parent / "tokenizer.json")).truncation is None


def test_onnx_runtime_folds_int8_rows_into_fp32(written_screener: Path, tmp_path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    file = str(written_screener / "model.onnx")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(tmp_path / "optimised.onnx").graph.initializer
    assert onnx.TensorProto.INT8 not in {tensor.data_type for tensor in loaded}
    one = np.array([[2, 5, 3]])
    padded = np.array([[2, 5, 3, 0, 0], [2, 9, 8, 7, 3]])
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    alone = session.run(None, {"input_ids": one, "attention_mask": np.ones_like(one)})
    batch = session.run(None, {"input_ids": padded, "attention_mask": mask})
    for a, b in zip(alone, batch, strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=1e-6)
    assert np.linalg.norm(batch[2], axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_graph_holds_no_paths_of_this_machine(written_screener: Path) -> None:
    assert b".py" not in (written_screener / "model.onnx").read_bytes()


def test_plain_classifier_is_a_softmax_over_its_labels(tmp_path: Path) -> None:
    make_classifier(id2label={0: "neutral", 1: "Hateful"}).save_pretrained(tmp_path)
    make_word_tokenizer().save_pretrained(tmp_path)
    screener = load_screener(open_run(tmp_path, "screener"))
    assert screener.graph.outputs == ["toxicity"]
    assert screener.thresholds.toxicity == 0.5
    ids = torch.tensor([[2, 7, 8, 3]])
    with torch.inference_mode():
        (toxicity,) = screener.graph(ids, torch.ones_like(ids))
        logits = screener.graph.model(ids).logits
    assert toxicity.item() == pytest.approx(logits.softmax(-1)[0, 1].item())


def test_positions_that_count_from_the_padding_token_shorten_the_input(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    config = transformers.RobertaConfig(
        vocab_size=100,
        num_hidden_layers=1,
        max_position_embeddings=34,
        pad_token_id=1,
        id2label={0: "ok", 1: "toxic"},
        **shape,
    )
    transformers.RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    make_word_tokenizer().save_pretrained(tmp_path)
    screener = load_screener(open_run(tmp_path, "screener"))
    assert screener.max_tokens == 32
    ids = torch.full((1, 32), 7)
    assert screener.graph(ids, torch.ones_like(ids))[0].shape == (1,)


@pytest.mark.parametrize(
    ("labels", "wanted", "index"),
    [(["neutral", "Toxic"], None, 1), (["LABEL_0", "LABEL_1"], "label_1", 1), (["hate"], None, 0)],
)
def test_toxic_label_is_found_by_name(labels: list[str], wanted: str | None, index: int) -> None:
    assert find_toxic(labels, wanted) == index


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [(["LABEL_0", "LABEL_1"], None), (["hate", "offensive"], None), (["a"], "b")],
)
def test_toxic_label_is_never_guessed(labels: list[str], wanted: str | None) -> None:
    with pytest.raises(ExportError, match=f"has {', '.join(labels)}; name one with --toxic-label"):
        find_toxic(labels, wanted)


def test_classifier_without_a_trained_head_is_refused(screener_run: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(screener_run / "model")
    model.bert.save_pretrained(tmp_path)
    make_word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no trained classifier: it lacks classifier"):
        load_screener(open_run(tmp_path, "screener"))


def test_rounding_keeps_within_half_a_step_and_is_idempotent() -> None:
    matrix = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)
    matrix[2] = 0
    steps, scale = to_int8(matrix, axis=1)
    assert scale.shape == (5, 1)
    assert np.abs(steps * scale - matrix).max() <= scale.max() / 2 * 1.001
    again, _ = to_int8(steps * scale, axis=1)
    np.testing.assert_array_equal(steps, again)
    layer = torch.nn.Linear(100, 100)
    before = layer.weight.detach().clone()
    round_rows(layer)
    assert 0 < (layer.weight - before).abs().max() < before.abs().max() / 127


def test_multi_label_is_read_from_the_config() -> None:
    assert is_multi_label(transformers.BertConfig(problem_type="multi_label_classification"))
    assert not is_multi_label(transformers.BertConfig(num_labels=2))
