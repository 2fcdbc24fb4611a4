"""What every training loop keeps: its metrics, its progress, and a checkpoint now and then.

Metrics go to ``metrics.jsonl``, and to ``tensorboard/`` where TensorBoard is installed. A run that
goes on from a checkpoint first drops what was written after it, so each step stands there once.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from sro_edge.training import checkpoint

METRICS = "metrics.jsonl"


class Journal:
    """Metrics and checkpoints of one run; a context manager.

    Args:
        run: the run folder; made where it is missing.
        progress: called with every reported line of metrics.
        checkpoint_every: seconds between checkpoints.
        writes: whether this process writes files; of several, only one does.
    """

    def __init__(
        self,
        run: Path,
        progress: Callable[[dict[str, Any]], None],
        checkpoint_every: float,
        *,
        writes: bool = True,
    ) -> None:
        self.run, self.progress, self.checkpoint_every = run, progress, checkpoint_every
        self.writes, self.board = writes, None
        self.started = self.saved = time.monotonic()

    def __enter__(self) -> Journal:
        """Open ``metrics.jsonl`` for more lines."""
        if self.writes:
            self.run.mkdir(parents=True, exist_ok=True)
            self.log = (self.run / METRICS).open("ab")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        if self.writes:
            self.log.close()
        if self.board is not None:
            self.board.close()

    @property
    def seconds(self) -> float:
        """Since the run began, without the time in which it was down."""
        return time.monotonic() - self.started

    def resume(
        self, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]
    ) -> dict[str, Any] | None:
        """Restore the newest checkpoint and return its state; None where there is none."""
        stored = checkpoint.load(self.run, model, optimizers) or {"state": None}
        self.started -= stored.get("seconds", 0.0)
        state: dict[str, Any] | None = stored["state"]
        if self.writes:
            self.log.truncate(stored.get("log_bytes", 0))
            if importlib.util.find_spec("tensorboard") is not None:
                from torch.utils.tensorboard import SummaryWriter

                done = state["step"] if state else -1
                self.board = SummaryWriter(self.run / "tensorboard", purge_step=done + 1)
        return state

    def report(self, metrics: dict[str, Any]) -> None:
        """Add one line of metrics, numbers to six digits; ``step`` is its place."""
        if not self.writes:
            return
        metrics = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in metrics.items()}
        self.log.write(json.dumps(metrics).encode() + b"\n")
        self.log.flush()
        if self.board is not None:
            for name, value in metrics.items():
                if name != "step" and isinstance(value, (int, float)):
                    self.board.add_scalar(name, value, metrics["step"])
        self.progress(metrics)

    def checkpoint(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        state: dict[str, Any],
        *,
        now: bool = False,
    ) -> bool:
        """Save a checkpoint when the last one is old enough, or ``now``; say whether."""
        if not self.writes:
            return False
        due = now or time.monotonic() - self.saved > self.checkpoint_every
        if due:
            kept = {"state": state, "log_bytes": self.log.tell(), "seconds": self.seconds}
            checkpoint.save(self.run, model, optimizers, kept)
            self.saved = time.monotonic()
        return due


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``."""
    return [json.loads(line) for line in (run / METRICS).read_text("utf-8").splitlines()]
