"""How a pretrained model is asked: by its own chat template, or by control tokens added to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sro_edge.errors import ModelError
from sro_edge.prompt import INSTRUCTION, SMALL_TEMPLATE, PromptTemplate

_COMMENT, _ANSWER = "\ufffcCOMMENT\ufffc", "\ufffcANSWER\ufffc"


def template_for(tokenizer: Any, folder: str | Path | None = None) -> PromptTemplate:
    """The template stored beside a model, or one made from the tokenizer's chat template.

    With a chat template, the tokenizer's end token becomes the one that ends a turn.

    Args:
        tokenizer: a transformers tokenizer.
        folder: where the model lies; its ``prompt.json`` wins.

    Raises:
        ModelError: neither is there, or the chat template cannot be used.
    """
    stored = Path(folder) / "prompt.json" if folder is not None else None
    if stored is not None and stored.is_file():
        return PromptTemplate.from_dict(json.loads(stored.read_text("utf-8")))
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"{folder or 'this model'} has neither a prompt.json nor a chat template, so there is "
            "no way to ask it for a rewrite; train it first with `sro-edge train`"
        )
    return _from_chat_template(tokenizer)


def adapt_tokenizer(
    tokenizer: Any, generation_config: Any, folder: str | Path | None = None
) -> tuple[PromptTemplate, list[int]]:
    """A template to train with, for any model; adds to ``tokenizer`` the tokens that it lacks.

    Args:
        tokenizer: a transformers tokenizer; changed.
        generation_config: the model's; names its end tokens where the tokenizer does not.
        folder: where the model lies; its ``prompt.json`` wins.

    Returns:
        the template, and the ids of added tokens.

    Raises:
        ModelError: the chat template cannot be used.
    """
    added: list[int] = []

    def add(token: str) -> str:
        if token not in tokenizer.get_vocab():
            tokenizer.add_tokens([token], special_tokens=True)
            added.append(tokenizer.convert_tokens_to_ids(token))
        return token

    if tokenizer.eos_token_id is None:
        ends = generation_config.eos_token_id
        end = ends[0] if isinstance(ends, list) else ends
        tokenizer.eos_token = add("</s>") if end is None else tokenizer.convert_ids_to_tokens(end)
    stored = folder is not None and (Path(folder) / "prompt.json").is_file()
    if stored or getattr(tokenizer, "chat_template", None):
        return template_for(tokenizer, folder), added
    return _control_tokens(tokenizer, add), added


def _control_tokens(tokenizer: Any, add: Callable[[str], str]) -> PromptTemplate:
    """Beginning, comment, one token of our own, answer: for a model that has never chatted."""
    bare, spaced = (tokenizer.tokenize(text)[0][:1] for text in ("you", " you"))
    # Where a word is marked by the space before it, the first one gets a space as well.
    lead = " " if spaced in "Ġ▁" and bare != spaced else ""
    suffix = add(SMALL_TEMPLATE.suffix)
    return PromptTemplate(prefix=tokenizer.bos_token or "", suffix=suffix, lead=lead)


def _from_chat_template(tokenizer: Any) -> PromptTemplate:
    """One user turn with the instruction; reasoning models are told not to think aloud."""
    asked = {"role": "user", "content": INSTRUCTION + _COMMENT}

    def render(*turns: dict[str, str]) -> str:
        # Qwen3, SmolLM3 and their like open the answer with an empty think block.
        text: str = tokenizer.apply_chat_template(
            list(turns),
            tokenize=False,
            add_generation_prompt=turns[-1]["role"] == "user",
            enable_thinking=False,
        )
        return text

    try:
        prefix, found, suffix = render(asked).partition(_COMMENT)
        after = render(asked, {"role": "assistant", "content": _ANSWER}).partition(_ANSWER)[2]
    except Exception as error:  # a template is a program of its author's: it may raise anything
        raise ModelError(f"the chat template cannot be used: {error}") from error
    if not found or not suffix:
        raise ModelError(
            "the chat template cannot be used: it leaves the user's text out or puts nothing "
            "behind it; mend the tokenizer's chat_template"
        )
    end = next(iter(tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"]), None)
    if end is not None and tokenizer.added_tokens_decoder.get(end):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    return PromptTemplate(prefix=prefix, suffix=suffix)
