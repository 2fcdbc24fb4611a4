"""The offline judges: one of toxicity, one of fluency, trained apart from what they will judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from sro_edge.durable import write_json
from sro_edge.training.config import JudgesConfig, ScreenerConfig
from sro_edge.training.fluency import Material, Yardsticks, train_fluency
from sro_edge.training.piles import Labelled
from sro_edge.training.runs import FLUENCY, TOXICITY, begin_run, digest
from sro_edge.training.screener import screener_steps, train_screener

Update = Callable[[dict[str, Any]], None]
Progress = Callable[[str, int], AbstractContextManager[Update]]


@contextmanager
def _quiet(name: str, steps: int) -> Iterator[Update]:
    yield lambda metrics: None


class Comments(NamedTuple):
    """Labelled comments of the toxicity judge: to learn from, to measure on, to report on."""

    train: Labelled
    dev: Labelled
    test: Labelled | None = None


def toxicity_config(config: JudgesConfig) -> ScreenerConfig:
    """The toxicity judge is a screener with toxicity as its only output."""
    return ScreenerConfig(
        base=config.base,
        epochs=config.epochs,
        batch_rows=config.batch_rows,
        max_length=config.max_length,
        learning_rate=config.learning_rate,
        fluency_rows=0,
        distill_weight=0,
        seed=config.seed,
    )


def train_judges(
    comments: Comments,
    material: Material,
    yardsticks: Yardsticks,
    run: Path,
    config: JudgesConfig,
    *,
    progress: Progress = _quiet,
) -> dict[str, Any]:
    """Train both judges, each in a folder of its own in ``run``, and write ``run/run.json``.

    A call that goes on with an interrupted one keeps the judge that is finished.

    Args:
        comments: what the toxicity judge learns from.
        material: what the fluency judge learns from.
        yardsticks: what sets its cut.
        run: the run folder.
        config: how to train.
        progress: opened with the name and the steps of each training; what it gives is called with
            the metrics of every logged step.

    Returns:
        the figures of both judges.

    Raises:
        OutputError: ``run`` holds judges of other texts or settings.
    """
    texts = {"comments": comments.train.texts, "sentences": material.sentences}
    begin_run(run, {"config": asdict(config), **{name: digest(t) for name, t in texts.items()}})
    if not (run / TOXICITY / "run.json").is_file():
        learning = toxicity_config(config)
        with progress(TOXICITY, screener_steps(len(comments.train.texts), learning)) as update:
            train_screener(
                comments.train,
                comments.dev,
                [],
                [],
                run / TOXICITY,
                learning,
                test=comments.test,
                progress=update,
            )
    if not (run / FLUENCY / "run.json").is_file():
        with progress(FLUENCY, config.fluency_steps) as update:
            train_fluency(material, yardsticks, run / FLUENCY, config, progress=update)
    metrics = {
        name: json.loads((run / name / "run.json").read_text("utf-8"))["metrics"]
        for name in (TOXICITY, FLUENCY)
    }
    write_json(run / "run.json", {"kind": "judges", "config": asdict(config), "metrics": metrics})
    return metrics
