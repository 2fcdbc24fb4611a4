"""A bundle as one ``.sroedge`` file: a zip whose files are stored, not compressed.

``bundle.json`` comes first and lists all the others with sizes and hashes; times are fixed, so that
one bundle always packs to the same bytes. A packed bundle is not trusted: the zip must hold exactly
the files listed, each of the size listed, as plain files; nothing is written outside the new folder
and nothing keeps its name that does not match its hash.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sro_edge.durable import durable
from sro_edge.errors import BundleError, OutputError
from sro_edge.folders import check_room, new_folder
from sro_edge.manifest import (
    LARGEST_MANIFEST,
    MANIFEST,
    FileRecord,
    check_file,
    files_of,
    is_bundle,
    parse_manifest,
    read_manifest,
    to_bytes,
)

SUFFIX = ".sroedge"
_CHUNK = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold
_UTF8_NAMES = 0x800  # the one flag an entry may have
_END = struct.Struct("<4s4H2LH")  # end of central directory: ..., entries, its size, ..., comment
_LARGEST_DIRECTORY = 4 << 20
# What zipfile raises on damaged archives.
_DAMAGE = (zipfile.BadZipFile, OSError, NotImplementedError, EOFError, ValueError, RuntimeError)


def pack(folder: Path, out: Path, *, overwrite: bool = False) -> None:
    """Write the bundle in ``folder`` as the file ``out``, whole or not at all.

    Raises:
        BundleError: the folder is no bundle, or a file is missing or changed.
        OutputError: ``out`` exists or cannot be written.
    """
    manifest = read_manifest(folder)
    files = files_of(manifest)
    if out.exists() and not (overwrite and out.is_file()):
        raise OutputError(f"{out} exists: choose another name or give --overwrite")
    check_room(out.parent, sum(record.bytes for record in files.values()))
    try:
        with durable(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr(_entry(MANIFEST), to_bytes(manifest))
            for name, record in files.items():
                check_file(folder, name, record)
                entry = _entry(name)
                entry.file_size = record.bytes
                with (folder / name).open("rb") as source, archive.open(entry, "w") as target:
                    shutil.copyfileobj(source, target, _CHUNK)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}") from error


def unpack(file: Path, out: Path, *, overwrite: bool = False) -> None:
    """Write the bundle packed in ``file`` as the folder ``out``, whole or not at all.

    Raises:
        BundleError: the file is no packed bundle, or damaged, or holds what no bundle does.
        OutputError: ``out`` exists or cannot be written.
    """
    with _opened(file) as (archive, manifest, _), _folder(out, overwrite) as folder:
        _extract(archive, manifest, folder, file)


def open_packed(file: Path) -> Path:
    """Folder in the user's cache with the files of a packed bundle, unpacked when it is first used.

    Raises:
        BundleError: see :func:`unpack`.
        OutputError: the cache cannot be written.
    """
    with _opened(file) as (archive, manifest, data):
        folder = cache_folder() / "bundles" / hashlib.sha256(data).hexdigest()[:32]
        with _alone(folder.parent):
            if not _is_whole(folder, data, manifest):
                with _folder(folder, overwrite=True) as new:
                    _extract(archive, manifest, new, file)
    return folder


def cache_folder() -> Path:
    """Where opened bundles are kept: ``$XDG_CACHE_HOME/sro-edge``, or ``~/.cache/sro-edge``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sro-edge"


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system = 3  # Unix, wherever it is packed: the same bytes
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry


@contextmanager
def _folder(out: Path, overwrite: bool) -> Iterator[Path]:
    with new_folder(out, overwrite=overwrite, is_ours=is_bundle) as (folder, _):
        yield folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process works in ``folder``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror or error}; set XDG_CACHE_HOME to a "
            "folder that can be, or unpack the bundle and name its folder"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _opened(file: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, Any], bytes]]:
    """The archive, its manifest and the bytes of that, all checked but for the files' hashes."""
    try:
        with file.open("rb") as handle:
            _check_directory(handle, file)
            with zipfile.ZipFile(handle) as archive:
                data = _manifest_bytes(archive, file)
                manifest = parse_manifest(data, f"{file}: {MANIFEST}", lambda name: 0)
                _check_entries(archive, files_of(manifest), file, handle)
                yield archive, manifest, data
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or error
        raise BundleError(f"{file} is no intact packed bundle: {reason}; copy it again") from error


def _check_directory(handle: IO[bytes], file: Path) -> None:
    """Refuse a table of contents that is missing or absurd before the whole of it is read."""
    size = handle.seek(0, os.SEEK_END)
    handle.seek(max(0, size - _END.size))
    tail = handle.read(_END.size)
    if len(tail) < _END.size or not tail.startswith(b"PK\x05\x06"):
        raise BundleError(
            f"{file} is neither a bundle's folder nor a whole packed bundle ({SUFFIX}); copy it "
            "again, or name a folder made with `sro-edge export`"
        )
    if _END.unpack(tail)[5] > _LARGEST_DIRECTORY:
        raise BundleError(f"{file} is no packed bundle: its table of contents is absurdly large")


def _manifest_bytes(archive: zipfile.ZipFile, file: Path) -> bytes:
    names = archive.namelist()
    if not names or names[0] != MANIFEST:
        raise BundleError(f"{file} is no packed bundle: it does not begin with {MANIFEST}")
    with archive.open(archive.infolist()[0]) as source:
        return source.read(LARGEST_MANIFEST + 1)


def _check_entries(
    archive: zipfile.ZipFile, files: dict[str, FileRecord], file: Path, handle: IO[bytes]
) -> None:
    """Refuse an archive that holds anything but the listed files, each once, as a plain file."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    unlike = set(names) ^ {MANIFEST, *files}
    if unlike or len(names) != len(set(names)):
        doubled = {name for name in names if names.count(name) > 1}
        raise BundleError(
            f"{file} does not hold what its {MANIFEST} lists: "
            f"{', '.join(repr(name[:60]) for name in sorted(unlike | doubled)[:3])}"
        )
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or entry.is_dir():
            raise BundleError(f"{file}: {entry.filename} is a link or a folder, not a plain file")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & ~_UTF8_NAMES:
            raise BundleError(f"{file}: {entry.filename} is compressed or encrypted")
        size = files[entry.filename].bytes if entry.filename in files else entry.file_size
        if not entry.file_size == entry.compress_size == size:
            raise BundleError(f"{file}: {entry.filename} has not the size that {MANIFEST} gives")
    if sum(entry.file_size for entry in entries) > handle.seek(0, os.SEEK_END):
        raise BundleError(f"{file} claims more than it holds: some of its files overlap")


def _extract(archive: zipfile.ZipFile, manifest: dict[str, Any], folder: Path, file: Path) -> None:
    files = files_of(manifest)
    check_room(folder, sum(record.bytes for record in files.values()))
    for entry in archive.infolist():
        target = folder / entry.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with archive.open(entry) as source, target.open("xb") as handle:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                handle.write(chunk)
        if entry.filename in files and digest.hexdigest() != files[entry.filename].sha256:
            raise BundleError(
                f"{file}: {entry.filename} has changed since the bundle was packed (its sha256 "
                "does not match); copy it again"
            )


def _is_whole(folder: Path, data: bytes, manifest: dict[str, Any]) -> bool:
    """Whether an earlier use left all files; that they are unchanged is checked when they load."""
    try:
        sizes = {n: (folder / n).stat().st_size for n in files_of(manifest)}
        return (folder / MANIFEST).read_bytes() == data and all(
            sizes[name] == record.bytes for name, record in files_of(manifest).items()
        )
    except OSError:
        return False
