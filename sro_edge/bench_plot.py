"""The figures of :mod:`sro_edge.bench` as a table of 80 columns and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sro_edge.errors import MissingExtraError

if TYPE_CHECKING:
    from rich.table import Table


def tables(result: dict[str, Any]) -> list[Table]:
    """Tables for a terminal of 80 columns."""
    return [_summary(result), _latency(result["latency_ms"]), _rewriter(result["rewriter"])]


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    return table


def _summary(result: dict[str, Any]) -> Table:
    machine, cold, together = result["machine"], result["cold_start_s"], result["together"]
    threads = machine["threads"][-1]
    table = _table(f"{machine['processor']}, {threads} threads, {result['bundle']['name']}", "", "")
    table.columns[1].justify = "left"
    parts = ", ".join(f"{name.replace('_', ' ')} {s:.2f}" for name, s in cold.items())
    table.add_row("cold start, s", parts)
    share = f"{result['toxic']} of {result['comments']} toxic"
    table.add_row("dump", f"{together['comments_per_s']:,} comments/s, {share}")
    table.add_row("", f"{together['toxic_per_s']:,} toxic comments/s")
    screening = result["screener_comments_per_s"]
    alone = ", ".join(f"{n} threads {speed:,.0f}" for n, speed in screening.items())
    table.add_row("screener alone, comments/s", alone)
    if result["peak_memory_mb"] is not None:
        table.add_row("peak memory", f"{result['peak_memory_mb']:,.0f} MB")
    return table


def _latency(latency: dict[str, dict[str, dict[str, float]]]) -> Table:
    table = _table("one comment at a time, ms", "", "characters", "p50", "p95", "p99", "comments")
    for kind, buckets in latency.items():
        for bucket, row in buckets.items():
            numbers = (f"{row[name]:.1f}" for name in ("p50", "p95", "p99"))
            table.add_row(kind, bucket, *numbers, str(row["n"]))
    return table


def _rewriter(rewriter: dict[str, dict[str, dict[str, float]]]) -> Table:
    threads = list(next(iter(rewriter.values())))
    names = [f"{what}, {n} threads" for n in threads for what in ("answers/s", "tokens/s")]
    table = _table("the rewriter alone, greedy", "in flight", *names)
    for slots, row in rewriter.items():
        cells = [row[n][f"{what}_per_s"] for n in threads for what in ("answers", "tokens")]
        table.add_row(slots, *(f"{cell:,.0f}" for cell in cells))
    return table


def draw(result: dict[str, Any], file: Path) -> None:
    """Write the picture: latency by length, throughput by sequences in flight, cold start.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("a picture", "bench", "matplotlib") from error
    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    _draw_latency(left, result["latency_ms"])
    _draw_throughput(middle, result["rewriter"])
    _draw_cold_start(right, result["cold_start_s"])
    machine = result["machine"]
    figure.suptitle(
        f"{result['bundle']['name']} on {machine['processor']}, {machine['threads'][-1]} threads, "
        f"{result['date']}",
        fontsize=10,
    )
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _draw_latency(axes: Any, latency: dict[str, dict[str, dict[str, float]]]) -> None:
    width = 0.38
    buckets = list(dict.fromkeys(name for kind in latency.values() for name in kind))
    for number, (kind, rows) in enumerate(latency.items()):
        at = [buckets.index(bucket) + (number - 0.5) * width for bucket in rows]
        middle = [row["p50"] for row in rows.values()]
        above = [row["p95"] - row["p50"] for row in rows.values()]
        axes.bar(at, middle, width, yerr=[[0] * len(above), above], capsize=3, label=kind)
    axes.set_xticks(range(len(buckets)), buckets)
    axes.set_yscale("log")
    axes.set(title="one comment at a time: p50, whisker p95", xlabel="characters", ylabel="ms")
    axes.legend(frameon=False)


def _draw_throughput(axes: Any, rewriter: dict[str, dict[str, dict[str, float]]]) -> None:
    slots = list(rewriter)
    for threads in next(iter(rewriter.values())):
        speeds = [rewriter[n][threads]["tokens_per_s"] for n in slots]
        axes.plot(slots, speeds, marker="o", label=f"{threads} threads")
    axes.set_ylim(bottom=0)
    axes.set(title="rewriter alone", xlabel="answers in flight", ylabel="tokens/s")
    axes.legend(frameon=False)


def _draw_cold_start(axes: Any, cold: dict[str, float]) -> None:
    left = 0.0
    for name, seconds in cold.items():
        if name != "in_all":
            axes.barh([0], [seconds], left=left, label=f"{name.replace('_', ' ')} {seconds:.2f}")
            left += seconds
    axes.set_yticks([])
    axes.set_ylim(-0.6, 2.2)
    axes.set(title=f"first rewritten row after {cold['in_all']:.2f} s", xlabel="s")
    axes.legend(frameon=False, ncols=2, fontsize=8)
