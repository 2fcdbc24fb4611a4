"""One picture of a run: how its figures went, and which step was kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sro_edge.durable import durable
from sro_edge.training.journal import read_metrics

FILE = "curves.png"
# Panel -> metric -> its name in the legend.
_PANELS = {
    "loss": {"loss": "training"},
    "reward margin": {"rewards/margins": "training"},
    "pass rate": {"pass_rate": "sampled, training", "eval/pass_rate": "greedy, held out"},
    "similarity": {"similarity": "sampled, training", "eval/similarity": "greedy, held out"},
    "answer length, tokens": {"completions/mean_length": "training"},
    "judges, held out": {f"judge/{name}": name for name in ("STA", "SIM", "FL", "J")},
}
_COLORS = ("#4477aa", "#ee6677", "#228833", "#222222")  # Tol's bright scheme; J in black


def draw_curves(run: Path, kept: int) -> Path:
    """Draw ``metrics.jsonl`` as ``curves.png``.

    Args:
        run: the run folder.
        kept: step whose weights were kept; marked in every panel.

    Returns:
        the picture's path.
    """
    lines = read_metrics(run)
    shown = {
        title: found
        for title, names in _PANELS.items()
        if (found := {n: label for n, label in names.items() if any(n in line for line in lines)})
    }
    rows = (len(shown) + 1) // 2
    figure = Figure(figsize=(10, 2.6 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (title, names) in enumerate(shown.items()):
        axes = figure.add_subplot(rows, 2, place + 1)
        _draw(axes, lines, names, kept)
        axes.set_title(title, loc="left", fontsize=10)
        if place >= len(shown) - 2:
            axes.set_xlabel("step")
    with durable(run / FILE) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return run / FILE


def _draw(axes: Axes, lines: list[dict[str, Any]], names: dict[str, str], kept: int) -> None:
    for (name, label), color in zip(names.items(), _COLORS, strict=False):
        points = [(line["step"], line[name]) for line in lines if name in line]
        steps, values = zip(*points, strict=True)
        sparse = name.startswith(("eval/", "judge/"))
        if sparse or len(points) < 20:
            style: dict[str, Any] = {"marker": "o", "markersize": 4, "label": label}
            axes.plot(steps, values, color=color, linewidth=1.6, **style)
            continue
        axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.35)
        axes.plot(steps, _smooth(values), color=color, linewidth=1.8, label=label)
    axes.axvline(kept, color="#999999", linewidth=1, linestyle=":", label=f"kept: step {kept}")
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)


def _smooth(values: tuple[float, ...]) -> list[float]:
    """Mean of the last tenth of the steps so far, at each step."""
    width = max(1, len(values) // 10)
    windows = (values[max(0, i + 1 - width) : i + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]
