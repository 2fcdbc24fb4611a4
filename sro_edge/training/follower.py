"""The follower: does a paraphrase pass? Toxicity, meaning and fluency, and no degenerate output.

What the follower does not look at, the leader exploits ("ok ." is a perfect answer to a toxicity
screener), so every output that the screener has takes part.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sro_edge.bundle import Thresholds
from sro_edge.errors import ModelError
from sro_edge.guards import is_degenerate
from sro_edge.signs import read_out
from sro_edge.training.encoder import mean_pool, sorted_batches
from sro_edge.training.labels import is_multi_label, label_names, toxic_candidates
from sro_edge.training.memory import bound_kernel_caches

_REMEMBERED = 20_000  # comments whose scores are kept: some 40 MB


class Judgement(NamedTuple):
    """What a classifier says of texts; ``fluency`` and ``embedding`` where it has them."""

    toxicity: torch.Tensor  # (N,)
    fluency: torch.Tensor | None  # (N,)
    embedding: torch.Tensor | None  # (N, d), unit norm


class Classifier:
    """Any Hugging Face sequence classifier as a screener; label order is read from ``id2label``.

    Args:
        model: the classifier.
        tokenizer: its tokenizer.
        toxic_label: name of the label that means toxic, where it is none of the usual ones.
        max_length: tokens of a text that are read.

    Raises:
        ModelError: no label is recognised as the toxic one.
    """

    def __init__(
        self, model: Any, tokenizer: Any, toxic_label: str | None = None, max_length: int = 128
    ) -> None:
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length
        labels = label_names(model.config)
        found = toxic_candidates(labels, toxic_label)
        if len(found) != 1:
            raise ModelError(
                f"none of the screener's labels ({', '.join(labels).lower()}) is known to mean "
                "toxic; name it with --toxic-label"
            )
        self.sigmoid = is_multi_label(model.config)
        self.toxic = found[0]
        self.fluent = labels.index("fluent") if self.sigmoid and "fluent" in labels else None
        self.embeds = getattr(model.config, "sro_embedding", None) == "mean"

    @classmethod
    def load(
        cls, name: str | Path, toxic_label: str | None = None, *, bf16: bool = False
    ) -> Classifier:
        """Open the classifier in folder (or of hub name) ``name``.

        With ``bf16`` it takes half the memory and time; probabilities move by .01 at most.
        """
        bound_kernel_caches()
        model = AutoModelForSequenceClassification.from_pretrained(
            name, use_safetensors=True, dtype=torch.bfloat16 if bf16 else torch.float32
        )
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model, AutoTokenizer.from_pretrained(name), toxic_label)

    @torch.inference_mode()
    def judge(self, texts: Sequence[str]) -> Judgement:
        """Scores of ``texts``, in order; the embedding is the mean of the last hidden states.

        As when rewriting, emoji are read by their names (:mod:`sro_edge.signs`).
        """
        self.model.eval()
        toxicity, fluency = torch.empty(len(texts)), torch.empty(len(texts))
        embedding = torch.empty(len(texts), self.model.config.hidden_size)
        spoken = list(map(read_out, texts))
        for rows, encoded in sorted_batches(
            self.tokenizer, spoken, max_length=self.max_length, device=self.model.device
        ):
            out = self.model(**encoded, output_hidden_states=self.embeds)
            logits = out.logits.float()
            p = (logits.sigmoid() if self.sigmoid else logits.softmax(-1)).cpu()
            toxicity[rows] = p[:, self.toxic]
            if self.fluent is not None:
                fluency[rows] = p[:, self.fluent]
            if self.embeds:
                embedding[rows] = mean_pool(out.hidden_states[-1], encoded["attention_mask"]).cpu()
        return Judgement(
            toxicity,
            fluency if self.fluent is not None else None,
            embedding if self.embeds else None,
        )


class Verdicts(NamedTuple):
    """Of N paraphrases: which pass (bool), toxicity, and similarity and fluency where known.

    ``sound`` says which are no echo, not degenerate and not cut off: facts, not opinions.
    """

    passed: torch.Tensor
    toxicity: torch.Tensor
    similarity: torch.Tensor | None
    fluency: torch.Tensor | None
    sound: torch.Tensor | None = None


@dataclass
class Follower:
    """Answers pass or fail for paraphrases of comments.

    Args:
        classifier: the screener.
        thresholds: see :class:`~sro_edge.bundle.Thresholds`.
        flip_rate: share of verdicts turned round at random: the paper's perturbation experiment.
        seed: of these flips.
    """

    classifier: Classifier
    thresholds: Thresholds
    flip_rate: float = 0.0
    seed: int = 0
    _known: dict[str, list[torch.Tensor | None]] = field(default_factory=dict, repr=False)

    def verdicts(
        self, comments: Sequence[str], answers: Sequence[str], finished: Sequence[bool]
    ) -> Verdicts:
        """Judge ``answers[i]`` as a paraphrase of ``comments[i]``; cut-off answers fail."""
        texts = list(dict.fromkeys([*comments, *answers]))
        row = {t: i for i, t in enumerate(texts)}
        x = torch.tensor([row[t] for t in comments])
        y = torch.tensor([row[t] for t in answers])
        seen = self._judge(texts, set(comments))
        limits = self.thresholds
        passed = seen.toxicity[y] <= limits.toxicity
        similarity = fluency = None
        if seen.embedding is not None:
            similarity = (seen.embedding[x] * seen.embedding[y]).sum(-1)
            passed &= similarity >= limits.similarity
        if seen.fluency is not None:
            fluency = seen.fluency[y]
            passed &= fluency >= seen.fluency[x] - limits.fluency_drop
        sound = torch.tensor(
            [
                done and not is_degenerate(a, c)
                for c, a, done in zip(comments, answers, finished, strict=True)
            ]
        )
        passed &= sound
        if self.flip_rate:
            passed ^= torch.tensor(
                [self.flips(c, a) for c, a in zip(comments, answers, strict=True)]
            )
        return Verdicts(passed, seen.toxicity[y], similarity, fluency, sound)

    def _judge(self, texts: Sequence[str], comments: Collection[str]) -> Judgement:
        """Scores of ``texts``, all different; those of ``comments`` are remembered.

        A comment comes again in the next epoch and the next evaluation, an answer hardly ever.
        """
        new = [text for text in texts if text not in self._known]
        seen = self.classifier.judge(new)
        rows = {text: [None if c is None else c[i] for c in seen] for i, text in enumerate(new)}
        columns = zip(*(rows.get(text) or self._known[text] for text in texts), strict=True)
        found = Judgement(*(None if c[0] is None else torch.stack(c) for c in columns))
        if len(self._known) < _REMEMBERED:
            self._known |= {text: row for text, row in rows.items() if text in comments}
        return found

    def flips(self, comment: str, answer: str) -> bool:
        """Whether this verdict is turned round: for one text always or never, as a screener errs.

        What is flipped at one rate is flipped at every higher one.
        """
        return random.Random(f"{self.seed}/{comment}/{answer}").random() < self.flip_rate
