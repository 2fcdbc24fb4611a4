"""The functional cases (HateCheck, HatemojiCheck) that no template of the contrasts can make.

The templates were written without a look at the sentences of these cases, but plain hate is plain:
"I detest ..." stands in both. What a model may have learned by heart is not reported on.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sro_edge.training.contrasts import SLOT

CONTRASTS = Path(__file__).parent.parent / "recipes/contrasts.toml"
_WORDS = re.compile(r"[^\W_]+")
_ANYBODY = r"(?:[^\W_]+ ?){1,4}"  # of whom it is said: other groups than the file's are no news


def unseen_cases(data: Path) -> list[dict[str, Any]]:
    """The rows of ``eval/screener_functional.parquet`` in ``data`` that are no contrasts."""
    file = tomllib.loads(CONTRASTS.read_text("utf-8"))
    made = [
        re.compile(_pattern(template, file["slots"]))
        for group in file["sentences"]
        for template in group["templates"]
    ]
    rows = pq.read_table(data / "eval/screener_functional.parquet").to_pylist()
    return [row for row in rows if not any(m.fullmatch(_plain(row["text"])) for m in made)]


def _pattern(template: str, slots: dict[str, list[str]]) -> str:
    """A regular expression for what a template makes, case and punctuation aside."""
    parts = SLOT.split(template)
    for i in range(1, len(parts), 2):
        people = parts[i] in ("group", "one", "kin")
        parts[i] = _ANYBODY if people else f"(?:{'|'.join(map(_plain, slots[parts[i]]))})"
    for i in range(0, len(parts), 2):
        parts[i] = _plain(parts[i])
    return r" ?".join(part for part in parts if part)


def _plain(text: str) -> str:
    return " ".join(_WORDS.findall(text.lower().replace("'", "")))
