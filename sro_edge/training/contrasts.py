"""Contrasts: sentences made of templates, each kind beside harmless ones of the same words.

Labelled comments teach a screener words: "kill", or the name of a group, comes to mean toxic, and a
threat without such a word passes. Templates that differ in just what makes a sentence a threat
teach the difference (contrast sets, Gardner et al. 2020, arXiv 2004.02709; used here to train).
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sro_edge.errors import InputError
from sro_edge.formats.base import reading

SOURCE = "contrasts"
_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])")
_ENDINGS = ("", "", "", ".", ".", "!", "!!")
_OPENED = 0.25  # share of sentences that get an opening


class Contrast(NamedTuple):
    """One sentence.

    Args:
        text: the sentence.
        kind: what its templates are called.
        toxic: whether a screener should flag it.
        beyond_rewording: whether no rewording can mend it.
    """

    text: str
    kind: str
    toxic: bool
    beyond_rewording: bool


def read_contrasts(path: Path, most: int = 24, seed: int = 0) -> list[Contrast]:
    """The distinct sentences that a file's templates make.

    The file is TOML: ``[slots]`` with lists of words, and ``[[sentences]]`` with ``kind``,
    ``toxic``, ``templates`` and, where no rewording can mend them, ``beyond_rewording``; a list
    ``openings`` may stand before any sentence.

    Args:
        path: the file.
        most: sentences of one template; one without slots gives fewer.
        seed: of what fills the slots.

    Raises:
        InputError: the file cannot be read, or says something else.
    """
    try:
        with reading(path, "TOML"):
            given = tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    slots, openings = given.get("slots", {}), given.get("openings", [])
    rng = random.Random(seed)
    found: dict[str, Contrast] = {}
    for group in _groups(path, given):
        for template in group["templates"]:
            _check_slots(path, template, slots)
            for _ in range(most):
                text = fill(template, slots, openings, rng)
                said = (group["kind"], group["toxic"], group.get("beyond_rewording", False))
                found.setdefault(text, Contrast(text, *said))
    return list(found.values())


def fill(
    template: str, slots: Mapping[str, Sequence[str]], openings: Sequence[str], rng: random.Random
) -> str:
    """A sentence of ``template``: slots filled, perhaps with an opening and a full stop."""
    text = _SLOT.sub(lambda slot: rng.choice(slots[slot[1]]), template)
    text = _ARTICLE.sub(r"\1n ", text)
    if openings and rng.random() < _OPENED:
        text = rng.choice(openings) + text
    return text + rng.choice(_ENDINGS)


def _groups(path: Path, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    groups = given.get("sentences")
    wanted = {"kind": str, "toxic": bool, "templates": list}
    if not isinstance(groups, list) or not groups:
        raise InputError(f"{path} has no [[sentences]] with kind, toxic and templates")
    for number, group in enumerate(groups, 1):
        for name, kind in wanted.items():
            if not isinstance(group.get(name), kind):
                raise InputError(
                    f"{path}: [[sentences]] number {number} needs {name}, a {kind.__name__}"
                )
    return groups


def _check_slots(path: Path, template: str, slots: Mapping[str, Sequence[str]]) -> None:
    for name in _SLOT.findall(template):
        if not slots.get(name):
            raise InputError(f"{path}: {template!r} wants {{{name}}}, but [slots] has no {name}")
