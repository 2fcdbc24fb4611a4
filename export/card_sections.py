"""Parts of a model card, told from the ``run.json`` of a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

_UNRECORDED = "Not recorded: it was exported from a plain model folder.\n"
_KINDS = {
    "sro": "Fine-tuned on unpaired texts against a toxicity screener, by Stackelberg response "
    "optimization (SRO, arXiv 2410.20298)",
    "warm-start": "Trained from nothing, to restore clean sentences that were noised with toxic "
    "words",
}
_POLICY_FIGURES = {
    "pass_rate": "share of answers that pass all gates",
    "toxicity": "toxicity",
    "similarity": "similarity to the comment",
    "fluency": "fluency",
    "quality": "(1 − toxicity) × similarity × fluency",
    "STA": "STA: share that is not toxic",
    "SIM": "SIM: similarity to the comment",
    "FL": "FL: share that is fluent",
    "J": "J: mean of STA × SIM × FL",
}
_SCREENER_FIGURES = {
    "rows": "comments",
    "toxic": "toxic",
    "accuracy": "accuracy",
    "f1": "F1",
    "pr_auc": "PR-AUC",
    "calibration_error": "calibration error",
}

_ABSTAIN_FIGURES = {
    "threshold": "threshold",
    "precision": "precision",
    "recall": "recall",
    "given_up": "rewordable comments given up",
}


def rewriter_section(record: dict[str, Any]) -> str:
    """How the rewriter was made and what that changed."""
    if not record:
        return _UNRECORDED
    text = [f"{_KINDS.get(record.get('kind', ''), 'Trained')}{_base(record)}."]
    before, kept = record.get("before") or {}, record.get("kept") or {}
    rows = []
    for judge, who in (("eval", "the training screener"), ("judge", "an independent judge")):
        for key, meaning in _POLICY_FIGURES.items():
            name = f"{judge}/{key}"
            if name in kept:
                rows.append([f"{meaning}, by {who}", before.get(name), kept[name]])
    if rows:
        text.append("\nOn held-out toxic comments, one answer each:\n")
        text.append(table(["figure", "before", "after"], rows))
    return "\n".join(text).rstrip() + "\n"


def screener_section(record: dict[str, Any]) -> str:
    """How the screener was made, and how it scores on each source of comments."""
    if not record:
        return _UNRECORDED
    earlier = record.get("base_run") or record
    base = (earlier.get("config") or {}).get("base")
    text = [f"Fine-tuned{f' from {base}' if base else ''} on labelled comments."]
    if earlier is not record:
        text.append(
            "The screener so made then went on learning, with what its data has beyond that."
        )
    metrics = record.get("metrics") or {}
    if "calibration" in metrics:
        text.append("Its toxicity was calibrated on the dev comments (Platt scaling).")
    for split, found in metrics.items():
        if isinstance(found, dict) and any(isinstance(row, dict) for row in found.values()):
            rows = [
                [source, *(row.get(key) for key in _SCREENER_FIGURES)]
                for source, row in found.items()
                if isinstance(row, dict)
            ]
            text.append(f"\nOn the {split} comments, by source:\n")
            text.append(table(["source", *_SCREENER_FIGURES.values()], rows).rstrip())
    return "\n".join(text).rstrip() + "\n"


def first_stage_section(record: dict[str, Any]) -> str:
    """What the first stage clears, and how much of that the screener would have flagged."""
    texts = " and ".join(f"{n:,} ({kind})" for kind, n in record["held_out"].items())
    rows = [
        [p["toxicity"], p["alarm"], p["cleared"], p["toxic"], p["missed"], p["upper"]]
        for p in record["points"]
    ]
    head = ["toxicity that passes", "alarm cleared", "texts cleared"]
    head += ["toxic to the screener", "of them cleared", "share, 95 % upper bound"]
    return f"""
### The first stage

A small convolutional net that imitates the screener, learned from {record["learned"]:,} texts. It
reads every window of a comment, as it stands and without disguise, and clears those whose alarm
stays below a bound; a token that it never met in training is not cleared. The bound was picked so
that in no kind of held-out text more than {record["most_missed"]:.2%} of what the screener calls
toxic is cleared. Held out: {texts}.
A lower threshold than those below switches it off.

{table(head, rows).rstrip()}
"""


def abstain_section(record: dict[str, Any]) -> str:
    """Which comments are given up, and what that gains and costs."""
    rows = []
    for name, part in (("cross-validated", "cross_validated"), ("held out", "held_out")):
        for point in record[part]["points"]:
            rows.append([name, *(point[key] for key in _ABSTAIN_FIGURES)])
    held_out = record["held_out"]
    low, high = held_out["interval"]
    made = ""
    if record.get("made"):
        made = f"""
A second probe learned to tell threats, wishes of harm and plain hate from other sentences, of
{record["made"]:,} that were made of templates; the higher score counts."""
    return f"""
### Abstaining

Some comments no rewording can mend. A linear probe of the screener's encoder learned to know them:
toxic comments that people could not rewrite, against others that they did.{made}

A toxic comment is given up (`unresolved`, `abstained`) where one of its toxic sentences scores
{record["threshold"]:.4g} or more: picked by cross-validation so that at most
{record["config"]["given_up"]:.2%} of the comments that can be reworded are given up. On
{held_out["comments"]:,} held-out comments, {held_out["refused"]:,} of which nobody could reword,
average precision is {held_out["average_precision"]:.3f}, and precision at recall .5
{held_out["precision_at_recall"]:.3f} (95 % interval {low:.3f} to {high:.3f};
cross-validated {record["cross_validated"]["precision_at_recall"]:.3f}). What people refuse to
rewrite is a matter of opinion, so no model can come near 1.

{table(["comments", *_ABSTAIN_FIGURES.values()], rows).rstrip()}
"""


def data_section(records: dict[str, dict[str, Any]]) -> str:
    """The files that the models were trained on, by model and use."""
    rows = []
    for model, record in records.items():
        stages = [(model, record)]
        if isinstance(record.get("base_run"), dict):
            stages.append((f"{model}'s base", record["base_run"]))
        stages += [(f"averaged with the {model}", run) for run in record.get("averaged", ())]
        for name, stage in stages:
            for use, files in (stage.get("data") or {}).items():
                rows.append([name, use, ", ".join(map(str, _listed(files)))])
    return table(["model", "use", "files"], rows) if rows else "Not recorded.\n"


def weakest_sources(record: dict[str, Any], count: int = 2) -> list[str]:
    """The sources of comments on which the screener errs most, with its accuracy."""
    dev = (record.get("metrics") or {}).get("dev") or {}
    found = [
        (row["accuracy"], source)
        for source, row in dev.items()
        if source != "all" and isinstance(row, dict) and "accuracy" in row
    ]
    return [f"{source} (accuracy {accuracy:.2f})" for accuracy, source in sorted(found)[:count]]


def settings(record: dict[str, Any]) -> str:
    """Every figure and setting of a ``run.json``, as a table; of lists of records their length."""
    return table(["setting or figure", "value"], _flat(record, ""))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; None leaves a cell empty."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(value: Any) -> str:
    shown = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return shown.replace("|", "\\|").replace("\n", " ")


def _base(record: dict[str, Any]) -> str:
    base = record.get("base") or (record.get("config") or {}).get("base")
    kind: dict[Any, str] = {True: ", as a LoRA adapter that was merged", False: ", all weights"}
    return (f", from {base}" if base else "") + kind.get(record.get("lora"), "")


def _listed(files: Any) -> list[Any]:
    return files if isinstance(files, list) else [files]


def _flat(record: dict[str, Any], prefix: str) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for key, value in record.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key} / ")
        elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
            rows.append([prefix + key, f"list of {len(value)}, in `bundle.json`"])
        else:
            rows.append([prefix + key, value])
    return rows
