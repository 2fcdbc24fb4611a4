"""Proof that a GGUF file says what the trained policy says, on this machine, before it is shipped.

Two questions: does llama.cpp cut text into the same tokens; does it give the same next-token
distributions. Every answer is a :class:`Figure`. What becomes of comments is in
:mod:`sro_edge.export.proof_rewrites`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sro_edge.export.figures import Figure
from sro_edge.export.gguf_writer import context_length
from sro_edge.export.merge import Policy
from sro_edge.export.probes import AWKWARD, PROMPTS
from sro_edge.llama import Context, Model
from sro_edge.machine import physical_cores
from sro_edge.training.tokens import tokenize_with

Floats = npt.NDArray[np.float32]

_ROWS = 32  # logits read in one step
# Highest mean KL divergence in nats and lowest share of equal likeliest tokens that pass.
_CONVERTED = (1e-3, 0.98)  # nothing but the layout and the rounding of fp16
_STORED = (0.1, 0.85)
_BOUNDS = {"f32": _CONVERTED, "f16": _CONVERTED}


def proof_threads() -> int:
    """Half the cores: llama.cpp's threads spin while they wait, and a busy machine then crawls."""
    return max(1, physical_cores() // 2)


def prove_tokens(policy: Policy, file: Path, probes: Sequence[str]) -> list[Figure]:
    """llama.cpp against transformers: comments as they are put into prompts, and whole prompts.

    Args:
        policy: the tokenizer and the template.
        file: a GGUF file.
        probes: comments.
    """
    template, ours = policy.template, tokenize_with(policy.tokenizer)
    added = [str(token) for token in policy.tokenizer.get_added_vocab()]
    framed = [*AWKWARD, *added, *(f"a {token} b" for token in added)]
    differing = []
    with closing(_open(file, longest=_ROWS)) as llama:
        for number, text in enumerate([*framed, *probes]):
            encode = template.encode if number < len(framed) else template.encode_text
            expected, found = encode(text, ours), encode(text, llama.model.tokenize)
            if found != expected:
                differing.append((text, expected, found))
    advice = "this tokenizer cannot be shipped as GGUF"
    if differing:
        text, expected, found = differing[0]
        at = next(
            (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b),
            min(len(expected), len(found)),
        )
        advice = (
            f"the first is {text[:60]!r}, whose token {at} is {found[at : at + 3]} in llama.cpp "
            f"and {expected[at : at + 3]} in the trained tokenizer; {advice}"
        )
    count = len(framed) + len(probes)
    return [
        Figure("tokens.probes", "comments cut into tokens by both tokenizers", count),
        Figure(
            "tokens.differing",
            "of these, cut differently",
            len(differing),
            at_most=0,
            advice=advice,
        ),
    ]


def prove_logits(policy: Policy, files: Mapping[str, Path]) -> list[Figure]:
    """llama.cpp against torch in fp32, at every token of the answers.

    Args:
        policy: the trained model; it is asked only once.
        files: GGUF type -> file.
    """
    tokenize = tokenize_with(policy.tokenizer)
    limit = context_length(policy.model.config)
    rows = []  # (token ids, first position whose next token belongs to the answer)
    for text in PROMPTS:
        prompt = policy.template.encode(text, tokenize)
        answer = policy.template.encode_text(text, tokenize)
        rows.append(([*prompt, *answer][:limit], min(len(prompt), limit) - 1))
    expected = [_torch_logits(policy.model, ids)[start:] for ids, start in rows]
    figures = []
    for name, file in files.items():
        agreeing, divergence = [], []
        with closing(_open(file, longest=max(len(ids) for ids, _ in rows))) as llama:
            for (ids, start), ours in zip(rows, expected, strict=True):
                found = _llama_logits(llama, ids)[start:]  # (T, V)
                drawable = np.isfinite(found[0])  # the engine never draws control tokens
                a, b = ours[:, drawable], found[:, drawable]
                agreeing.append(a.argmax(-1) == b.argmax(-1))
                divergence.append(kl_divergence(a, b))
        figures += _logit_figures(name, np.concatenate(divergence), np.concatenate(agreeing))
    return figures


def _logit_figures(
    gguf_type: str, divergence: npt.NDArray[np.float64], agreeing: npt.NDArray[np.bool_]
) -> list[Figure]:
    highest, lowest = _BOUNDS.get(gguf_type, _STORED)
    key, name = f"gguf.{gguf_type}", f"{gguf_type} and trained weights"
    kl, top1 = float(divergence.mean()), float(agreeing.mean())
    figures = [
        Figure(f"{key}.kl", f"mean KL divergence, {name}", kl, at_most=highest),
        Figure(f"{key}.top1", f"same likeliest token, {name}", top1, at_least=lowest),
    ]
    if gguf_type in _BOUNDS:
        return figures
    return [replace(f, advice="choose a --gguf type with more bits") for f in figures]


def kl_divergence(expected: Floats, found: Floats) -> npt.NDArray[np.float64]:
    """KL(expected || found) in nats of each row of logits (T, V): (T,)."""
    p, q = _log_softmax(expected), _log_softmax(found)
    divergence: npt.NDArray[np.float64] = (np.exp(p) * (p - q)).sum(-1)
    return divergence


def _open(file: Path, longest: int) -> Context:
    model = Model(file, device="cpu")
    return Context(model, threads=proof_threads(), sequences=1, longest=longest, rows=_ROWS)


def _llama_logits(llama: Context, ids: list[int]) -> Floats:
    """Logits (T, V) after each token of one sequence."""
    found = []
    for start in range(0, len(ids), _ROWS):
        part = ids[start : start + _ROWS]
        llama.batch.clear()
        llama.batch.add(part, start, 0, rows=len(part))
        found.append(llama.decode().copy())
    llama.drop(0)
    return np.concatenate(found)


@torch.inference_mode()
def _torch_logits(model: Any, ids: list[int]) -> Floats:
    """Logits (T, V) after each token of one sequence."""
    logits: Floats = model(input_ids=torch.tensor([ids])).logits[0].float().numpy()
    return logits


def _log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result
