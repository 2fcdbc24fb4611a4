"""The training texts: unpaired piles of comments, read from Parquet, CSV or JSONL."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from sro_edge.errors import InputError
from sro_edge.segments import sentences

_WORDS = re.compile(r"[^\W_]+(?:['’*@$!][^\W_]+)*|\S")


def read_table(path: str | Path, columns: Sequence[str] = ()) -> pa.Table:
    """A table, which must have ``columns``, from a ``.parquet``, ``.csv`` or ``.jsonl`` file.

    Raises:
        InputError: no such file, unknown suffix, unreadable content, or a missing column.
    """
    path = Path(path)
    readers = {".parquet": pq.read_table, ".csv": pa.csv.read_csv, ".jsonl": pa.json.read_json}
    if path.suffix not in readers:
        raise InputError(
            f"{path}: training data must be .parquet, .csv or .jsonl, not {path.suffix!r}"
        )
    try:
        table = readers[path.suffix](str(path))
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    for column in columns:
        if column not in table.column_names:
            raise InputError(
                f"{path} has no column {column!r}; it has {', '.join(table.column_names)}"
            )
    return table


def read_texts(paths: Iterable[str | Path], column: str = "text") -> list[str]:
    """The non-blank texts of ``column`` in all files."""
    texts: list[str] = []
    for path in paths:
        column_data = read_table(path, [column])[column].to_pylist()
        texts += [t for t in column_data if isinstance(t, str) and t.strip()]
    return texts


class Labelled(NamedTuple):
    """Labelled comments: texts, labels (1 = toxic), and where each came from."""

    texts: list[str]
    labels: list[int]
    sources: list[str]

    def of(self, label: int) -> list[str]:
        """The texts of one label."""
        return [t for t, y in zip(self.texts, self.labels, strict=True) if y == label]

    def joined(self, texts: list[str], label: int, source: str) -> Labelled:
        """These and ``texts``, all of one label."""
        n = len(texts)
        return Labelled(self.texts + texts, self.labels + [label] * n, self.sources + [source] * n)

    def within(self, folds: tuple[float, float]) -> Labelled:
        """Those whose :func:`fold` lies in [low, high)."""
        rows = [r for r in zip(*self, strict=True) if folds[0] <= fold(r[0]) < folds[1]]
        return Labelled([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])


def read_labelled(
    paths: Iterable[str | Path],
    column: str = "text",
    label: str = "label",
    sources: Collection[str] = (),
) -> Labelled:
    """Labelled comments of all files; rows without text or label are left out.

    Args:
        paths: Parquet, CSV or JSONL files.
        column: text column.
        label: column of 0 and 1 (1 = toxic).
        sources: keep only these values of the column ``source``.

    Raises:
        InputError: a column is missing, or a label is neither 0 nor 1.
    """
    found = Labelled([], [], [])
    for path in paths:
        table = read_table(path, [column, label])
        data = table.to_pydict()
        kinds = data.get("source", [Path(path).stem] * table.num_rows)
        for text, y, source in zip(data[column], data[label], kinds, strict=True):
            if not isinstance(text, str) or not text.strip() or y is None:
                continue
            if y not in (0, 1):
                raise InputError(f"{path}: label {y!r} in column {label!r}; labels must be 0 or 1")
            if not sources or source in sources:
                found.texts.append(text)
                found.labels.append(int(y))
                found.sources.append(str(source))
    return found


def read_plain(paths: Iterable[str | Path], column: str = "text") -> list[str]:
    """General text; rows that a column ``profane`` marks are left out."""
    texts: list[str] = []
    for path in paths:
        data = read_table(path, [column]).to_pydict()
        profane = data.get("profane", [False] * len(data[column]))
        texts += [
            t
            for t, bad in zip(data[column], profane, strict=True)
            if isinstance(t, str) and t.strip() and not bad
        ]
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
