"""Sources and outputs on the disk or on a store: what is on a store is worked on in a local copy.

The copies, and the checkpoints of a run whose output is on a store, lie in a folder of this machine
(:func:`state_folder`) until the output is in its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sro_edge.checkpoints import WorkFolder, lock_folder
from sro_edge.durable import writing
from sro_edge.errors import OutputError
from sro_edge.stores import Address, Place, Store, write_note

_LARGEST_NOTE = 64 << 20  # bytes of a manifest; of a folder's it names every file


def state_folder(output: Place) -> Path:
    """Where what is kept for ``output`` lies: ``$XDG_STATE_HOME/sro-edge/runs/NAME-HASH``."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    named = output.uri if isinstance(output, Address) else str(output.absolute())
    digest = hashlib.sha256(named.encode()).hexdigest()[:16]
    return Path(home) / "sro-edge" / "runs" / f"{output.name}-{digest}"


def named(path: Path) -> Path:
    """``path``, or where it leads to if it ends in no name, as ``.`` does.

    Raises:
        OutputError: it is the root, which has none.
    """
    found = path if path.name not in ("", "..") else Path(os.path.abspath(path))
    if not found.name:
        raise OutputError(f"{path} has no name; choose another output")
    return found


def is_folder(place: Place) -> bool:
    """Whether it is a folder, on the disk or on a store."""
    return Store(place).is_folder() if isinstance(place, Address) else place.is_dir()


def refuse_existing(output: Place, *, overwrite: bool) -> None:
    """Refuse an output that is there, or whose manifest would replace a file that is none.

    With ``overwrite``, only a folder is refused that no run has made.

    Raises:
        OutputError: says what is there.
    """
    folder = is_folder(output)
    note = note_of(output)
    there = folder or (output.exists() if isinstance(output, Path) else _is_file(output))
    if there and not overwrite:
        raise OutputError(
            f"{output} exists; choose another output or add --overwrite to replace it"
        )
    if isinstance(output, Path) and folder and any(output.iterdir()) and not _is_note(note):
        raise OutputError(
            f"{output} is a folder that no run of sro-edge has made ({note} would say so), so it "
            "is not replaced; choose another output"
        )
    if not overwrite and _is_file(note) and not _is_note(note):
        raise OutputError(
            f"{note} exists, where the manifest of {output} goes; choose another output or add "
            "--overwrite to replace it"
        )


def _is_file(place: Place) -> bool:
    return Store(place).stamp() is not None if isinstance(place, Address) else place.is_file()


def _is_note(note: Place) -> bool:
    """Whether a file is the manifest of a run."""
    if not _is_file(note):
        return False
    with Store(note).open() if isinstance(note, Address) else note.open("rb") as file:
        data = file.read(_LARGEST_NOTE)
    try:
        found = json.loads(data)
    except ValueError:
        return False
    return isinstance(found, dict) and {"sro_edge", "command"} <= found.keys()


def note_of(output: Place) -> Place:
    """Where the manifest of ``output`` goes."""
    if isinstance(output, Address):
        return output.beside(".json")
    return output.with_name(output.name + ".json")


@contextmanager
def at_hand(source: Place, output: Place) -> Iterator[Path]:
    """The file ``source`` on the disk; a copy of one on a store goes when the block ends well.

    Raises:
        InputError: it cannot be fetched.
        OutputError: another process makes ``output``, or there is no room.
    """
    if isinstance(source, Path):
        yield source
        return
    folder = state_folder(output) / "in"
    with writing(folder, folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder, output)
    with lock:
        copy = folder / source.name
        Store(source).fetch(copy)
        yield copy
        shutil.rmtree(folder)
    with contextlib.suppress(OSError):  # it may hold what the run keeps
        folder.parent.rmdir()


@contextmanager
def open_work(
    output: Place, fingerprint: dict[str, Any], *, restart: bool = False
) -> Iterator[WorkFolder]:
    """The work folder of ``output``: beside it, or in the state folder where it is on a store.

    Raises:
        OutputError: see :meth:`WorkFolder.open`.
    """
    if isinstance(output, Path):
        with WorkFolder.open(output, fingerprint, restart=restart) as work:
            yield work
        return
    folder = state_folder(output)
    with writing(folder, folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with StoreFolder.open(folder / output.name, fingerprint, restart=restart) as work:
            assert isinstance(work, StoreFolder)
            work.address = output
            yield work
    finally:
        with contextlib.suppress(OSError):  # it may hold what a later run needs
            folder.rmdir()


class StoreFolder(WorkFolder):
    """A work folder whose output goes to a store.

    Attributes:
        address: where the output goes; the files of a folder are there already when it is done.
    """

    address: Address

    @property
    def complete(self) -> bool:
        """Whether only the upload is left, which can be done again."""
        return self.manifest is not None

    @property
    def published(self) -> bool:
        """Never known: the upload comes last, then this folder goes."""
        return False

    @property
    def owns_target(self) -> bool:
        """What is there was put there by the run that is taken up, which found the place free."""
        return self.taken_up

    def publish(self, note: Place | None) -> None:
        """Upload the manifest, then the output, and remove this folder."""
        if note is not None:
            write_note(note, self.manifest or {})
        if self.result.is_file():
            Store(self.address).put(self.result)
        with self.writing():
            self.remove()
