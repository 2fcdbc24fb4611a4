"""STA, SIM, FL and J of rewrites, as ParaDetox defines them.

Per sentence: STA is 1 where a toxicity classifier's argmax says non-toxic, SIM the cosine of
sentence embeddings of input and output, FL is 1 where a fluency classifier accepts the output. J is
the mean over sentences of STA x SIM x FL, not the product of the means. A missing output (an
unresolved comment) scores 0 in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sro_edge.training.encoder import Encoder
from sro_edge.training.follower import Classifier


@dataclass(frozen=True)
class Judges:
    """The models that report: none of them may have gated or trained what they judge.

    Args:
        classifier: toxicity and fluency.
        encoder: meaning.
        fluency_cut: fluency from which an output counts as fluent.
    """

    classifier: Classifier
    encoder: Encoder
    fluency_cut: float = 0.5


@dataclass(frozen=True)
class Scores:
    """Per-sentence scores, each (N,)."""

    sta: torch.Tensor
    sim: torch.Tensor
    fl: torch.Tensor

    def means(self) -> dict[str, float]:
        """Means in percent-free form, with STA x SIM per sentence as well."""
        figures = {
            "STA": self.sta,
            "SIM": self.sim,
            "FL": self.fl,
            "STA*SIM": self.sta * self.sim,
            "J": self.sta * self.sim * self.fl,
        }
        return {name: round(float(value.mean()), 4) for name, value in figures.items()}


def score_rewrites(inputs: Sequence[str], outputs: Sequence[str | None], judges: Judges) -> Scores:
    """Judge ``outputs[i]`` as a rewrite of ``inputs[i]``; None or blank scores 0."""
    there = torch.tensor([bool(o and o.strip()) for o in outputs]).float()
    texts = [o or "" for o in outputs]
    seen = judges.classifier.judge(texts)
    similarity = (judges.encoder.embed(inputs) * judges.encoder.embed(texts)).sum(-1)
    fluent = seen.fluency if seen.fluency is not None else torch.ones(len(texts))
    return Scores(
        sta=(seen.toxicity < 0.5).float() * there,
        sim=similarity.clamp_min(0) * there,
        fl=(fluent >= judges.fluency_cut).float() * there,
    )


def fluency_cut(references: Sequence[str], judges: Judges, accepted: float = 0.88) -> float:
    """The cut under which ``accepted`` of human references count as fluent (field's judge: .88)."""
    fluency = judges.classifier.judge(references).fluency
    return 0.5 if fluency is None else float(fluency.quantile(1 - accepted))
