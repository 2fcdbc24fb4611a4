"""STA, SIM, FL and J of systems side by side: as a dictionary, and as a page to look at."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from sro_edge.evaluation.judges import JudgeNames
from sro_edge.evaluation.page import Answer, Figures, Histogram, Page, Row, bins, text_of
from sro_edge.evaluation.scores import FIGURES, Judges, Scores, score_rewrites, settle_cut
from sro_edge.evaluation.systems import YARDSTICKS, Inputs, System
from sro_edge.guards import survives
from sro_edge.machine import describe_machine

LENGTHS = ((1, 10), (11, 20), (21, None))  # words of a comment
_DISAGREE = "screener passes, judge does not"


def evaluate(
    inputs: Inputs,
    systems: Sequence[System],
    judges: Judges,
    names: JudgeNames,
    *,
    cut: float | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> tuple[dict[str, Any], Page]:
    """Judge every system on the same inputs.

    Args:
        inputs: what the systems were given.
        systems: their outputs.
        judges: the models that judge.
        names: which models these are.
        cut: fluency from which an output is fluent; default: see :func:`.scores.settle_cut`.
        progress: called with the name of each system before it is judged.

    Returns:
        the result as JSON types, and the page about it.
    """
    judges, origin = settle_cut(judges, [r for refs in inputs.references or () for r in refs], cut)
    scores: dict[str, Scores] = {}
    for system in systems:
        progress(system.name)
        scores[system.name] = score_rewrites(inputs.texts, system.outputs, judges)
    figures = {s.name: _system(s, scores[s.name], inputs) for s in systems}
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine(),
        "rows": len(inputs.texts),
        "judges": {
            **names.describe(),
            "fluency_cut": round(judges.fluency_cut, 4),
            "fluency_cut_from": origin,
            "fluent_share": {n: figures[n]["figures"]["FL"][0] for n in YARDSTICKS if n in figures},
        },
        "systems": figures,
    }
    return result, _page(result, inputs, systems, scores)


def _system(system: System, scores: Scores, inputs: Inputs) -> dict[str, Any]:
    """The figures of one system, and what it did besides."""
    texts, outputs = inputs.texts, system.outputs
    there = [(t, o) for t, o in zip(texts, outputs, strict=True) if o is not None]
    found: dict[str, Any] = {
        "figures": {name: list(three) for name, three in scores.intervals().items()},
        "no_output": round(1 - len(there) / len(texts), 4),
        "copied": round(sum(t.split() == o.split() for t, o in there) / len(texts), 4),
        "lost_protected": round(sum(not survives(o, t) for t, o in there) / len(texts), 4),
        "by_length": _by(_lengths(texts), scores),
    }
    if inputs.sources:
        found["by_source"] = _by(inputs.sources, scores)
    if system.records:
        records = system.records
        found |= {
            "status": dict(Counter(r.status for r in records)),
            "reasons": dict(Counter(r.reason for r in records if r.reason)),
            "engines": dict(Counter(r.engine for r in records if r.engine)),
            "passed_by_round": _passed_by_round(system),
            "judges_disagree": sum(_disagree(system, scores, i) for i in range(len(texts))),
        }
    return found


def _by(groups: Sequence[str], scores: Scores) -> dict[str, dict[str, Any]]:
    """Rows, means and the interval of J of each group."""
    rows: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        rows.setdefault(group, []).append(i)
    return {
        g: {"rows": len(r), **scores.means(r), "J, 95 %": list(scores.intervals(r)["J"][1:])}
        for g, r in sorted(rows.items())
    }


def _lengths(texts: Sequence[str]) -> list[str]:
    def name(words: int) -> str:
        low, high = next(pair for pair in LENGTHS if pair[1] is None or words <= pair[1])
        return f"{low:>2} words and more" if high is None else f"{low:>2}-{high} words"

    return [name(len(t.split())) for t in texts]


def _passed_by_round(system: System) -> dict[str, float]:
    """Share of the toxic comments that had passed after each round; deletion is not a round."""
    toxic = [r for r in system.records or () if r.status in {"rewritten", "unresolved"}]
    passed = [r.attempts for r in toxic if r.status == "rewritten" and r.engine != "delete"]
    rounds = range(1, max(passed, default=0) + 1)
    return {str(n): round(sum(p <= n for p in passed) / len(toxic), 4) for n in rounds}


def _disagree(system: System, scores: Scores, row: int) -> bool:
    """Whether the bundle's screener let an output pass that the judge calls toxic."""
    record = (system.records or [])[row] if system.records else None
    passed = record is not None and record.status in {"clean", "rewritten"}
    return passed and not bool(scores.sta[row])


def figures_table(result: dict[str, Any]) -> Figures:
    """Means of all systems with their intervals, as text."""
    rows = []
    for name, system in result["systems"].items():
        cells = [f"{mean:.3f}" for mean, _, _ in system["figures"].values()]
        _, low, high = system["figures"]["J"]
        rows.append([name, *cells, f"{low:.3f}-{high:.3f}", f"{system['no_output']:.1%}"])
    return Figures("Systems", ["", *FIGURES, "J, 95 %", "none"], rows)


def fluency_note(result: dict[str, Any]) -> str:
    """How strict the fluency judge is, in a sentence; empty without one of its yardsticks."""
    shares = result["judges"]["fluent_share"]
    told = [f"{share:.0%} of {YARDSTICKS[name]}" for name, share in shares.items()]
    cut = f"cut {result['judges']['fluency_cut']}, {result['judges']['fluency_cut_from']}"
    return f"fluent are {', '.join(told)} ({cut})" if told else ""


def _page(
    result: dict[str, Any],
    inputs: Inputs,
    systems: Sequence[System],
    scores: dict[str, Scores],
) -> Page:
    compared = [s for s in systems if s.compared]
    groups = [k for k in ("by_length", "by_source") if k in next(iter(result["systems"].values()))]
    before = scores["copy"].toxicity.tolist() if "copy" in scores else []
    return Page(
        title=f"Evaluation on {len(inputs.texts):,} comments",
        tables=[
            figures_table(result),
            _conduct_table(result),
            *(_group_table(result, key) for key in groups),
        ],
        histograms=[
            Histogram(
                f"toxicity under the judge, {s.name}",
                {"before": bins(before), "after": bins(scores[s.name].toxicity.tolist())},
            )
            for s in compared
            if s.name != "copy"
        ],
        facts=[(k, text_of(v)) for k, v in {**result["judges"], **result["machine"]}.items()],
        systems=[s.name for s in reversed(compared)],
        scores=["J", "toxicity", "similarity", "fluency"],
        rows=[
            Row(text, [_answer(s, scores[s.name], i) for s in reversed(compared)])
            for i, text in enumerate(inputs.texts)
        ],
    )


def _group_table(result: dict[str, Any], key: str) -> Figures:
    """J of every system in every group, with its interval."""
    systems = result["systems"]
    names = list(next(iter(systems.values()))[key])
    counts = next(iter(systems.values()))[key]
    rows = [
        [
            name,
            f"{counts[name]['rows']:,}",
            *(_with_interval(s[key][name]) for s in systems.values()),
        ]
        for name in names
    ]
    return Figures(f"J {key.replace('_', ' ')}", ["", "rows", *systems], rows)


def _with_interval(group: dict[str, Any]) -> str:
    low, high = group["J, 95 %"]
    return f"{group['J']:.3f} ({low:.2f}-{high:.2f})"


def _conduct_table(result: dict[str, Any]) -> Figures:
    """What every system did besides: copies, gaps, losses; of a bundle also how it got there."""
    shares = {"no output": "no_output", "copied": "copied", "lost protected": "lost_protected"}
    rows = []
    for name, system in result["systems"].items():
        passed = [f"{n}: {share:.1%}" for n, share in system.get("passed_by_round", {}).items()]
        reasons = [f"{reason} {count}" for reason, count in system.get("reasons", {}).items()]
        engines = [f"{engine} {count}" for engine, count in system.get("engines", {}).items()]
        told = (", ".join(part) for part in (passed, engines, reasons))
        disagree = str(system.get("judges_disagree", ""))
        rows.append([name, *(f"{system[key]:.1%}" for key in shares.values()), *told, disagree])
    heads = ["", *shares, "passed by round", "engines", "unresolved", _DISAGREE]
    return Figures("What they did", heads, rows)


def _answer(system: System, scores: Scores, row: int) -> Answer:
    output = system.outputs[row]
    good = {"toxic": scores.sta, "fluent": scores.fl}
    tags = []
    if output is None:
        tags.append("no output")
    else:
        tags += ["still toxic"] if not good["toxic"][row] else []
        tags += ["not fluent"] if not good["fluent"][row] else []
    if system.records:
        record = system.records[row]
        tags += [t for t in (record.status, record.reason, record.engine) if t]
    if _disagree(system, scores, row):
        tags.append(_DISAGREE)
    values = (scores.figures()["J"], scores.toxicity, scores.sim, scores.fluency)
    return Answer(output, [float(v[row]) if output is not None else None for v in values], tags)
