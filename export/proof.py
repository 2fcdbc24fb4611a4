"""Proof that the files say what the trained models say, on this machine, before they are shipped.

Three questions: does llama.cpp cut text into the same tokens; does it give the same next-token
distributions; does the ONNX graph give the same scores. Every answer is a :class:`Figure`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sro_edge.errors import ExportError
from sro_edge.export.figures import Figure
from sro_edge.export.gguf_writer import context_length
from sro_edge.export.merge import Policy
from sro_edge.export.onnx_writer import Screener, ScreenerGraph
from sro_edge.export.probes import AWKWARD, COMMENTS, PROMPTS
from sro_edge.llama import Llama, physical_cores
from sro_edge.prompt import Tokenize
from sro_edge.screener import passes
from sro_edge.training.tokens import tokenize_with

Floats = npt.NDArray[np.float32]

_ROWS = 32  # logits read in one step
_BATCH = 16  # texts the screeners score at once


def prove_tokens(policy: Policy, file: Path) -> list[Figure]:
    """llama.cpp against transformers, on whole prompts around awkward comments.

    Raises:
        ExportError: shows the first comment that is cut differently.
    """
    backend = policy.tokenizer.backend_tokenizer
    probes = [*AWKWARD, *COMMENTS, *(str(t) for t in policy.tokenizer.get_added_vocab())]
    if backend.normalizer is not None:  # NFC, which llama.cpp leaves to whoever writes the text
        probes = [backend.normalizer.normalize_str(text) for text in probes]
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


def prove_screener(
    screener: Screener, stored: ScreenerGraph, file: Path, threshold: float
) -> list[Figure]:
    """ONNX Runtime with ``file`` against torch: its own weights, and those that were trained.

    Args:
        screener: with the trained weights.
        stored: the same with the weights that are in the file.
        file: the ONNX graph.
        threshold: highest toxicity that passes, for counting decisions.
    """
    names = screener.graph.outputs
    found, same, trained = _scores(screener, stored, file)
    decisions = [[passes(t, threshold) for t in s["toxicity"]] for s in (found, trained)]
    figures = [
        Figure(
            "screener.graph",
            "largest score difference, ONNX and torch, same weights",
            max(_largest(found[n], same[n]) for n in names),
            at_most=1e-4,
        ),
        Figure(
            "screener.flips",
            f"decisions at {threshold:g} turned by storing the weights",
            float(np.mean([a != b for a, b in zip(*decisions, strict=True)])),
            at_most=0.01,
            advice="store them as they are with --screener-weights fp32",
        ),
    ]
    return figures + [
        Figure(
            f"screener.{n}",
            f"largest {n} difference to the trained weights",
            _largest(found[n], trained[n]),
        )
        for n in names
    ]


def _scores(
    screener: Screener, stored: ScreenerGraph, file: Path
) -> tuple[dict[str, Floats], dict[str, Floats], dict[str, Floats]]:
    """Outputs for all probes of ONNX Runtime, of torch with its weights, of the trained model."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    parts: list[list[Sequence[Floats]]] = [[], [], []]
    longest = " ".join(COMMENTS)  # cut at the longest input
    for ids, mask in _batches(screener, (*AWKWARD, *COMMENTS, longest)):
        feeds = {"input_ids": ids, "attention_mask": mask}
        parts[0].append(session.run(screener.graph.outputs, feeds))
        for part, graph in zip(parts[1:], (stored, screener.graph), strict=True):
            with torch.inference_mode():
                out = graph(torch.from_numpy(ids), torch.from_numpy(mask))
            part.append([tensor.numpy() for tensor in out])
    names = screener.graph.outputs
    columns = [[np.concatenate(c) for c in zip(*part, strict=True)] for part in parts]
    found, same, trained = (dict(zip(names, c, strict=True)) for c in columns)
    return found, same, trained


def _batches(
    screener: Screener, texts: Iterable[str]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Token ids and attention mask, both (B, T), padded right."""
    limit = screener.max_tokens
    rows = sorted((e.ids[:limit] for e in screener.tokenizer.encode_batch(list(texts))), key=len)
    rows = [row for row in rows if row]
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        ids = np.full((len(part), len(part[-1])), screener.pad_token_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(part):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        yield ids, mask


def _largest(a: Floats, b: Floats) -> float:
    return float(np.abs(a - b).max())


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
        sequences=_ROWS,
        longest=longest,
        cells=longest + _ROWS,
    )
    return closing(llama)


def _llama_logits(llama: Llama, ids: list[int]) -> Floats:
    """Logits (T, V) after each token of one sequence."""
    found = []
    for start in range(0, len(ids), _ROWS):
        llama.batch.clear()
        for position, token in enumerate(ids[start : start + _ROWS], start):
            llama.batch.add([token], position, 0, True)
        found.append(llama.decode())
    llama.drop_all()
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
