"""Prompt templates of pretrained chat models, made from their own chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sro_edge.errors import ModelError
from sro_edge.prompt import PromptTemplate

INSTRUCTION = (
    "Reword the comment so that it is no longer toxic. Keep its meaning and its tone as far as "
    "that allows, and change nothing else. Answer with the reworded comment only.\n\nComment: "
)
_PLACEHOLDER = "\ufffcCOMMENT\ufffc"


def template_for(tokenizer: Any, folder: str | Path | None = None) -> PromptTemplate:
    """The template stored beside a model, or one made from the tokenizer's chat template.

    Args:
        tokenizer: a transformers tokenizer.
        folder: where the model lies; its ``prompt.json`` wins.

    Raises:
        ModelError: neither is there.
    """
    stored = Path(folder) / "prompt.json" if folder is not None else None
    if stored is not None and stored.is_file():
        return PromptTemplate.from_dict(json.loads(stored.read_text("utf-8")))
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"{folder or 'this model'} has neither a prompt.json nor a chat template, so there is "
            "no way to ask it for a rewrite; use an instruction-tuned model or one from "
            "`sro-edge warm-start`"
        )
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": INSTRUCTION + _PLACEHOLDER}],
        tokenize=False,
        add_generation_prompt=True,
    )
    prefix, _, suffix = rendered.partition(_PLACEHOLDER)
    return PromptTemplate(prefix=prefix, suffix=suffix)
