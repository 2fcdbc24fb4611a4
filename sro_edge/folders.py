"""Folders that are whole or absent: filled under another name, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sro_edge.durable import sync_folder
from sro_edge.errors import OutputError


@contextmanager
def new_folder(
    out: Path, *, overwrite: bool, is_ours: Callable[[Path], bool]
) -> Iterator[tuple[Path, Path]]:
    """A folder that takes the name ``out`` when the block ends well, and one for working files.

    What a killed process left beside ``out`` is cleared by the next one.

    Args:
        out: the name.
        overwrite: replace a folder of that name, if it is empty or ``is_ours``.
        is_ours: whether a folder is of the kind that may be replaced.

    Raises:
        OutputError: ``out`` exists and may not be replaced, is being made by another process, or
            cannot be written.
    """
    out = out.absolute()
    check_replaceable(out, overwrite, is_ours)
    beside = out.with_name(f".{out.name}.partial")
    try:
        with _locked(beside, out):
            try:
                _clear(beside)
                folder, work = beside / "folder", beside / "work"
                folder.mkdir()
                work.mkdir()
                yield folder, work
                _sync(folder)
                if out.exists():
                    os.replace(out, beside / "replaced")
                os.replace(folder, out)
                sync_folder(out.parent)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{out} cannot be written: {reason}; choose another place") from error


def check_replaceable(out: Path, overwrite: bool, is_ours: Callable[[Path], bool]) -> None:
    """Refuse a name that is taken, unless it may be overwritten.

    Raises:
        OutputError: it may not.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise OutputError(f"{out} exists: choose another folder or give --overwrite")
    if out.is_symlink() or not out.is_dir() or not (is_ours(out) or not any(out.iterdir())):
        raise OutputError(
            f"{out} is neither an earlier export nor an empty folder, so it is not replaced; "
            "choose another folder"
        )


def check_room(folder: Path, size: int) -> None:
    """Refuse to write ``size`` bytes to ``folder``, which need not exist, where there is no room.

    Raises:
        OutputError: says how much is free.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < size:
        raise OutputError(
            f"{folder} needs {size / 1e6:,.0f} MB, but {place} has {free / 1e6:,.0f} MB left; make "
            "room or choose another place"
        )


@contextmanager
def _locked(folder: Path, out: Path) -> Iterator[None]:
    """``folder`` made and locked by this process, until it is removed or the process ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder.mkdir(exist_ok=True)
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another process has just ended and removed it
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), folder.stat()):
                    yield
                    return
        except BlockingIOError as error:
            raise OutputError(
                f"{out} is being written by another process; wait for it to end or choose another "
                "folder"
            ) from error
        finally:
            os.close(handle)


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _sync(folder: Path) -> None:
    """Bring every file and folder inside ``folder`` to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)
