"""Results that are kept together in one file: a list of JSON objects, one for each question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def earlier(out: Path | None, result: dict[str, Any], *alike: str) -> dict[str, Any]:
    """What ``out`` holds that has the values of ``result`` under the keys ``alike``; else empty.

    A key with a dot, ``machine.simd``, is one of an object.
    """
    return next((one for one in _read(out) if _same(one, result, alike)), {})


def keep(out: Path | None, result: dict[str, Any], *alike: str) -> None:
    """Put ``result`` into the list in ``out``, in the place of what :func:`earlier` finds."""
    if out is None:
        return
    others = [one for one in _read(out) if not _same(one, result, alike)]
    out.write_text(json.dumps([*others, result], indent=1) + "\n", "utf-8")


def _read(out: Path | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(out.read_text("utf-8")) if out and out.exists() else []
    return found


def _same(one: dict[str, Any], other: dict[str, Any], alike: tuple[str, ...]) -> bool:
    return all(_value(one, key) == _value(other, key) for key in alike)


def _value(one: Any, key: str) -> Any:
    for part in key.split("."):
        one = (one or {}).get(part)
    return one
