"""Screeners: the ONNX graph decides as torch does, and labels are found, never guessed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.utils
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from toy_models import SENTENCES, make_classifier, make_word_tokenizer, values

from sro_edge.errors import ExportError, ModelError
from sro_edge.export.figures import require
from sro_edge.export.onnx_weights import INT16_LIMIT, WEIGHTS, largest_pair, quantize, to_int8
from sro_edge.export.onnx_writer import to_onnx, trace, write_screener
from sro_edge.export.probes import AWKWARD, COMMENTS
from sro_edge.export.proof_onnx import pick_threshold, prove_screener
from sro_edge.export.runs import open_run
from sro_edge.export.screener_graph import Screener, find_toxic, load_screener
from sro_edge.onnx_session import load_session
from sro_edge.screener import SCREEN_TOLERANCE
from sro_edge.screener import Screener as Runtime
from sro_edge.training.labels import is_multi_label

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def screener(screener_run: Path) -> Screener:
    return load_screener(open_run(screener_run, "screener"))


@pytest.fixture(scope="session")
def exact(screener: Screener) -> onnx.ModelProto:
    """The screener's graph in fp32."""
    return to_onnx(screener.graph)


@pytest.fixture(scope="session")
def written(
    screener: Screener, exact: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The screener's ONNX folder for every way to store the weights."""
    folders = {}
    for weights in WEIGHTS:
        folders[weights] = tmp_path_factory.mktemp("onnx") / "screener"
        write_screener(screener, exact, folders[weights], weights)
    return folders


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


@pytest.mark.parametrize("weights", WEIGHTS)
def test_onnx_gives_the_scores_of_torch(
    weights: str, screener: Screener, exact: onnx.ModelProto, written: dict[str, Path]
) -> None:
    file = written[weights] / "model.onnx"
    proven = prove_screener(screener, exact, file, weights, (*AWKWARD, *COMMENTS))
    found = values(proven.figures)
    assert found["screener.graph"] < 1e-5
    assert (found["screener.toxicity"] > 1e-5) == (weights != "fp32")
    assert found["screener.toxicity"] < 0.2  # random weights of a toy suffer more than trained ones
    assert found["screener.probes"] == len(AWKWARD) + len(COMMENTS)
    if weights == "fp32":
        assert (found["screener.flips"], proven.threshold) == (0, 0.99)
    stored = {t.data_type for t in onnx.load(file).graph.initializer if len(t.dims) == 2}
    kinds = onnx.TensorProto
    wanted = {"fp32": kinds.FLOAT, "fp16": kinds.FLOAT16, "small": kinds.INT8, "int8": kinds.INT8}
    assert wanted[weights] in stored
    assert (kinds.INT8 in stored) == (weights in ("small", "int8"))


def test_folder_has_the_layout_of_optimum(screener: Screener, written: dict[str, Path]) -> None:
    folder = written["int8"]
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    config = transformers.AutoConfig.from_pretrained(folder)
    assert (config.model_type, config.id2label) == ("bert", {0: "toxic", 1: "fluent"})
    ours = json.loads((folder / "config.json").read_text())
    assert ours["outputs"] == ["toxicity", "fluency", "embedding", "logits"]
    assert (ours["max_tokens"], ours["weights"]) == (100, "int8")
    assert "_name_or_path" not in ours
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).truncation is None
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer(SENTENCES[0])["input_ids"] == screener.tokenizer.encode(SENTENCES[0]).ids
    assert tokenizer.pad_token_id == screener.pad_token_id


def test_screener_is_read_without_this_package(written: dict[str, Path]) -> None:
    code = """
import sys
import numpy, onnxruntime, tokenizers
folder, text = sys.argv[1:]
ids = numpy.array([tokenizers.Tokenizer.from_file(folder + "/tokenizer.json").encode(text).ids])
session = onnxruntime.InferenceSession(folder + "/model.onnx")
feeds = {"input_ids": ids, "attention_mask": numpy.ones_like(ids)}
print(float(session.run(["toxicity"], feeds)[0][0]), "sro_edge" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(written["fp32"]), SENTENCES[1]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    toxicity, ours = done.stdout.split()
    assert ours == "False"
    expected = Runtime(written["fp32"], threads=1).score([SENTENCES[1]]).toxicity[0]
    assert float(toxicity) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_scores_do_not_depend_on_the_company(weights: str, written: dict[str, Path]) -> None:
    runtime = Runtime(written[weights], threads=1, device="cpu")
    together = runtime.score([*SENTENCES, " ".join(SENTENCES)]).toxicity[: len(SENTENCES)]
    alone = np.array([runtime.score([text]).toxicity[0] for text in SENTENCES])
    np.testing.assert_allclose(together, alone, atol=SCREEN_TOLERANCE)


def test_int8_kernels_never_saturate(exact: onnx.ModelProto) -> None:
    """What a CPU without VNNI adds in 16 bits is what one with VNNI adds in 32 bits."""
    full, reduced = (quantize(copied(exact), reduce_range=r) for r in (False, True))
    assert largest_pair(full) > INT16_LIMIT >= largest_pair(reduced)
    for model, same in ((full, False), (reduced, True)):
        worst = [np.array_equal(*without_and_with_vnni(w)) for w in int8_matrices(model)]
        assert all(worst) == same


def int8_matrices(model: onnx.ModelProto) -> list[np.ndarray]:
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    return [
        constants[node.input[1]] for node in model.graph.node if node.op_type == "MatMulInteger"
    ]


def without_and_with_vnni(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Products of the worst bytes with ``weights`` (K, N), as both kinds of CPU add them.

    ``vpmaddubsw`` adds neighbouring products in int16 and saturates; ``vpdpbusd`` does not.
    """
    worst = np.where(weights > 0, 255, 0)  # for each output, the bytes that add up to the most
    products = (worst * weights.astype(np.int64)).reshape(-1, 2, weights.shape[1])
    pairs = products.sum(1)
    return pairs.clip(-(2**15), 2**15 - 1).sum(0), pairs.sum(0)


def test_threshold_follows_scores_to_their_side() -> None:
    rng = np.random.default_rng(5)
    trained = rng.uniform(0, 1, 10_000).astype(np.float32)
    noise = rng.normal(0, 0.01, 10_000).astype(np.float32)
    assert pick_threshold(trained + noise, trained, 0.5) == pytest.approx(0.5, abs=0.002)
    assert pick_threshold(trained + noise - 0.1, trained, 0.5) == pytest.approx(0.4, abs=0.002)
    assert pick_threshold(trained, trained, 0.377) == 0.377
    assert pick_threshold(trained + 1, trained, 0.5) == 0.5  # no threshold is above 1


def test_optimum_cli_is_run_and_its_graph_completed(
    screener: Screener, exact: onnx.ModelProto, tmp_path: Path
) -> None:
    whole, logits = str(tmp_path / "whole.onnx"), str(tmp_path / "logits.onnx")
    onnx.save(exact, whole)  # optimum-cli writes less of it
    onnx.utils.extract_model(whole, logits, ["input_ids", "attention_mask"], ["logits"])
    cli = tmp_path / "optimum-cli"
    cli.write_text(f'#!/bin/sh\nmkdir -p "$7" && cp {logits} "$7/model.onnx"\n')
    cli.chmod(0o755)
    model = trace(screener, "optimum", str(cli))
    assert [o.name for o in model.graph.output] == screener.graph.outputs
    write_screener(screener, model, tmp_path / "screener", "fp32")
    file = tmp_path / "screener" / "model.onnx"
    require(prove_screener(screener, model, file, "fp32", COMMENTS).figures)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "cannot be found: install it into an environment of its own"),
        ("echo no such task >&2; exit 3", r"failed \(exit status 3\): no such task"),
        ("exit 0", r"failed \(exit status 0\): it said nothing"),
    ],
)
def test_optimum_cli_that_fails(
    script: str | None, message: str, screener: Screener, tmp_path: Path
) -> None:
    cli = tmp_path / "optimum-cli"
    if script is not None:
        cli.write_text(f"#!/bin/sh\n{script}\n")
        cli.chmod(0o755)
    with pytest.raises(ExportError, match=message):
        trace(screener, "optimum", str(cli))


def test_onnx_runtime_folds_int8_rows_into_fp32(written: dict[str, Path], tmp_path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    file = str(written["small"] / "model.onnx")
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


def test_normalisation_is_not_fused_with_the_addition(
    written: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's fused kernel is slow on a CPU, and it ignores names that it does not know."""
    import onnxruntime

    class Options(onnxruntime.SessionOptions):
        def __init__(self) -> None:
            super().__init__()
            self.optimized_model_filepath = str(tmp_path / "optimised.onnx")

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    load_session(written["fp32"] / "model.onnx", 1, "cpu")
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert "LayerNormalization" in kinds
    assert "SkipLayerNormalization" not in kinds


def test_graph_holds_no_paths_of_this_machine(written: dict[str, Path]) -> None:
    assert b".py" not in (written["small"] / "model.onnx").read_bytes()


def test_plain_classifier_is_a_softmax_over_its_labels(tmp_path: Path) -> None:
    make_classifier(id2label={0: "neutral", 1: "Hateful"}).save_pretrained(tmp_path)
    make_word_tokenizer().save_pretrained(tmp_path)
    screener = load_screener(open_run(tmp_path, "screener"))
    assert screener.graph.outputs == ["toxicity", "logits"]
    assert screener.thresholds.toxicity == 0.5
    ids = torch.tensor([[2, 7, 8, 3]])
    with torch.inference_mode():
        toxicity, _ = screener.graph(ids, torch.ones_like(ids))
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


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model = make_classifier(id2label={0: "ok", 1: "toxic"})
    model.classifier.weight.data[0, 0] = float("nan")
    model.save_pretrained(tmp_path)
    make_word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"classifier\.weight holds NaN or infinite numbers"):
        load_screener(open_run(tmp_path, "screener"))


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    make_classifier(id2label={0: "ok", 1: "toxic"}).save_pretrained(tmp_path)
    tokenizer = make_word_tokenizer()
    tokenizer.add_tokens([f"word{n}" for n in range(300)])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="the model only 300 embeddings: they do not belong"):
        load_screener(open_run(tmp_path, "screener"))


def test_rounding_keeps_within_half_a_step_and_is_idempotent() -> None:
    matrix = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)
    matrix[2] = 0
    steps, scale = to_int8(matrix, axis=1)
    assert scale.shape == (5, 1)
    assert np.abs(steps * scale - matrix).max() <= scale.max() / 2 * 1.001
    again, _ = to_int8(steps * scale, axis=1)
    np.testing.assert_array_equal(steps, again)


def test_what_a_stored_matrix_learned_since_is_not_rounded_away() -> None:
    rng = np.random.default_rng(0)
    steps, scale = to_int8(rng.normal(size=(64, 384)).astype(np.float32), axis=1)
    before = steps * scale
    learned = (rng.choice([-0.2, 0.2], size=before.shape) * scale).astype(np.float32)
    learned[np.arange(64), np.abs(before).argmax(axis=1)] = 0  # the largest give the steps
    steps, scale = to_int8(before + learned, axis=1)
    kept = float(((steps * scale - before) * learned).sum() / (learned * learned).sum())
    assert kept == pytest.approx(1, abs=0.1)
    again, _ = to_int8(steps * scale, axis=1)
    np.testing.assert_array_equal(steps, again)


def test_multi_label_is_read_from_the_config() -> None:
    assert is_multi_label(transformers.BertConfig(problem_type="multi_label_classification"))
    assert not is_multi_label(transformers.BertConfig(num_labels=2))
