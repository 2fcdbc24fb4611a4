"""From finished runs to a bundle: convert, prove, describe, and only then put it in place."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sro_edge.bundle import DETOXIFIER, LEXICON, MANIFEST, Bundle, Sampling, write_manifest
from sro_edge.errors import ExportError, OutputError
from sro_edge.export.card import model_card
from sro_edge.export.figures import Figure, require
from sro_edge.export.gguf_writer import GGUF_TYPES, convert_gguf, write_gguf
from sro_edge.export.merge import Policy, load_policy
from sro_edge.export.onnx_writer import load_screener, write_screener
from sro_edge.export.proof import prove_logits, prove_screener, prove_tokens
from sro_edge.export.quiet import quiet
from sro_edge.export.runs import Run, open_run

PROOF = "proof.json"
SCREENER_WEIGHTS = ("int8", "fp32")
_EXACT_KL, _EXACT_TOP1 = 1e-3, 0.99  # fp32 GGUF against fp32 torch
_STORED_KL = 0.1  # the type that is shipped against fp32 torch


@dataclass(frozen=True)
class ExportConfig:
    """What is written, and how.

    Args:
        gguf_type: one of :data:`sro_edge.export.gguf_writer.GGUF_TYPES`.
        screener_weights: ``int8`` rows with a scale each, or ``fp32``.
        toxic_label: name of the screener's toxic label, where it is an unusual one.
        name: the bundle's name; default that of its folder.
        version: the bundle's version.
        license: SPDX identifier of the weights.
        notes: Markdown for the end of the model card.
    """

    gguf_type: str = "q8_0"
    screener_weights: str = "int8"
    toxic_label: str | None = None
    name: str | None = None
    version: str = "0.1.0"
    license: str = "Apache-2.0"
    notes: str = ""

    def __post_init__(self) -> None:
        """Refuse types that cannot be written."""
        if self.gguf_type not in GGUF_TYPES:
            raise ExportError(f"GGUF type {self.gguf_type!r} is not one of {', '.join(GGUF_TYPES)}")
        if self.screener_weights not in SCREENER_WEIGHTS:
            raise ExportError(
                f"screener weights {self.screener_weights!r} are not one of "
                f"{', '.join(SCREENER_WEIGHTS)}"
            )


def export_bundle(
    policy_run: str | Path | None,
    screener_run: str | Path | None,
    out: str | Path,
    config: ExportConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Write a bundle, or with one run left out only that part's files.

    Everything is written and proven in a folder beside ``out``, which then takes its name: a killed
    export leaves nothing under that name.

    Args:
        policy_run: run or model folder of the rewriter; None writes no GGUF.
        screener_run: run or model folder of the screener; None writes no ONNX.
        out: the folder to make.
        config: how to write it.
        overwrite: replace an earlier export.
        progress: called with the name of each step.

    Returns:
        the proof, as written to ``proof.json``: figure -> meaning, value, bound.

    Raises:
        ExportError: a model cannot be converted, or a figure of the proof misses its bound.
        ModelError: a model cannot be loaded.
        OutputError: ``out`` exists, or is not an export that may be replaced.
    """
    config = config or ExportConfig()
    policy = open_run(Path(policy_run), "policy") if policy_run is not None else None
    screener = open_run(Path(screener_run), "screener") if screener_run is not None else None
    if policy is None and screener is None:
        raise ExportError("nothing to export: give a policy run, a screener run, or both")
    figures: list[Figure] = []
    with quiet(), _new_folder(Path(out), overwrite) as (folder, work):
        fields: dict[str, Any] = {}
        if policy is not None:
            found = _export_policy(policy, folder, work, config, Path(out), progress)
            figures += found.figures
            fields |= found.fields
        if screener is not None:
            found = _export_screener(screener, folder, config, progress)
            figures += found.figures
            fields |= found.fields
        proof = {figure.key: figure.to_dict() for figure in figures}
        _write_json(folder / PROOF, proof)
        if policy is not None and screener is not None:
            progress("writing bundle.json")
            _describe(folder, policy, screener, fields, proof, config, Path(out))
    return proof


@dataclass(frozen=True)
class _Part:
    """What one half of the export gives to the manifest and to the proof."""

    fields: dict[str, Any]
    figures: list[Figure]


def _export_policy(
    run: Run,
    folder: Path,
    work: Path,
    config: ExportConfig,
    out: Path,
    progress: Callable[[str], None],
) -> _Part:
    progress("loading the rewriter")
    policy = load_policy(run)
    exact, stored = work / "f32.gguf", folder / DETOXIFIER
    progress("writing GGUF")
    name = config.name or out.name
    write_gguf(policy.model, policy.tokenizer, exact, name=name, license=config.license)
    progress("proving tokens and logits")
    figures = [*policy.figures, *require(prove_tokens(policy, exact))]
    figures += require(
        prove_logits(policy, exact, "f32", kl_at_most=_EXACT_KL, top1_at_least=_EXACT_TOP1)
    )
    if config.gguf_type == "f32":
        exact.rename(stored)
    else:
        progress(f"storing the rewriter as {config.gguf_type}")
        convert_gguf(exact, stored, config.gguf_type)
        exact.unlink()
        figures += require(prove_logits(policy, stored, config.gguf_type, kl_at_most=_STORED_KL))
    _write_lexicon(policy, folder)
    return _Part({"prompt": policy.template.to_dict()}, figures)


def _write_lexicon(policy: Policy, folder: Path) -> None:
    if policy.lexicon:
        _write_json(folder / LEXICON, policy.lexicon)


def _export_screener(
    run: Run, folder: Path, config: ExportConfig, progress: Callable[[str], None]
) -> _Part:
    progress("loading the screener")
    screener = load_screener(run, config.toxic_label)
    progress("writing ONNX")
    stored = write_screener(screener, folder / "screener", config.screener_weights)
    progress("proving scores")
    threshold = screener.thresholds.toxicity
    figures = prove_screener(screener, stored, folder / "screener" / "model.onnx", threshold)
    fields = {
        "thresholds": dataclasses.asdict(screener.thresholds),
        "outputs": screener.graph.outputs,
    }
    return _Part(fields, require(figures))


def _describe(
    folder: Path,
    policy: Run,
    screener: Run,
    fields: dict[str, Any],
    proof: dict[str, Any],
    config: ExportConfig,
    out: Path,
) -> None:
    """Write ``README.md`` and ``bundle.json``, and open the bundle as its user would."""
    training = {"policy": _portable(policy.record), "screener": _portable(screener.record)}
    name = config.name or out.name
    card = model_card(
        name=name,
        version=config.version,
        license=config.license,
        gguf_type=config.gguf_type,
        outputs=fields["outputs"],
        weights=config.screener_weights,
        proof=proof,
        notes=config.notes,
        **training,
    )
    (folder / "README.md").write_text(card, "utf-8")
    scores = {
        "policy": training["policy"].get("kept") or {},
        "screener": training["screener"].get("metrics") or {},
    }
    write_manifest(
        folder,
        {
            "name": name,
            "version": config.version,
            "license": config.license,
            "prompt": fields["prompt"],
            "thresholds": fields["thresholds"],
            "sampling": dataclasses.asdict(Sampling()),
            "training": {**training, "proof": proof},
            "scores": {part: found for part, found in scores.items() if found},
        },
    )
    Bundle.load(folder)


def _portable(value: Any) -> Any:
    """A copy of a ``run.json`` without the places where things lay on the training machine."""
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    if isinstance(value, str) and (value.startswith(("/", "~")) or re.match(r"[A-Za-z]:\\", value)):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def _write_json(file: Path, data: Any) -> None:
    file.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")


@contextmanager
def _new_folder(out: Path, overwrite: bool) -> Iterator[tuple[Path, Path]]:
    """A folder that takes the name ``out`` when the block ends well, and one for working files."""
    out = out.absolute()
    _check_replaceable(out, overwrite)
    beside = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(beside, ignore_errors=True)  # left by an export that was killed
        folder, work = beside / "bundle", beside / "work"
        folder.mkdir(parents=True)
        work.mkdir()
        yield folder, work
        _sync(folder)
        if out.exists():
            os.replace(out, beside / "replaced")
        os.replace(folder, out)
        _sync_folder(out.parent)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _check_replaceable(out: Path, overwrite: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise OutputError(f"{out} exists: choose another folder or give --overwrite")
    ours = any((out / name).is_file() for name in (MANIFEST, PROOF))
    if out.is_symlink() or not out.is_dir() or not (ours or not any(out.iterdir())):
        raise OutputError(
            f"{out} is neither an earlier export nor an empty folder, so it is not replaced; "
            "choose another folder"
        )


def _sync(folder: Path) -> None:
    """Bring every file and folder inside ``folder`` to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
