"""What is compared in an evaluation: the baselines, a bundle, and any other system's outputs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sro_edge.deletion import delete_words
from sro_edge.errors import InputError
from sro_edge.job import Rewrite
from sro_edge.rewriter import Rewriter
from sro_edge.training.corruption import drop_words
from sro_edge.training.piles import read_lines, read_table

_WORD_COLUMNS = ("term", "word", "text")
_HUMAN, _DELETE, _DROPPED = "human reference", "delete (word list)", "reference, 2 words dropped"
# Systems that show how strict the fluency judge is -> what each of them is.
YARDSTICKS = {
    _HUMAN: "human references",
    _DELETE: "word-deleting",
    _DROPPED: "references with two words dropped",
}


@dataclass(frozen=True)
class Inputs:
    """What every system is given.

    Args:
        texts: toxic comments.
        references: human rewrites of each; None where the file has none.
        sources: where each comment came from; None where the file does not say.
    """

    texts: list[str]
    references: list[list[str]] | None = None
    sources: list[str] | None = None


@dataclass(frozen=True)
class System:
    """One system's outputs, in the order of the inputs; None where it gave none.

    Args:
        name: how it is called in tables.
        outputs: the rewrites.
        records: the engine's own account, where the system is a bundle.
        compared: False for what only tells how the judges judge.
    """

    name: str
    outputs: list[str | None]
    records: list[Rewrite] | None = None
    compared: bool = True


def read_inputs(
    path: Path, column: str, references: str | None = None, source: str | None = None
) -> Inputs:
    """Comments to rewrite, with human rewrites (a string or a list of them a row) where named.

    Raises:
        InputError: the file cannot be read as asked, or holds no comment.
    """
    table = read_table(path, [name for name in (column, references, source) if name])
    rows = table.to_pydict()
    kept = [i for i, t in enumerate(rows[column]) if isinstance(t, str) and t.strip()]
    if not kept:
        raise InputError(f"{path} has no comment in column {column!r}: there is nothing to judge")
    humans = None
    if references:
        given = [rows[references][i] for i in kept]
        humans = [[g] if isinstance(g, str) else list(g or []) for g in given]
        if not all(humans):
            raise InputError(
                f"{path}: {sum(not h for h in humans)} comments have nothing in column "
                f"{references!r}; drop them, or evaluate without --references"
            )
    return Inputs(
        [rows[column][i] for i in kept],
        humans,
        [str(rows[source][i]) for i in kept] if source else None,
    )


def baselines(inputs: Inputs, words: Mapping[str, float]) -> list[System]:
    """Copy, delete the words of a list, and human rewrites, the last two where there are some.

    Human rewrites with two random words dropped only show whether the fluency judge sees holes.
    """
    texts = inputs.texts
    found = [System("copy", list(texts))]
    if words:
        found.append(System(_DELETE, [delete_words(t, words) for t in texts]))
    if inputs.references:
        first = [refs[0] for refs in inputs.references]
        rng = random.Random(0)
        found += [
            System(_HUMAN, list(first)),
            System(_DROPPED, [drop_words(r, 2, rng) for r in first], compared=False),
        ]
    return found


def run_bundle(rewriter: Rewriter, inputs: Inputs) -> System:
    """The rewrites of a bundle, gated and retried as in ``sro-edge rewrite``."""
    records = list(rewriter.rewrite(inputs.texts))
    return System(f"bundle {rewriter.bundle.name}", [r.text for r in records], records)


def run_policy(name: str, run: str, inputs: Inputs) -> System:
    """Greedy, ungated answers of a policy run, made with torch: a warm start, say."""
    from sro_edge.training.config import SROConfig
    from sro_edge.training.policy import Policy
    from sro_edge.training.rollout import greedy_answers
    from sro_edge.training.runs import model_folder

    policy = Policy(model_folder(run), SROConfig(lora=False))
    outputs: list[str | None] = [s.text for s in greedy_answers(policy, inputs.texts)]
    return System(f"{name}, greedy", outputs)


def read_outputs(name: str, path: Path, column: str | None, inputs: Inputs) -> System:
    """Another system's outputs: lines of a text file, or a column; blank or null is no rewrite.

    Raises:
        InputError: the file cannot be read, or has not one output for each input.
    """
    if path.suffix == ".txt":
        outputs: list[str | None] = [*read_lines(path)]
    else:
        column = column or "text_detox"
        outputs = read_table(path, [column])[column].to_pylist()
    if len(outputs) != len(inputs.texts):
        raise InputError(
            f"{path} has {len(outputs):,} outputs for {len(inputs.texts):,} inputs; it must have "
            "one for each input, in the same order (blank inputs left out)"
        )
    return System(name, [o if o and o.strip() else None for o in outputs])


def read_words(path: Path) -> dict[str, float]:
    """A word list: lines of a text file, or the column ``term``, ``word`` or ``text`` of a table.

    Raises:
        InputError: the file cannot be read, or has none of these columns.
    """
    if path.suffix == ".txt":
        terms: Sequence[str | None] = read_lines(path)
    else:
        table = read_table(path)
        column = next((c for c in _WORD_COLUMNS if c in table.column_names), None)
        if column is None:
            raise InputError(
                f"{path} has none of the columns {', '.join(_WORD_COLUMNS)}; it has "
                f"{', '.join(table.column_names)}"
            )
        terms = table[column].to_pylist()
    return {t.strip().lower(): 1.0 for t in terms if t and t.strip()}
