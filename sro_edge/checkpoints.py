"""The work folder of a run, ``OUT.partial/``: what lets a killed run go on where it stopped.

    lock              held by the one process that works here
    state.json        what the run was asked to do; the manifest, once the output is complete
    unit-00000000.parquet …  the new columns of the rows finished so far, in order
    result            the complete output, a file or a folder, until it is moved to its place

Every file is written under another name, flushed to disk and renamed, so a file that is there is
whole. Only POSIX systems are supported: the lock is ``flock``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sro_edge.durable import durable, move, write_json, writing
from sro_edge.errors import OutputError
from sro_edge.stores import Place, write_note

_OURS = ("unit-*.parquet", "file-*.json", "*.tmp", "result", "replaced", "state.json")


class WorkFolder:
    """An open work folder, locked against other processes. Make one with :meth:`open`.

    Attributes:
        target: the file or folder that is to be made.
        path: the work folder.
        result: where the complete output lies until it is moved to its place.
        manifest: manifest of the finished run, or None while the output is not complete.
        taken_up: whether an earlier run had begun here.
    """

    def __init__(self, target: Path, fingerprint: dict[str, Any]) -> None:
        """For :meth:`open`, which locks."""
        self.target, self.path, self.fingerprint = target, folder_of(target), fingerprint
        self.result = self.path / "result"
        self.manifest: dict[str, Any] | None = None
        self.taken_up = False

    @classmethod
    @contextmanager
    def open(
        cls, output: Path, fingerprint: dict[str, Any], *, restart: bool = False
    ) -> Iterator[WorkFolder]:
        """Lock the work folder of ``output`` and take up the run that lies in it, if any.

        Args:
            output: the file or folder that is to be made.
            fingerprint: everything that decides what the output will be, as JSON types.
            restart: throw away what an earlier run left.

        Raises:
            OutputError: another process works here, the folder holds a run with another
                fingerprint, or it cannot be written.
        """
        folder = cls(output, fingerprint)
        with folder.writing():
            lock = lock_folder(folder.path, output)
        with lock:
            try:
                with folder.writing():
                    if restart:  # the state first: what is half cleared must not look complete
                        (folder.path / "state.json").unlink(missing_ok=True)
                        folder.clear()
                    folder._take_up()
                yield folder
            finally:
                if not folder._worth_keeping():
                    with contextlib.suppress(OSError):
                        folder.remove()

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Turn a failed write into a sentence that says what was kept."""
        return writing(self.target, self.path)

    @property
    def complete(self) -> bool:
        """Whether the whole output lies here, to be moved to its place."""
        return self.manifest is not None and self.result.exists()

    @property
    def published(self) -> bool:
        """Whether the output is in its place and only this folder is left to remove."""
        return self.manifest is not None and not self.result.exists() and self.target.exists()

    @property
    def owns_target(self) -> bool:
        """Whether an output that is in its place is this run's own."""
        return self.published

    def finish(self, manifest: dict[str, Any]) -> None:
        """Note that ``result`` is complete and belongs to ``manifest``."""
        with self.writing():
            self.manifest = manifest
            self._write_state()

    def publish(self, note: Place | None) -> None:
        """Move the output to its place, the manifest to ``note``, and remove this folder."""
        with self.writing():
            if not self.published:
                if note is not None:
                    write_note(note, self.manifest or {})
                if self.result.is_dir() and self.target.exists():
                    move(self.target, self.path / "replaced")  # a folder cannot replace another
                move(self.result, self.target)
            self.remove()

    def clear(self) -> None:
        """Delete the run's files, the state last: a finished run must not look unfinished."""
        for pattern in _OURS:
            for entry in self.path.glob(pattern):
                if entry.is_dir():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()

    def remove(self) -> None:
        """Delete the folder; files that are not the run's keep it in place."""
        self.clear()
        (self.path / "lock").unlink()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _worth_keeping(self) -> bool:
        """Whether a later run finds work here that it need not do again."""
        done = (*self.path.glob("unit-*.parquet"), *self.path.glob("file-*.json"))
        below = self.result.rglob("*")
        return self.manifest is not None or any(done) or any(p.is_file() for p in below)

    def _take_up(self) -> None:
        """Check the state that lies here against this run."""
        state = _read_json(self.path / "state.json")
        if state is None:
            self.clear()
            self._write_state()
            return
        _check_same(state["fingerprint"], self.fingerprint, self.path)
        self.manifest, self.taken_up = state["manifest"], True
        for torn in self.path.glob("*.tmp"):
            torn.unlink()

    def _write_state(self) -> None:
        state = {"fingerprint": self.fingerprint, "manifest": self.manifest}
        write_json(self.path / "state.json", state)


class Units:
    """The finished units of a work folder.

    Attributes:
        count: how many there are.
        rows: rows in them.
    """

    def __init__(self, work: WorkFolder, schema: pa.Schema, unit_rows: int, rows: int) -> None:
        """Find the units of ``schema`` that ``work`` holds.

        Args:
            work: the open work folder.
            schema: columns of a unit file.
            unit_rows: rows of every unit but the last.
            rows: rows of all units together, in the end.
        """
        self._work = work
        self.count = self.rows = 0
        while self.rows < rows:
            if _unit_rows(self.file(self.count), schema) != min(unit_rows, rows - self.rows):
                break
            self.count += 1
            self.rows += min(unit_rows, rows - self.rows)
        last = self.file(self.count).name
        with work.writing():  # a unit behind a gap is done again
            for stray in work.path.glob("unit-*.parquet"):
                if stray.name >= last:
                    stray.unlink()

    @property
    def files(self) -> Iterator[Path]:
        """Their files, in row order."""
        return (self.file(number) for number in range(self.count))

    def file(self, number: int) -> Path:
        """The file of the unit with this number, from 0."""
        return self._work.path / f"unit-{number:08d}.parquet"

    def add(self, columns: pa.Table) -> None:
        """Keep the new columns of the next rows for good."""
        target = self.file(self.count)
        with self._work.writing(), durable(target) as temporary:
            pq.write_table(columns, temporary, compression="zstd")
        self.count += 1
        self.rows += columns.num_rows

    def drop_last(self) -> None:
        """Forget the last unit, so that it is done again."""
        file = self.file(self.count - 1)
        self.rows -= pq.read_metadata(file).num_rows
        with self._work.writing():
            file.unlink()
        self.count -= 1


def folder_of(output: Path) -> Path:
    """The work folder of ``output``."""
    return output.with_name(output.name + ".partial")


def lock_folder(folder: Path, output: object) -> IO[str]:
    """The folder's lock file, locked, in a folder that nobody has removed meanwhile.

    Raises:
        OutputError: another process holds it; it is said to write ``output``.
    """
    while True:
        folder.mkdir(exist_ok=True)
        try:
            handle = (folder / "lock").open("w")
        except FileNotFoundError:  # another run has just ended and removed the folder
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.close()
            raise OutputError(
                f"{output} is being written by another process; wait for it to end or choose "
                "another output"
            ) from error
        if _same_file(handle, folder / "lock"):
            return handle
        handle.close()


def _same_file(handle: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        data: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return data


def _unit_rows(file: Path, schema: pa.Schema) -> int | None:
    """Rows in a unit file; None where there is none that can be used."""
    try:
        with pq.ParquetFile(file) as unit:
            return int(unit.metadata.num_rows) if unit.schema_arrow.equals(schema) else None
    except (OSError, pa.ArrowException):
        return None


def _check_same(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with a run that was asked to do something else."""
    differing = differences(before, now)
    if differing:
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise OutputError(
            f"{folder} holds an unfinished run with other settings: {'; '.join(differing[:5])}"
            f"{more}. Run with the earlier settings to go on, or add --restart to begin again"
        )


def differences(
    before: dict[str, Any], now: dict[str, Any], ignored: Collection[str] = ()
) -> list[str]:
    """What differs between two sets of settings, one phrase each.

    Args:
        before: settings as nested JSON objects.
        now: the like.
        ignored: dotted names, or the first parts of some, that may differ.
    """
    old, new = _flat(before), _flat(now)
    return [
        f"{name} was {_short(old.get(name))} and is now {_short(new.get(name))}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
        and not any(f"{name}.".startswith(f"{part}.") for part in ignored)
    ]


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:16] + "…"
