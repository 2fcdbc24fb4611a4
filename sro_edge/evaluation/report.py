"""A page about one rewrite run, to check it in minutes: what was reworded, what not, and why."""

from __future__ import annotations

import heapq
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sro_edge.errors import OutputError
from sro_edge.evaluation.outputs import SCORES, Output, open_output, records
from sro_edge.evaluation.page import Answer, Figures, Histogram, Page, Row, bin_of, render, text_of

_BINS = 20


def report_run(output: Path, page: Path, *, column: str | None = None, rows: int = 1000) -> int:
    """Write ``page`` about ``output``, a file or folder that ``rewrite`` made.

    Counts and histograms cover every row; of the comments, ``rows`` are shown: half of them
    unresolved and half rewritten where there are enough of both, chosen by a hash of their text,
    so that the same file gives the same page.

    Args:
        output: file or folder of any format; the run's manifest says which columns it made.
        page: HTML file to make.
        column: column of the comments; default: as the manifest says.
        rows: comments shown.

    Returns:
        how many comments the page shows.

    Raises:
        InputError: ``output`` cannot be read, or no rewrite run made it.
        OutputError: ``page`` cannot be written.
    """
    made = open_output(output, column)
    seen = _Seen(rows)
    for record in records(made):
        seen.add(record)
    shown = seen.chosen()
    html = render(
        Page(
            title=f"Rewrites in {output.name}",
            tables=[_counts(seen)],
            histograms=[
                Histogram(
                    "toxicity of rewritten comments",
                    {"before": seen.before, "after": seen.after},
                ),
                Histogram("toxicity of unresolved comments", {"before": seen.unresolved}),
                Histogram("similarity of rewrites", {"rewritten": seen.similarity}),
            ],
            facts=_facts(made),
            systems=["this run"],
            scores=["toxicity", "after", "similarity", "fluency", "attempts"],
            rows=[_row(record) for record in shown],
        )
    )
    try:
        page.write_text(html, "utf-8", errors="replace")
    except OSError as error:
        raise OutputError(
            f"{page} cannot be written: {error.strerror or error}; name another page with -o"
        ) from error
    return len(shown)


@dataclass
class _Seen:
    """Counts over all rows, and the rows that are to be shown."""

    rows: int
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    engines: Counter[str] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    before: list[int] = field(default_factory=lambda: [0] * _BINS)
    after: list[int] = field(default_factory=lambda: [0] * _BINS)
    unresolved: list[int] = field(default_factory=lambda: [0] * _BINS)
    similarity: list[int] = field(default_factory=lambda: [0] * _BINS)
    kept: dict[str, list[tuple[int, int, dict[str, Any]]]] = field(
        default_factory=lambda: {"rewritten": [], "unresolved": []}
    )

    def add(self, record: dict[str, Any]) -> None:
        """Count one row."""
        status = record["status"]
        self.statuses[status] += 1
        if status == "unresolved":
            self.reasons[record["reason"]] += 1
            _count(self.unresolved, record["toxicity_before"])
        elif status == "rewritten":
            self.engines[record["engine"]] += 1
            self.attempts[record["attempts"]] += 1
            _count(self.before, record["toxicity_before"])
            _count(self.after, record["toxicity_after"])
            _count(self.similarity, record["similarity"])
        if status in self.kept:
            self._keep(self.kept[status], record)

    def _keep(self, heap: list[tuple[int, int, dict[str, Any]]], record: dict[str, Any]) -> None:
        """Hold on to the ``rows`` records with the smallest hash."""
        place = zlib.crc32(record["before"].encode(errors="replace"))
        entry = (-place, -sum(self.statuses.values()), record)
        if len(heap) < self.rows:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)

    def chosen(self) -> list[dict[str, Any]]:
        """The rows to show: unresolved ones first, each kind in the order of the file."""
        groups = self.kept["unresolved"], self.kept["rewritten"]
        half = self.rows // 2
        first = min(len(groups[0]), max(half, self.rows - len(groups[1])))
        sizes = first, self.rows - first
        return [
            record
            for group, size in zip(groups, sizes, strict=True)
            for _, _, record in sorted(heapq.nlargest(size, group), key=lambda e: -e[1])
        ]


def _count(counts: list[int], value: float | None) -> None:
    if value is not None:
        counts[bin_of(value, len(counts))] += 1


def _row(record: dict[str, Any]) -> Row:
    tags = [record["status"], record["reason"], record["engine"]]
    after = record["after"] if record["status"] == "rewritten" else None
    return Row(
        record["before"],
        [Answer(after, [record[name] for name in SCORES], [t for t in tags if t])],
    )


def _counts(seen: _Seen) -> Figures:
    total = sum(seen.statuses.values())
    toxic = seen.statuses["rewritten"] + seen.statuses["unresolved"]
    rows = [("rows", f"{total:,}", "")]

    def add(name: str, count: int, whole: int) -> None:
        rows.append((name, f"{count:,}", f"{count / whole:.1%}" if whole else ""))

    add("clean", seen.statuses["clean"], total)
    add("empty", seen.statuses["empty"], total)
    add("toxic", toxic, total)
    add("rewritten, of toxic", seen.statuses["rewritten"], toxic)
    for attempt, count in sorted(seen.attempts.items()):
        add(f"  after {attempt} {'round' if attempt == 1 else 'rounds'}", count, toxic)
    for engine, count in seen.engines.most_common():
        add(f"  by {engine}", count, toxic)
    add("unresolved, of toxic", seen.statuses["unresolved"], toxic)
    for reason, count in seen.reasons.most_common():
        add(f"  {reason}", count, toxic)
    return Figures("Counts", ("", "rows", "share"), rows)


def _facts(made: Output) -> list[tuple[str, str]]:
    """What made the file, from the run's manifest."""
    facts = [("file", made.path.name)]
    for name, value in made.manifest.items():
        if isinstance(value, dict):
            facts += [(f"{name} {key}", text_of(item)) for key, item in value.items()]
        else:
            facts.append((name, text_of(value)))
    return facts
