"""Proof that a GGUF file says what the trained policy says, on this machine, before it is shipped.

Two questions: does llama.cpp cut text into the same tokens; does it give the same next-token
distributions. Every answer is a :class:`Figure`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sro_edge.errors import ExportError
from sro_edge.export.figures import Figure
from sro_edge.export.gguf_writer import context_length
from sro_edge.export.merge import Policy
from sro_edge.export.probes import AWKWARD, COMMENTS, PROMPTS
from sro_edge.llama import Llama, physical_cores
from sro_edge.prompt import Tokenize
from sro_edge.training.tokens import tokenize_with

Floats = npt.NDArray[np.float32]

_ROWS = 32  # logits read in one step


def prove_tokens(policy: Policy, file: Path) -> list[Figure]:
    """llama.cpp against transformers, on whole prompts around awkward comments.

    Raises:
        ExportError: shows the first comment that is cut differently.
    """
    probes = [*AWKWARD, *COMMENTS, *(str(t) for t in policy.tokenizer.get_added_vocab())]
    ours = tokenize_with(policy.tokenizer)
    differing = []
    with _open(file, longest=_ROWS) as llama:
        for text in probes:
            expected = policy.template.encode(text, ours)
            found = policy.template.encode(text, llama.tokenize)
            if found != expected:
                differing.append((text, expected, found))
    if differing:
        text, expected, found = differing[0]
        raise ExportError(
            f"proof failed: llama.cpp cuts {len(differing)} of {len(probes)} probe comments into "
            f"other tokens than the trained tokenizer, first {text[:60]!r}: {found[:20]} instead "
            f"of {expected[:20]}; this tokenizer cannot be shipped as GGUF"
        )
    return [
        Figure("tokens.probes", "comments tokenised by both tokenizers", len(probes)),
        Figure("tokens.differing", "of these, tokenised differently", 0, at_most=0),
    ]


def prove_logits(
    policy: Policy,
    file: Path,
    gguf_type: str,
    *,
    kl_at_most: float,
    top1_at_least: float | None = None,
) -> list[Figure]:
    """llama.cpp with ``file`` against torch in fp32, at every token of prompts and answers."""
    tokenize = tokenize_with(policy.tokenizer)
    limit = context_length(policy.model.config)
    rows = [_prompt_and_answer(policy, text, tokenize)[:limit] for text in PROMPTS]
    agreeing, divergence = [], []
    with _open(file, longest=max(map(len, rows))) as llama:
        for ids in rows:
            expected, found = _torch_logits(policy.model, ids), _llama_logits(llama, ids)  # (T, V)
            drawable = np.isfinite(found[0])  # the engine never draws control tokens
            expected, found = expected[:, drawable], found[:, drawable]
            agreeing.append(expected.argmax(-1) == found.argmax(-1))
            divergence.append(kl_divergence(expected, found))
    advice = "choose a --gguf type with more bits" if gguf_type != "f32" else Figure.advice
    name = f"{gguf_type} GGUF and trained weights"
    return [
        Figure(
            f"gguf.{gguf_type}.kl",
            f"mean KL divergence, {name}",
            float(np.concatenate(divergence).mean()),
            at_most=kl_at_most,
            advice=advice,
        ),
        Figure(
            f"gguf.{gguf_type}.top1",
            f"same likeliest token, {name}",
            float(np.concatenate(agreeing).mean()),
            at_least=top1_at_least,
            advice=advice,
        ),
    ]


def kl_divergence(expected: Floats, found: Floats) -> npt.NDArray[np.float64]:
    """KL(expected || found) in nats of each row of logits (T, V): (T,)."""
    p, q = _log_softmax(expected), _log_softmax(found)
    divergence: npt.NDArray[np.float64] = (np.exp(p) * (p - q)).sum(-1)
    return divergence


def _prompt_and_answer(policy: Policy, text: str, tokenize: Tokenize) -> list[int]:
    """A prompt followed by its own comment as the answer."""
    template = policy.template
    return [*template.encode(text, tokenize), *template.encode_text(text, tokenize)]


def _open(file: Path, longest: int) -> Any:
    from contextlib import closing

    llama = Llama(
        file,
        # llama.cpp's threads spin while they wait: with none to spare, a busy machine crawls.
        threads=max(1, physical_cores() // 2),
        device="cpu",
        sequences=1,
        longest=longest,
        rows=_ROWS,
    )
    return closing(llama)


def _llama_logits(llama: Llama, ids: list[int]) -> Floats:
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
