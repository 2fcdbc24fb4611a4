"""The rewriter's half of an export: merged, written as GGUF in every type asked for, proven."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sro_edge.bundle import Thresholds
from sro_edge.export.config import ExportConfig, Part, write_json
from sro_edge.export.converter import check_checkout, run_converter
from sro_edge.export.figures import Figure, require
from sro_edge.export.gguf_types import convert_gguf, estimated_bytes
from sro_edge.export.gguf_writer import About, write_gguf
from sro_edge.export.merge import Policy, load_policy
from sro_edge.export.probes import COMMENTS, is_awkward, read_probes
from sro_edge.export.proof_gguf import proof_threads, prove_logits, prove_tokens
from sro_edge.export.proof_rewrites import compare_rewrites
from sro_edge.export.runs import Run
from sro_edge.folders import check_room
from sro_edge.manifest import DETOXIFIER, LEXICON
from sro_edge.screener import Screener


@dataclass(frozen=True)
class PolicyPart(Part):
    """What the rewriter's half gives, and what its rewrites are proven with.

    Args:
        policy: the trained model, merged.
        files: GGUF type -> file in the bundle.
        comments: a probe set that holds toxic comments.
    """

    policy: Policy
    files: dict[str, Path]
    comments: Sequence[str]


def export_policy(
    run: Run,
    folder: Path,
    work: Path,
    config: ExportConfig,
    out: Path,
    progress: Callable[[str], None],
) -> PolicyPart:
    """Write and prove ``detoxifier.gguf`` and its like in other types, and copy the lexicon.

    Args:
        run: the policy's.
        folder: the bundle to be.
        work: folder for working files, on the same disk.
        config: types, probes, converter.
        out: what the bundle will be called.
        progress: called with the name of each step.

    Raises:
        ExportError: the model cannot be converted, or a figure misses its bound.
        OutputError: the disk is too small.
    """
    if config.llama_cpp is not None:
        check_checkout(config.llama_cpp)
    probes = read_probes(config.probes)
    progress("loading the rewriter")
    policy = load_policy(run, any_architecture=config.llama_cpp is not None)
    check_room(out, _needed(policy, config))
    figures = require(policy.figures, config.accept_drift)
    exact = work / "f32.gguf"
    progress("writing GGUF")
    if config.llama_cpp is not None:
        run_converter(policy, config.llama_cpp, exact, work)
    else:
        about = About(config.name or out.name, config.license, policy.base, policy.template)
        write_gguf(policy.model, policy.tokenizer, exact, about)
    progress(f"proving tokens on {len(probes):,} comments")
    figures += require(prove_tokens(policy, exact, probes), config.accept_drift)
    progress(f"storing the rewriter as {', '.join(config.gguf_types)}")
    files = _store(exact, folder, config)
    proven = {"f32": exact, "f16": work / "f16.gguf", **files}
    if "f16" not in files:
        convert_gguf(exact, proven["f16"], "f16")
    progress("proving logits")
    figures += require(prove_logits(policy, proven), config.accept_drift)
    if policy.lexicon:
        write_json(folder / LEXICON, policy.lexicon)
    fields: dict[str, Any] = {"prompt": policy.template.to_dict()}
    plain = [text for text in probes if not is_awkward(text)] if config.probes else COMMENTS
    return PolicyPart(fields, figures, policy, files, plain)


def _store(exact: Path, folder: Path, config: ExportConfig) -> dict[str, Path]:
    """Write every type into the bundle: GGUF type -> file, the first under the bundle's name."""
    files = {}
    for number, name in enumerate(config.gguf_types):
        files[name] = folder / (DETOXIFIER if number == 0 else f"detoxifier-{name}.gguf")
        convert_gguf(exact, files[name], name)
    return files


def prove_rewrites(part: PolicyPart, screener: Path, thresholds: Thresholds) -> list[Figure]:
    """Rewrites by every file in the bundle next to torch's, judged by the screener beside them.

    Args:
        part: the rewriter's half.
        screener: folder of the exported screener.
        thresholds: what a rewrite must reach.
    """
    judge = Screener(screener, threads=proof_threads(), device="cpu")
    return compare_rewrites(part.policy, part.files, judge, thresholds, part.comments)


def _needed(policy: Policy, config: ExportConfig) -> int:
    """Bytes on the disk at the worst moment."""
    types = {"f32", "f16", *config.gguf_types}
    parameters = policy.model.num_parameters()
    merged = 4 * parameters if config.llama_cpp is not None else 0
    return merged + sum(estimated_bytes(parameters, name) for name in types)
