"""Texts the proof runs on: awkward strings for tokenizers, and plain comments for the models."""

from __future__ import annotations

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
