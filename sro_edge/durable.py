"""Files that are whole or absent: written under another name, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sro_edge.errors import OutputError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def writing(output: Path, kept: Path) -> Iterator[None]:
    """Turn a failed write into a sentence that says what was kept, in the folder ``kept``.

    Raises:
        OutputError: in the place of an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        room = " (make room first)" if error.errno in _NO_ROOM else ""
        raise OutputError(
            f"{output} cannot be written: {reason}; finished rows are kept in {kept}{room}, run "
            "the same command again to go on"
            if kept.is_dir()
            else f"{output} cannot be written: {reason}; choose another place for the output"
        ) from error


@contextmanager
def durable(target: Path) -> Iterator[Path]:
    """Yield a temporary path; what was written there becomes ``target``, whole or not at all."""
    temporary = target.with_name(target.name + ".tmp")
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        move(temporary, target)
    except OSError:  # on a full disk, what is torn must not stand in the way of the next try
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def move(source: Path, target: Path) -> None:
    """Rename a file or folder and make the new name survive a power cut."""
    os.replace(source, target)
    for folder in dict.fromkeys([target.parent, source.parent]):
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(target: Path, data: dict[str, Any]) -> None:
    """Write ``data`` as JSON, whole or not at all."""
    with durable(target) as temporary:
        temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")
