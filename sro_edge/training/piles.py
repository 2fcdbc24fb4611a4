"""The training texts: unpaired piles of toxic and clean comments, read from Parquet, CSV or JSONL."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from sro_edge.errors import InputError
from sro_edge.segments import sentences

_WORDS = re.compile(r"[^\W_]+(?:['’*@$!][^\W_]+)*|\S")


def read_table(path: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A table from a ``.parquet``, ``.csv`` or ``.jsonl`` file.

    Raises:
        InputError: no such file, unknown suffix, unreadable content, or a missing column.
    """
    path = Path(path)
    readers = {".parquet": pq.read_table, ".csv": pa.csv.read_csv, ".jsonl": pa.json.read_json}
    if path.suffix not in readers:
        raise InputError(f"{path}: training data must be .parquet, .csv or .jsonl, not {path.suffix!r}")
    try:
        table = readers[path.suffix](str(path))
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    for column in columns or ():
        if column not in table.column_names:
            raise InputError(f"{path} has no column {column!r}; it has {', '.join(table.column_names)}")
    return table.select(list(columns)) if columns else table


def read_texts(
    paths: Iterable[str | Path], column: str = "text", where: dict[str, Any] | None = None
) -> list[str]:
    """The non-blank texts of ``column`` in all files whose other columns equal ``where``."""
    texts: list[str] = []
    for path in paths:
        data = read_table(path, [column, *(where or {})]).to_pydict()
        keep = zip(*(data[k] for k in where), strict=True) if where else None
        wanted = tuple(where.values()) if where else ()
        rows = data[column] if keep is None else (
            t for t, values in zip(data[column], keep, strict=True) if values == wanted
        )
        texts += [t for t in rows if isinstance(t, str) and t.strip()]
    return texts


def fold(text: str) -> float:
    """A number in [0, 1) that depends on nothing but the text: stable splits."""
    return zlib.crc32(text.lower().encode()) / 2**32


def words(text: str) -> list[str]:
    """Lower-case words and punctuation marks; an obfuscated word (``f*ck``) stays whole."""
    return _WORDS.findall(text.lower())


def clean_sentences(
    texts: Iterable[str], forbidden: Iterable[str] = (), low: int = 3, high: int = 28
) -> Iterator[str]:
    """Sentences of ``low`` to ``high`` words, mostly plain letters, without ``forbidden`` words."""
    stop = frozenset(forbidden)
    for text in texts:
        for span in sentences(text):
            sentence = span.of(text)
            tokens = words(sentence)
            letters = sum(c.isalpha() and c.isascii() for c in sentence)
            if (
                low <= len(tokens) <= high
                and letters >= 0.6 * len(sentence)
                and "http" not in sentence
                and stop.isdisjoint(tokens)
            ):
                yield sentence
