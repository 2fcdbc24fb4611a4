"""Room on the disk, asked for before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from sro_edge.errors import ExportError


def require_space(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Args:
        folder: where it will be written; it, or a folder above it, exists.
        needed: bytes.

    Raises:
        ExportError: less than that is free.
    """
    there = next(f for f in (folder, *folder.absolute().parents) if f.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise ExportError(
            f"the export needs {_size(needed)} in {there} while it works, but only {_size(free)} "
            "are free: make room, or write to another disk with -o"
        )


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"
