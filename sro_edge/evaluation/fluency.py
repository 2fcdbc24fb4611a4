"""The offline fluency judge: a token classifier that sees where a sentence is broken.

Each token gets the probability that something is wrong at it: a word is missing before it, or it is
odd, doubled or out of place. A sentence is fluent where nothing is wrong at any of its tokens. One
vector for the whole sentence, as acceptability classifiers have it, overlooks a hole; a token does
not (replaced token detection, Clark et al. 2020, arXiv 2003.10555, put to another use).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer

from sro_edge.training.encoder import sorted_batches

LABEL = "broken"
POOLING = "noisy-or"


def broken_logit(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Log-odds (B,) that a sentence is broken, from those of its tokens (B, T) and the mask (B, T).

    Noisy-or: P(fluent) = prod(1 - p_t), so log P(fluent) = -S with S = sum(softplus(z_t)), and the
    log-odds of broken are log(exp(S) - 1).
    """
    total = (F.softplus(logits.float()) * mask).sum(1).clamp_min(1e-6)
    return total + torch.log(-torch.expm1(-total))


class FluencyJudge:
    """Texts -> probabilities that they are fluent.

    Args:
        model: token classifier of one label.
        tokenizer: its tokenizer.
        max_length: tokens of a text that are read.
    """

    def __init__(self, model: Any, tokenizer: Any, max_length: int = 128) -> None:
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length
        cut = getattr(model.config, "sro_fluency_cut", None)
        self.cut: float | None = None if cut is None else float(cut)

    @classmethod
    def load(cls, folder: str | Path) -> FluencyJudge:
        """Open the judge that ``train-judges`` wrote to ``folder``."""
        model = AutoModelForTokenClassification.from_pretrained(folder, use_safetensors=True)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model, AutoTokenizer.from_pretrained(folder))

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Probabilities (N,), in the order of ``texts``."""
        self.model.eval()
        out = torch.empty(len(texts))
        for rows, encoded in sorted_batches(
            self.tokenizer, texts, max_length=self.max_length, device=self.model.device
        ):
            logits = self.model(**encoded).logits.squeeze(-1)
            out[rows] = (-broken_logit(logits, encoded["attention_mask"])).sigmoid().cpu()
        return out


def is_fluency_judge(folder: str | Path) -> bool:
    """Whether ``folder`` or hub name holds a judge of this kind."""
    return getattr(AutoConfig.from_pretrained(folder), "sro_pooling", None) == POOLING
