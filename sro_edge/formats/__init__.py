"""Files of comments: one reader and writer per format, told apart by the suffix.

Whatever the format, the comments come out as strings, and a copy of the file goes in again with new
columns beside its own, which stay as they were.
"""

from __future__ import annotations

from pathlib import Path, PurePath

from sro_edge.errors import InputError
from sro_edge.formats.base import Comment, Source, reading
from sro_edge.stores import Address

__all__ = ["SUFFIXES", "Comment", "Source", "check_exists", "kind_of", "open_source"]

SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_PACKED = {".gz", ".zst", ".bz2", ".xz", ".zip"}


def kind_of(path: PurePath | Address) -> str:
    """``parquet``, ``csv`` or ``jsonl``; a suffix that says nothing is taken for Parquet."""
    return SUFFIXES.get(path.suffix.lower(), "parquet")


def check_exists(path: Path) -> None:
    """Raise InputError where there is nothing at ``path``."""
    if not path.exists():
        raise InputError(f"{path} does not exist; give the path of a Parquet, CSV or JSONL file")


def open_source(path: Path, column: str, limit: int | None = None) -> Source:
    """Open a file whose column ``column`` holds comments; only its first ``limit`` rows count.

    Raises:
        InputError: no such file, not of the format that its suffix says, or no such column.
    """
    check_exists(path)
    inner = path.with_suffix("").suffix.lower()
    if path.suffix.lower() in _PACKED and SUFFIXES.get(inner, "parquet") != "parquet":
        raise InputError(f"{path} is compressed; unpack it first")
    kind = kind_of(path)
    if kind == "csv":
        from sro_edge.formats.delimited import DelimitedSource

        return DelimitedSource(path, column, limit)
    if kind == "jsonl":
        from sro_edge.formats.jsonl import JsonlSource

        return JsonlSource(path, column, limit)
    if path.suffix.lower() not in SUFFIXES and not _is_parquet(path):
        raise InputError(
            f"{path} is no Parquet file, and its suffix names no other kind; give a file that ends "
            f"in {', '.join(SUFFIXES)}"
        )
    from sro_edge.formats.parquet import ParquetSource

    return ParquetSource(path, column, limit)


def _is_parquet(path: Path) -> bool:
    """Whether a file begins as Parquet files do, encrypted ones too."""
    with reading(path), path.open("rb") as handle:
        return handle.read(4) in (b"PAR1", b"PARE")
