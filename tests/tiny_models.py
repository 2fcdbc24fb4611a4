"""Tiny models in the real file formats: a llama GGUF, a screener in ONNX, and a bundle of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

CONTROL_TOKENS = ("<s>", "</s>", "<pad>", "<|rewrite|>")
TOXIC_WORDS = ("idiot", "stupid", "moron")
# fmt: off
PLAIN_WORDS = (
    "you", "are", "an", "is", "this", "the", "a", "and", "not", "my", "friend", "very",
    "good", "bad", "idea", "really", "thanks", "what", "with", "all", "it", "i", "think",
    "your", "point", "wrong", "silly", "people", ".", "!", "?", ",",
)
# fmt: on


def write_bundle(folder: Path, *, first_stage: bool = False) -> None:
    """Write a bundle of the two models, and of a first stage where wanted."""
    from sro_edge.bundle import Sampling, Thresholds
    from sro_edge.manifest import write_manifest
    from sro_edge.prompt import SMALL_TEMPLATE

    folder.mkdir()
    write_screener(folder / "screener")
    if first_stage:
        write_first_stage(folder / "screener")
    write_gguf(folder / "detoxifier.gguf")
    write_manifest(
        folder,
        {
            "name": "tiny",
            "version": "1.2",
            "license": "Apache-2.0",
            "prompt": SMALL_TEMPLATE.to_dict(),
            "thresholds": vars(Thresholds(0.25)),
            "sampling": vars(Sampling()),
            "training": {"method": "warm start", "data": {"toxic": 12}},
            "scores": {"STA": 0.875},
        },
    )


def write_gguf(path: Path) -> None:
    """Write a llama of two layers with random weights and a byte-level BPE of about 300 tokens."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    tokens = _add_vocabulary(writer, gguf.TokenType)
    width, inner, layers, heads = 64, 96, 2, 4
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(tokens)
    rng = np.random.default_rng(7)
    shapes = {"token_embd": (tokens, width), "output": (tokens, width)}
    for layer in range(layers):
        shapes |= {f"blk.{layer}.attn_{name}": (width, width) for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{layer}.ffn_{name}": (inner, width) for name in ("gate", "up")}
        shapes[f"blk.{layer}.ffn_down"] = (width, inner)
    for name, shape in shapes.items():
        # Wide enough that tokens follow the text instead of one token winning everywhere.
        weights = rng.normal(0, 2.5 / shape[1] ** 0.5, shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", weights)
    norms = [f"blk.{n}.{kind}_norm" for n in range(layers) for kind in ("attn", "ffn")]
    for name in [*norms, "output_norm"]:
        writer.add_tensor(f"{name}.weight", np.ones(width, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: Any, token_type: Any) -> int:
    """Byte-level BPE: control tokens, every byte, a few merges. Returns the number of tokens."""
    from tokenizers.pre_tokenizers import ByteLevel

    merges = [("Ġ", letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
    merges += [("t", "h"), ("th", "e"), ("a", "n"), ("o", "u"), ("i", "s"), ("Ġy", "ou")]
    merged = [left + right for left, right in merges]
    tokens = [*CONTROL_TOKENS, *sorted(ByteLevel.alphabet()), *merged]
    kinds = [token_type.CONTROL] * len(CONTROL_TOKENS)
    kinds += [token_type.NORMAL] * (len(tokens) - len(kinds))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    return len(tokens)


def write_screener(folder: Path) -> None:
    """Write a screener: toxicity .95 where a text holds one of ``TOXIC_WORDS``, else .05."""
    import onnx

    folder.mkdir()
    words = write_word_tokenizer(folder / "tokenizer.json")
    rng = np.random.default_rng(11)
    table = rng.normal(size=(len(words), 8)).astype(np.float32)
    alarm = np.full((len(words), 1), -3, dtype=np.float32)
    alarm[[words.index(word) for word in TOXIC_WORDS]] = 3
    node = onnx.helper.make_node
    nodes = [
        node("Cast", ["attention_mask"], ["mask2"], to=onnx.TensorProto.FLOAT),
        node("Unsqueeze", ["mask2", "last"], ["mask"]),  # (B, T, 1)
        node("Gather", ["alarm_table", "input_ids"], ["alarms"]),  # (B, T, 1)
        node("Sub", ["mask", "one"], ["absent"]),
        node("Mul", ["absent", "hundred"], ["padding"]),
        node("Add", ["alarms", "padding"], ["masked_alarms"]),
        node("ReduceMax", ["masked_alarms", "rows"], ["loudest"], keepdims=0),
        node("Sigmoid", ["loudest"], ["toxicity"]),
        node("Gather", ["table", "input_ids"], ["vectors"]),  # (B, T, 8)
        node("Mul", ["vectors", "mask"], ["kept"]),
        node("ReduceSum", ["kept", "middle"], ["total"], keepdims=0),  # (B, 8)
        node("ReduceSum", ["mask", "middle"], ["count"], keepdims=0),  # (B, 1)
        node("Div", ["total", "count"], ["mean"]),
        node("ReduceL2", ["mean", "last1"], ["norm"], keepdims=1),
        node("Div", ["mean", "norm"], ["embedding"]),
        node("ReduceMean", ["mean", "last1"], ["level"], keepdims=0),
        node("Sigmoid", ["level"], ["fluency"]),
    ]
    constants = {
        "alarm_table": alarm,
        "table": table,
        "one": np.float32(1),
        "hundred": np.float32(100),
        "last": np.array([2]),
        "last1": np.array([1]),
        "middle": np.array([1]),
        "rows": np.array([1, 2]),
    }
    outputs = {"toxicity": ["batch"], "fluency": ["batch"], "embedding": ["batch", 8]}
    write_graph(folder / "model.onnx", nodes, constants, outputs)
    config = {"max_tokens": 32, "outputs": list(outputs), "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


def write_first_stage(folder: Path, *, at: float = 0.25) -> None:
    """Put a first stage beside a screener: it clears what has none of the words "idiot" or "bad".

    "bad" is what it does not trust and the screener passes, "stupid" what it misses.
    """
    import onnx

    from sro_edge.manifest import sha256

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *TOXIC_WORDS, *PLAIN_WORDS]
    table = np.full((len(words), 1), 0.125, dtype=np.float32)
    table[[words.index("idiot"), words.index("bad")]] = 0.875
    node = onnx.helper.make_node
    nodes = [
        node("Gather", ["table", "input_ids"], ["alarms"]),  # (B, T, 1)
        node("Cast", ["attention_mask"], ["mask2"], to=onnx.TensorProto.FLOAT),
        node("Unsqueeze", ["mask2", "last"], ["mask"]),
        node("Mul", ["alarms", "mask"], ["kept"]),
        node("ReduceMax", ["kept", "rows"], ["alarm"], keepdims=0),
    ]
    constants = {"table": table, "last": np.array([2]), "rows": np.array([1, 2])}
    write_graph(folder / "first_stage.onnx", nodes, constants, {"alarm": ["batch"]})
    point = {"toxicity": at, "alarm": 0.5, "toxic": 9, "missed": 0, "cleared": 0.5, "upper": 0.3}
    notes = {"screener": sha256(folder / "model.onnx"), "points": [point]}
    (folder / "first_stage.json").write_text(json.dumps(notes), "utf-8")


def write_word_tokenizer(file: Path) -> list[str]:
    """Write a lower-casing whole-word tokenizer that adds [CLS] and [SEP]; return its words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *TOXIC_WORDS, *PLAIN_WORDS]
    ids = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(words[:4])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(file))
    return words


def write_graph(
    file: Path,
    nodes: list[Any],
    constants: dict[str, Any],
    outputs: dict[str, list[str | int]],
    inputs: tuple[str, ...] = ("input_ids", "attention_mask"),
) -> None:
    """Write an ONNX graph over ``inputs`` (int64, batch x time) with float ``outputs``."""
    import onnx

    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "tiny",
        [info(name, onnx.TensorProto.INT64, ["batch", "time"]) for name in inputs],
        [info(name, onnx.TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9
    )
    onnx.checker.check_model(model)
    onnx.save(model, file)
