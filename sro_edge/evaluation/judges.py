"""The models that judge an evaluation, opened by folder or hub name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from sro_edge.bundle import Bundle
from sro_edge.errors import ModelError
from sro_edge.evaluation.fluency import FluencyJudge
from sro_edge.evaluation.scores import Judges
from sro_edge.training.encoder import Encoder
from sro_edge.training.follower import Classifier
from sro_edge.training.runs import FLUENCY, fluency_folder, model_folder

T = TypeVar("T")


@dataclass(frozen=True)
class JudgeNames:
    """Which models judge: run folders, HF folders or hub names.

    Args:
        toxicity: sequence classifier with a toxic label.
        toxic_label: name of that label, where it is none of the usual ones.
        fluency: sequence classifier of acceptability, or a run of judges; default: the fluency
            judge in the run ``toxicity``, or that model's own fluency.
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
        found: dict[str, Any] = {
            "toxicity": _short(self.toxicity),
            "fluency": _short(self.fluency or self.toxicity),
            "meaning": _short(self.meaning),
        }
        for name in dict.fromkeys(filter(None, (self.toxicity, self.fluency))):
            record = _record(name)
            kept = {k: record[k] for k in ("config", "data", "folds") if record.get(k)}
            trained = (record.get("metrics") or {}).get(FLUENCY) or {}
            kept |= {"fluency_when_trained": trained} if "cut" in trained else {}
            found |= {f"training of {_short(name)}": kept} if kept else {}
        return found


def load_judges(names: JudgeNames) -> Judges:
    """Open the judges; the fluency cut is the one that the judge was trained to, or 0.5.

    Raises:
        ModelError: a judge cannot be opened, or cannot be used as one.
    """
    toxicity = _open(names.toxicity, lambda n: Classifier.load(model_folder(n), names.toxic_label))
    fluency = _fluency(names, toxicity)
    encoder = _open(names.meaning, Encoder)
    if isinstance(fluency, FluencyJudge) and fluency.cut is not None:
        return Judges(toxicity, fluency, encoder, fluency.cut, calibrated=True)
    return Judges(toxicity, fluency, encoder)


def check_independent(names: JudgeNames, bundle: Bundle) -> None:
    """Refuse the screener of ``bundle`` as the judge of what it gated.

    Raises:
        ModelError: a judge is the run that the bundle's screener came from.
    """
    screener = dict(bundle.training.get("screener", {}))
    screener.pop("data", None)
    for name in filter(None, (names.toxicity, names.fluency)):
        record = _record(name)
        record.pop("data", None)
        if record and record == screener:
            raise ModelError(
                f"{name} is the screener of the bundle {bundle.name!r}, which has gated what it "
                "would judge here; train judges on other texts (`sro-edge train-judges`)"
            )


def _fluency(names: JudgeNames, toxicity: Classifier) -> Callable[[Sequence[str]], torch.Tensor]:
    trained = fluency_folder(names.fluency or names.toxicity)
    if trained is not None:
        return _open(str(trained), FluencyJudge.load)
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
    label = names.disfluent_label
    judge = _open(names.fluency, lambda n: Classifier.load(model_folder(n), label))
    return lambda texts: 1 - judge.judge(texts).toxicity


def _open(name: str, load: Callable[[str], T]) -> T:
    """A model by folder or hub name; what transformers says of one that is not there, shortened."""
    try:
        return load(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"the judge {name} cannot be opened: {reason} Give a run folder, a Hugging Face folder "
            "with safetensors, or, where there is a network, a hub name"
        ) from error


def _record(name: str) -> dict[str, Any]:
    file = Path(name) / "run.json"
    return dict(json.loads(file.read_text("utf-8"))) if file.is_file() else {}


def _short(name: str) -> str:
    return Path(name).name if Path(name).exists() else name
