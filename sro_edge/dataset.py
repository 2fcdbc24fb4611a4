"""A folder of files, hive-partitioned or not: the same tree out, resumable file by file.

Each file is a run of its own whose work folder lies beside its place in the new tree. The tree
grows in ``OUT.partial/result`` and is moved to its place when it is complete.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sro_edge.checkpoints import WorkFolder, folder_of
from sro_edge.columns import Annotator
from sro_edge.durable import sync_folder
from sro_edge.errors import InputError
from sro_edge.formats import SUFFIXES, Source, kind_of, open_source
from sro_edge.formats.base import file_fingerprint
from sro_edge.run import Hooks, Options, Progress, Run


def data_files(folder: Path) -> list[Path]:
    """The files of comments below ``folder``, sorted; names that begin with . or _ are left out.

    Raises:
        InputError: there are none, or of several kinds.
    """
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    ]
    kinds = sorted({kind_of(path) for path in files})
    if not files:
        raise InputError(
            f"{folder} has no files that end in {', '.join(SUFFIXES)}; give a folder that has"
        )
    if len(kinds) > 1:
        raise InputError(f"{folder} has {' and '.join(kinds)} files; give a folder of one kind")
    return files


class DatasetRun:
    """All files of one folder."""

    def __init__(self, annotator: Annotator, folder: Path, options: Options, hooks: Hooks) -> None:
        """Open every file once, so that what is wrong with one is said at the start.

        Raises:
            InputError: a file cannot be read or written again with the new columns.
        """
        self.annotator, self.folder, self.options, self.hooks = annotator, folder, options, hooks
        self.rows: dict[Path, int] = {}
        prints = {}
        left: int | None = options.limit
        for file in data_files(folder):
            source = open_source(file, options.column, left)
            try:
                Run(annotator, source, options, hooks)
            finally:
                source.close()
            name = file.relative_to(folder)
            self.rows[name], prints[str(name)] = source.rows, file_fingerprint(file, source.rows)
            left = None if left is None else left - source.rows
            if left == 0:
                break
        self.asked = {**options.asked(annotator), "files": prints}
        self.resumed = 0
        self.examples: tuple[tuple[str, str], ...] = ()
        self._total = sum(self.rows.values())
        self._done = Progress(0, self._total, 0, 0, 0)

    def __call__(self, work: WorkFolder, note: Path) -> dict[str, Any]:
        """Make the tree in ``work`` and move it to its place, its manifest to ``note``.

        Returns:
            The manifest.
        """
        if work.complete or work.published:
            self.resumed = self._total
        if work.manifest is None:
            manifests = list(self._files(work))
            with work.writing():
                for folder in (work.result, *work.result.rglob("*/")):
                    sync_folder(folder)
            work.finish(self._manifest(manifests))
        work.publish(note)
        return work.manifest or {}

    def close(self) -> None:
        """Nothing is held open."""

    def _files(self, work: WorkFolder) -> Iterator[dict[str, Any]]:
        """Make every file that is not there yet; yield the manifests of all."""
        for number, (name, rows) in enumerate(self.rows.items()):
            note, target = work.path / f"file-{number:06d}.json", work.result / name
            limit = None if self.options.limit is None else rows
            options = dataclasses.replace(self.options, limit=limit)
            source = open_source(self.folder / name, options.column, limit)
            try:
                manifest = self._file(source, target, note, options, work)
            finally:
                source.close()
            yield manifest
            counts = manifest["counts"]
            self._done = dataclasses.replace(
                self._done,
                rows=self._done.rows + rows,
                resumed=self.resumed,
                toxic=self._done.toxic + counts["toxic"],
                unresolved=self._done.unresolved + counts["unresolved"],
            )

    def _file(
        self, source: Source, target: Path, note: Path, options: Options, work: WorkFolder
    ) -> dict[str, Any]:
        run = Run(self.annotator, source, options, Hooks(self._tell, self.hooks.trouble))
        with work.writing():
            target.parent.mkdir(parents=True, exist_ok=True)
            finished = _finished(target, note)
        if finished is not None:
            self.resumed += source.rows
            return finished
        with WorkFolder.open(target, run.asked) as inner:
            manifest = run(inner, note)
        self.resumed += run.resumed
        pairs = dict.fromkeys([*self.examples, *run.examples])
        self.examples = tuple(pairs)[: options.examples]
        return manifest

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
        counts, reasons, columns = Counter[str](), Counter[str](), dict[str, None]()
        for manifest in manifests:
            counts.update(manifest["counts"])
            reasons.update(manifest["reasons"])
            columns.update(dict.fromkeys(manifest["columns"]))
        stated = {key: value for key, value in self.asked.items() if key != "files"}
        return {
            **stated,
            "columns": list(columns),
            "source": {"name": self.folder.name, "files": len(self.rows)},
            "counts": dict(counts),
            "reasons": dict(reasons.most_common()),
        }


def _finished(target: Path, note: Path) -> dict[str, Any] | None:
    """The manifest of a file that is in its place with nothing left to tidy up."""
    if not (target.exists() and note.exists()) or folder_of(target).exists():
        return None
    manifest: dict[str, Any] = json.loads(note.read_text("utf-8"))
    return manifest
