"""A folder of files, hive-partitioned or not: the same tree out, resumable file by file.

Each file is a run of its own, so files can be worked on in any order and anywhere: one after the
other here, or by the actors of a Ray cluster (:mod:`sro_edge.cluster`). On the disk the tree grows
in ``OUT.partial/result`` and is moved to its place when it is complete; on a store its files appear
one by one, each complete, and ``OUT.json`` comes last.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import pyarrow.parquet as pq

from sro_edge.checkpoints import WorkFolder, folder_of
from sro_edge.columns import Annotator
from sro_edge.durable import sync_folder, write_json, writing
from sro_edge.errors import InputError
from sro_edge.formats import SUFFIXES, kind_of, open_source
from sro_edge.formats.base import file_fingerprint, missing_column, reading
from sro_edge.places import at_hand, open_work
from sro_edge.run import Hooks, Options, Progress, Run
from sro_edge.stores import Address, Place, Stamp, Store


@dataclass(frozen=True)
class FileJob:
    """One file that is to be made.

    Attributes:
        number: its place among the files of the folder, from 0.
        source: the file to read.
        target: the file to make.
        note: where its manifest goes; None where whoever gave the job keeps it.
        limit: read only so many rows.
        restart: throw away what an earlier run left of this file on this machine.
    """

    number: int
    source: Place
    target: Place
    note: Path | None
    limit: int | None
    restart: bool


@dataclass(frozen=True)
class FileDone:
    """What became of the job with this number; see :class:`sro_edge.run.Run`.

    ``troubles`` are the sentences about units over which the models failed, where the job was done
    elsewhere.
    """

    number: int
    manifest: dict[str, Any]
    resumed: int
    examples: tuple[tuple[str, str], ...]
    troubles: Sequence[str] = ()


# Does jobs elsewhere and yields what is done, in any order; calls its last argument now and then.
Spread = Callable[[Sequence[FileJob], Options, Callable[[], None]], Iterator[FileDone]]


def annotate_file(annotator: Annotator, job: FileJob, options: Options, hooks: Hooks) -> FileDone:
    """Do one job, or what an earlier try left of it.

    Raises:
        SroEdgeError: as :func:`sro_edge.dump.rewrite_dump`.
    """
    options = dataclasses.replace(options, limit=job.limit)
    if isinstance(job.target, Path):
        with writing(job.target, job.target.parent):
            job.target.parent.mkdir(parents=True, exist_ok=True)
    with at_hand(job.source, job.target) as path:
        source = open_source(path, options.column, job.limit)
        try:
            run = Run(annotator, source, options, hooks)
            with open_work(job.target, run.asked, restart=job.restart) as work:
                manifest = run(work, job.note)
        finally:
            source.close()
    return FileDone(job.number, manifest, run.resumed, run.examples)


def data_files(folder: Path) -> list[Path]:
    """The files of comments below ``folder``, sorted; names that begin with . or _ are left out.

    Raises:
        InputError: there are none, or of several kinds.
    """
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [folder / name for name in _comments_among(names, folder)]


def _comments_among(names: Iterable[PurePath], folder: object) -> list[PurePath]:
    files = [
        name
        for name in names
        if name.suffix.lower() in SUFFIXES
        and not any(part.startswith((".", "_")) for part in name.parts)
    ]
    kinds = sorted({kind_of(name) for name in files})
    if not files:
        raise InputError(
            f"{folder} has no files that end in {', '.join(SUFFIXES)}; give a folder that has"
        )
    if len(kinds) > 1:
        raise InputError(f"{folder} has {' and '.join(kinds)} files; give a folder of one kind")
    return files


class DatasetRun:
    """All files of one folder.

    Attributes:
        asked: everything that decides what the output will be, as JSON types.
        resumed: rows that earlier runs had finished.
        examples: pairs of comment and rewrite.
    """

    def __init__(
        self,
        annotator: Annotator,
        folder: Place,
        options: Options,
        hooks: Hooks,
        spread: Spread | None = None,
    ) -> None:
        """Look at every file once, so that what is wrong with one is said at the start.

        Args:
            annotator: does the work, unless ``spread`` does.
            folder: the files, on the disk or on a store.
            options: what is asked; with a limit, later files may be left out.
            hooks: told how far the run is.
            spread: does the files elsewhere.

        Raises:
            InputError: a file cannot be read or written again with the new columns.
        """
        self.annotator, self.folder, self.options, self.hooks = annotator, folder, options, hooks
        self.spread = spread
        self.rows: dict[str, int] = {}
        self._stamps = Store(folder).files() if isinstance(folder, Address) else {}
        prints = {}
        left = options.limit
        for name in self._names():
            self.rows[name], prints[name] = self._look(name, left)
            left = None if left is None else left - self.rows[name]
            if left == 0:
                break
        self.asked = {**options.asked(annotator), "files": prints}
        self.resumed = 0
        self.examples: tuple[tuple[str, str], ...] = ()
        self._total = sum(self.rows.values())
        self._done = Progress(0, self._total, 0, 0, 0)

    def __call__(
        self, work: WorkFolder, output: Place, note: Place, *, restart: bool
    ) -> dict[str, Any]:
        """Make the tree, in ``work`` where it is for the disk, and put it and its manifest there.

        Args:
            work: the open work folder of ``output``.
            output: the folder to make.
            note: where the manifest goes.
            restart: throw away what earlier runs left outside ``work``.

        Returns:
            The manifest.
        """
        if work.complete or work.published:
            self.resumed = self._total
        if work.manifest is None:
            manifests = self._files(work, output, restart)
            with work.writing():
                for folder in (work.result, *work.result.rglob("*/")):
                    if folder.is_dir():
                        sync_folder(folder)
            work.finish(self._manifest(manifests))
        work.publish(note)
        return work.manifest or {}

    def close(self) -> None:
        """Nothing is held open."""

    def _names(self) -> list[str]:
        """The files of comments, relative to the folder."""
        if isinstance(self.folder, Path):
            return [str(file.relative_to(self.folder)) for file in data_files(self.folder)]
        return [str(name) for name in _comments_among(map(PurePath, self._stamps), self.folder)]

    def _look(self, name: str, limit: int | None) -> tuple[int, dict[str, Any]]:
        """Rows of a file that are to be read, and its fingerprint."""
        if isinstance(self.folder, Address):
            return self._look_at_footer(self.folder / name, limit, self._stamps[name])
        source = open_source(self.folder / name, self.options.column, limit)
        try:
            Run(self.annotator, source, self.options, self.hooks)
        finally:
            source.close()
        return source.rows, file_fingerprint(source.path, source.rows)

    def _look_at_footer(
        self, file: Address, limit: int | None, stamp: Stamp
    ) -> tuple[int, dict[str, Any]]:
        """The like of a file on a store, without fetching it."""
        if kind_of(file) != "parquet":
            raise InputError(
                f"{file} is no Parquet file, and of other kinds only single files are read from a "
                "store; give them one by one"
            )
        with reading(file), Store(file).open() as handle, pq.ParquetFile(handle) as opened:
            rows, columns = opened.metadata.num_rows, opened.schema_arrow.names
        if self.options.column not in columns:
            raise missing_column(file, self.options.column, columns)
        rows = rows if limit is None else min(rows, limit)
        return rows, {**dataclasses.asdict(stamp), "rows": rows}

    def _files(self, work: WorkFolder, output: Place, restart: bool) -> list[dict[str, Any]]:
        """Make every file that is not there yet; the manifests of all, in order."""
        manifests: dict[int, dict[str, Any]] = {}
        jobs, remote = [], isinstance(output, Address)
        for number, name in enumerate(self.rows):
            note = work.path / f"file-{number:06d}.json"
            target = output / name if isinstance(output, Address) else work.result / name
            finished = _finished(target, note)
            if finished is not None:
                manifests[number] = finished
                self._count(finished, resumed=self.rows[name])
                continue
            limit = None if self.options.limit is None else self.rows[name]
            own = None if remote else note
            jobs.append(FileJob(number, self.folder / name, target, own, limit, restart and remote))
        self.hooks.progress(self._done)
        for done in self._work(jobs):
            manifests[done.number] = done.manifest
            for sentence in done.troubles:
                self.hooks.trouble(sentence)
            if remote:
                with work.writing():
                    write_json(work.path / f"file-{done.number:06d}.json", done.manifest)
            self._count(done.manifest, done.resumed)
            pairs = dict.fromkeys([*self.examples, *done.examples])
            self.examples = tuple(pairs)[: self.options.examples]
        return [manifests[number] for number in sorted(manifests)]

    def _work(self, jobs: Sequence[FileJob]) -> Iterator[FileDone]:
        """Do the jobs, here or elsewhere."""
        if self.spread is not None:
            yield from self.spread(jobs, self.options, lambda: self.hooks.progress(self._done))
            return
        for job in jobs:
            hooks = Hooks(self._tell, self.hooks.trouble)
            yield annotate_file(self.annotator, job, self.options, hooks)

    def _count(self, manifest: dict[str, Any], resumed: int) -> None:
        """Add a finished file to how far the run is."""
        self.resumed += resumed
        done, counts = self._done, manifest["counts"]
        self._done = Progress(
            done.rows + counts["rows"],
            self._total,
            self.resumed,
            done.toxic + counts["toxic"],
            done.unresolved + counts["unresolved"],
        )

    def _tell(self, state: Progress) -> None:
        """Add the files that are done to how far the file in hand is."""
        done = self._done
        self.hooks.progress(
            Progress(
                done.rows + state.rows,
                self._total,
                self.resumed + state.resumed,
                done.toxic + state.toxic,
                done.unresolved + state.unresolved,
            )
        )

    def _manifest(self, manifests: list[dict[str, Any]]) -> dict[str, Any]:
        columns = dict[str, None]()
        counts, reasons, engines = Counter[str](), Counter[str](), Counter[str]()
        for manifest in manifests:
            counts.update(manifest["counts"])
            reasons.update(manifest["reasons"])
            engines.update(manifest["engines"])
            columns.update(dict.fromkeys(manifest["columns"]))
        stated = {key: value for key, value in self.asked.items() if key != "files"}
        return {
            **stated,
            "columns": list(columns),
            "source": {"name": self.folder.name, "files": len(self.rows)},
            "counts": dict(counts),
            "reasons": dict(reasons.most_common()),
            "engines": dict(engines.most_common()),
        }


def _finished(target: Place, note: Path) -> dict[str, Any] | None:
    """The manifest of a file that is in its place with nothing left to tidy up."""
    if not note.exists():
        return None
    if isinstance(target, Path) and (not target.exists() or folder_of(target).exists()):
        return None
    manifest: dict[str, Any] = json.loads(note.read_text("utf-8"))
    return manifest
