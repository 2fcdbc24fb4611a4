"""``bundle.json``: what a bundle says of itself, read with distrust.

Every size and name in it is checked before anything is opened by it. Files of older schema versions
are brought up to the present one when read; newer ones are refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from sro_edge.errors import BundleError

SCHEMA_VERSION = 2
MANIFEST = "bundle.json"
DETOXIFIER = "detoxifier.gguf"
SCREENER = "screener/model.onnx"
FIRST_STAGE = "screener/first_stage.onnx"
ABSTAIN = "screener/abstain.onnx"
LEXICON = "lexicon.json"
MILD = "mild_words.tsv"
LARGEST_MANIFEST = 4 << 20  # bytes
REQUIRED = (DETOXIFIER, SCREENER, "screener/tokenizer.json", "screener/config.json")
_MOST_FILES, _LARGEST_FILE, _LONGEST_NAME = 1000, 1 << 40, 200
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NOT_LISTED = {MANIFEST, "__init__.py"}  # the embedded bundle is a Python package as well


@dataclass(frozen=True)
class FileRecord:
    """What ``bundle.json`` says of one file: its hash and its size in bytes."""

    sha256: str
    bytes: int


def read_manifest(folder: Path) -> dict[str, Any]:
    """``bundle.json`` of ``folder``, of the present schema version.

    Raises:
        BundleError: no such folder or file, not JSON, of an unknown schema version, or with file
            names, hashes or sizes that cannot be.
    """
    file = folder / MANIFEST
    try:
        with file.open("rb") as handle:
            data = handle.read(LARGEST_MANIFEST + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(
            f"{folder} is no bundle: it has no {MANIFEST}; make one with `sro-edge export`"
        ) from error
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}") from error
    return parse_manifest(data, str(file), lambda name: _size(folder / name))


def parse_manifest(data: bytes, where: str, size: Callable[[str], int]) -> dict[str, Any]:
    """``data`` as a manifest of the present schema version.

    Args:
        data: the bytes of ``bundle.json``.
        where: its name, for messages.
        size: file name -> bytes, for manifests of version 1, which do not say it.

    Raises:
        BundleError: see :func:`read_manifest`.
    """
    if len(data) > LARGEST_MANIFEST:
        raise BundleError(f"{where} is no manifest: it has over {LARGEST_MANIFEST >> 20} MB")
    try:
        manifest = json.loads(data, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where} is not usable JSON: {error}") from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version not in (1, SCHEMA_VERSION) or isinstance(version, bool | float):
        raise BundleError(
            f"{where} has schema version {version!r}, this release reads 1 to {SCHEMA_VERSION}; "
            "export the bundle again or install a matching sro-edge"
        )
    files = manifest.get("files")
    _check_names(files, where)
    if version == 1:
        manifest["files"] = {name: {"sha256": h, "bytes": size(name)} for name, h in files.items()}
        manifest["schema_version"] = SCHEMA_VERSION
    _check_records(manifest["files"], where)
    return dict(manifest)


def files_of(manifest: dict[str, Any]) -> dict[str, FileRecord]:
    """The files of a manifest that was read with :func:`read_manifest`."""
    return {name: FileRecord(**record) for name, record in manifest["files"].items()}


def write_manifest(folder: Path, fields: dict[str, Any]) -> None:
    """Write ``bundle.json`` for the files that lie in ``folder``, with their hashes and sizes.

    Args:
        folder: the bundle, complete but for ``bundle.json``.
        fields: ``name``, ``version``, ``license``, ``prompt``, ``thresholds``, ``sampling``,
            ``training``, ``scores``; dataclasses already as dictionaries.
    """
    files = {
        file.relative_to(folder).as_posix(): {"sha256": sha256(file), "bytes": file.stat().st_size}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in _NOT_LISTED and "__pycache__" not in file.parts
    }
    missing = [name for name in REQUIRED if name not in files]
    if missing:
        raise BundleError(f"{folder} cannot become a bundle: {', '.join(missing)} missing")
    manifest = {"schema_version": SCHEMA_VERSION, **fields, "files": files}
    (folder / MANIFEST).write_bytes(to_bytes(manifest))


def to_bytes(manifest: dict[str, Any]) -> bytes:
    """The content of ``bundle.json``."""
    return (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds a manifest, so that it is a bundle, whole or not."""
    return (folder / MANIFEST).is_file()


def sha256(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check_file(folder: Path, name: str, record: FileRecord) -> None:
    """Check that a file lies in ``folder`` and is what ``bundle.json`` says.

    Raises:
        BundleError: it is missing, no plain file, outside the folder, or has changed.
    """
    file = folder / name
    again = "export or copy the bundle again"
    try:
        if not file.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{folder}: {name} is a link that leaves the bundle; copy the file")
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise BundleError(f"{folder}: {name} is no plain file; {again}")
        if found.st_size != record.bytes:
            raise BundleError(
                f"{folder}: {name} has {found.st_size:,} bytes, {record.bytes:,} were written; it "
                f"was cut off or changed; {again}"
            )
        actual = sha256(file)
    except OSError as error:
        raise BundleError(
            f"{folder}: {name} is listed in {MANIFEST} but cannot be read ({error.strerror}); "
            f"{again}"
        ) from error
    if actual != record.sha256:
        raise BundleError(
            f"{folder}: {name} has changed since the bundle was written (sha256 "
            f"{actual[:12]}…, expected {record.sha256[:12]}…); {again}"
        )


def _check_names(files: Any, where: str) -> None:
    if not isinstance(files, dict) or len(files) > _MOST_FILES:
        raise BundleError(
            f"{where}: 'files' must map at most {_MOST_FILES} file names to hashes and sizes"
        )
    for name in files:
        path = PurePosixPath(name)
        plain = path.as_posix() == name and name.isprintable() and not set(name) & set('\\:*?"<>|')
        leaves = path.is_absolute() or ".." in path.parts or name in (".", MANIFEST)
        if not plain or leaves or len(name) > _LONGEST_NAME:
            raise BundleError(f"{where}: file name {name[:80]!r} leaves the bundle or is unusable")
    folders = {parent.as_posix() for name in files for parent in PurePosixPath(name).parents}
    if folders & set(files) or len({name.casefold() for name in files}) < len(files):
        raise BundleError(f"{where}: two names in 'files' would be one file on some systems")
    missing = [name for name in REQUIRED if name not in files]
    if missing:
        raise BundleError(f"{where}: 'files' does not list {', '.join(missing)}")


def _check_records(files: dict[str, Any], where: str) -> None:
    for name, record in files.items():
        if not isinstance(record, dict) or set(record) != {"sha256", "bytes"}:
            raise BundleError(f"{where}: {name} must have a 'sha256' and 'bytes', and nothing else")
        digest, size = record["sha256"], record["bytes"]
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise BundleError(f"{where}: the sha256 of {name} is not 64 hexadecimal digits")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _LARGEST_FILE:
            raise BundleError(f"{where}: {name} cannot have {str(size)[:40]} bytes")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0  # what is missing is named when the files are checked


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found
