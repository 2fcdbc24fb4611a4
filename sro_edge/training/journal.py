"""What every training loop keeps: its metrics file, its progress, and a checkpoint now and then."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from sro_edge.training import checkpoint


class Journal:
    """Metrics and checkpoints of one run; a context manager.

    Args:
        run: the run folder; made where it is missing.
        progress: called with every reported line of metrics.
        checkpoint_every: seconds between checkpoints.
    """

    def __init__(
        self, run: Path, progress: Callable[[dict[str, Any]], None], checkpoint_every: float
    ) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self.run, self.progress, self.checkpoint_every = run, progress, checkpoint_every
        self.started = self.saved = time.monotonic()

    def __enter__(self) -> Journal:
        """Open ``metrics.jsonl`` for more lines."""
        self.log = (self.run / "metrics.jsonl").open("a")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.log.close()

    @property
    def seconds(self) -> float:
        """Since the run, or its resumption, began."""
        return time.monotonic() - self.started

    def report(self, metrics: dict[str, Any]) -> None:
        """Add one line of metrics, numbers to five places."""
        metrics = {k: round(v, 5) if isinstance(v, float) else v for k, v in metrics.items()}
        self.log.write(json.dumps(metrics) + "\n")
        self.log.flush()
        self.progress(metrics)

    def checkpoint(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        state: dict[str, Any],
    ) -> None:
        """Save a checkpoint when the last one is old enough."""
        if time.monotonic() - self.saved > self.checkpoint_every:
            checkpoint.save(self.run, model, optimizers, state)
            self.saved = time.monotonic()
