"""The figures of an export's proof on a terminal of 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_GGUF = ("kl", "top1")
_REWRITES = ("sta", "sim", "pass", "same")
_HEADS = ("KL", "top-1", "STA", "SIM", "pass", "same")


def show_proof(console: Console, proof: dict[str, Any]) -> None:
    """One table of the GGUF files, a type a line, and one of all other figures.

    Args:
        console: where to.
        proof: content of ``proof.json``.
    """
    types = [key.split(".")[1] for key in proof if key.startswith("gguf.") and key.endswith(".kl")]
    lined = {f"gguf.{name}.{key}" for name in types for key in _GGUF}
    lined |= {f"rewrites.{name}.{key}" for name in ("torch", *types) for key in _REWRITES}
    others = [row for key, row in proof.items() if key not in lined]
    console.print(_plain(others))
    if types:
        console.print()
        console.print(_by_type(proof, types))
        console.print("* outside its bound, accepted with --accept-drift", highlight=False) if any(
            row.get("accepted") for row in proof.values()
        ) else None


def _plain(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    from sro_edge.export.card import bound_text

    table = Table(title="Proof", title_justify="left", box=None, pad_edge=False)
    table.add_column("figure", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("bound", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row["meaning"], _number(row["value"]), bound_text(row))
    return table


def _by_type(proof: dict[str, Any], types: list[str]) -> Table:
    """KL divergence and equal likeliest tokens; STA, SIM and passes of rewrites; equal rewrites."""
    from rich.table import Table

    from sro_edge.export.card import bound_text

    table = Table(title="Rewriter, by GGUF type", title_justify="left", box=None, pad_edge=False)
    table.add_column("type")
    for head in _HEADS:
        table.add_column(head, justify="right", no_wrap=True)

    def cells(name: str, of: Any) -> list[str]:
        keys = [f"gguf.{name}.{key}" for key in _GGUF]
        keys += [f"rewrites.{name}.{key}" for key in _REWRITES]
        return [of(proof[key]) if key in proof else "" for key in keys]

    def value(row: dict[str, Any]) -> str:
        return _number(row["value"]) + ("*" if row.get("accepted") else "")

    for name in ("torch", *types):
        if any(found := cells(name, value)):
            table.add_row(name, *found)
    table.add_row("bound", *cells(types[-1], bound_text), style="dim")
    return table


def _number(value: float) -> str:
    if float(value).is_integer() and abs(value) >= 1:
        return f"{value:,.0f}"
    return "0" if value == 0 else f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.4f}"
