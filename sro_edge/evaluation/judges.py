"""The models that judge an evaluation, opened by folder or hub name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sro_edge.bundle import Bundle
from sro_edge.errors import ModelError
from sro_edge.evaluation.scores import Judges
from sro_edge.training.encoder import Encoder
from sro_edge.training.follower import Classifier
from sro_edge.training.runs import model_folder


@dataclass(frozen=True)
class JudgeNames:
    """Which models judge: run folders, HF folders or hub names.

    Args:
        toxicity: sequence classifier with a toxic label.
        toxic_label: name of that label, where it is none of the usual ones.
        fluency: sequence classifier of acceptability; default: the toxicity judge's own fluency.
        disfluent_label: name of the label of ``fluency`` that means *not* acceptable.
        meaning: sentence encoder (mean pooling).
    """

    toxicity: str
    toxic_label: str | None = None
    fluency: str | None = None
    disfluent_label: str | None = None
    meaning: str = "minilm"

    def describe(self) -> dict[str, Any]:
        """What names the judges beside every figure; of a path only its last part."""
        record = _record(self.toxicity)
        return {
            "toxicity": _short(self.toxicity),
            "fluency": _short(self.fluency or self.toxicity),
            "meaning": _short(self.meaning),
            **({"toxicity_config": record["config"]} if record.get("config") else {}),
        }


def load_judges(names: JudgeNames) -> Judges:
    """Open the judges; the fluency cut is left at 0.5.

    Raises:
        ModelError: a judge cannot be used as one.
    """
    toxicity = Classifier.load(model_folder(names.toxicity), names.toxic_label)
    return Judges(toxicity, _fluency(names, toxicity), Encoder(names.meaning))


def check_independent(names: JudgeNames, bundle: Bundle) -> None:
    """Refuse the screener of ``bundle`` as the judge of what it gated.

    Raises:
        ModelError: the toxicity judge is the run that the bundle's screener came from.
    """
    record = _record(names.toxicity)
    record.pop("data", None)
    screener = dict(bundle.training.get("screener", {}))
    screener.pop("data", None)
    if record and record == screener:
        raise ModelError(
            f"{names.toxicity} is the screener of the bundle {bundle.name!r}, which has gated what "
            "it would judge here; train a judge on other comments (recipes/judge.toml shows how)"
        )


def _fluency(names: JudgeNames, toxicity: Classifier) -> Callable[[Sequence[str]], torch.Tensor]:
    if names.fluency is None:
        if toxicity.fluent is None:
            raise ModelError(
                f"{names.toxicity} has no label 'fluent', so it cannot judge fluency; name another "
                "model with --fluency-judge"
            )
        return lambda texts: torch.as_tensor(toxicity.judge(texts).fluency)
    if names.disfluent_label is None:
        raise ModelError(
            f"which label of {names.fluency} means that a sentence is not acceptable? Name it with "
            "--disfluent-label; its model card says"
        )
    judge = Classifier.load(model_folder(names.fluency), names.disfluent_label)
    return lambda texts: 1 - judge.judge(texts).toxicity


def _record(name: str) -> dict[str, Any]:
    file = Path(name) / "run.json"
    return dict(json.loads(file.read_text("utf-8"))) if file.is_file() else {}


def _short(name: str) -> str:
    return Path(name).name if Path(name).exists() else name
