"""What a rewrite run left behind: its manifest, and its rows out of a file of any format."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sro_edge.dataset import data_files
from sro_edge.errors import InputError
from sro_edge.formats import Source, kind_of, open_source
from sro_edge.formats.base import comments
from sro_edge.formats.delimited import DelimitedSource
from sro_edge.formats.jsonl import parse
from sro_edge.formats.parquet import ParquetSource

SCORES = ("toxicity_before", "toxicity_after", "similarity", "fluency", "attempts")
PROOF = ("status", "reason", "engine", *SCORES)


class Output(NamedTuple):
    """A file or folder that a rewrite run made.

    Attributes:
        path: where it lies.
        manifest: what the run said of it; empty where that is lost.
        column: column of the comments.
    """

    path: Path
    manifest: dict[str, Any]
    column: str


def open_output(path: Path, column: str | None = None) -> Output:
    """``path`` with its run's manifest, from ``PATH.json`` or a Parquet file's metadata.

    Args:
        path: a file or a folder.
        column: column of the comments; default: the run's, or ``text``.

    Raises:
        InputError: there is nothing, or another command made it.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; give the output of `sro-edge rewrite`")
    manifest = _json(_text(path.with_name(path.name + ".json")))
    column = column or str(manifest.get("column", "text"))
    if not manifest and path.is_file() and kind_of(path) == "parquet":
        source = open_source(path, column)
        source.close()
        manifest = _json(source.earlier)
    if manifest.get("command", "rewrite") != "rewrite":
        raise InputError(f"{path} was made by `sro-edge {manifest['command']}`, not by rewrite")
    return Output(path, manifest, column)


def records(output: Output) -> Iterator[dict[str, Any]]:
    """Every row as ``before``, ``after`` and the values of :data:`PROOF`.

    Raises:
        InputError: a file cannot be read, or no rewrite run made it.
    """
    for file in data_files(output.path) if output.path.is_dir() else [output.path]:
        source = open_source(file, output.column)
        try:
            names = _columns(source, output)
            for values in _READERS[kind_of(file)](source, [output.column, *names]):
                yield dict(zip(("before", "after", *PROOF), values, strict=True))
        finally:
            source.close()


def _columns(source: Source, output: Output) -> list[str]:
    """The run's new columns in a file, which may have a number behind them."""
    plain = [f"{output.column}_detox", *(f"detox_{name}" for name in PROOF)]
    manifest = _json(source.earlier) or output.manifest
    columns: list[str] = manifest.get("columns", [])
    width = len(plain)
    stated = [columns[start : start + width] for start in range(0, len(columns), width)]
    for names in [*reversed(stated), plain]:  # a folder's manifest has those of all its files
        if set(names) <= set(source.names):
            return names
    lacking = next(name for name in plain if name not in source.names)
    raise InputError(
        f"{source.path} has no column {lacking!r}, so it is no output of `sro-edge rewrite`; "
        "give the file that it wrote, and --column where the comments are not in 'text'"
    )


def _from_parquet(source: ParquetSource, names: Sequence[str]) -> Iterator[list[Any]]:
    for group in range(len(source.group_rows)):
        for batch in source.batches(group, list(names)):
            texts = [[c.text for c in comments(batch.column(name))] for name in names[:2]]
            proof = [batch.column(name).to_pylist() for name in names[2:]]
            yield from map(list, zip(*texts, *proof, strict=True))


def _from_csv(source: DelimitedSource, names: Sequence[str]) -> Iterator[list[Any]]:
    places = [source.names.index(name) for name in names]
    with source.path.open(encoding="utf-8", errors="replace", newline="") as handle:
        rows = csv.reader(handle, delimiter=source.delimiter, strict=True)
        next(rows)
        for row in filter(None, rows):
            cells = [row[place] or None for place in places]
            numbers = [None if cell is None else float(cell) for cell in cells[-len(SCORES) :]]
            yield [*cells[: -len(SCORES)], *numbers[:-1], int(numbers[-1] or 0)]


def _from_jsonl(source: Source, names: Sequence[str]) -> Iterator[list[Any]]:
    with source.path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            record = parse(line, f"{source.path}, line {number}")
            if record is not None:
                yield [record.get(name) for name in names]


_READERS: dict[str, Any] = {"parquet": _from_parquet, "csv": _from_csv, "jsonl": _from_jsonl}


def _text(file: Path) -> str | None:
    try:
        return file.read_text("utf-8")
    except OSError:
        return None


def _json(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
