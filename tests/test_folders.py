"""Folders that are whole or absent, whenever the process that fills them ends."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sro_edge.errors import OutputError
from sro_edge.folders import new_folder

SLOW = """
import sys, time
from pathlib import Path
from sro_edge.folders import new_folder
with new_folder(Path(sys.argv[1]), overwrite=True, is_ours=lambda f: True) as (folder, work):
    (folder / "half.txt").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def fill(out: Path, text: str = "whole", overwrite: bool = False) -> None:
    def is_ours(folder: Path) -> bool:
        return (folder / "a.txt").is_file()

    with new_folder(out, overwrite=overwrite, is_ours=is_ours) as (folder, work):
        (folder / "a.txt").write_text(text)
        (work / "scratch").write_text("x")
        assert not (out.is_dir() and (out / "a.txt").read_text() == text)


@pytest.mark.parametrize("before", [None, "old"])
def test_a_killed_process_leaves_nothing_under_the_name(before: str | None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if before:
        fill(out, before)
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(out)], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(OutputError, match="is being written by another process; wait for it"):
            fill(out, "whole", overwrite=True)
        process.kill()
    names = [out.name] if before else []
    assert sorted(f.name for f in tmp_path.iterdir()) == [".out.partial", *names]
    assert not before or [f.name for f in out.iterdir()] == ["a.txt"]
    fill(out, "whole", overwrite=True)  # takes the name, and clears what the other left
    assert [f.name for f in tmp_path.iterdir()] == ["out"]
    assert (out / "a.txt").read_text() == "whole"


def test_a_failure_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "out", "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device; choose another place"):
        fill(tmp_path / "out", "new", overwrite=True)
    assert [f.name for f in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "a.txt").read_text() == "old"
