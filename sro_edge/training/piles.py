"""The training texts: piles of comments, read from files as people have them."""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from sro_edge.errors import InputError
from sro_edge.formats import SUFFIXES, check_exists, kind_of, open_source
from sro_edge.formats.base import reading
from sro_edge.segments import sentences, words

_SUFFIXES = (*SUFFIXES, ".txt")


@dataclass(frozen=True)
class Pile:
    """The toxic comments of a run.

    Args:
        comments: to be trained on.
        held_out: only evaluated on.
        duplicates: comments that were dropped, as another differs in nothing but space and case.
    """

    comments: list[str]
    held_out: list[str]
    duplicates: int


def read_pile(paths: Iterable[str | Path], column: str = "text", held_out: float = 0.03) -> Pile:
    """The comments in files and folders, each once, a share of them held out.

    Which are held out depends on their own text alone, not on the order or on other comments: two
    runs on like piles are evaluated on like comments.

    Args:
        paths: see :func:`read_texts`.
        column: text column.
        held_out: share in (0, 1).

    Raises:
        InputError: see :func:`read_texts`; or there is no comment at all.
    """
    named = [str(path) for path in paths]
    texts = read_texts(named, column)
    if not texts:
        raise InputError(
            f"{', '.join(named)}: every row of column {column!r} is empty; give files with comments"
        )
    kept = list({key(text): text for text in reversed(texts)}.values())[::-1]
    count = max(1, round(held_out * len(kept)))
    last = sorted(map(fold, kept))[count - 1]
    return Pile(
        [t for t in kept if fold(t) > last],
        [t for t in kept if fold(t) <= last],
        len(texts) - len(kept),
    )


def key(text: str) -> str:
    """What two texts have in common that differ in space, case or Unicode form only."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def read_texts(paths: Iterable[str | Path], column: str = "text") -> list[str]:
    """The non-blank texts in files and folders.

    Args:
        paths: Parquet, CSV, TSV or JSONL files with a text column ``column``, text files with one
            comment a line, or folders of such files.
        column: of the files that have columns.

    Raises:
        InputError: no such file, unreadable content, no such column, or one that is not text.
    """
    files = [file for path in paths for file in _files(Path(path))]
    return [text for file in files for text in _texts(file, column) if text.strip()]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    inside = (file for file in sorted(path.rglob("*")) if file.is_file())
    found = [
        file
        for file in inside
        if file.suffix.lower() in _SUFFIXES
        and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
    ]
    if not found:
        raise InputError(f"{path} has no files that end in {', '.join(_SUFFIXES)}")
    return found


def _texts(file: Path, column: str) -> Iterator[str]:
    if file.suffix.lower() == ".txt":
        yield from read_lines(file)
        return
    if file.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{file}: texts are read from {', '.join(_SUFFIXES)}, not from such files")
    source = open_source(file, column)
    try:
        yield from (comment.text for comment in source.comments() if comment.text is not None)
    finally:
        source.close()


def read_lines(file: Path) -> list[str]:
    """The lines of a UTF-8 text file; bytes that are none become U+FFFD.

    Raises:
        InputError: the file cannot be read.
    """
    with reading(file, "text"):
        return file.read_text("utf-8", errors="replace").splitlines()


def read_pairs(path: str | Path, columns: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Toxic texts with a clean rewording each; rows with a blank are left out.

    Args:
        path: a Parquet, CSV, TSV or JSONL file.
        columns: names of the toxic and of the clean one; default: the file has just these two.

    Raises:
        InputError: the file cannot be read, has no pairs, or not two such columns.
    """
    table = read_table(path, columns)
    names = list(columns or table.column_names)
    if len(names) != 2:
        raise InputError(
            f"{path} has the columns {', '.join(names)}: pairs need two, the toxic text and the "
            "clean one; name them with --pairs-columns TOXIC CLEAN"
        )
    rows = zip(*(table[name].to_pylist() for name in names), strict=True)
    texts = [row for row in rows if all(isinstance(t, str) and t.strip() for t in row)]
    if not texts:
        raise InputError(f"{path} has no row with text in both {names[0]!r} and {names[1]!r}")
    return texts


def read_rated(
    path: str | Path, column: str = "text", rating: str = "rating"
) -> list[tuple[str, float]]:
    """Texts with a rating from 0 to 1; rows without either are left out.

    Args:
        path: a Parquet, CSV, TSV or JSONL file.
        column: text column.
        rating: column of ratings.

    Raises:
        InputError: the file cannot be read, a column is missing, or a rating is none.
    """
    table = read_table(path, [column, rating])
    found = []
    for text, value in zip(table[column].to_pylist(), table[rating].to_pylist(), strict=True):
        if not isinstance(text, str) or not text.strip() or value is None:
            continue
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise InputError(f"{path}: rating {value!r} in column {rating!r}; it must be 0 to 1")
        found.append((text, float(value)))
    return found


def read_table(path: str | Path, columns: Sequence[str] = ()) -> pa.Table:
    """A table, which must have ``columns``, from a Parquet, CSV, TSV or JSONL file.

    Raises:
        InputError: no such file, unknown suffix, unreadable content, or a missing column.
    """
    path = Path(path)
    check_exists(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: tables are read from {', '.join(SUFFIXES)}, not from such files")
    with reading(path, kind_of(path)):
        if kind_of(path) == "csv":
            tabs = path.suffix.lower() == ".tsv"
            options = pa.csv.ParseOptions(delimiter="\t" if tabs else ",", newlines_in_values=True)
            table = pa.csv.read_csv(path, parse_options=options)
        elif kind_of(path) == "jsonl":
            table = pa.json.read_json(path)
        else:
            table = pq.read_table(path)
    for column in columns:
        if column not in table.column_names:
            raise InputError(
                f"{path} has no column {column!r}; it has {', '.join(table.column_names)}"
            )
    return table


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
        rows = [r for r in zip(*self, strict=True) if in_folds(r[0], folds)]
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


def in_folds(text: str, folds: tuple[float, float]) -> bool:
    """Whether :func:`fold` lies in [low, high)."""
    return folds[0] <= fold(text) < folds[1]


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
