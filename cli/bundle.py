"""``sro-edge bundle``: look at model bundles, check them, pack them into one file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sro_edge.cli._shared import PATH
from sro_edge.cli.bundle_build import build
from sro_edge.cli.bundle_restore import restore

if TYPE_CHECKING:
    from sro_edge.bundle import Bundle


@click.group(short_help="Look at, check, pack or assemble model bundles.")
def bundle() -> None:
    """Look at, check, pack or assemble model bundles.

    BUNDLE is a bundle's folder, a packed bundle (.sroedge), or one on the Hugging
    Face Hub (hf://org/name[@revision]); without it, the one that is part of the
    package. What is packed or on the hub is kept in ~/.cache/sro-edge.

    \b
    Examples:
      sro-edge bundle show
      sro-edge bundle show my-bundle --json
      sro-edge bundle verify my-bundle
      sro-edge bundle pack my-bundle
      sro-edge rewrite comments.parquet --bundle my-bundle.sroedge
    """


@bundle.command()
@click.argument("path", metavar="[BUNDLE]", required=False, type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print bundle.json as it is.")
def show(path: Path | None, as_json: bool) -> None:
    """Show what a bundle is, how it was made and how good it is."""
    from sro_edge.bundle import Bundle, find
    from sro_edge.manifest import read_manifest

    if as_json:
        manifest = read_manifest(find(path))
        click.echo(json.dumps(manifest, indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(Bundle.load(path)):
        table.add_row(name, Text(value))
    Console(highlight=False).print(table)


@bundle.command()
@click.argument("path", metavar="[BUNDLE]", required=False, type=PATH)
def verify(path: Path | None) -> None:
    """Check that every file of a bundle is there and unchanged.

    Prints the bundle's digest; exit status 1 names the first file that is not.
    """
    from sro_edge.bundle import Bundle

    opened = Bundle.load(path)
    click.echo(f"{opened.path}: {len(opened.files)} files unchanged", err=True)
    click.echo(opened.digest)


@bundle.command()
@click.argument("path", metavar="BUNDLE", type=PATH)
@click.argument("output", metavar="[OUTPUT]", required=False, type=PATH)
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
def pack(path: Path, output: Path | None, overwrite: bool) -> None:
    """Pack a bundle into one file.

    OUTPUT (default: BUNDLE.sroedge, here) can be given to --bundle as it is. The
    same bundle always packs to the same bytes. Prints the file's name.
    """
    from sro_edge.bundle import find
    from sro_edge.packed import SUFFIX
    from sro_edge.packed import pack as pack_bundle

    folder = find(path)
    output = output or Path(f"{folder.resolve().name}{SUFFIX}")
    pack_bundle(folder, output, overwrite=overwrite)
    click.echo(output)


@bundle.command()
@click.argument("file", metavar="FILE.sroedge", type=PATH)
@click.argument("output", metavar="[OUTPUT]", required=False, type=PATH)
@click.option("--overwrite", is_flag=True, help="Replace an earlier bundle.")
def unpack(file: Path, output: Path | None, overwrite: bool) -> None:
    """Unpack a packed bundle into a folder, and check it.

    OUTPUT (default: the file's name without its ending, here) appears only when
    every file matches the hash that bundle.json gives. Prints the folder's name.
    """
    from sro_edge.packed import unpack as unpack_bundle

    output = output or Path(file.stem)
    unpack_bundle(file, output, overwrite=overwrite)
    click.echo(output)


bundle.add_command(build)
bundle.add_command(restore)


def _facts(opened: Bundle) -> Iterator[tuple[str, str]]:
    yield "name", opened.name
    yield "version", opened.version
    yield "licence", opened.license
    yield "path", str(opened.path)
    yield "digest", opened.digest
    for name in opened.files:
        yield "file", f"{name}  {_size((opened.path / name).stat().st_size)}"
    prompt = opened.prompt
    yield "prompt", f"{prompt.prefix!r} + comment + {prompt.suffix!r}"
    yield "letter case", "lower case, restored afterwards" if prompt.lowercase else "kept"
    yield from _lines("threshold", opened.thresholds.given())
    yield from _lines("sampling", dataclasses.asdict(opened.sampling))
    yield from _lines("training", opened.training)
    yield from _lines("score", opened.scores)


def _lines(name: str, data: dict[str, Any], depth: int = 1) -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, dict) and depth:
            yield from ((name, f"{key} {line}") for _, line in _lines(name, value, depth - 1))
        elif isinstance(value, dict | list):
            yield name, f"{key}  {len(value)} entries (--json)"
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield name, f"{key}  {text}"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.1f} kB"
