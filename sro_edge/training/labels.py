"""Reading a classifier's labels: which one means toxic, and how its logits become probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sro_edge.screener import TOXIC_LABELS


def toxic_candidates(labels: Sequence[str], wanted: str | None = None) -> list[int]:
    """Places of the labels called ``wanted``, else of those with a name known to mean toxic."""
    names = {wanted.lower()} if wanted is not None else TOXIC_LABELS
    return [i for i, label in enumerate(labels) if label.lower() in names]


def label_names(config: Any) -> list[str]:
    """The labels of a model's config, in the order of its logits."""
    return [str(config.id2label[i]) for i in range(config.num_labels)]


def is_multi_label(config: Any) -> bool:
    """Whether each label has a probability of its own (sigmoid), not a share of one (softmax)."""
    return bool(config.problem_type == "multi_label_classification" or config.num_labels == 1)
