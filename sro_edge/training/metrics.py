"""How good a classifier is: F1, PR-AUC and calibration, in all and for each source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve


def best_f1_threshold(labels: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> float:
    """The score at or above which calling a comment toxic gives the highest F1."""
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return round(float(thresholds[int(np.argmax(f1[:-1]))]), 4)


def recall_threshold(
    labels: np.ndarray[Any, Any], scores: np.ndarray[Any, Any], recall: float
) -> float:
    """The highest score at or above which a share ``recall`` of the toxic comments lies."""
    toxic = np.sort(scores[labels == 1])[::-1]
    needed = max(1, int(np.ceil(recall * len(toxic) - 1e-9)))
    return float(np.floor(toxic[needed - 1] * 10_000)) / 10_000


def calibration_error(
    labels: np.ndarray[Any, Any], scores: np.ndarray[Any, Any], bins: int = 15
) -> float:
    """Expected calibration error with equal-width bins (Naeini et al. 2015)."""
    place = np.minimum((scores * bins).astype(int), bins - 1)
    gaps = [
        (place == b).mean() * abs(labels[place == b].mean() - scores[place == b].mean())
        for b in range(bins)
        if (place == b).any()
    ]
    return float(sum(gaps))


def classification_report(
    labels: Sequence[int], scores: np.ndarray[Any, Any], sources: Sequence[str], threshold: float
) -> dict[str, dict[str, float]]:
    """Figures under ``all`` and under each source; PR-AUC and F1 only where both classes occur."""
    y, kinds = np.array(labels), np.array(sources)
    report = {}
    for name in ["all", *sorted(set(sources))]:
        rows = np.ones(len(y), bool) if name == "all" else kinds == name
        truth, s = y[rows], scores[rows]
        figures: dict[str, float] = {"rows": int(rows.sum()), "toxic": float(truth.mean())}
        figures["accuracy"] = float(((s > threshold) == truth).mean())
        if 0 < truth.mean() < 1:
            figures["f1"] = float(f1_score(truth, s > threshold))
            figures["pr_auc"] = float(average_precision_score(truth, s))
        figures["calibration_error"] = calibration_error(truth, s)
        report[name] = {k: round(v, 4) for k, v in figures.items()}
    return report
