"""Bundles are input too: the damaged, the hostile and the unknown are refused in a sentence."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from sro_edge.bundle import Bundle, default_path
from sro_edge.errors import BundleError, OutputError
from sro_edge.headers import check_onnx, read_gguf
from sro_edge.manifest import MANIFEST, SCHEMA_VERSION, parse_manifest, read_manifest, sha256

GGUF, ONNX = "detoxifier.gguf", "screener/model.onnx"


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def vouch(folder: Path, name: str) -> None:
    """Give ``name`` the right hash and size: a hostile bundle has them too."""
    file = folder / name
    record = {"sha256": sha256(file), "bytes": file.stat().st_size}
    edit(folder, lambda m: m["files"].update({name: record}))


def test_the_embedded_bundle_is_of_the_present_schema() -> None:
    manifest = json.loads((default_path() / MANIFEST).read_text())
    assert manifest["schema_version"] == SCHEMA_VERSION
    assert Bundle.load().path == default_path()


def test_a_bundle_of_schema_version_1_is_upgraded(bundle: Path) -> None:
    digest = Bundle.load(bundle).digest

    def downgrade(manifest: dict[str, Any]) -> None:
        manifest["schema_version"] = 1
        manifest["files"] = {name: r["sha256"] for name, r in manifest["files"].items()}

    before = read_manifest(bundle)
    edit(bundle, downgrade)
    assert read_manifest(bundle) == before
    assert Bundle.load(bundle).digest == digest


def test_a_copy_has_other_thresholds(bundle: Path, tmp_path: Path) -> None:
    before = Bundle.load(bundle)
    thresholds = dataclasses.replace(before.thresholds, toxicity=0.125)
    after = before.copy(tmp_path / "copy", thresholds=thresholds, scores={"calibration": {"n": 9}})
    assert (after.thresholds, after.files) == (thresholds, before.files)
    assert after.scores == {**before.scores, "calibration": {"n": 9}}
    assert after.digest != before.digest
    with pytest.raises(OutputError, match="exists: choose another folder"):
        before.copy(tmp_path / "copy")


@pytest.mark.parametrize("version", [None, 0, 3, "2", True, 1.0, 10**30])
def test_other_schema_versions_are_refused(version: Any, bundle: Path) -> None:
    edit(bundle, lambda m: m.update(schema_version=version))
    with pytest.raises(BundleError, match="this release reads 1 to 2; export the bundle again or"):
        Bundle.load(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["files"].update({"../x": m["files"][GGUF]}), "'../x' leaves the bundle"),
        (lambda m: m["files"].update({"/etc/x": m["files"][GGUF]}), "'/etc/x' leaves the bundle"),
        (lambda m: m["files"].update({"a\\b": m["files"][GGUF]}), "leaves the bundle or is unus"),
        (lambda m: m["files"].update({"C:x": m["files"][GGUF]}), "'C:x' leaves the bundle"),
        (lambda m: m["files"].update({"a//b": m["files"][GGUF]}), "'a//b' leaves the bundle"),
        (lambda m: m["files"].update({MANIFEST: m["files"][GGUF]}), "leaves the bundle"),
        (lambda m: m["files"].update({"x" * 999: m["files"][GGUF]}), "leaves the bundle or is un"),
        (lambda m: m["files"].update({"DETOXIFIER.gguf": m["files"][GGUF]}), "would be one file"),
        (lambda m: m["files"].update({f"{GGUF}/x": m["files"][GGUF]}), "would be one file"),
        (lambda m: m["files"].pop(GGUF), "does not list detoxifier.gguf"),
        (lambda m: m["files"][GGUF].update(bytes=10**15), f"{GGUF} cannot have 1000000000000000"),
        (lambda m: m["files"][GGUF].update(bytes=-1), f"{GGUF} cannot have -1 bytes"),
        (lambda m: m["files"][GGUF].update(bytes=True), f"{GGUF} cannot have True bytes"),
        (lambda m: m["files"][GGUF].update(sha256="0"), "is not 64 hexadecimal digits"),
        (lambda m: m["files"][GGUF].update(x=1), "must have a 'sha256' and 'bytes', and nothing"),
        (lambda m: m.update(files=[]), "'files' must map at most 1000 file names"),
        (lambda m: m.update(files={str(n): 0 for n in range(1001)}), "must map at most 1000 file"),
        (lambda m: m.update(name=3), "'name' must be a string"),
        (lambda m: m["thresholds"].update(toxicity=True), "'thresholds' is not usable"),
        (lambda m: m["thresholds"].update(toxicity=2), "'thresholds' is not usable"),
        (lambda m: m["sampling"].update(max_new_tokens=10**9), "'sampling' is not usable"),
        (lambda m: m["sampling"].update(samples=2.5), "samples must be a whole number, not 2.5"),
        (lambda m: m["prompt"].update(prefix=5), "'prompt' must have the strings prefix"),
        (lambda m: m["prompt"].update(prefix="x" * 100_001), "of at most 100,000 characters"),
        (lambda m: m["prompt"].update(suffix=""), "needs a suffix"),
        (lambda m: m.update(training=[1]), "'training' must be a JSON object"),
    ],
)
def test_manifests_that_cannot_be_are_refused(
    change: Callable[[dict[str, Any]], object], message: str, bundle: Path
) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match=message):
        Bundle.load(bundle)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 100_000, "is not usable JSON"),
        (b'{"schema_version": NaN}', "NaN is no JSON number"),
        (b'{"a": 1, "a": 2}', "a name stands twice"),
        (b"\xff\xfe{}", "is not usable JSON"),
        (b"1" * 5000, "is not usable JSON"),
        (b" " * (5 << 20), "it has over 4 MB"),
        (b"[]", "schema version None"),
    ],
)
def test_data_that_is_no_manifest_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        parse_manifest(data, "x", lambda name: 0)


def test_files_that_are_not_as_listed_are_refused(bundle: Path, tmp_path: Path) -> None:
    file, copy = bundle / GGUF, tmp_path / "copy.gguf"
    shutil.copy(file, copy)
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match=f"{GGUF} has changed since the bundle was written"):
        Bundle.load(bundle)
    file.write_bytes(data[:-1])
    with pytest.raises(BundleError, match=f"{GGUF} has .* bytes, .* were written; it was cut off"):
        Bundle.load(bundle)
    file.unlink()
    with pytest.raises(BundleError, match=f"{GGUF} is listed in bundle.json but cannot be read"):
        Bundle.load(bundle)
    file.symlink_to(copy)
    with pytest.raises(BundleError, match=f"{GGUF} is a link that leaves the bundle"):
        Bundle.load(bundle)
    file.unlink()
    os.mkfifo(file)  # opening it would wait for ever
    with pytest.raises(BundleError, match=f"{GGUF} is no plain file"):
        Bundle.load(bundle)
    file.unlink()
    copy.rename(file)
    Bundle.load(bundle)
    (bundle / "screener").rename(tmp_path / "elsewhere")
    (bundle / "screener").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="is a link that leaves the bundle"):
        Bundle.load(bundle)


@pytest.mark.parametrize(
    ("lexicon", "message"),
    [('{"a": "b"}', "must map words"), ("[" * 10**5, "be read"), ('{"a": NaN}', "must map")],
)
def test_a_lexicon_is_words_and_numbers(lexicon: str, message: str, bundle: Path) -> None:
    (bundle / "lexicon.json").write_text(lexicon)
    vouch(bundle, "lexicon.json")
    with pytest.raises(BundleError, match=message):
        Bundle.load(bundle).lexicon()


def test_a_table_of_milder_words_is_read_or_refused(bundle: Path) -> None:
    assert Bundle.load(bundle).mild_words() == {}
    for text, found in [("idiot\tperson|-\n", {("idiot",): [("person",), ()]}), ("idiot\n", None)]:
        (bundle / "mild_words.tsv").write_text(text)
        vouch(bundle, "mild_words.tsv")
        if found:
            assert Bundle.load(bundle).mild_words() == found
        else:
            with pytest.raises(BundleError, match="must be a toxic phrase, a tab"):
                Bundle.load(bundle).mild_words()


# What hashes cannot show: the headers of the two models.


def test_gguf_metadata_is_read(bundle: Path) -> None:
    metadata = read_gguf(bundle / GGUF)
    assert metadata["general.architecture"] == "llama"
    assert metadata["tokenizer.ggml.tokens"][:2] == ["<s>", "</s>"]
    assert metadata["llama.block_count"] == 2


def header(version: int = 3, tensors: int = 0, entries: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + rest


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read"),
        (b"GG", "ends in the middle of its header"),
        (b"PK\x03\x04" + bytes(40), "does not begin with GGUF"),
        (header(version=1), "GGUF version 1"),
        (header(tensors=2**63), "claims 9223372036854775808 tensors"),
        (header(entries=2**40), "and 1099511627776 metadata entries"),
        (header(entries=1, rest=struct.pack("<Q", 2**60)), "a name of 1152921504606846976 bytes"),
        (header(entries=1, rest=text(b"a")), "ends in the middle"),
        (header(entries=1, rest=text(b"a") + struct.pack("<I", 13)), "unknown type 13"),
        (
            header(entries=1, rest=text(b"a") + struct.pack("<IIQ", 9, 8, 2**50)),
            "an array of 1125899906842624 values",
        ),
        (
            header(entries=1, rest=text(b"a") + struct.pack("<IIQ", 9, 9, 1)),
            "an array of 1 values of type 9",
        ),
        (
            header(entries=1, rest=text(b"a") + struct.pack("<IIQ", 9, 4, 2**61)),
            "ends in the middle",
        ),
        (
            header(entries=2, rest=2 * (text(b"a") + struct.pack("<II", 4, 1))),
            "names 'a' twice",
        ),
        (header(tensors=1, rest=text(b"t") + struct.pack("<I", 2**31)), "2147483648 dimensions"),
        (header(tensors=1, rest=text(b"t") + struct.pack("<IQIQ", 1, 0, 0, 0)), "empty tensor 't'"),
        (
            header(tensors=1, rest=text(b"t") + struct.pack("<IQQIQ", 2, 2**62, 2**62, 0, 0)),
            "ends before its tensor 't' does",
        ),
        (
            header(tensors=1, rest=text(b"t") + struct.pack("<IQIQ", 1, 33, 2, 0)),
            "33 weights in blocks of 32",
        ),
    ],
)
def test_gguf_headers_that_cannot_be_are_refused(data: bytes, message: str, bundle: Path) -> None:
    (bundle / GGUF).write_bytes(data)
    vouch(bundle, GGUF)
    with pytest.raises(BundleError, match=message):
        Bundle.load(bundle)


def test_llama_cpp_never_sees_a_header_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sro_edge import llama

    def load(*_: object) -> None:
        raise AssertionError("llama.cpp was asked")

    monkeypatch.setattr(llama.library(), "llama_model_load_from_file", load)
    file = tmp_path / "x.gguf"
    file.write_bytes(header(tensors=2**40))
    with pytest.raises(BundleError, match="is no usable GGUF file"):
        llama.Model(file, device="cpu")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../outside.bin", "is no file of its folder"),
        ("/etc/passwd", "is no file of its folder"),
        ("a\\b", "is no file of its folder"),
        ("", "is no file of its folder"),
        ("absent.bin", "is missing or leaves its folder"),
        ("link.bin", "is missing or leaves its folder"),
        ("unlisted.bin", "bundle.json does not list"),
    ],
)
@pytest.mark.parametrize("place", ["initializer", "attribute", "subgraph", "function"])
def test_weights_outside_the_bundle_are_refused(
    location: str, message: str, place: str, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside.bin").write_bytes(bytes(64))
    (bundle / "screener" / "link.bin").symlink_to(tmp_path / "outside.bin")
    (bundle / "screener" / "unlisted.bin").write_bytes(bytes(64))
    write_external(bundle / ONNX, location, place)
    vouch(bundle, ONNX)
    with pytest.raises(BundleError, match=message):
        Bundle.load(bundle)


def write_external(file: Path, location: str, place: str) -> None:
    """Let the graph in ``file`` name weights in another file, somewhere in its structure."""
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[16], data_location=1)
    tensor.external_data.add(key="location", value=location)
    model = onnx.load(file)
    if place == "initializer":
        model.graph.initializer.append(tensor)
    constant = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
    if place == "attribute":
        model.graph.node.append(constant)
    if place == "subgraph":
        inner = onnx.helper.make_graph([constant], "inner", [], [])
        model.graph.node.append(onnx.helper.make_node("If", ["w"], ["v"], then_branch=inner))
    if place == "function":
        model.functions.append(onnx.FunctionProto(name="f", domain="d", node=[constant]))
    file.write_bytes(model.SerializeToString())


def test_weights_beside_the_graph_are_taken(bundle: Path) -> None:
    file = bundle / ONNX
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert check_onnx(file) == ["w.bin"]
    vouch(bundle, ONNX)
    vouch(bundle, "screener/w.bin")
    Bundle.load(bundle)


def test_damaged_onnx_is_refused(bundle: Path) -> None:
    data = (bundle / ONNX).read_bytes()
    for damaged in (data[: len(data) // 2], b"\x0f" + data, b"", b"\xff" * 100):
        (bundle / ONNX).write_bytes(damaged)
        with pytest.raises(BundleError, match=r"is no usable ONNX file|cannot be read"):
            check_onnx(bundle / ONNX)


def test_screener_config_with_absurd_sizes_is_refused(bundle: Path) -> None:
    from sro_edge.screener import Screener

    for sizes in ({"max_tokens": 10**18}, {"pad_token_id": 2**63}, {"max_tokens": True}):
        file = bundle / "screener" / "config.json"
        file.write_text(json.dumps({"max_tokens": 32, "pad_token_id": 0, **sizes}))
        with pytest.raises(BundleError, match="max_tokens must be 8 to 1,000,000"):
            Screener(file.parent, threads=1)
