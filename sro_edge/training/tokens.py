"""Tokenising with a transformers tokenizer in the shape :mod:`sro_edge.prompt` wants."""

from __future__ import annotations

from typing import Any

from sro_edge.prompt import Tokenize


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
