"""Remote stores: ``s3://``, ``gs://``, ``hf://`` and whatever else pyarrow or fsspec knows.

A store is touched only where the user names one by its URI. Files are fetched and put whole, so
that everything else deals with files on the disk. What is put is visible when it is complete, not
before: an upload to an object store is, and on other stores a file gets its name at the end.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit, urlunsplit

from sro_edge.durable import durable, write_json
from sro_edge.errors import InputError, MissingExtraError, OutputError, SroEdgeError

_URI = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
# Filesystems on which a file appears when its upload is complete; elsewhere it is renamed then.
_WHOLE = {"s3", "gcs", "abfs", "py::fsspec+hf"}
# Schemes whose URIs are decoded: "%20" is a blank in them. Elsewhere a path stands as it is.
_DECODED = {"s3", "gs", "gcs", "abfs", "abfss", "hdfs"}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile of ~/.aws",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
    "hf": "HF_TOKEN, or `hf auth login`",
}


@dataclass(frozen=True)
class Address:
    """A file or folder on a store, by its URI, which may hold options (``?region=...``)."""

    uri: str

    def __str__(self) -> str:
        """The URI without options and passwords, for messages."""
        parts = urlsplit(self.uri)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def scheme(self) -> str:
        """``s3``, ``gs``, …"""
        return urlsplit(self.uri).scheme

    @property
    def name(self) -> str:
        """Last part of the path."""
        return PurePosixPath(urlsplit(self.uri).path).name or urlsplit(self.uri).netloc

    @property
    def suffix(self) -> str:
        """As of a path."""
        return PurePosixPath(self.name).suffix

    def __truediv__(self, name: str | Path) -> Address:
        """The file ``name`` below this folder."""
        below = Path(name).as_posix()
        if self.scheme in _DECODED:
            below = quote(below)
        return self._with_path(lambda path: f"{path}/{below}")

    def beside(self, suffix: str) -> Address:
        """The file of this name with ``suffix`` behind it."""
        return self._with_path(lambda path: path + suffix)

    def _with_path(self, change: Any) -> Address:
        parts = urlsplit(self.uri)
        return Address(urlunsplit(parts._replace(path=change(parts.path.rstrip("/")))))


Place = Path | Address


def place_of(text: str) -> Place:
    """A path, or an address where ``text`` is a URI other than ``file://``."""
    if not _URI.match(text):
        return Path(text)
    parts = urlsplit(text)
    return Path(unquote(parts.path)) if parts.scheme == "file" else Address(text)


@dataclass(frozen=True)
class Stamp:
    """What tells a file from a later state of it: bytes, and time of change in ns."""

    size: int
    modified_ns: int


class Store:
    """The file or folder at an address."""

    def __init__(self, address: Address) -> None:
        """Nothing is reached yet."""
        self.address = address

    @cached_property
    def _ends(self) -> tuple[Any, str]:
        """The filesystem, and the path on it."""
        with self._reaching(InputError, "be reached"):
            return _connect(self.address)

    def is_folder(self) -> bool:
        """Whether files lie below the address."""
        return bool(self._info().type.name == "Directory")

    def stamp(self) -> Stamp | None:
        """Of the file at the address; None where there is none."""
        info = self._info()
        return Stamp(info.size, info.mtime_ns or 0) if info.type.name == "File" else None

    def files(self) -> dict[str, Stamp]:
        """Names relative to the folder -> stamps, sorted by name."""
        import pyarrow.fs as pafs

        filesystem, root = self._ends
        with self._reaching(InputError, "be listed"):
            found = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
        base = PurePosixPath(root)
        files = {
            PurePosixPath(info.path).relative_to(base).as_posix(): Stamp(
                info.size, info.mtime_ns or 0
            )
            for info in found
            if info.type.name == "File"
        }
        return dict(sorted(files.items(), key=lambda item: PurePosixPath(item[0])))

    def open(self) -> Any:
        """The file, to be read at any place."""
        filesystem, path = self._ends
        with self._reaching(InputError, "be read"):
            return filesystem.open_input_file(path)

    def fetch(self, target: Path) -> None:
        """Copy the file to ``target``, with its time of change; done already if both are the same.

        Raises:
            InputError: there is no such file, or it changed meanwhile.
        """
        stamp = self.stamp()
        if stamp is None:
            raise InputError(f"{self.address} does not exist; give the address of a file")
        if _local_stamp(target) == stamp:
            return
        from sro_edge.folders import check_room

        check_room(target.parent, stamp.size)
        with durable(target) as temporary, self._reaching(InputError, "be fetched"):
            _copy(self._ends, (None, str(temporary)))
            os.utime(temporary, ns=(stamp.modified_ns, stamp.modified_ns))
        if _local_stamp(target) != stamp or self.stamp() != stamp:
            target.unlink()
            raise InputError(f"{self.address} changed while it was fetched; run again")

    def put(self, file: Path) -> None:
        """Copy ``file`` here; it is seen when it is complete.

        Raises:
            OutputError: it cannot be.
        """
        filesystem, path = self._ends
        whole = filesystem.type_name in _WHOLE
        with self._reaching(OutputError, "be written"):
            if not whole and "/" in path:
                filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            _copy((None, str(file)), (filesystem, path if whole else path + ".tmp"))
            if not whole:
                filesystem.move(path + ".tmp", path)
        stamp = self.stamp()
        if stamp is None or stamp.size != file.stat().st_size:
            raise OutputError(
                f"{self.address} did not arrive as it was sent; run the same command again"
            )

    def put_json(self, data: dict[str, Any]) -> None:
        """Write ``data`` as JSON."""
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            file.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            self.put(Path(file.name))

    def _info(self) -> Any:
        filesystem, path = self._ends
        with self._reaching(InputError, "be reached"):
            return filesystem.get_file_info(path)

    @contextmanager
    def _reaching(self, kind: type[SroEdgeError], what: str) -> Iterator[None]:
        """Turn whatever a filesystem raises into a sentence; they share no base class."""
        try:
            yield
        except SroEdgeError:
            raise
        except Exception as error:
            said = " ".join(str(error).split())[:300] or type(error).__name__
            scheme = self.address.scheme
            keys = _CREDENTIALS.get("gs" if scheme == "gcs" else scheme)
            hint = f" ({keys})" if keys else ""
            raise kind(
                f"{self.address} cannot {what}: {said}; check the address, the network and your "
                f"credentials{hint}"
            ) from error


def write_note(note: Place, manifest: dict[str, Any]) -> None:
    """Write a manifest to the disk or to a store, whole or not at all."""
    if isinstance(note, Address):
        Store(note).put_json(manifest)
    else:
        write_json(note, manifest)


def _connect(address: Address) -> tuple[Any, str]:
    """The filesystem of an address, and the path on it."""
    import pyarrow as pa
    import pyarrow.fs as pafs

    try:
        try:
            filesystem, path = pafs.FileSystem.from_uri(_with_defaults(address.uri))
        except pa.ArrowInvalid as error:
            if "Unrecognized filesystem type" not in str(error):
                raise
            filesystem, path = _fsspec(address)
            filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(filesystem))
    except ImportError as error:
        missing = "fsspec" if error.name == "fsspec" else "huggingface_hub"
        if address.scheme == "hf" or missing == "fsspec":
            raise MissingExtraError(f"{address.scheme}://", "remote", missing) from error
        raise InputError(
            f"{address} needs a package for {address.scheme}:// that is not installed: {error}"
        ) from error
    return filesystem, path.rstrip("/")


def _fsspec(address: Address) -> tuple[Any, str]:
    """For what pyarrow does not know by itself."""
    import fsspec
    from fsspec.core import url_to_fs

    if address.scheme not in fsspec.available_protocols():
        raise InputError(
            f"{address}: neither pyarrow nor fsspec knows {address.scheme}://; use s3://, gs://, "
            "hf:// or another of theirs"
        )
    found: tuple[Any, str] = url_to_fs(address.uri)
    return found


def _with_defaults(uri: str) -> str:
    """``uri`` with the endpoint of the environment; and a limit to how long Google is retried."""
    parts = urlsplit(uri)
    options = {name: found[-1] for name, found in parse_qs(parts.query).items()}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if parts.scheme == "s3" and endpoint and "endpoint_override" not in options:
        where = urlsplit(endpoint)
        options |= {"endpoint_override": where.netloc, "scheme": where.scheme}
        options.setdefault("region", os.environ.get("AWS_DEFAULT_REGION", "us-east-1"))
    if parts.scheme in ("gs", "gcs"):
        options.setdefault("retry_limit_seconds", "30")
    return urlunsplit(parts._replace(query=urlencode(options)))


def _copy(source: tuple[Any, str], target: tuple[Any, str]) -> None:
    """Copy one file; a filesystem of None is the disk. No Python runs meanwhile, so an interrupt
    cannot end an upload in a way that completes it half."""
    import pyarrow.fs as pafs

    disk = pafs.LocalFileSystem()
    pafs.copy_files(
        source[1],
        target[1],
        source_filesystem=source[0] or disk,
        destination_filesystem=target[0] or disk,
        chunk_size=8 << 20,
        use_threads=False,
    )


def _local_stamp(file: Path) -> Stamp | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return Stamp(found.st_size, found.st_mtime_ns)
