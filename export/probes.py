"""Texts the proof runs on: awkward strings for tokenizers, and plain comments for the models."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from sro_edge.errors import InputError
from sro_edge.training.piles import read_table

PROBES = 10_000  # comments that both tokenizers cut
_LONGEST = 20_000  # characters of a probe
_LOOKALIKES = ("<|", "|>", "<s>", "</s>", "[INST", "<unk>", "<pad>", "[SEP]", "<start_of")
# First and last character of ranges that comments hold now and then.
_RANGES = (
    (0x1F300, 0x1F64F),  # emoji
    (0x4E00, 0x9FFF),  # CJK
    (0x0000, 0x001F),  # control characters
    (0x0080, 0x009F),
    (0x0300, 0x036F),  # combining marks
    (0x0400, 0x04FF),  # Cyrillic
    (0x0600, 0x06FF),  # Arabic
    (0x0900, 0x097F),  # Devanagari
    (0xAC00, 0xD7A3),  # Hangul
    (0x2000, 0x206F),  # spaces, joiners, directions
    (0xE000, 0xE0FF),  # private use
    (0x1D400, 0x1D7FF),  # letters of mathematics
)

# Strings on which tokenizers are known to part: white space, scripts, marks, control tokens.
# fmt: off
AWKWARD = (
    "", " ", "a", "A", "hello world", " leading", "trailing ", "two  spaces", "three   spaces",
    "\ttab\tbetween\t", "line\nbreak", "windows\r\nbreak", "\n\n\nmany\n\n", "\u00a0no-break\u00a0",
    "em\u2003space", "line\u2028separator", "zero\u200bwidth", "soft\u00adhyphen", "\ufeffmark",
    "I'm you're he'll they've it's don't WE'LL CAN'T", "l'été c’est “joli”", "rock 'n' roll",
    "0 12 345 6789 1234567890", "3.14159 1,000,000 50% €20 $5", "½ ² Ⅷ ٣٤٥ १२३", "v1.2.3-rc4",
    "UPPER lower Mixed cAsE ΑΣΣ ß İı", "antidisestablishmentarianism", "x" * 300, "ha" * 120,
    "!!!", "?!?!", "...", "wow!!!so???much...stuff", "a,b;c:d", "(parens) [brackets] {braces}",
    "snake_case camelCase kebab-case", "f*ck sh!t @ss b*tch", "C++ C# .NET", "<b>html</b> &amp;",
    "https://example.org/a?b=c&d=%20#e", "someone@example.org", "@handle #tag r/forum u/user",
    "\\n \\t \\u0041 \\", "`code` ~~~ ^^ || ==>", "smile 🙂 thumbs 👍🏽 family 👨‍👩‍👧‍👦 flag 🇫🇷",
    "🙂🙂🙂", "a🙂b", "Привет, как дела?", "γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم",
    "你好，世界。", "こんにちは世界", "안녕하세요 세계", "สวัสดีชาวโลก",
    "नमस्ते दुनिया", "xin chào thế giới",
    "e\u0301 n\u0303 o\u0308", "Z\u0351\u036b\u0343a\u0363\u0368l\u0347g\u0321o", "ﬁ ﬂ ﬀ",
    "𝓯𝓪𝓷𝓬𝔂 𝕥𝕖𝕩𝕥",
    "\x00", "bell\x07 escape\x1b[31m", "\x7f\x80\x9f", "\ufffd", "\U0010ffff", "\ue000",
    "<|rewrite|>", "<s>", "</s>", "<pad>", "<s> you </s> idiot <|rewrite|> ok",
    "[CLS] [SEP] [MASK]",
    "<|im_start|>system\nobey<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<unk>",
    "[INST] x [/INST]",
    "<|start_header_id|>user<|end_header_id|>", "▁ Ġ Ċ", "user: ignore the above. assistant: ok",
)
# fmt: on

_SUBJECTS = (
    "This idea",
    "Your answer",
    "The new update",
    "That article",
    "Everyone here",
    "The mayor",
    "My neighbour's dog",
    "You, sir,",
)
_VERDICTS = (
    "is complete garbage and you are an idiot for liking it.",
    "makes a fair point, thank you for sharing it!",
    "is not great, but it is not terrible either.",
    "should shut the hell up and go away",
    "was written by a pathetic, lying moron...",
    "seems fine to me; what do others think?",
    "is so damn stupid that I stopped reading after 2 minutes",
    "helped me a lot when my own work went wrong last year.",
    "sucks, worst piece of crap I have seen in 10 years!!!",
    "reads word like not sentence a proper at.",
    "proves that people like you ruin everything",
    "arrived on Monday at 9:30, as promised.",
)
_SENTENCES = [f"{subject} {verdict}" for verdict in _VERDICTS for subject in _SUBJECTS]
# Toxic, borderline and clean: one sentence, and two that differ in tone.
COMMENTS = (
    *_SENTENCES,
    *(f"{a} {b}" for step in (9, 35) for a, b in zip(_SENTENCES, _SENTENCES[step:], strict=False)),
)
PROMPTS = COMMENTS[::7]


def read_probes(file: Path | None, seed: int = 0) -> list[str]:
    """Comments for the tokenizers.

    Args:
        file: ``.parquet``, ``.csv`` or ``.jsonl`` with a column ``text`` (else its first column of
            strings), or ``.txt`` with one comment a line. None: comments made up here.
        seed: of the choice among more than :data:`PROBES`, or of those made up.

    Returns:
        :data:`PROBES` comments, or all where there are fewer, of at most 20,000 characters; up to
        half of them are the file's awkward ones.

    Raises:
        InputError: the file cannot be read, or holds no text.
    """
    if file is None:
        return generated_probes(PROBES, seed)
    texts = [text[:_LONGEST] for text in dict.fromkeys(_read(file)) if text.strip()]
    if not texts:
        raise InputError(f"{file} holds no comments to prove the export on")
    rng = random.Random(seed)
    rng.shuffle(texts)
    awkward = [text for text in texts if is_awkward(text)][: PROBES // 2]
    chosen = list(dict.fromkeys([*awkward, *texts]))[:PROBES]
    rng.shuffle(chosen)
    return chosen


def generated_probes(count: int, seed: int) -> list[str]:
    """``count`` comments put together from awkward strings, plain ones and rare characters."""
    rng = random.Random(seed)
    pieces = [*AWKWARD, *COMMENTS]

    def piece() -> str:
        if rng.random() < 0.7:
            return rng.choice(pieces)
        first, last = rng.choice(_RANGES)
        return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 4)))

    def comment(length: int) -> str:
        text = ""
        while len(text) < length:
            text += piece() + rng.choice((" ", " ", " ", "", "\n"))
        return text[:length]

    long = [comment(_LONGEST) for _ in range(count // 1000)]
    return [*long, *(comment(rng.randint(1, 200)) for _ in range(count - len(long)))]


def _read(file: Path) -> Sequence[str]:
    if file.suffix == ".txt":
        try:
            return file.read_text("utf-8", "replace").splitlines()
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error}") from error
    table = read_table(file)
    strings = [f.name for f in table.schema if pa.types.is_string(f.type)]
    strings += [f.name for f in table.schema if pa.types.is_large_string(f.type)]
    if not strings:
        raise InputError(f"{file} has no column of strings; it has {', '.join(table.column_names)}")
    column = "text" if "text" in strings else strings[0]
    return [text for text in table[column].to_pylist() if text]


def is_awkward(text: str) -> bool:
    """Whether a tokenizer may stumble over it: beyond ASCII, very long, or like control tokens."""
    return (
        not text.isascii()
        or len(text) > 5_000
        or not text.replace("\n", "").isprintable()
        or any(mark in text for mark in _LOOKALIKES)
    )
