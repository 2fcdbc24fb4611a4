"""A bundle: one folder with everything rewriting needs, and ``bundle.json`` that says what it is.

    bundle.json       schema version, prompt template, thresholds, sampling, size and sha256 of
                      every file, licence, how it was trained, its scores
    detoxifier.gguf   the rewriter, for llama.cpp
    screener/         the screener as ONNX, its tokenizer and config; its first stage, if any, and
                      what decides to abstain, if anything does
    lexicon.json      toxic words with their log-odds, for the word-deleting last resort
    mild_words.tsv    toxic phrases with milder ones, to put in their place (may be missing)
    README.md         model card

No file of a bundle reaches a parser before its hash was checked; see :mod:`sro_edge.headers` for
what that does and does not protect from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sro_edge.errors import BundleError, InputError
from sro_edge.folders import check_room, new_folder
from sro_edge.headers import check_onnx, read_gguf
from sro_edge.manifest import (
    ABSTAIN,
    DETOXIFIER,
    FIRST_STAGE,
    LEXICON,
    MANIFEST,
    MILD,
    SCREENER,
    FileRecord,
    check_file,
    files_of,
    is_bundle,
    read_manifest,
    to_bytes,
)
from sro_edge.mild_words import Table, read_mild
from sro_edge.prompt import PromptTemplate

OFF = "off"
_LONGEST_PROMPT = 100_000  # characters of each part

T = TypeVar("T")


@dataclass(frozen=True)
class Thresholds:
    """What a rewrite must reach; all in [0, 1].

    Args:
        toxicity: highest screener score that passes.
        similarity: lowest cosine of the embeddings of comment and rewrite that passes.
        fluency_drop: how far the rewrite's fluency may fall below the comment's own.
        abstain: lowest score at which a toxic comment is given up as beyond rewording
            (:mod:`sro_edge.abstention`); None for never.
    """

    toxicity: float
    similarity: float = 0.6
    fluency_drop: float = 0.2
    abstain: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no score could meet or miss."""
        for name, value in self.given().items():
            if isinstance(value, bool) or not (isinstance(value, int | float) and 0 <= value <= 1):
                raise ValueError(f"threshold {name} must lie between 0 and 1, not {value!r}")

    def changed(self, toxicity: float | None, abstain: float | str | None) -> Thresholds:
        """A copy with these in the place of its own, where given; ``off`` never abstains."""
        new: dict[str, Any] = {} if toxicity is None else {"toxicity": toxicity}
        if abstain is not None:
            new["abstain"] = None if abstain == OFF else abstain
        return dataclasses.replace(self, **new)

    def given(self) -> dict[str, float]:
        """The thresholds by name, without those that are None."""
        return {n: value for n, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Sampling:
    """How candidates are drawn once the greedy one has failed.

    Many and odd ones: screener, meaning and fluency choose among them
    (`benchmarks/results/default_bundle.md`, step 15).
    """

    samples: int = 16
    temperature: float = 1.1
    top_p: float = 0.97
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        """Refuse settings that draw nothing."""
        for name in ("samples", "max_new_tokens"):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"{name} must be a whole number, not {getattr(self, name)!r}")
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
    files: dict[str, FileRecord] = field(repr=False)
    training: dict[str, Any] = field(default_factory=dict, repr=False)
    scores: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, path: str | Path | None = None) -> Bundle:
        """Open a bundle and check every file of it.

        Args:
            path: a bundle's folder, a packed bundle (``.sroedge``), or ``hf://org/name[@revision]``
                on the Hugging Face Hub; default: the embedded bundle. The latter two are kept in
                the user's cache.

        Raises:
            BundleError: it is no bundle, or a file is missing, changed or unusable.
        """
        folder = find(path)
        manifest = read_manifest(folder)
        bundle = cls(
            path=folder,
            name=_text(manifest, "name", folder),
            version=_text(manifest, "version", folder),
            license=_text(manifest, "license", folder),
            prompt=_prompt(manifest, folder),
            thresholds=_build(Thresholds, manifest.get("thresholds"), "thresholds", folder),
            sampling=_build(Sampling, manifest.get("sampling"), "sampling", folder),
            files=files_of(manifest),
            training=_object(manifest, "training", folder),
            scores=_object(manifest, "scores", folder),
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
            sorted((name, record.sha256) for name, record in self.files.items()),
            self.prompt.to_dict(),
            self.thresholds.given(),
            dataclasses.asdict(self.sampling),
        ]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def verify(self) -> None:
        """Check that every listed file is there and unchanged, and what the models' headers say.

        Raises:
            BundleError: names the first file that is not.
        """
        for name, record in self.files.items():
            check_file(self.path, name, record)
        for name in self.files:
            if name.endswith(".gguf"):
                read_gguf(self.path / name)
        for graph in (SCREENER, FIRST_STAGE, ABSTAIN):
            for name in check_onnx(self.path / graph) if graph in self.files else ():
                if f"screener/{name}" not in self.files:
                    raise BundleError(
                        f"{self.path}: {graph} keeps weights in screener/{name}, which {MANIFEST} "
                        "does not list, so nothing vouches for it"
                    )

    def copy(
        self,
        out: str | Path,
        *,
        thresholds: Thresholds | None = None,
        scores: dict[str, Any] | None = None,
        overwrite: bool = False,
    ) -> Bundle:
        """Write this bundle to a new folder, whole or not at all.

        Args:
            out: the folder to make.
            thresholds: in place of this bundle's.
            scores: added to this bundle's, those of the same name replaced.
            overwrite: replace a bundle that is there.

        Raises:
            OutputError: ``out`` exists or cannot be written.
        """
        manifest = read_manifest(self.path)
        manifest["thresholds"] = (thresholds or self.thresholds).given()
        manifest["scores"] = {**self.scores, **(scores or {})}
        check_room(Path(out), sum(record.bytes for record in self.files.values()))
        with new_folder(Path(out), overwrite=overwrite, is_ours=is_bundle) as (folder, _):
            for name in self.files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.path / name, folder / name)
            (folder / MANIFEST).write_bytes(to_bytes(manifest))
        return Bundle.load(out)

    def lexicon(self) -> dict[str, float]:
        """Toxic words with their log-odds; empty where the bundle has none.

        Raises:
            BundleError: the file does not map words to numbers.
        """
        if LEXICON not in self.files:
            return {}
        return read_lexicon(self.path / LEXICON)

    def mild_words(self) -> Table:
        """Toxic phrase -> milder ones (:mod:`sro_edge.mild_words`); empty where there are none.

        Raises:
            BundleError: the file is no such table.
        """
        if MILD not in self.files:
            return {}
        try:
            return read_mild(self.path / MILD)
        except InputError as error:
            raise BundleError(str(error)) from error


def read_lexicon(file: Path) -> dict[str, float]:
    """Words with their log-odds from a JSON file.

    Raises:
        BundleError: the file does not map words to numbers.
    """
    try:
        table = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{file} cannot be read: {error}") from error
    if not isinstance(table, dict) or not all(
        isinstance(odds, int | float) and math.isfinite(odds) for odds in table.values()
    ):
        raise BundleError(f"{file} must map words to their log-odds, which are numbers")
    return table


def find(path: str | Path | None) -> Path:
    """The folder of a bundle, see :meth:`Bundle.load`; what is packed or remote is fetched first.

    Raises:
        BundleError: it cannot be had.
    """
    from sro_edge import hub, packed

    if path is None:
        return default_path()
    if str(path).startswith(hub.PREFIX):
        return hub.fetch(str(path))
    return packed.open_packed(Path(path)) if Path(path).is_file() else Path(path)


def default_path() -> Path:
    """Folder of the bundle that is part of the package."""
    return Path(str(importlib.resources.files("sro_edge") / "default_bundle"))


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


def _prompt(manifest: dict[str, Any], folder: Path) -> PromptTemplate:
    """The template; its parts are strings of a length that a prompt can have."""
    prompt = _build(PromptTemplate, manifest.get("prompt"), "prompt", folder)
    parts = (prompt.prefix, prompt.suffix, prompt.lead)
    if not isinstance(prompt.lowercase, bool) or not all(
        isinstance(part, str) and len(part) <= _LONGEST_PROMPT for part in parts
    ):
        raise BundleError(
            f"{folder / MANIFEST}: 'prompt' must have the strings prefix, suffix and lead, of at "
            f"most {_LONGEST_PROMPT:,} characters, and lowercase, true or false"
        )
    return prompt


def _object(manifest: dict[str, Any], key: str, folder: Path) -> dict[str, Any]:
    value = manifest.get(key, {})
    if not isinstance(value, dict):
        raise BundleError(f"{folder / MANIFEST}: {key!r} must be a JSON object")
    return value
