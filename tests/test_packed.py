"""Bundles as one file and on the hub: unpacked, fetched and checked, hostile ones refused."""

from __future__ import annotations

import contextlib
import json
import shutil
import stat
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from sro_edge.bundle import Bundle
from sro_edge.cli import main
from sro_edge.errors import BundleError, MissingExtraError, OutputError
from sro_edge.manifest import MANIFEST, to_bytes
from sro_edge.packed import open_packed, pack, unpack

pytestmark = pytest.mark.usefixtures("cache")
GGUF = "detoxifier.gguf"
Entries = list[tuple[zipfile.ZipInfo, bytes]]


@pytest.fixture
def packed(bundle: Path, tmp_path: Path) -> Path:
    pack(bundle, tmp_path / "tiny.sroedge")
    return tmp_path / "tiny.sroedge"


def test_packing_and_unpacking_give_the_bundle_back(
    bundle: Path, packed: Path, tmp_path: Path
) -> None:
    unpack(packed, tmp_path / "again")
    before, after = Bundle.load(bundle), Bundle.load(tmp_path / "again")
    assert (before.digest, before.files) == (after.digest, after.files)
    with zipfile.ZipFile(packed) as archive:
        assert {e.compress_type for e in archive.infolist()} == {zipfile.ZIP_STORED}
    pack(tmp_path / "again", tmp_path / "second.sroedge")
    assert packed.read_bytes() == (tmp_path / "second.sroedge").read_bytes()


def test_a_packed_bundle_is_opened_in_the_cache(packed: Path, cache: Path) -> None:
    first = Bundle.load(packed)
    assert first.path.parent == cache / "bundles"
    changed = first.detoxifier.stat().st_mtime_ns
    assert Bundle.load(str(packed)).path == first.path
    assert first.detoxifier.stat().st_mtime_ns == changed  # not unpacked again
    first.detoxifier.write_bytes(b"")  # cut off: unpacked again
    assert Bundle.load(packed).digest == first.digest
    data = bytearray(first.detoxifier.read_bytes())
    data[-1] ^= 1
    first.detoxifier.write_bytes(data)
    with pytest.raises(BundleError, match="has changed since"):
        Bundle.load(packed)
    assert [f.name for f in (cache / "bundles").iterdir()] == [first.path.name]


def test_a_cache_that_cannot_be_written_is_no_damage(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="cannot be written: Not a directory; set XDG_CACHE"):
        Bundle.load(packed)


def test_pack_and_unpack_never_replace_what_is_not_theirs(bundle: Path, packed: Path) -> None:
    with pytest.raises(OutputError, match="exists: choose another name or give --overwrite"):
        pack(bundle, packed)
    (bundle.parent / "home").mkdir()
    (bundle.parent / "home" / "diary.txt").write_text("mine")
    with pytest.raises(OutputError, match="neither an earlier export nor an empty folder"):
        unpack(packed, bundle.parent / "home", overwrite=True)
    with pytest.raises(OutputError, match="exists: choose another folder"):
        unpack(packed, bundle)
    unpack(packed, bundle, overwrite=True)
    Bundle.load(bundle)


def repack(packed: Path, change: Callable[[Entries], Entries]) -> None:
    """Write the archive again with its entries changed."""
    with zipfile.ZipFile(packed) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    twice = "Duplicate name"
    warns = (
        pytest.warns(UserWarning, match=twice) if change is doubled else contextlib.nullcontext()
    )
    with warns, zipfile.ZipFile(packed, "w") as archive:
        for entry, data in change(entries):
            archive.writestr(entry, data)


def doubled(entries: Entries) -> Entries:
    return [*entries, entries[-1]]


def with_entry(name: str, data: bytes = b"x") -> Callable[[Entries], Entries]:
    return lambda entries: [*entries, (zipfile.ZipInfo(name), data)]


def as_link(entries: Entries) -> Entries:
    entries[-1][0].external_attr = (stat.S_IFLNK | 0o777) << 16
    return entries


def compressed(entries: Entries) -> Entries:
    entries[-1][0].compress_type = zipfile.ZIP_DEFLATED
    return entries


def bit_flipped(entries: Entries) -> Entries:
    entry, data = entries[-1]
    return [*entries[:-1], (entry, bytes([data[0] ^ 1]) + data[1:])]


def longer(entries: Entries) -> Entries:
    entry, data = entries[-1]
    return [*entries[:-1], (entry, data + b"x")]


def claiming(size: int) -> Callable[[Entries], Entries]:
    def change(entries: Entries) -> Entries:
        manifest = json.loads(entries[0][1])
        manifest["files"][entries[-1][0].filename]["bytes"] = size
        return [(entries[0][0], to_bytes(manifest)), *entries[1:]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_entry("../evil"), r"does not hold what its bundle.json lists: '\.\./evil'"),
        (with_entry("/etc/evil"), "does not hold what its bundle.json lists"),
        (with_entry("evil/"), "does not hold what its bundle.json lists"),
        (lambda entries: entries[:-1], "does not hold what its bundle.json lists"),
        (lambda entries: entries[::-1], "does not begin with bundle.json"),
        (lambda entries: [], "does not begin with bundle.json"),
        (doubled, "does not hold what its bundle.json lists: 'screener/"),
        (as_link, "is a link or a folder, not a plain file"),
        (compressed, "is compressed or encrypted"),
        (bit_flipped, r"has changed since the bundle was packed \(its sha256"),
        (longer, "has not the size that bundle.json gives"),
        (claiming(10**12), "has not the size that bundle.json gives"),
    ],
)
def test_hostile_archives_are_refused(
    change: Callable[[Entries], Entries], message: str, packed: Path, tmp_path: Path
) -> None:
    repack(packed, change)
    with pytest.raises(BundleError, match=message):
        unpack(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(BundleError, match=message):
        Bundle.load(packed)


def test_archives_that_are_cut_off_or_no_archives_are_refused(packed: Path) -> None:
    data = packed.read_bytes()
    for damaged in (b"", b"hello", data[:-1], data[: len(data) // 2], data[100:], data + b"x"):
        packed.write_bytes(damaged)
        with pytest.raises(BundleError, match=r"whole packed bundle|is no intact packed bundle"):
            open_packed(packed)
    end = bytearray(data)
    end[-10:-6] = b"\xff" * 4  # the size of the table of contents
    packed.write_bytes(end)
    with pytest.raises(BundleError, match="absurdly large"):
        open_packed(packed)


def test_a_disk_too_small_is_said_first(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match=r"needs .* MB, but .* has 0 MB left; make room"):
        unpack(packed, tmp_path / "out")
    with pytest.raises(OutputError, match=r"needs .* MB"):
        pack(Bundle.load().path, tmp_path / "x.sroedge")
    assert not (tmp_path / "out").exists()


def test_commands_pack_and_unpack(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    assert runner.invoke(main, ["bundle", "pack", "bundle"]).stdout == "bundle.sroedge\n"
    result = runner.invoke(main, ["bundle", "verify", "bundle.sroedge"])
    assert result.stdout == Bundle.load(bundle).digest + "\n"
    result = runner.invoke(main, ["bundle", "unpack", "bundle.sroedge", "new"])
    assert result.stdout == "new\n"
    result = runner.invoke(main, ["bundle", "unpack", "bundle.sroedge"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")


class FakeHub(types.ModuleType):
    """A hub with one repository, ``org/tiny``."""

    def __init__(self, folder: Path) -> None:
        super().__init__("huggingface_hub")
        self.folder, self.asked = folder, []

    def hf_hub_download(
        self, repository: str, name: str, *, revision: str | None, local_dir: Path
    ) -> str:
        self.asked.append((repository, name, revision))
        if repository != "org/tiny":
            raise RuntimeError(f"404: {repository}\nand much more")
        target = local_dir / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / name, target)
        return str(target)


@pytest.fixture
def hub(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(bundle)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


def test_a_bundle_of_the_hub_is_fetched_and_checked(
    hub: FakeHub, bundle: Path, cache: Path
) -> None:
    (bundle / "pickle.bin").write_bytes(b"never fetched")
    opened = Bundle.load("hf://org/tiny@v1")
    assert opened.digest == Bundle.load(bundle).digest
    assert opened.path == cache / "hub" / "org--tiny@v1"
    assert hub.asked[0] == ("org/tiny", MANIFEST, "v1")
    assert {name for _, name, _ in hub.asked} == {MANIFEST, *opened.files}
    assert Bundle.load(Path("hf://org/tiny")).path == cache / "hub" / "org--tiny@main"
    (bundle / GGUF).write_bytes(b"changed on the hub")
    with pytest.raises(BundleError, match=f"{GGUF} has .* bytes, .* were written"):
        Bundle.load("hf://org/tiny")


def test_hub_addresses_that_fail(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("hf://tiny", "hf://org/tiny/x", "hf://../tiny", "hf://org/tiny@../x", "hf://"):
        with pytest.raises(BundleError, match="is no address of a bundle: write hf://org/name"):
            Bundle.load(address)
    assert hub.asked == []
    with pytest.raises(BundleError, match=r"bundle.json of hf://org/other cannot be fetched: 404"):
        Bundle.load("hf://org/other")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r'pip install "sro-edge\[hub\]"'):
        Bundle.load("hf://org/tiny")


def test_the_hub_is_not_asked_otherwise(hub: FakeHub, bundle: Path, packed: Path) -> None:
    for path in (None, bundle, packed):
        Bundle.load(path)
    assert hub.asked == []
