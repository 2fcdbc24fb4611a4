"""From finished runs to a bundle: convert, prove, describe, and only then put it in place."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sro_edge.bundle import MANIFEST, Bundle, Sampling, write_manifest
from sro_edge.errors import ExportError, OutputError
from sro_edge.export.card import model_card
from sro_edge.export.config import ExportConfig, write_json
from sro_edge.export.figures import Figure
from sro_edge.export.policy import export_policy
from sro_edge.export.quiet import quiet
from sro_edge.export.runs import Run, open_run
from sro_edge.export.screener import export_screener

PROOF = "proof.json"


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
            found = export_policy(policy, folder, work, config, Path(out), progress)
            figures += found.figures
            fields |= found.fields
        if screener is not None:
            found = export_screener(screener, folder, config, progress)
            figures += found.figures
            fields |= found.fields
        proof = {figure.key: figure.to_dict() for figure in figures}
        write_json(folder / PROOF, proof)
        if policy is not None and screener is not None:
            progress("writing bundle.json")
            _describe(folder, policy, screener, fields, proof, config, Path(out))
    return proof


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
