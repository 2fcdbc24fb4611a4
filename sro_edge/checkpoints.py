"""The work folder of a run, ``OUT.partial/``: what lets a killed run go on where it stopped.

    lock              held by the one process that works here
    state.json        what the run was asked to do; the manifest, once the output is complete
    unit-000000.parquet …  the new columns of the rows finished so far, in order
    output.parquet    the complete output, until it is moved to its place

Every file is written under another name, flushed to disk and renamed, so a file that is there is
whole. Only POSIX systems are supported: the lock is ``flock``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sro_edge.errors import OutputError


class WorkFolder:
    """An open work folder, locked against other processes. Make one with :meth:`open`.

    Attributes:
        target: the file that is to be made.
        path: the folder.
        units: files of the finished units, in row order.
        rows: rows in them.
        manifest: manifest of the finished run, or None while rows or the output are missing.
    """

    def __init__(self, target: Path, schema: pa.Schema, fingerprint: dict[str, Any]) -> None:
        """For :meth:`open`, which locks."""
        self.target, self.path = target, folder_of(target)
        self.schema, self.fingerprint = schema, fingerprint
        self.units: list[Path] = []
        self.rows = 0
        self.manifest: dict[str, Any] | None = None

    @classmethod
    @contextmanager
    def open(
        cls, output: Path, schema: pa.Schema, fingerprint: dict[str, Any], *, restart: bool = False
    ) -> Iterator[WorkFolder]:
        """Lock the work folder of ``output`` and take up the run that lies in it, if any.

        Args:
            output: the file that is to be made.
            schema: columns of a unit file.
            fingerprint: everything that decides what the output will be, as JSON types.
            restart: throw away what an earlier run left.

        Raises:
            OutputError: another process works here, the folder holds a run with another
                fingerprint, or it cannot be written.
        """
        folder = cls(output, schema, fingerprint)
        with writing(output):
            lock = _lock(folder.path, output)
        with lock:
            with writing(output):
                if restart:
                    folder.clear()
                folder._take_up()
            try:
                yield folder
            finally:
                if not folder.units and folder.manifest is None:
                    with contextlib.suppress(OSError):
                        folder.remove()

    def add(self, columns: pa.Table) -> None:
        """Keep the new columns of the next rows for good."""
        target = self._unit(len(self.units))
        with writing(self.target), durable(target) as temporary:
            pq.write_table(columns, temporary, compression="zstd")
        self.units.append(target)
        self.rows += columns.num_rows

    def finish(self, manifest: dict[str, Any]) -> None:
        """Note that ``output.parquet`` is complete and belongs to ``manifest``."""
        with writing(self.target):
            self.manifest = manifest
            self._write_state()

    @property
    def output(self) -> Path:
        """Where the complete output lies until it is moved to its place."""
        return self.path / "output.parquet"

    def clear(self) -> None:
        """Delete the run's files, the state last: a finished run must not look unfinished."""
        for pattern in ("unit-*.parquet", "output.parquet", "*.tmp", "state.json"):
            for file in self.path.glob(pattern):
                file.unlink()

    def remove(self) -> None:
        """Delete the folder; files that are not the run's keep it in place."""
        self.clear()
        (self.path / "lock").unlink()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _unit(self, number: int) -> Path:
        return self.path / f"unit-{number:06d}.parquet"

    def _take_up(self) -> None:
        """Check the state that lies here against this run and find the finished units."""
        state = _read_json(self.path / "state.json")
        if state is None:
            self.clear()
            self._write_state()
            return
        _check_same(state["fingerprint"], self.fingerprint, self.path)
        self.manifest = state["manifest"]
        while (rows := _unit_rows(self._unit(len(self.units)), self.schema)) is not None:
            self.units.append(self._unit(len(self.units)))
            self.rows += rows
        # Units behind a gap must go: those that fill it need not have as many rows.
        for stray in set(self.path.glob("unit-*.parquet")) - set(self.units):
            stray.unlink()

    def _write_state(self) -> None:
        state = {"fingerprint": self.fingerprint, "manifest": self.manifest}
        write_json(self.path / "state.json", state)


def folder_of(output: Path) -> Path:
    """The work folder of ``output``."""
    return output.with_name(output.name + ".partial")


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Turn a failed write into a sentence that says what was kept."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        room = " (make room first)" if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
        raise OutputError(
            f"{output} cannot be written: {reason}; finished rows are kept in "
            f"{folder_of(output)}{room}, run the same command again to go on"
            if folder_of(output).is_dir()
            else f"{output} cannot be written: {reason}; choose another place for the output"
        ) from error


@contextmanager
def durable(target: Path) -> Iterator[Path]:
    """Yield a temporary path; what was written there becomes ``target``, whole or not at all."""
    temporary = target.with_name(target.name + ".tmp")
    yield temporary
    with temporary.open("rb+") as handle:
        os.fsync(handle.fileno())
    move(temporary, target)


def move(source: Path, target: Path) -> None:
    """Rename a file and make the new name survive a power cut."""
    os.replace(source, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(target: Path, data: dict[str, Any]) -> None:
    """Write ``data`` as JSON, whole or not at all."""
    with durable(target) as temporary:
        temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _lock(folder: Path, output: Path) -> IO[str]:
    """The folder's lock file, locked, in a folder that nobody has removed meanwhile."""
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
    old, new = _flat(before), _flat(now)
    differing = [
        f"{name} was {_short(old.get(name))} and is now {_short(new.get(name))}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]
    if differing:
        raise OutputError(
            f"{folder} holds an unfinished run with other settings: {'; '.join(differing)}. Run "
            "with the earlier settings to go on, or add --restart to begin again"
        )


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
