"""A transformers tokenizer in GGUF: byte-level BPE, and SentencePiece's BPE with byte fallback.

Nothing is looked up by a model's name: what decides is the ``tokenizer.json``, step by step. What
llama.cpp would cut differently is refused here where it shows, and by the proof where it does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import gguf

from sro_edge.errors import ExportError
from sro_edge.prompt import PromptTemplate, Tokenize

Table = dict[str, Any]  # the content of a tokenizer.json

QWEN2_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_REGEX = QWEN2_REGEX.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
# Steps of a pre-tokenizer (see _step), and whether a word that is a token is kept whole
# (ignore_merges) -> llama.cpp's name for the same splitting.
_PRE_TYPES = {
    (("ByteLevel with regex",), False): "gpt-2",
    ((f"Split {QWEN2_REGEX}", "ByteLevel"), False): "qwen2",
    ((f"Split {LLAMA3_REGEX}", "ByteLevel"), True): "llama-bpe",
    ((f"Split {LLAMA3_REGEX}", "ByteLevel"), False): "smaug-bpe",
    (("Digits one by one", "ByteLevel with regex"), False): "smollm",
}
_SPACE = "▁"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_ELSE = "name a llama.cpp checkout with --llama-cpp and let its converter try"


def add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Any, model: Any) -> None:
    """Write tokens, their types, merges or scores, special tokens, and how text is cut.

    Args:
        writer: of the file.
        tokenizer: a transformers tokenizer with a ``tokenizers`` backend.
        model: the causal language model; its embedding says how many tokens there are.

    Raises:
        ExportError: llama.cpp would cut text into other tokens, or the tokenizer has more tokens
            than the model.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    table = json.loads(backend.to_str()) if backend is not None else {"model": {}}
    core = table["model"]
    if core.get("type") != "BPE" or any(
        core.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    ):
        raise ExportError(
            f"the tokenizer ({type(tokenizer).__name__}, {core.get('type') or 'not a fast one'}) "
            "cannot be written as GGUF here: supported are byte-level BPE and BPE with byte "
            f"fallback (SentencePiece's); {_ELSE}"
        )
    size = model.get_input_embeddings().num_embeddings
    if core.get("byte_fallback"):
        _add_sentencepiece(writer, table, size)
    else:
        _add_byte_level(writer, table, size)
    begins = tokenizer("a", verbose=False)["input_ids"][:1] == [tokenizer.bos_token_id]
    writer.add_add_bos_token(begins)
    _add_special_ids(writer, tokenizer, model)


def _add_byte_level(writer: gguf.GGUFWriter, table: Table, size: int) -> None:
    normalizer = table["normalizer"] or {"type": "NFC"}
    if normalizer != {"type": "NFC"}:
        raise ExportError(
            f"the tokenizer normalises text with {_shown(normalizer)}, which llama.cpp does not "
            "do; only NFC or no normaliser is supported"
        )
    pre_type = pre_tokenizer_type(table["pre_tokenizer"], bool(table["model"].get("ignore_merges")))
    tokens, types = _tokens(table, size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_type)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{left} {right}" for left, right in _merges(table)])


def _add_sentencepiece(writer: gguf.GGUFWriter, table: Table, size: int) -> None:
    """As llama.cpp's SentencePiece where that is exact, else as its BPE without byte encoding.

    The first joins any two pieces that make a token, the likeliest token first; the second only
    the pairs that are listed, as the tokenizer itself does.
    """
    prefix = _space_prefix(table)
    tokens, types = _tokens(table, size)
    missing = {f"<0x{byte:02X}>" for byte in range(256)} - set(tokens)
    if missing or table["model"].get("ignore_merges"):
        raise ExportError(
            f"the tokenizer lacks {len(missing)} of the 256 byte tokens or keeps whole words, "
            f"so llama.cpp would cut rare characters differently; {_ELSE}"
        )
    merges = _merges(table)
    unlisted = unlisted_merge(table["model"]["vocab"], merges)
    if unlisted and prefix:
        raise ExportError(
            f"the tokenizer has the tokens {_shown(unlisted[0])}, {_shown(unlisted[1])} and "
            f"{_shown(''.join(unlisted))} but no merge of the first two, so llama.cpp would cut "
            f"text differently; {_ELSE}"
        )
    if unlisted:
        writer.add_tokenizer_model("gemma4")  # llama.cpp's name for it
        writer.add_token_merges([f"{left} {right}" for left, right in merges])
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(tokens, merges))
        writer.add_add_space_prefix(prefix)
    writer.add_token_list(tokens)
    writer.add_token_types(types)


def _space_prefix(table: Table) -> bool:
    """Whether text begins with a space of its own; spaces are written as U+2581 either way.

    Raises:
        ExportError: the text is changed or split in another way as well.
    """
    normalizer, split = table["normalizer"], table["pre_tokenizer"]
    normalizer = normalizer or {"type": "Sequence", "normalizers": []}
    steps = normalizer.get("normalizers", [normalizer])
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepends = {"type": "Prepend", "prepend": _SPACE}
    if steps == [prepends, replaces] and split is None:
        return True
    if steps == [replaces] and (split is None or split["type"] == "Split"):
        spaces = split is None or split["pattern"] == {"String": " "}  # of which none is left
        if spaces:
            return False
    if not steps and split is not None and split["type"] == "Metaspace" and not split["split"]:
        return False  # it adds no second space, llama.cpp would: see explicit_spaces
    raise ExportError(
        f"the tokenizer normalises text with {_shown(table['normalizer'])} and splits it with "
        f"{_shown(split)}, which is not known to llama.cpp; {_ELSE}"
    )


def explicit_spaces(template: PromptTemplate, tokenize: Tokenize) -> PromptTemplate:
    """``template`` with the leading spaces that the tokenizer would add (Metaspace) written out.

    Args:
        template: how a comment becomes a prompt.
        tokenize: the trained tokenizer; it gives the same tokens for both templates.
    """

    def spaced(text: str, probe: str, trusted: bool) -> str:
        same = tokenize(f" {text}{probe}", trusted) == tokenize(f"{text}{probe}", trusted)
        return f" {text}" if same and not text.startswith(" ") else text

    return replace(
        template,
        prefix=spaced(template.prefix, "", True),
        lead=spaced(template.lead, "a", False),
        suffix=spaced(template.suffix, "", True),
    )


def unlisted_merge(
    vocabulary: Collection[str], merges: Sequence[tuple[str, str]]
) -> tuple[str, str] | None:
    """Two tokens that together spell a third although no merge joins them; None if there are none.

    A tokenizer converted from SentencePiece lists them all; one trained with byte fallback lists
    one pair a token. Control tokens count: what a comment spells must never become one.
    """
    listed = set(merges)
    for token in vocabulary:
        if _BYTE.fullmatch(token):
            continue
        for cut in range(1, len(token)):
            pair = token[:cut], token[cut:]
            if pair[0] in vocabulary and pair[1] in vocabulary and pair not in listed:
                return pair
    return None


def _scores(tokens: Sequence[str], merges: Sequence[tuple[str, str]]) -> list[float]:
    """What llama.cpp orders joins by: minus the rank of the first merge that makes the token."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def _merges(table: Table) -> list[tuple[str, str]]:
    found = []
    for merge in table["model"]["merges"]:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        found.append((left, right))
    return found


def _tokens(table: Table, size: int) -> tuple[list[str], list[int]]:
    """The ``size`` tokens of a tokenizer.json by id, with their GGUF types; gaps are unused."""
    kinds = gguf.TokenType
    fallback, unknown = table["model"].get("byte_fallback"), table["model"].get("unk_token")
    entries = {}
    for text, number in table["model"]["vocab"].items():
        is_byte = fallback and _BYTE.fullmatch(text)
        entries[number] = (text, kinds.BYTE if is_byte else kinds.NORMAL)
    for added in table["added_tokens"]:
        kind = kinds.CONTROL if added["special"] else kinds.USER_DEFINED
        if added["content"] == unknown and fallback:
            kind = kinds.UNKNOWN
        elif not added["content"].strip(_SPACE):
            kind = kinds.NORMAL  # runs of spaces, which merges make as well
        entries[added["id"]] = (added["content"], kind)
    if max(entries) >= size:
        raise ExportError(
            f"the tokenizer has token ids up to {max(entries)}, the model only {size} embeddings: "
            "they do not belong together; export the folder in which the model was saved with its "
            "own tokenizer"
        )
    rows = [entries.get(number, (f"[PAD{number}]", kinds.UNUSED)) for number in range(size)]
    return [text for text, _ in rows], [int(kind) for _, kind in rows]


def _add_special_ids(writer: gguf.GGUFWriter, tokenizer: Any, model: Any) -> None:
    ends = model.generation_config.eos_token_id
    ends = [end for end in (ends if isinstance(ends, list) else [ends]) if end is not None]
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else next(iter(ends), None)
    if eos is None:
        raise ExportError("the tokenizer has no end token (eos_token), so no answer would ever end")
    writer.add_eos_token_id(eos)
    other_end = next((end for end in ends if end != eos), None)
    if other_end is not None:
        writer.add_eot_token_id(other_end)
    for name in ("bos", "pad", "unk", "sep", "mask"):
        number = getattr(tokenizer, f"{name}_token_id", None)
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)


def pre_tokenizer_type(pre_tokenizer: Table | None, ignore_merges: bool = False) -> str:
    """llama.cpp's name for a pre-tokenizer of ``tokenizer.json``.

    Raises:
        ExportError: llama.cpp's splitting is not known to be the same.
    """
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer] if pre_tokenizer else [])
    key = tuple(_step(step) for step in steps), ignore_merges
    if key not in _PRE_TYPES:
        raise ExportError(
            f"the tokenizer splits text with {_shown(pre_tokenizer)}"
            f"{' and keeps whole words' if ignore_merges else ''}, which is not known to "
            "llama.cpp; supported are the pre-tokenizers of GPT-2, Qwen 2, Qwen 3, Llama 3, "
            f"SmolLM and SmolLM 3; {_ELSE}"
        )
    return _PRE_TYPES[key]


def _step(step: Table) -> str:
    """What one step of a pre-tokenizer does, in a few words."""
    if step["type"] == "ByteLevel" and not step["add_prefix_space"]:
        return "ByteLevel with regex" if step["use_regex"] else "ByteLevel"
    if step["type"] == "Digits" and step["individual_digits"]:
        return "Digits one by one"
    if step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return f"Split {step['pattern'].get('Regex')}"
    return _shown(step)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
