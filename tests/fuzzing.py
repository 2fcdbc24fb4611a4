"""What bundles are fuzzed with: a minimal bundle, mutations of its files, and what must hold."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from sro_edge.bundle import Bundle
from sro_edge.errors import BundleError, OutputError
from sro_edge.headers import check_onnx, read_gguf
from sro_edge.manifest import MANIFEST, write_manifest
from sro_edge.packed import cache_folder, open_packed, pack

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["../x", "/etc/passwd", "a\\b", "", ".", "0" * 64, "detoxifier.gguf", "\0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
# Numbers that count, measure or point, at their limits.
_NUMBERS = st.sampled_from([0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1])


def write_minimal(folder: Path) -> None:
    """Write a bundle with the smallest files that pass for models."""
    (folder / "screener").mkdir(parents=True)
    metadata = _text(b"general.name") + struct.pack("<I", 8) + _text(b"tiny")
    metadata += _text(b"tokens") + struct.pack("<IIQ", 9, 8, 2) + _text(b"a") + _text(b"bc")
    metadata += _text(b"numbers") + struct.pack("<IIQ3H", 9, 2, 3, 1, 2, 3)
    tensor = _text(b"weight") + struct.pack("<IQQIQ", 2, 4, 2, 0, 0)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 3) + metadata + tensor
    padded = header + bytes(-len(header) % 32)
    (folder / "detoxifier.gguf").write_bytes(padded + bytes(32))
    (folder / "screener" / "weights.bin").write_bytes(bytes(16))
    (folder / "screener" / "model.onnx").write_bytes(_onnx())
    (folder / "screener" / "tokenizer.json").write_text("{}")
    (folder / "screener" / "config.json").write_text('{"max_tokens": 32, "pad_token_id": 0}')
    fields: dict[str, Any] = {
        "name": "minimal",
        "version": "1",
        "license": "Apache-2.0",
        "prompt": {"prefix": "<s>", "suffix": "<r>", "lowercase": True, "lead": " "},
        "thresholds": {"toxicity": 0.5, "similarity": 0.6, "fluency_drop": 0.2},
        "sampling": {"samples": 8, "temperature": 0.9, "top_p": 0.95, "max_new_tokens": 128},
        "training": {},
        "scores": {},
    }
    write_manifest(folder, fields)


def _onnx() -> bytes:
    import onnx

    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=1)
    tensor.external_data.add(key="location", value="weights.bin")
    node = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
    data: bytes = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [], [])
    ).SerializeToString()
    return data


def _text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


@st.composite
def mutated_json(draw: st.DrawFn, data: bytes) -> bytes:
    """A JSON document with one to three of its values replaced, added or left out."""
    document = json.loads(data)
    for _ in range(draw(st.integers(1, 3))):
        place = document
        while isinstance(place, dict) and place:
            key = draw(st.sampled_from(sorted(place)))
            if isinstance(place[key], dict) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            kind = draw(st.sampled_from(["replace", "add", "remove", "rename"]))
            if kind == "replace":
                place[key] = draw(_JSON)
            elif kind == "add":
                place[draw(st.text(max_size=12) | st.just("../x"))] = draw(_JSON)
            else:
                value = place.pop(key)
                if kind == "rename":
                    place[draw(st.text(max_size=12) | st.just("a/../../b"))] = value
            break
    return json.dumps(document).encode("utf-8", "surrogatepass")


@st.composite
def mutated_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with a few of them flipped, cut, doubled, or overwritten by a number at its limit."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        length = draw(st.integers(1, 64))
        kind = draw(st.sampled_from(["flip", "number", "cut", "double", "end", "insert"]))
        if kind == "flip" and found:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            width = draw(st.sampled_from([1, 2, 4, 8]))
            number = draw(_NUMBERS) & (1 << 8 * width) - 1
            found[at : at + width] = number.to_bytes(width, "little")
        elif kind == "cut":
            del found[at : at + length]
        elif kind == "double":
            found[at:at] = found[at : at + length]
        elif kind == "insert":
            found[at:at] = draw(st.binary(max_size=32))
        else:
            del found[at:]
    return bytes(found)


def check_refused_or_whole(load: Callable[[], Bundle]) -> bool:
    """Whether a bundle was opened; what it then holds is what it lists, within its folder.

    Any error but a sentence for the user is a finding, and passes through.
    """
    try:
        bundle = load()
    except (BundleError, OutputError):
        return False
    bundle.verify()
    for name in bundle.files:
        assert (bundle.path / name).resolve().is_relative_to(bundle.path.resolve())
    return True


class Fuzzer:
    """A minimal bundle in ``root``, whose parts are put in the place of mutated ones.

    The user's cache must lie in ``root`` as well.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.folder, self.file = root, root / "bundle", root / "x.sroedge"
        write_minimal(self.folder)
        pack(self.folder, self.file)
        self.manifest = (self.folder / MANIFEST).read_bytes()
        self.archive = self.file.read_bytes()
        self.gguf = (self.folder / "detoxifier.gguf").read_bytes()
        self.onnx = (self.folder / "screener" / "model.onnx").read_bytes()
        self.opened = {"manifest": 0, "archive": 0, "gguf": 0, "onnx": 0}
        self.refused = dict(self.opened)

    def try_manifest(self, data: bytes) -> None:
        """Open the bundle with another ``bundle.json``."""
        (self.folder / MANIFEST).write_bytes(data)
        self._count("manifest", check_refused_or_whole(lambda: Bundle.load(self.folder)))
        (self.folder / MANIFEST).write_bytes(self.manifest)

    def try_archive(self, data: bytes) -> None:
        """Open another packed file, in an empty cache; nothing may appear outside of that."""
        self.file.write_bytes(data)
        shutil.rmtree(cache_folder(), ignore_errors=True)
        self._count("archive", check_refused_or_whole(lambda: Bundle.load(open_packed(self.file))))
        found = {entry.name for entry in os.scandir(self.root)}
        assert found <= {"bundle", "x.sroedge", "x.gguf", "x.onnx", "weights.bin", "cache"}, found

    def try_gguf(self, data: bytes) -> None:
        """Read another GGUF header."""
        self._try_header("gguf", data, read_gguf)

    def try_onnx(self, data: bytes) -> None:
        """Walk another ONNX file; every file it names lies beside it."""
        (self.root / "weights.bin").write_bytes(bytes(16))
        self._try_header("onnx", data, check_onnx)

    def _try_header(self, kind: str, data: bytes, read: Callable[[Path], object]) -> None:
        file = self.root / f"x.{kind}"
        file.write_bytes(data)
        try:
            read(file)
        except BundleError:
            self._count(kind, False)
        else:
            self._count(kind, True)

    def _count(self, kind: str, opened: bool) -> None:
        (self.opened if opened else self.refused)[kind] += 1
