"""From finished runs to a bundle: convert, prove, describe, and only then put it in place."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sro_edge.bundle import Bundle, Sampling, Thresholds
from sro_edge.errors import ExportError
from sro_edge.export.card import model_card
from sro_edge.export.config import ExportConfig, write_json
from sro_edge.export.figures import Figure, require
from sro_edge.export.policy import export_policy, prove_rewrites
from sro_edge.export.quiet import quiet
from sro_edge.export.runs import Run, open_run
from sro_edge.export.screener import export_screener
from sro_edge.folders import new_folder
from sro_edge.manifest import MANIFEST, MILD, write_manifest
from sro_edge.mild_words import read_mild

PROOF = "proof.json"
# Parts of a screener that a bundle may lack -> what stands of their run.json among its scores.
_EXTRAS = {"first_stage": ("points",), "abstain": ("cross_validated", "held_out")}


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
        InputError: the table of milder words is none.
        ModelError: a model cannot be loaded.
        OutputError: ``out`` exists, or is not an export that may be replaced.
    """
    config = config or ExportConfig()
    policy = open_run(Path(policy_run), "policy") if policy_run is not None else None
    screener = open_run(Path(screener_run), "screener") if screener_run is not None else None
    if policy is None and screener is None:
        raise ExportError("nothing to export: give a policy run, a screener run, or both")
    if config.mild is not None:
        read_mild(config.mild)  # before the work
    figures: list[Figure] = []
    with quiet(), new_folder(Path(out), overwrite=overwrite, is_ours=is_export) as (folder, work):
        fields: dict[str, Any] = {}
        rewriter = None
        if policy is not None:
            rewriter = export_policy(policy, folder, work, config, Path(out), progress)
            figures += rewriter.figures
            fields |= rewriter.fields
        if screener is not None:
            found = export_screener(screener, folder, config, progress)
            figures += found.figures
            fields |= found.fields
        if rewriter is not None and screener is not None:
            progress("proving rewrites")
            thresholds = Thresholds(**fields["thresholds"])
            rewrites = prove_rewrites(rewriter, folder / "screener", thresholds)
            figures += require(rewrites, config.accept_drift)
        proof = {figure.key: figure.to_dict() for figure in figures}
        write_json(folder / PROOF, proof)
        if policy is not None and screener is not None:
            progress("writing bundle.json")
            if config.mild is not None:
                shutil.copyfile(config.mild, folder / MILD)
            _describe(folder, policy, screener, fields, proof, config, Path(out))
    return proof


def is_export(folder: Path) -> bool:
    """Whether an export wrote ``folder``, whole or half, so that another may replace it."""
    return any((folder / name).is_file() for name in (MANIFEST, PROOF))


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
    extras = {part: _portable(fields[part]) for part in _EXTRAS if part in fields}
    name = config.name or out.name
    card = model_card(
        name=name,
        version=config.version,
        license=config.license,
        gguf_types=config.gguf_types,
        outputs=fields["outputs"],
        weights=config.screener_weights,
        thresholds=fields["thresholds"],
        proof=proof,
        notes=config.notes,
        mild=config.mild is not None,
        **extras,
        **training,
    )
    (folder / "README.md").write_text(card, "utf-8")
    scores = {
        "policy": training["policy"].get("kept") or {},
        "screener": training["screener"].get("metrics") or {},
    }
    for part, record in extras.items():
        scores[part] = {name: record[name] for name in _EXTRAS[part]}
    write_manifest(
        folder,
        {
            "name": name,
            "version": config.version,
            "license": config.license,
            "prompt": fields["prompt"],
            "thresholds": fields["thresholds"],
            "sampling": dataclasses.asdict(Sampling()),
            "training": {**training, **extras, "proof": proof},
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
