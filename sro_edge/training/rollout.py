"""The rollout: K sampled paraphrases of each comment, in eval mode, and their token sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sro_edge.prompt import PromptTemplate
from sro_edge.training.tokens import pad_rows, tokenize_with


@dataclass(frozen=True)
class Sample:
    """One answer to one comment.

    Args:
        comment: index of the comment in the batch.
        ids: token ids of the answer, end token included where it was reached.
        text: the answer as the user would get it.
        finished: whether the end token was reached within the limit.
    """

    comment: int
    ids: tuple[int, ...]
    text: str
    finished: bool


class Prompter:
    """Comments to token ids and back for one tokenizer and template."""

    def __init__(self, tokenizer: Any, template: PromptTemplate) -> None:
        self.tokenizer, self.template = tokenizer, template
        self.tokenize = tokenize_with(tokenizer)
        self.eos: int = tokenizer.eos_token_id
        self.pad: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos

    def prompt(self, comment: str) -> list[int]:
        """Ids of the whole prompt."""
        return self.template.encode(comment, self.tokenize)

    def answer(self, text: str) -> tuple[int, ...]:
        """Ids of ``text`` as an answer, end token included."""
        return (*self.template.encode_text(text, self.tokenize), self.eos)

    def restore(self, ids: Sequence[int], comment: str) -> str:
        """The text of generated ``ids``."""
        return self.template.restore(self.tokenizer.decode(ids, skip_special_tokens=True), comment)

    def collate(
        self, comments: Sequence[str], rows: Sequence[tuple[int, Sequence[int]]]
    ) -> dict[str, torch.Tensor]:
        """Prompts with answers, padded right, for scoring.

        Args:
            comments: the batch's comments.
            rows: (index of the comment, answer ids), one a row.

        Returns:
            ``input_ids``, ``attention_mask`` and ``labels`` (answer tokens, else IGNORED): (B, T).
        """
        prompts = [self.prompt(c) for c in comments]
        return pad_rows([(prompts[i], answer) for i, answer in rows], self.pad)


@torch.no_grad()
def rollout(
    model: Any,
    prompter: Prompter,
    comments: Sequence[str],
    *,
    samples: int,
    temperature: float = 1.0,
    max_new_tokens: int = 96,
) -> list[Sample]:
    """``samples`` answers to every comment (``temperature`` 0: one greedy answer), batched.

    Dropout is off; prompts are padded left; the model's mode is restored afterwards.
    """
    training = model.training
    model.eval()
    prompts = [prompter.prompt(c) for c in comments]
    width = max(map(len, prompts))
    ids = torch.tensor([[prompter.pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    greedy = temperature == 0
    sampling: dict[str, Any] = (
        {"do_sample": False}
        if greedy
        else {
            "do_sample": True,
            "temperature": temperature,
            "top_k": 0,
            "top_p": 1.0,
            "num_return_sequences": samples,
        }
    )
    out = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=min(max_new_tokens, int(1.5 * width) + 16),
        pad_token_id=prompter.pad,
        eos_token_id=prompter.eos,
        **sampling,
    )[:, width:].tolist()
    model.train(training)
    per_comment = 1 if greedy else samples
    found = []
    for k, row in enumerate(out):
        finished = prompter.eos in row
        answer = row[: row.index(prompter.eos) + 1] if finished else row
        i = k // per_comment
        found.append(Sample(i, tuple(answer), prompter.restore(answer, comments[i]), finished))
    return found
