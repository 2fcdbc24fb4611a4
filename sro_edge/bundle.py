"""A bundle: one folder with everything rewriting needs, and ``bundle.json`` that says what it is.

    bundle.json       schema version, prompt template, thresholds, sampling, sha256 of every file,
                      licence, how it was trained, its scores
    detoxifier.gguf   the rewriter, for llama.cpp
    screener/         the screener as ONNX, its tokenizer and config
    lexicon.json      toxic words with their log-odds, for the word-deleting last resort
    README.md         model card

No file of a bundle reaches a parser before its hash was checked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
import math
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from sro_edge.errors import BundleError
from sro_edge.prompt import PromptTemplate

SCHEMA_VERSION = 1
MANIFEST = "bundle.json"
DETOXIFIER = "detoxifier.gguf"
SCREENER = "screener/model.onnx"
LEXICON = "lexicon.json"
_REQUIRED = (DETOXIFIER, SCREENER, "screener/tokenizer.json", "screener/config.json")

T = TypeVar("T")


@dataclass(frozen=True)
class Thresholds:
    """What a rewrite must reach; all in [0, 1].

    Args:
        toxicity: highest screener score that passes.
        similarity: lowest cosine of the embeddings of comment and rewrite that passes.
        fluency_drop: how far the rewrite's fluency may fall below the comment's own.
    """

    toxicity: float
    similarity: float = 0.6
    fluency_drop: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what no score could meet or miss."""
        for name, value in dataclasses.asdict(self).items():
            if not (isinstance(value, int | float) and 0 <= value <= 1):
                raise ValueError(f"threshold {name} must lie between 0 and 1, not {value!r}")


@dataclass(frozen=True)
class Sampling:
    """How candidates are drawn once the greedy one has failed."""

    samples: int = 8
    temperature: float = 0.9
    top_p: float = 0.95
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        """Refuse settings that draw nothing."""
        if not (1 <= self.samples <= 256 and 1 <= self.max_new_tokens <= 4096):
            raise ValueError("samples must be 1 to 256 and max_new_tokens 1 to 4096")
        if not (0 < self.temperature <= 10 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be above 0, not {self.temperature!r}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], not {self.top_p!r}")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose files match their hashes. Make one with :meth:`load`."""

    path: Path
    name: str
    version: str
    license: str
    prompt: PromptTemplate
    thresholds: Thresholds
    sampling: Sampling
    files: dict[str, str] = field(repr=False)
    training: dict[str, Any] = field(default_factory=dict, repr=False)
    scores: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, path: str | Path | None = None) -> Bundle:
        """Open the bundle in folder ``path`` (default: the embedded one) and check every hash.

        Raises:
            BundleError: the folder is no bundle, or a file is missing, changed or unexpected.
        """
        folder = Path(path) if path is not None else default_path()
        manifest = read_manifest(folder)
        bundle = cls(
            path=folder,
            name=_text(manifest, "name", folder),
            version=_text(manifest, "version", folder),
            license=_text(manifest, "license", folder),
            prompt=_build(PromptTemplate, manifest.get("prompt"), "prompt", folder),
            thresholds=_build(Thresholds, manifest.get("thresholds"), "thresholds", folder),
            sampling=_build(Sampling, manifest.get("sampling"), "sampling", folder),
            files=_files(manifest, folder),
            training=manifest.get("training", {}),
            scores=manifest.get("scores", {}),
        )
        bundle.verify()
        return bundle

    @property
    def detoxifier(self) -> Path:
        """The GGUF file."""
        return self.path / DETOXIFIER

    @property
    def screener(self) -> Path:
        """The screener's folder."""
        return self.path / "screener"

    @property
    def digest(self) -> str:
        """sha256 over names and hashes of all files and the settings: the bundle's identity."""
        identity = [
            sorted(self.files.items()),
            self.prompt.to_dict(),
            dataclasses.asdict(self.thresholds),
            dataclasses.asdict(self.sampling),
        ]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def verify(self) -> None:
        """Check that every listed file is there and unchanged.

        Raises:
            BundleError: names the first file that is not.
        """
        for name, expected in self.files.items():
            file = self.path / name
            if file.is_symlink() and self.path.resolve() not in file.resolve().parents:
                raise BundleError(
                    f"{self.path}: {name} is a link that leaves the bundle; copy the file"
                )
            try:
                actual = sha256(file)
            except OSError as error:
                raise BundleError(
                    f"{self.path}: {name} is listed in {MANIFEST} but cannot be read "
                    f"({error.strerror}); export or copy the bundle again"
                ) from error
            if actual != expected:
                raise BundleError(
                    f"{self.path}: {name} has changed since the bundle was written (sha256 "
                    f"{actual[:12]}…, expected {expected[:12]}…); export or copy the bundle again"
                )

    def lexicon(self) -> dict[str, float]:
        """Toxic words with their log-odds; empty where the bundle has none."""
        if LEXICON not in self.files:
            return {}
        table: dict[str, float] = json.loads((self.path / LEXICON).read_text("utf-8"))
        return table


def default_path() -> Path:
    """Folder of the bundle that is part of the package."""
    return Path(str(importlib.resources.files("sro_edge") / "default_bundle"))


def sha256(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """``bundle.json`` as a dictionary of a schema version that this release knows.

    Raises:
        BundleError: no such folder or file, not JSON, or another schema version.
    """
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise BundleError(
            f"{folder} is no bundle: it has no {MANIFEST}; make one with `sro-edge export`"
        ) from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{file} cannot be read: {error}") from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{file} has schema version {version!r}, this release reads {SCHEMA_VERSION}; "
            "export the bundle again or install a matching sro-edge"
        )
    return dict(manifest)


def write_manifest(folder: Path, fields: dict[str, Any]) -> None:
    """Write ``bundle.json`` for the files that lie in ``folder``, with their hashes.

    Args:
        folder: the bundle, complete but for ``bundle.json``.
        fields: ``name``, ``version``, ``license``, ``prompt``, ``thresholds``, ``sampling``,
            ``training``, ``scores``; dataclasses already as dictionaries.
    """
    files = {
        file.relative_to(folder).as_posix(): sha256(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and file.name not in {MANIFEST, "__init__.py"}
        and "__pycache__" not in file.parts
    }
    missing = [name for name in _REQUIRED if name not in files]
    if missing:
        raise BundleError(f"{folder} cannot become a bundle: {', '.join(missing)} missing")
    manifest = {"schema_version": SCHEMA_VERSION, **fields, "files": files}
    (folder / MANIFEST).write_text(
        json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8"
    )


def _text(manifest: dict[str, Any], key: str, folder: Path) -> str:
    value = manifest.get(key)
    if not isinstance(value, str) or not value:
        raise BundleError(f"{folder / MANIFEST}: {key!r} must be a string, not {value!r}")
    return value


def _build(kind: type[T], data: Any, key: str, folder: Path) -> T:
    try:
        return kind(**data)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{folder / MANIFEST}: {key!r} is not usable: {error}") from error


def _files(manifest: dict[str, Any], folder: Path) -> dict[str, str]:
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(isinstance(v, str) for v in files.values()):
        raise BundleError(f"{folder / MANIFEST}: 'files' must map file names to sha256 digests")
    for name in files:
        parts = PurePosixPath(name).parts
        if PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or not parts:
            raise BundleError(f"{folder / MANIFEST}: file name {name!r} leaves the bundle")
    missing = [name for name in _REQUIRED if name not in files]
    if missing:
        raise BundleError(f"{folder / MANIFEST}: 'files' does not list {', '.join(missing)}")
    return dict(files)
