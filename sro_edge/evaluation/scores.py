"""STA, SIM, FL and J of rewrites, as ParaDetox defines them.

Per sentence: STA is 1 where a toxicity classifier's argmax says non-toxic, SIM the cosine of
sentence embeddings of input and output, FL is 1 where a fluency classifier accepts the output. J is
the mean over sentences of STA x SIM x FL, not the product of the means. A missing output (an
unresolved comment) scores 0 in all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from sro_edge.training.encoder import Encoder
from sro_edge.training.follower import Classifier

FIGURES = ("STA", "SIM", "FL", "STA*SIM", "J")
ACCEPTED = 0.88  # share of human references that the field's fluency judge accepts
_RESAMPLES = 1_000


@dataclass(frozen=True)
class Judges:
    """The models that report: none of them may have gated or trained what they judge.

    Args:
        toxicity: classifier with a toxic label.
        fluency: texts -> probabilities that they are fluent, (N,).
        encoder: meaning.
        fluency_cut: fluency from which an output counts as fluent.
        calibrated: whether that cut was set when the judge was trained.
    """

    toxicity: Classifier
    fluency: Callable[[Sequence[str]], torch.Tensor]
    encoder: Encoder
    fluency_cut: float = 0.5
    calibrated: bool = False


class Interval(NamedTuple):
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """Per-sentence scores, each (N,); ``toxicity`` and ``fluency`` are the judges' own values."""

    sta: torch.Tensor
    sim: torch.Tensor
    fl: torch.Tensor
    toxicity: torch.Tensor
    fluency: torch.Tensor

    def figures(self) -> dict[str, torch.Tensor]:
        """The sentence-level values of :data:`FIGURES`, each (N,)."""
        both = self.sta * self.sim
        return dict(zip(FIGURES, (self.sta, self.sim, self.fl, both, both * self.fl), strict=True))

    def means(self, rows: Sequence[int] | None = None) -> dict[str, float]:
        """Means over all sentences, or over ``rows``."""
        taken = slice(None) if rows is None else list(rows)
        return {n: round(float(v[taken].mean()), 4) for n, v in self.figures().items()}

    def intervals(self, rows: Sequence[int] | None = None, seed: int = 0) -> dict[str, Interval]:
        """Means with 95 % percentile bootstrap intervals over sentences (Efron 1979).

        Args:
            rows: take only these sentences.
            seed: of the resampling.
        """
        taken = slice(None) if rows is None else list(rows)
        values = np.stack([v[taken].numpy() for v in self.figures().values()], 1)  # (N, F)
        rng = np.random.default_rng(seed)
        draws = np.stack(
            [values[rng.integers(0, len(values), len(values))].mean(0) for _ in range(_RESAMPLES)]
        )  # (R, F)
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        columns = zip(FIGURES, values.mean(0), low, high, strict=True)
        return {n: Interval(*(round(float(v), 4) for v in three)) for n, *three in columns}


def score_rewrites(inputs: Sequence[str], outputs: Sequence[str | None], judges: Judges) -> Scores:
    """Judge ``outputs[i]`` as a rewrite of ``inputs[i]``; None or blank scores 0."""
    there = torch.tensor([bool(o and o.strip()) for o in outputs]).float()
    texts = [o or "" for o in outputs]
    toxicity = judges.toxicity.judge(texts).toxicity
    similarity = (judges.encoder.embed(inputs) * judges.encoder.embed(texts)).sum(-1)
    fluency = judges.fluency(texts)
    return Scores(
        sta=(toxicity < 0.5).float() * there,
        sim=similarity.clamp_min(0) * there,
        fl=(fluency >= judges.fluency_cut).float() * there,
        toxicity=toxicity,
        fluency=fluency,
    )


def settle_cut(
    judges: Judges, references: Sequence[str] = (), cut: float | None = None
) -> tuple[Judges, str]:
    """The judges with the fluency cut that figures are to be made with, and where it comes from.

    The first there is: ``cut``; the one that the judge was trained to; the one under which 88 % of
    human ``references`` are fluent, as under the field's judge; 0.5.
    """
    if cut is not None:
        return replace(judges, fluency_cut=cut), "given"
    if judges.calibrated:
        return judges, "set when the judge was trained"
    if references:
        found = float(judges.fluency(references).quantile(1 - ACCEPTED))
        return replace(judges, fluency_cut=found), f"passes {ACCEPTED:.0%} of these references"
    return replace(judges, fluency_cut=0.5), "default"
