"""``sro-edge bundle``: look at a model bundle, or check its files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sro_edge.cli._shared import PATH

if TYPE_CHECKING:
    from sro_edge.bundle import Bundle


@click.group(short_help="Look at a model bundle, or check its files.")
def bundle() -> None:
    """Look at a model bundle, or check its files.

    Without PATH, the bundle that is part of the package.

    \b
    Examples:
      sro-edge bundle show
      sro-edge bundle show my-bundle --json
      sro-edge bundle verify my-bundle
    """


@bundle.command()
@click.argument("path", required=False, type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print bundle.json as it is.")
def show(path: Path | None, as_json: bool) -> None:
    """Show what a bundle is, how it was made and how good it is."""
    from sro_edge.bundle import Bundle, default_path, read_manifest

    if as_json:
        manifest = read_manifest(path or default_path())
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
@click.argument("path", required=False, type=PATH)
def verify(path: Path | None) -> None:
    """Check that every file of a bundle is there and unchanged.

    Prints the bundle's digest; exit status 1 names the first file that is not.
    """
    from sro_edge.bundle import Bundle

    opened = Bundle.load(path)
    click.echo(f"{opened.path}: {len(opened.files)} files unchanged", err=True)
    click.echo(opened.digest)


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
    yield from _lines("threshold", dataclasses.asdict(opened.thresholds))
    yield from _lines("sampling", dataclasses.asdict(opened.sampling))
    yield from _lines("training", opened.training)
    yield from _lines("score", opened.scores)


def _lines(name: str, data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _lines(name, value, f"{prefix}{key} ")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield name, f"{prefix}{key}  {text}"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.1f} kB"
