"""What GGUF and ONNX files say of themselves, checked before a native parser reads them.

Hashes are a bundle's own: they show damage, not intent, and a hostile bundle with right hashes
still reaches llama.cpp and ONNX Runtime, which are written in C++. Checked here, in Python:

- GGUF: magic and version; that counts, lengths and nesting of the metadata stay within the file and
  within sane limits; that every tensor has at most four positive dimensions and lies in the file.
- ONNX: that the file is well-formed protobuf as far as its graphs, nodes and tensors go; that
  weights kept outside it lie in its own folder, in a plain file, under a plain relative name.

Not checked: the meaning of anything (shapes that do not fit, operators, a vocabulary that lies) and
the tokenizer file, which a Rust parser reads. Open bundles of people you trust.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from sro_edge.errors import BundleError

_AGAIN = "export or copy it again"

# --- GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_MOST_ENTRIES, _MOST_TENSORS = 10_000, 100_000
_LONGEST_NAME = 65_535
_MOST_DIMENSIONS = 4
# Tensor type -> (weights, bytes) of a block; of a newer type, only the start is checked.
_BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34)}
_BLOCKS |= {9: (32, 40), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176)}
_BLOCKS |= {14: (256, 210), 15: (256, 292), 20: (32, 18), 23: (256, 136), 24: (1, 1), 25: (1, 2)}
_BLOCKS |= {26: (1, 4), 27: (1, 8), 28: (1, 8), 30: (1, 2)}


def read_gguf(file: Path) -> dict[str, Any]:
    """The metadata of a GGUF file, which is well-formed up to its tensors.

    Returns:
        key -> number, bool, string, or list of these (an array of arrays is left out).

    Raises:
        BundleError: says what is wrong with the header.
    """
    with _mapped(file) as data:
        return _Gguf(file, data).read()


class _Gguf:
    """A reader over the bytes of one file."""

    def __init__(self, file: Path, data: mmap.mmap) -> None:
        self._file, self._data, self._at = file, data, 0

    def read(self) -> dict[str, Any]:
        if self._take(4) != b"GGUF":
            self._refuse("does not begin with GGUF")
        version = self._number("I")
        if version not in (2, 3):
            self._refuse(f"has GGUF version {version}, known are 2 and 3")
        tensors, entries = self._number("Q"), self._number("Q")
        if tensors > _MOST_TENSORS or entries > _MOST_ENTRIES:
            self._refuse(f"claims {tensors} tensors and {entries} metadata entries")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self._string(_LONGEST_NAME)
            if key in metadata:
                self._refuse(f"names {key!r} twice")
            metadata[key] = self._value(self._number("I"))
        self._check_tensors(tensors, metadata.get("general.alignment", 32))
        return metadata

    def _check_tensors(self, count: int, alignment: Any) -> None:
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
            self._refuse(f"has an alignment of {alignment!r}")
        ends = []
        for _ in range(count):
            name = self._string(_LONGEST_NAME)
            dimensions = [self._number("Q") for _ in range(self._dimensions(name))]
            kind, offset = self._number("I"), self._number("Q")
            weights = math.prod(dimensions)
            if weights == 0:
                self._refuse(f"has an empty tensor {name!r}")
            block, size = _BLOCKS.get(kind, (1, 0))
            if weights % block:
                self._refuse(f"has a tensor {name!r} of {weights} weights in blocks of {block}")
            ends.append((offset + weights // block * size, name))
        start = -(-self._at // alignment) * alignment
        end, name = max(ends, default=(-start, ""))
        if start + end > len(self._data):
            self._refuse(f"ends before its tensor {name!r} does ({start + end} bytes)")

    def _dimensions(self, name: str) -> int:
        count: int = self._number("I")
        if count > _MOST_DIMENSIONS:
            self._refuse(f"has a tensor {name!r} of {count} dimensions")
        return count

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._string(len(self._data))
        if kind != _ARRAY:
            self._refuse(f"holds a value of unknown type {kind}")
        inner, count = self._number("I"), self._number("Q")
        if inner in _SCALARS:
            width = struct.calcsize(f"<{_SCALARS[inner]}")
            return list(struct.unpack(f"<{count}{_SCALARS[inner]}", self._take(count * width)))
        if inner != _STRING or count * 8 > len(self._data) - self._at:
            self._refuse(f"holds an array of {count} values of type {inner}")
        return [self._string(len(self._data)) for _ in range(count)]

    def _number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self._take(struct.calcsize(f"<{code}")))[0]

    def _string(self, longest: int) -> str:
        length = self._number("Q")
        if length > longest:
            self._refuse(f"holds a name of {length} bytes")
        return self._take(length).decode("utf-8", "replace")

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            self._refuse("ends in the middle of its header")
        self._at += count
        return self._data[self._at - count : self._at]

    def _refuse(self, what: str) -> None:
        raise BundleError(f"{self._file} is no usable GGUF file: it {what}; {_AGAIN}")


# --- ONNX: message -> field -> message in it, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_MESSAGES = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "External"},
}
_DEEPEST = 100
_KEY, _VALUE = 1, 2  # of an External entry
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf wire types


def check_onnx(file: Path) -> list[str]:
    """Check an ONNX file and where its weights lie.

    Returns:
        names of the files beside it that hold weights, relative to its folder.

    Raises:
        BundleError: the file is damaged, or refers to a file outside its folder.
    """
    with _mapped(file) as data:
        try:
            names = sorted(set(_locations(data, 0, len(data), "Model", 0)))
        except (_MalformedError, UnicodeDecodeError) as error:
            raise BundleError(f"{file} is no usable ONNX file: {error}; {_AGAIN}") from error
    folder = file.parent.resolve()
    for name in names:
        parts = PurePosixPath(name)
        plain = name and "\\" not in name and "\0" not in name and parts.as_posix() == name
        if not plain or parts.is_absolute() or ".." in parts.parts:
            raise BundleError(f"{file} keeps weights in {name!r}, which is no file of its folder")
        outside = file.parent / name
        if not outside.is_file() or not outside.resolve().is_relative_to(folder):
            raise BundleError(
                f"{file} keeps weights in {name!r}, which is missing or leaves its folder"
            )
    return names


class _MalformedError(Exception):
    """Bytes that are no protobuf message."""


def _locations(data: mmap.mmap, at: int, end: int, message: str, depth: int) -> Iterator[str]:
    """Values of all ``location`` entries in the message between ``at`` and ``end``."""
    if depth > _DEEPEST:
        raise _MalformedError(f"its graphs are nested more than {_DEEPEST} deep")
    if message == "External":
        yield from _location(data, at, end)
        return
    inner = _MESSAGES[message]
    for field, start, stop in _fields(data, at, end):
        if field in inner and start is not None:
            yield from _locations(data, start, stop, inner[field], depth + 1)


def _location(data: mmap.mmap, at: int, end: int) -> Iterator[str]:
    entry = {f: data[start:stop] for f, start, stop in _fields(data, at, end) if start is not None}
    if entry.get(_KEY) == b"location":
        yield entry.get(_VALUE, b"").decode("utf-8")


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int | None, int]]:
    """(field, start, stop) of each field of a message; start is None unless it holds bytes."""
    while at < end:
        key, at = _varint(data, at, end)
        field, wire = key >> 3, key & 7
        start = None
        if wire == _VARINT:
            _, at = _varint(data, at, end)
        elif wire == _BYTES:
            length, start = _varint(data, at, end)
            at = start + length
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise _MalformedError(f"it has a field of wire type {wire}")
        if at > end or field == 0:
            raise _MalformedError("it ends in the middle of a field")
        yield field, start, at


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _MalformedError("it ends in the middle of a number")


def _mapped(file: Path) -> mmap.mmap:
    try:
        with file.open("rb") as handle:
            return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise BundleError(f"{file} cannot be read: {error}; {_AGAIN}") from error
