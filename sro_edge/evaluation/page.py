"""One self-contained HTML page: figures, histograms, and comments beside their rewrites.

The page runs no code but its own and loads nothing: a comment is only ever text in it.
"""

from __future__ import annotations

import difflib
import html
import importlib.resources
import json
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_TOKEN = re.compile(r"\s+|\w+|[^\w\s]")
_LONGEST = 4_000  # characters of a text that are shown; longer ones are cut
_WIDTH, _HEIGHT = 360, 120  # of a histogram, pixels
_COLOURS = ("var(--a)", "var(--b)")


@dataclass(frozen=True)
class Answer:
    """What one system made of one comment.

    Args:
        after: the rewrite; None where there is none.
        scores: one for each name in :attr:`Page.scores`; None where it is unknown.
        tags: kinds of row to filter by.
    """

    after: str | None
    scores: Sequence[float | None]
    tags: Sequence[str] = ()


@dataclass(frozen=True)
class Row:
    """A comment and, in the order of :attr:`Page.systems`, what became of it."""

    before: str
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Histogram:
    """Counts of values in equal bins from 0 to 1, one series a name."""

    title: str
    series: dict[str, Sequence[int]]


@dataclass(frozen=True)
class Figures:
    """A table of figures: a heading for each column, then rows of text."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Page:
    """What a page shows, from top to bottom.

    Args:
        title: heading.
        tables: tables of figures.
        histograms: drawn side by side.
        facts: (name, value) pairs: what was run, on what, judged by whom.
        systems: names of the systems that answered.
        scores: names of the scores of an answer.
        rows: the comments.
    """

    title: str
    tables: Sequence[Figures]
    histograms: Sequence[Histogram]
    facts: Sequence[tuple[str, str]]
    systems: Sequence[str]
    scores: Sequence[str]
    rows: Sequence[Row]


def render(page: Page) -> str:
    """The page as HTML."""
    template = importlib.resources.files("sro_edge.evaluation").joinpath("page.html")
    data = {
        "systems": list(page.systems),
        "scores": list(page.scores),
        "rows": [_row(row) for row in page.rows],
    }
    body = [
        *(_table(table) for table in page.tables),
        _charts(page.histograms),
        _facts(page.facts),
    ]
    # "</script>" in a comment must not end the script that holds it.
    embedded = json.dumps(data, ensure_ascii=True).replace("<", "\\u003c")
    return string.Template(template.read_text("utf-8")).substitute(
        title=html.escape(page.title), body="\n".join(body), data=embedded
    )


def word_diff(before: str, after: str) -> list[tuple[str, str]]:
    """Words of both texts in order: (``same``, ``out`` of the first or ``in`` the second, text)."""
    old, new = _TOKEN.findall(before), _TOKEN.findall(after)
    found: list[tuple[str, str]] = []
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        if kind == "equal":
            found.append(("same", "".join(old[i1:i2])))
            continue
        found += [("out", "".join(old[i1:i2]))] if i2 > i1 else []
        found += [("in", "".join(new[j1:j2]))] if j2 > j1 else []
    return found


def text_of(value: Any) -> str:
    """A value as a fact of a page: strings as they are, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def bins(values: Iterable[float], count: int = 20) -> list[int]:
    """How many of ``values`` (0 to 1) lie in each of ``count`` equal bins."""
    counts = [0] * count
    for value in values:
        counts[bin_of(value, count)] += 1
    return counts


def bin_of(value: float, count: int = 20) -> int:
    """The bin of ``count`` equal ones from 0 to 1 in which ``value`` lies."""
    return min(count - 1, max(0, int(value * count)))


def _row(row: Row) -> dict[str, Any]:
    before = row.before[:_LONGEST]
    answers = []
    for answer in row.answers:
        after = None if answer.after is None else answer.after[:_LONGEST]
        answers.append(
            {
                "after": after,
                "diff": [] if after is None else word_diff(before, after),
                "tags": list(answer.tags),
                "scores": [None if s is None else round(float(s), 3) for s in answer.scores],
            }
        )
    return {"before": before, "answers": answers}


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    lines = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts)
    return f'<details><summary>How it was made</summary><dl class="facts">{lines}</dl></details>'


def _table(table: Figures) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    rows = "".join(line(row, "td") for row in table.rows)
    head = line(table.heads, "th")
    return (
        f"<h2>{html.escape(table.title)}</h2>"
        f'<table class="figures"><thead>{head}</thead><tbody>{rows}</tbody></table>'
    )


def _charts(histograms: Sequence[Histogram]) -> str:
    drawn = "".join(_chart(h) for h in histograms if any(map(any, h.series.values())))
    return f'<h2>Distributions</h2><div class="charts">{drawn}</div>' if drawn else ""


def _chart(histogram: Histogram) -> str:
    """Bars of all series side by side in each bin, as SVG."""
    most = max(max(counts) for counts in histogram.series.values())
    bars, keys = [], []
    for number, (name, counts) in enumerate(histogram.series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        step = _WIDTH / len(counts)
        width = 0.85 * step / len(histogram.series)
        for i, count in enumerate(counts):
            tall = _HEIGHT * count / most
            tip = f"{name}: {count:,} from {i / len(counts):g} to {(i + 1) / len(counts):g}"
            bars.append(
                f'<rect x="{i * step + number * width:.1f}" y="{_HEIGHT - tall:.1f}" '
                f'width="{width:.1f}" height="{tall:.1f}" fill="{colour}">'
                f"<title>{html.escape(tip)}</title></rect>"
            )
        keys.append(
            f'<span class="key" style="background:{colour}"></span>{html.escape(name)}'
            f" ({sum(counts):,})"
        )
    axis = (
        f'<line x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}" stroke="currentColor"/>'
        f'<text x="0" y="{_HEIGHT + 14}" font-size="11" fill="currentColor">0</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 14}" font-size="11" fill="currentColor" '
        'text-anchor="end">1</text>'
    )
    return (
        f'<figure><svg width="{_WIDTH}" height="{_HEIGHT + 18}" role="img">'
        f"{''.join(bars)}{axis}</svg>"
        f"<figcaption>{html.escape(histogram.title)}{''.join(keys)}</figcaption></figure>"
    )
