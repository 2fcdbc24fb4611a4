"""The rewriter's half of an export: merged, written as GGUF, proven."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sro_edge.export.config import ExportConfig, Part, write_json
from sro_edge.export.figures import require
from sro_edge.export.gguf_types import convert_gguf
from sro_edge.export.gguf_writer import About, write_gguf
from sro_edge.export.merge import Policy, load_policy
from sro_edge.export.proof_gguf import prove_logits, prove_tokens
from sro_edge.export.runs import Run
from sro_edge.manifest import DETOXIFIER, LEXICON

_EXACT_KL, _EXACT_TOP1 = 1e-3, 0.99  # fp32 GGUF against fp32 torch
_STORED_KL = 0.1  # the type that is shipped against fp32 torch


def export_policy(
    run: Run,
    folder: Path,
    work: Path,
    config: ExportConfig,
    out: Path,
    progress: Callable[[str], None],
) -> Part:
    """Write and prove ``detoxifier.gguf``, and copy the lexicon.

    Raises:
        ExportError: the model cannot be converted, or a figure misses its bound.
    """
    progress("loading the rewriter")
    policy = load_policy(run)
    exact, stored = work / "f32.gguf", folder / DETOXIFIER
    progress("writing GGUF")
    about = About(config.name or out.name, config.license, policy.base, policy.template)
    write_gguf(policy.model, policy.tokenizer, exact, about)
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
    return Part({"prompt": policy.template.to_dict()}, figures)


def _write_lexicon(policy: Policy, folder: Path) -> None:
    if policy.lexicon:
        write_json(folder / LEXICON, policy.lexicon)
