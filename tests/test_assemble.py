"""Bundles of models from elsewhere: assembled, tried, and then as good as any other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import onnx.utils
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from sro_edge.bundle import Bundle, Thresholds
from sro_edge.cli import main
from sro_edge.errors import BundleError, ModelError
from sro_edge.export.assemble import BuildConfig, build_bundle, screener_config, template_of
from sro_edge.prompt import INSTRUCTION, SMALL_TEMPLATE

CHATML = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SETTINGS = BuildConfig(Thresholds(0.5), prompt=SMALL_TEMPLATE)


def run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    (tmp_path / "prompt.json").write_text(json.dumps(SMALL_TEMPLATE.to_dict()))
    return tmp_path / "prompt.json"


@pytest.fixture
def foreign(tmp_path: Path, tiny_screener_folder: Path) -> Path:
    """A classifier as optimum-cli leaves it: logits of labels without a meaning."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    shutil.copy(tiny_screener_folder / "tokenizer.json", folder)
    file, names = str(folder / "model.onnx"), ["input_ids", "attention_mask"]
    onnx.utils.extract_model(str(tiny_screener_folder / "model.onnx"), file, names, ["loudest"])
    model = onnx.load(file)
    node = onnx.helper.make_node
    model.graph.initializer.append(onnx.helper.make_tensor("column", 7, [1], [1]))
    model.graph.node.extend(
        [
            node("Unsqueeze", ["loudest", "column"], ["toxic"]),
            node("Neg", ["toxic"], ["clean"]),
            node("Concat", ["clean", "toxic"], ["logits"], axis=1),
        ]
    )
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("logits", 1, ["batch", 2]))
    onnx.save(model, file)
    config = {
        "model_type": "bert",
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 32}')
    (folder / "pytorch_model.bin").write_bytes(b"a pickle, which no bundle gets")
    return folder


def test_rewrite_works_with_an_assembled_bundle(
    foreign: Path, tiny_gguf: Path, prompt: Path, tmp_path: Path
) -> None:
    lexicon, out = tmp_path / "words.json", tmp_path / "made"
    lexicon.write_text('{"idiot": 3.5}')
    (tmp_path / "mild.tsv").write_text("idiot\tperson\n")
    words = ["--gguf", tiny_gguf, "--screener", foreign, "--prompt", prompt, "-o", out]
    words += ["--toxic-label", "label_1", "--toxicity", 0.4, "--lexicon", lexicon]
    words += ["--mild", tmp_path / "mild.tsv"]
    assert run("bundle", "build", *words, "--license", "MIT").stdout == f"{out}\n"
    bundle = Bundle.load(out)
    assert (bundle.name, bundle.license, bundle.prompt) == ("made", "MIT", SMALL_TEMPLATE)
    assert bundle.thresholds.toxicity == 0.4
    assert bundle.lexicon() == {"idiot": 3.5}
    assert bundle.mild_words() == {("idiot",): [("person",)]}
    assert sorted(bundle.files) == [
        "README.md", "detoxifier.gguf", "lexicon.json", "mild_words.tsv",
        "screener/config.json", "screener/model.onnx", "screener/tokenizer.json",
        "screener/tokenizer_config.json",
    ]  # fmt: skip
    card = (out / "README.md").read_text()
    assert "license: mit" in card
    assert "not proven" in card
    assert "`mild_words.tsv` says" in card
    pq.write_table(pa.table({"text": ["you idiot", "good"]}), tmp_path / "in.parquet")
    run("rewrite", tmp_path / "in.parquet", "--bundle", out, "--threads", 1, "--device", "cpu")
    table = pq.read_table(tmp_path / "in.detox.parquet")
    assert table["detox_toxicity_before"].to_pylist() == pytest.approx([0.9975, 0.0025], abs=1e-3)
    assert table["detox_status"].to_pylist()[1] == "clean"


def test_building_needs_no_torch(tiny_gguf: Path, tiny_screener_folder: Path, prompt: Path) -> None:
    code = """
import sys
from sro_edge.cli import main
main(sys.argv[1:], standalone_mode=False)
assert not {"torch", "transformers", "gguf", "onnx"} & set(sys.modules)
"""
    words = ["bundle", "build", "--gguf", tiny_gguf, "--screener", tiny_screener_folder]
    words += ["-o", prompt.parent / "made", "--prompt", prompt]
    subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True, timeout=60)
    assert Bundle.load(prompt.parent / "made").license == "unknown"


def test_the_chat_template_of_the_gguf_is_the_prompt(tmp_path: Path) -> None:
    metadata: dict[str, Any] = {"tokenizer.chat_template": "{{ bos_token }}" + CHATML}
    metadata |= {"tokenizer.ggml.tokens": ["<s>"], "tokenizer.ggml.bos_token_id": 0}
    template = template_of(metadata, tmp_path)
    assert template.prefix == f"<s><|im_start|>user\n{INSTRUCTION}"
    assert template.suffix == "<|im_end|>\n<|im_start|>assistant\n"
    assert (template.lowercase, template.lead) == (False, "")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "has no chat template, so there is no way to ask it for a rewrite; say with"),
        ("{{ raise_exception('only tools') }}", "cannot be used: only tools"),
        ("{% if %}", "cannot be used"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "cannot be used: access to attribute"),
        ("{{ messages.append(1) }}", "cannot be used: access to attribute 'append'"),
        ("hello", "leaves the user's text out"),
        ("{{ messages[0].content }}", "puts nothing behind it"),
    ],
)
def test_chat_templates_that_cannot_be_used(
    source: str | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        template_of({"tokenizer.chat_template": source}, tmp_path)


def test_what_the_screener_does_not_say_is_worked_out(foreign: Path) -> None:
    assert screener_config(foreign, SETTINGS)["max_tokens"] == 32
    (foreign / "tokenizer_config.json").write_text('{"model_max_length": 1e30}')
    assert screener_config(foreign, SETTINGS)["max_tokens"] == 64
    config = json.loads((foreign / "config.json").read_text())
    config |= {"model_type": "roberta", "pad_token_id": 1}
    (foreign / "config.json").write_text(json.dumps(config))
    assert screener_config(foreign, SETTINGS)["max_tokens"] == 62
    other = BuildConfig(Thresholds(0.5), toxic_label="rude")
    with pytest.raises(ModelError, match="no label 'rude'; it has LABEL_0, LABEL_1"):
        screener_config(foreign, other)
    (foreign / "config.json").write_text("{}")
    with pytest.raises(BundleError, match="must have a pad_token_id"):
        screener_config(foreign, SETTINGS)


def test_a_bundle_that_cannot_be_used_does_not_appear(
    foreign: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelError, match="LABEL_0, LABEL_1"):  # none is known to mean toxic
        build_bundle(tiny_gguf, foreign, tmp_path / "out", SETTINGS)
    (foreign / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"screener/tokenizer\.json missing"):
        build_bundle(tiny_gguf, foreign, tmp_path / "out", SETTINGS)
    with pytest.raises(BundleError, match="no usable GGUF file"):
        build_bundle(foreign / "config.json", foreign, tmp_path / "out", SETTINGS)
    assert sorted(tmp_path.iterdir()) == before
