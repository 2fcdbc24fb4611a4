"""From text to tensors: tokenising as :mod:`sro_edge.prompt` wants it, and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sro_edge.prompt import Tokenize
from sro_edge.training.objective import IGNORED


def tokenize_with(tokenizer: Any) -> Tokenize:
    """``(text, parse_special) -> ids``; without parsing, control tokens are split as plain text."""

    def tokenize(text: str, parse_special: bool) -> list[int]:
        ids: list[int] = tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=not parse_special,
            verbose=False,
        )["input_ids"]
        return ids

    return tokenize


def pad_rows(
    rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad: int
) -> dict[str, torch.Tensor]:
    """Prompts with their answers, padded right.

    Args:
        rows: (prompt ids, answer ids), one a row.
        pad: id that fills the rows up.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels`` (answer tokens, else IGNORED): (B, T).
    """
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), width), pad)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for k, (prompt, answer) in enumerate(rows):
        n, m = len(prompt), len(prompt) + len(answer)
        ids[k, :m] = torch.tensor([*prompt, *answer])
        mask[k, :m] = 1
        labels[k, n:m] = ids[k, n:m]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
